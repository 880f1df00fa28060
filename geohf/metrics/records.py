"""What a measurement leaves: numbers with their intervals and the baseline's, and the answers behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One number that was measured.

    Attributes:
        name: as in metrics.json, without `eval_`.
        value: NaN where it has no meaning for these rows.
        interval: the ends of its 95 % interval; None where there are too few rows to tell.
        baseline: the same number of the constant baseline, which looks at no image; None where there is none.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    baseline: float | None = None


def join_metrics(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
    baseline: Mapping[str, float] | None = None,
) -> list[Metric]:
    """A `Metric` a number, in the order of `values`; then what only the baseline has, with the value NaN.

    >>> join_metrics({"mae": 0.5}, {"mae": (0.4, 0.6)}, {"mae": 1.0})
    [Metric(name='mae', value=0.5, interval=(0.4, 0.6), baseline=1.0)]
    """
    intervals, baseline = intervals or {}, baseline or {}
    names = [*values, *(name for name in baseline if name not in values)]
    return [
        Metric(name, values.get(name, math.nan), intervals.get(name), baseline.get(name)) for name in names
    ]


class Evaluation(dict[str, float]):
    """What a task's `Trainer.evaluate` returns: transformers' dict of numbers, and what is behind them.

    Attributes:
        metrics: a `Metric` a number.
        dataset: what was measured on.
        predictions: one answer a row of it, in the user's units.
        details: whatever else the task's reports need.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        dataset: Any,
        predictions: Sequence[Any],
        prefix: str = "eval",
        **details: Any,
    ):
        self.metrics, self.dataset, self.predictions = list(metrics), dataset, predictions
        self.details = details
        super().__init__({f"{prefix}_{name}": value for name, value in self.values_by_name.items()})

    @property
    def values_by_name(self) -> dict[str, float]:
        """Name -> number, without a prefix."""
        return {metric.name: metric.value for metric in self.metrics if not math.isnan(metric.value)}

    @property
    def baseline(self) -> dict[str, float]:
        """Name -> the constant baseline's number."""
        return {metric.name: metric.baseline for metric in self.metrics if metric.baseline is not None}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Name -> the ends of the 95 % interval."""
        return {metric.name: metric.interval for metric in self.metrics if metric.interval is not None}

    @property
    def numbers(self) -> dict[str, dict]:
        """What metrics.json and a card tell: `eval`, `baseline` and `intervals`."""
        return {"eval": self.values_by_name, "baseline": self.baseline, "intervals": self.intervals}


@dataclass
class CardData:
    """What a model card says of a run: the arguments of these names of `geohf.hub.card.write_card`.

    Attributes:
        titles: name -> title of the metrics that the card names first.
        data: name, generated, dataset, rows, split, seed, split_name, measured, unit, interval, baseline, baseline_words,
            validation, chosen_on_held_out, trained_on_held_out.
        context: whatever else the task's template asks for.
    """

    titles: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
