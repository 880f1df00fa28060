"""Metrics that tasks declare: which way each gets better, and its unit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from geohf.errors import did_you_mean


class MetricInfo(NamedTuple):
    """What is known of a metric.

    Attributes:
        greater_is_better: larger values are better ones.
        unit: `km`, `m`, ...; empty for a share or a score.
    """

    greater_is_better: bool
    unit: str = ""


HIGHER, LOWER = MetricInfo(True), MetricInfo(False)
LOSS = {"loss": LOWER}


def bare_name(name: str) -> str:
    """A metric's name without the `eval_` under which the Trainer logs it.

    >>> bare_name("eval_score")
    'score'
    """
    return name.removeprefix("eval_")


def find_metric(name: str, table: Mapping[str, MetricInfo]) -> MetricInfo | None:
    """What a table says of a metric, whose names may be patterns (`ap/*`); None where it says nothing.

    >>> find_metric("eval_ap/bell", {"ap/*": HIGHER}).greater_is_better
    True
    """
    bare = bare_name(name)
    return next((table[pattern] for pattern in table if bare == pattern or fnmatchcase(bare, pattern)), None)


def not_measured(name: str, table: Collection[str]) -> str:
    """What to say of a metric that is in no row of the log.

    >>> not_measured("scor", {"score": HIGHER, "loss": LOWER})
    "metric_for_best_model 'scor' is not measured here (did you mean 'score'?); these are: score, loss"
    """
    meant = did_you_mean(bare_name(name), table)
    return f"metric_for_best_model {name!r} is not measured here{meant}; these are: {', '.join(table)}"


def wrong_direction(name: str, metric: MetricInfo) -> str:
    """What to say of a direction that a known metric does not have."""
    unit = f" ({metric.unit})" if metric.unit else ""
    better = "greater" if metric.greater_is_better else "smaller"
    return f"{bare_name(name)}{unit} is better where it is {better}: leave greater_is_better out, it is known"
