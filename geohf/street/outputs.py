"""What a street run leaves for people: predictions as CSV, GeoJSON and a map, and plots."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.classes import column_of
from geohf.data.streaming import is_stream
from geohf.data.tables import points_of
from geohf.geo import great_circle_m
from geohf.io import plain
from geohf.metrics.density import DRAWN_REGIONS, regions_of
from geohf.metrics.records import Evaluation
from geohf.report.classes import plot_confusion, plot_reliability
from geohf.report.geojson import write_geojson
from geohf.report.map_png import error_map_png
from geohf.report.maps import write_map
from geohf.report.plots import plot_error_cdf
from geohf.report.tables import write_csv
from geohf.report.uncertainty import plot_uncertainty
from geohf.street.answers import StreetPrediction, answered_points
from geohf.street.competition import MAPPING, TEMPLATE
from geohf.street.density import mixture_of, weighted_candidates
from geohf.street.metrics import constant_baseline
from geohf.street.submission import write_submission
from geohf.training.report import thumbnails_of

if TYPE_CHECKING:
    from datasets import Dataset

    from geohf.street.configuration import GeoStreetConfig
    from geohf.street.head import GeoStreetOutput
    from geohf.street.trainer import GeoStreetTrainer


logger = logging.getLogger(__name__)

CONFUSION_CLASSES = 200  # of more, no row of the plot could be read


def write_outputs(
    trainer: GeoStreetTrainer,
    folder: Path,
    evaluation: Evaluation,
    outlines: str | None = None,
    map_places: int = 2000,
    thumbnails: int = 0,
) -> Mapping[str, Any]:
    """Write predictions.csv, predictions.geojson, map.html and the plots of the card.

    The map draws the regions of the first `DRAWN_REGIONS` measured places, of a model with a calibrated density.

    Args:
        outlines: GeoJSON of borders to draw on the maps.
        map_places: places on the map: the measured ones first, then those of validation and training.
        thumbnails: of how many measured places the map holds a small photograph.
    """
    details, config = evaluation.details, trainer.model.config
    truth = details["truth"]
    # by all processes: the backbone may have to look again
    places, predictions, splits = _for_map(trainer, evaluation, map_places)
    if not trainer.args.should_save:
        return {}
    predictions = with_regions(predictions, config, details["outputs"])
    small = thumbnails_of(trainer, evaluation.dataset, thumbnails)
    write_predictions(folder, places, predictions, splits, outlines, small)
    _plot_uncertainty(folder, predictions[: len(truth)], truth)
    baseline_km, located = None, np.isfinite(truth).all(1)
    trained = None if trainer.train_rows is None else points_of(trainer.train_rows)
    if trained is not None and np.isfinite(trained).all(1).any() and located.any():
        _, point = constant_baseline([], trained, 0)
        baseline_km = great_circle_m(truth[located], point) / 1000
    _plot(folder, config, details, answered_points(evaluation.predictions), baseline_km, outlines)
    return {}


def with_regions(
    predictions: list[StreetPrediction], config: GeoStreetConfig, outputs: GeoStreetOutput
) -> list[StreetPrediction]:
    """The predictions; the first ones with their regions, where the model has a calibrated density."""
    if not config.density or config.region_masses is None:
        return predictions
    shares, candidates = weighted_candidates(config, outputs)
    first = mixture_of(config, shares[:DRAWN_REGIONS], candidates[:DRAWN_REGIONS])
    drawn = regions_of(first, config.region_masses)
    mapped = [replace(one, regions=regions) for one, regions in zip(predictions, drawn, strict=False)]
    return mapped + predictions[len(mapped) :]


def _plot_uncertainty(folder: Path, predictions: Sequence[StreetPrediction], truth: np.ndarray) -> None:
    sureness = {
        "localizability": [p.localizability for p in predictions],
        "radius": [None if p.radius_m is None else -p.radius_m for p in predictions],
        "probability of the first class": [_first_state(p)[1] for p in predictions],
    }
    regions = [p.regions for p in predictions]
    plot_uncertainty(folder, answered_points(predictions), truth, regions, sureness)


def _first_state(answer: StreetPrediction) -> tuple[str | None, float | None]:
    return (answer.states[0].name, answer.states[0].probability) if answer.states else (None, None)


def _for_map(trainer, evaluation: Evaluation, limit: int):
    """Places, predictions and the split of each: all measured places, then validation, then training."""
    parts, predictions = [evaluation.dataset], list(evaluation.predictions)
    origin = [trainer.data_facts(evaluation, "places")["split_name"]] * len(predictions)
    for name, rows in (("validation", trainer.eval_dataset), ("train", trainer.train_dataset)):
        room = limit - len(origin)
        if name in origin or room <= 0 or rows is None or is_stream(rows):
            continue
        part = rows.select(range(min(room, len(rows))))
        parts.append(part)
        predictions += trainer.model.decode(trainer.outputs(part))
        origin += [name] * len(part)
    names = ("sample_id", "state", "latitude", "longitude", "headings")
    places = {name: [cell for part in parts for cell in column_of(part, name)] for name in names}
    return places, predictions, origin


def write_predictions(
    folder: str | Path,
    places: Mapping[str, Sequence] | Dataset,
    predictions: Sequence[StreetPrediction],
    splits: Sequence[str],
    outlines=None,
    thumbnails: Sequence[str | None] | None = None,
) -> None:
    """Write predictions.csv, predictions.geojson and map.html for places whose truth may be known.

    Args:
        places: columns `sample_id`, `state`, `latitude`, `longitude` and, for a model that tells headings, `headings`.
        splits: the split that each place belongs to.
        outlines: GeoJSON of borders for the map.
        thumbnails: of the first places, for the map.
    """
    folder = Path(folder)
    truth = np.stack([np.array(places[name], np.float64) for name in ("latitude", "longitude")], 1)
    known = np.where(np.isfinite(truth).all(1, keepdims=True), truth, np.nan)
    points = answered_points(predictions)
    states = [_first_state(answer) for answer in predictions]
    columns: dict[str, Any] = {
        "sample_id": places["sample_id"],
        "split": splits,
        "predicted_latitude": points[:, 0],
        "predicted_longitude": points[:, 1],
        "radius_m": [answer.radius_m for answer in predictions],
        "predicted_state": [name for name, _ in states],
        "probability": [probability for _, probability in states],
        "state": places["state"],
        "latitude": known[:, 0],
        "longitude": known[:, 1],
        "distance_m": [great_circle_m(*pair) for pair in zip(points, known, strict=True)],
    }
    headings = [answer.headings for answer in predictions]
    if any(headings):
        columns |= {"predicted_headings": headings, "headings": places["headings"]}
    columns = {name: plain(list(cells)) for name, cells in columns.items()}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    write_csv(folder / "predictions.csv", rows)
    shown = {name: columns[name] for name in ("split", "state", "predicted_state", "probability")}
    known_truth = truth if np.isfinite(truth).any() else None
    # of the distance it has a column of its own
    properties = {name: cells for name, cells in columns.items() if name != "distance_m"}
    write_geojson(folder / "predictions.geojson", points, properties, truth=known_truth)
    write_map(
        folder / "map.html",
        points,
        known_truth,
        labels=columns["sample_id"],
        details={name: cells for name, cells in shown.items() if any(cell is not None for cell in cells)},
        radius_m=columns["radius_m"],
        outlines=outlines,
        title="Places and predictions",
        splits=splits,
        headings=[seen[0] if len(seen) == 1 else None for seen in headings],
        thumbnails=thumbnails and [*thumbnails, *[None] * (len(rows) - len(thumbnails))],
        regions=[p.regions for p in predictions],
    )


def submit(trainer, source: str | Path, template: Dataset) -> None:
    """Write submission.csv, and check it as the competition does; a word where the classes have no index to submit.

    Args:
        source: the competition's folder, with the template of a submission in it.
        template: the places to predict.

    Raises:
        DataError: what was written is not what the competition asks for.
    """
    if trainer.model.config.class_indices is None:
        logger.warning("no submission.csv is written: the model's classes have no state_idx to answer with")
        return
    predictions = trainer.model.decode(trainer.outputs(template))
    if not trainer.args.should_save:
        return
    path, mapping = Path(trainer.args.output_dir) / "submission.csv", Path(source) / MAPPING
    known = mapping if mapping.is_file() else None
    write_submission(path, Path(source) / TEMPLATE, template["sample_id"], predictions, known)


def _plot(
    folder: Path, config: GeoStreetConfig, details: Mapping[str, Any], points, baseline_km, outlines
) -> None:
    """Errors of (n, 2) answered points on a map and as a curve, beside the constant answer's; confusion, reliability."""
    logits, labels, truth = details["outputs"].logits, details["labels"], details["truth"]
    located, known = np.isfinite(truth).all(1), labels >= 0
    if located.any():
        curves = {"model": great_circle_m(points[located], truth[located]) / 1000}
        if baseline_km is not None:
            curves["constant answer"] = baseline_km
        plot_error_cdf(folder / "error_cdf.png", curves)
        drawn = points[located], truth[located], "Held-out places"
        error_map_png(folder / "error_map.png", *drawn, outlines=outlines)
    if logits is not None and known.any():
        before = logits.softmax(-1).numpy()[known]
        after = (logits / config.temperature).softmax(-1).numpy()[known]
        names = [config.id2label[i] for i in range(config.num_classes)]
        if len(names) <= CONFUSION_CLASSES:
            plot_confusion(folder / "confusion.png", labels[known], after.argmax(1), names)
        plot_reliability(folder / "reliability.png", after, labels[known], before=before)
