"""Measuring a finished street model on places with a truth."""

from __future__ import annotations

import os

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.street.classes import labels_of, of_known_states
from geohf.street.data import load_places
from geohf.street.metrics import street_metrics
from geohf.street.modeling import GeoStreetModel
from geohf.street.outputs import coverage_of
from geohf.street.phase import StreetPhaseTrainer
from geohf.training.evaluation import evaluation_arguments


def evaluate(
    model: GeoStreetModel, data: str | os.PathLike, batch_size: int, on_error: str
) -> dict[str, float]:
    """`street_metrics` on all places of a source, see `load_places`, and the radius' coverage where it has one."""
    places, _ = load_places(data, on_error)
    dataset = of_known_states(places["train"], data, model.config, on_error)
    labels, truth = labels_of(dataset, model.config), points_of(dataset)
    if (labels < 0).all() and not (truth == truth).any():
        raise DataError(f"{data}: no place has a state that the model knows, or a position")
    with evaluation_arguments(batch_size) as args:
        outputs = StreetPhaseTrainer(model, args).outputs(dataset)
    answers = model.decode(outputs, top_k=1)
    metrics = street_metrics(
        None if outputs.logits is None else outputs.logits.numpy(),
        [[answer.latitude, answer.longitude] for answer in answers],
        labels,
        truth,
        model.config.temperature,
        scored=not model.config.cells,
    )
    covered = coverage_of(answers, truth)
    return {"places": len(dataset), **metrics} | ({} if covered is None else {"coverage": covered})
