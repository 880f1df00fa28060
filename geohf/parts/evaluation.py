"""Measuring a finished detector on photos with a truth."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from geohf.errors import DataError
from geohf.parts.data import load_parts
from geohf.parts.modeling import PartStateModel
from geohf.parts.trainer import PartStateTrainer
from geohf.parts.vocabulary import names_of
from geohf.training.evaluation import evaluation_arguments

if TYPE_CHECKING:
    from datasets import Dataset


def evaluate(
    model: PartStateModel, data: str | os.PathLike, batch_size: int, on_error: str
) -> dict[str, float]:
    """The metrics of `PartStateTrainer` on the photos that a source holds out, or on all where it names no such split.

    Raises:
        DataError: photos that cannot be used, or with parts or states that the model does not know.
    """
    names = [list(map(table.get, sorted(table))) for table in (model.config.id2label, model.config.id2state)]
    loaded, _ = load_parts(
        data, on_error, parts=names[0], states=names[1], state_attribute=model.config.state_attribute
    )
    split = next(name for name in ("test", "validation", "train") if name in loaded)
    photos = in_numbers_of(model, loaded[split], f"{data} [{split}]")
    with evaluation_arguments(batch_size) as args:
        metrics, _ = PartStateTrainer(model, args).measure(photos)
    return {"photos": len(photos), **metrics}


def in_numbers_of(model: PartStateModel, dataset: Dataset, source: str) -> Dataset:
    """The photos with the model's numbers of parts and states, which tables of other orders name alike."""
    config, numbers = model.config, {}
    for column, own, known in zip(
        ("parts", "states"), names_of(dataset), (config.id2label, config.id2state), strict=True
    ):
        by_name = {name: i for i, name in known.items()}
        unknown = [name for name in own.values() if name not in by_name]
        if unknown:
            raise DataError(
                f"{source}: {column} that the model does not know: {', '.join(unknown[:5])}; "
                f"it knows {', '.join(by_name)}"
            )
        numbers[column] = [by_name[own[i]] for i in range(len(own))]
    if all(order == list(range(len(order))) for order in numbers.values()):
        return dataset
    from datasets import List, Value

    features = dataset.features | {column: List(Value("int64")) for column in numbers}
    return dataset.map(
        lambda row: {column: [order[i] for i in row[column]] for column, order in numbers.items()},
        features=type(dataset.features)(features),
    )
