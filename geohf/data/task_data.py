"""What every task's `load` returns, and the facts of the data that travel with a dataset to the card."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class TaskData:
    """A run's rows, divided.

    Attributes:
        train, validation, test: datasets; `validation` and `test` may be None, where nothing was held out.
        skipped: rows that could not be used: source, row, reason.
        source: what the user named; None for the painted sample.
        labels: where `train` is a stream, its rows without their pictures, see `StreamedTable.read_labels`.
    """

    train: Any
    validation: Any = None
    test: Any = None
    skipped: list[dict] = field(default_factory=list)
    source: str | Path | None = None
    labels: Any = None

    @property
    def labeled(self) -> Any:
        """The training rows, for what their labels tell."""
        return self.train if self.labels is None else self.labels

    @property
    def held_out(self) -> Any:
        """The rows that numbers are measured on: test rows, or those of validation where there are none."""
        return self.validation if self.test is None else self.test


def with_facts(dataset: Any, /, **facts: Any) -> Any:
    """The dataset, knowing where its rows come from and how they were held out.

    Facts of a `datasets.Dataset` lie in its `info.description`, which `select`, `map` and `cast` keep; other
    datasets get an attribute.

    Args:
        facts: `name`, `generated`, `dataset` (its name on the Hub), `split_name`, `split` (how it was held out, in
            words), and what else a task's card or metrics.json tells; plain values.
    """
    known = facts_of(dataset) | facts
    if hasattr(dataset, "info"):
        dataset.info.description = json.dumps(known)
    else:
        dataset.facts = known
    return dataset


def facts_of(dataset: Any, /) -> dict[str, Any]:
    """What `with_facts` noted; of a dataset of the Hub its name, of others nothing."""
    info = getattr(dataset, "info", None)
    if info is None:
        return dict(getattr(dataset, "facts", {}))
    try:
        facts = json.loads(info.description)
        return facts if isinstance(facts, dict) else {}
    except (TypeError, ValueError):
        return {"name": info.dataset_name} if info.dataset_name else {}
