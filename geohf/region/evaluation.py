"""Measuring a region model: its answers on photographs with a truth, and the numbers of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.data.classes import class_numbers, column_of
from geohf.data.tables import RowErrors, points_of
from geohf.geo import frame_distance
from geohf.region.answers import RegionPrediction, points_array
from geohf.region.data import excluded_names, load_region_table, of_known_regions
from geohf.region.experts import RegionOutput
from geohf.region.metrics import coverage, evaluation_rows
from geohf.region.modeling import GeoRegionModel
from geohf.region.phase import RegionPhaseTrainer, given_logits
from geohf.region.sample import EXCLUDE, VAL_IMAGES, VAL_TABLE
from geohf.training.evaluation import evaluation_arguments

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class RegionAnswers:
    """A model's answers on photographs whose truth is known.

    Attributes:
        labels: (n,) true region numbers.
        truth: (n, 2) true points.
        routed, given: answers without and with the region.
    """

    labels: np.ndarray
    truth: np.ndarray
    routed: list[RegionPrediction]
    given: list[RegionPrediction]


def truth_of(model: GeoRegionModel, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(n,) region numbers and (n, 2) points of photographs."""
    regions = class_numbers(
        column_of(dataset, "region"), model.config.label2id, "region", column_of(dataset, "filename")
    )
    return regions, points_of(dataset)


def answers_of(model: GeoRegionModel, dataset: Dataset, outputs: RegionOutput) -> RegionAnswers:
    """What the model's outputs on photographs, no region given, come to without and with the region."""
    labels, truth = truth_of(model, dataset)
    logits = given_logits(torch.from_numpy(labels), model.config.num_regions)
    given = RegionOutput(logits=logits, scaled=outputs.scaled)
    return RegionAnswers(labels, truth, model.decode(outputs), model.decode(given))


def measure(
    model: GeoRegionModel, answers: RegionAnswers, others: Mapping[str, np.ndarray] | None = None
) -> list[dict]:
    """`evaluation_rows` of the answers, with the coverage of their radii in the last row.

    Args:
        others: name -> (n, 2) other points to measure beside them.
    """
    config = model.config
    points = {"given": points_array(answers.given), "routed": points_array(answers.routed)}
    rows = evaluation_rows(
        config.regions,
        answers.labels,
        answers.truth,
        points | dict(others or {}),
        np.array([config.label2id[answer.regions[0].name] for answer in answers.routed]),
        model.scaler,
        config.unit,
    )
    for name in points:
        errors = frame_distance(points[name], answers.truth, config.frame)
        rows[-1][f"{name}_coverage"] = coverage([answer.radius for answer in getattr(answers, name)], errors)
    return rows


def evaluate(
    model: GeoRegionModel, data: str | os.PathLike, batch_size: int, on_error: str
) -> dict[str, float]:
    """The numbers of all photographs of a table, or of the validation table of a folder in the seed's layout.

    Raises:
        DataError: rows that cannot be used, one of a region that the model does not know among them.
    """
    table, images, exclude = Path(data), None, []
    if table.is_dir():
        folder = table
        table, images = folder / VAL_TABLE, folder / VAL_IMAGES
        exclude = [str(folder / EXCLUDE)] if (folder / EXCLUDE).is_file() else []
    errors = RowErrors(on_error)
    dataset = load_region_table(table, images, model.config.frame, excluded_names(exclude), errors)
    dataset = of_known_regions(dataset, table, model.config.regions, "the model has no", errors)
    errors.settle(kept=len(dataset))
    with evaluation_arguments(batch_size) as args:
        outputs = RegionPhaseTrainer(model, args).outputs(dataset)
    numbers = measure(model, answers_of(model, dataset, outputs))[-1]
    return {name: value for name, value in numbers.items() if name != "region" and value is not None}
