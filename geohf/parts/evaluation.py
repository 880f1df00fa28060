"""Measuring a finished detector on photos with a truth."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from geohf.errors import DataError
from geohf.parts.data import load_parts
from geohf.parts.modeling import PartStateModel
from geohf.parts.phase import PartPhaseTrainer
from geohf.parts.vocabulary import names_of
from geohf.training.evaluation import evaluation_arguments

if TYPE_CHECKING:
    from datasets import Dataset


def evaluate(
    model: PartStateModel, data: str | os.PathLike, batch_size: int, on_error: str
) -> dict[str, float]:
    """The metrics of `PartPhaseTrainer` on the photos that a source holds out, or on all where it names no such split.

    Raises:
        DataError: photos that cannot be used, or with parts or states that the model does not know.
    """
    names = [list(map(table.get, sorted(table))) for table in (model.config.id2label, model.config.id2state)]
    loaded, _ = load_parts(
        data, on_error, parts=names[0], states=names[1], state_attribute=model.config.state_attribute
    )
    split = next(name for name in ("test", "validation", "train") if name in loaded)
    photos = loaded[split]
    _require_known(model, photos, f"{data} [{split}]")
    with evaluation_arguments(batch_size) as args:
        metrics, _ = PartPhaseTrainer(model, args).measure(photos)
    return {"photos": len(photos), **metrics}


def _require_known(model: PartStateModel, dataset: Dataset, source: str) -> None:
    """Parts and states may be numbered in another order than the model's, but it must know each by its name."""
    known = (model.config.id2label, model.config.id2state)
    for column, own, names in zip(("parts", "states"), names_of(dataset), known, strict=True):
        unknown = [name for name in own.values() if name not in names.values()]
        if unknown:
            raise DataError(
                f"{source}: {column} that the model does not know: {', '.join(unknown[:5])}; "
                f"it knows {', '.join(names.values())}"
            )
