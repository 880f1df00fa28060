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
from geohf.errors import DataError
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
from geohf.street.answers import StreetPrediction
from geohf.street.competition import MAPPING, TEMPLATE
from geohf.street.density import mixture_of, weighted_candidates
from geohf.street.metrics import constant_baseline
from geohf.street.submission import check_submission, write_submission
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
    details = evaluation.details
    labels, truth = details["labels"], details["truth"]
    shown = _for_map(trainer, evaluation, map_places)  # by all processes: the backbone may have to look again
    if not trainer.args.should_save:
        return {}
    places, predictions, splits = shown
    predictions = with_regions(predictions, trainer.model.config, details["outputs"])
    small = thumbnails_of(trainer, evaluation.dataset, thumbnails)
    write_predictions(folder, places, predictions, splits, outlines, small)
    _plot_uncertainty(folder, predictions[: len(truth)], truth)
    baseline_km = None
    if trainer.train_rows is not None and np.isfinite(truth).all(1).any():
        _, point = constant_baseline([], points_of(trainer.train_rows), 0)
        baseline_km = great_circle_m(truth[np.isfinite(truth).all(1)], point) / 1000
    plot_run(folder, trainer.model, details["outputs"], labels, truth, baseline_km, outlines)
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
        "probability of the first class": [
            p.states[0].probability if p.states else None for p in predictions
        ],
    }
    points = np.array([[p.latitude, p.longitude] for p in predictions])
    plot_uncertainty(folder, points, truth, [p.regions for p in predictions], sureness)


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
        places: columns `sample_id`, `state`, `latitude`, `longitude` and, for a model that tells headings, `headings`, in
            the order of the predictions.
        splits: the split that each place belongs to.
        outlines: GeoJSON of borders for the map.
        thumbnails: of the first places, for the map.
    """
    folder = Path(folder)
    truth = np.stack([np.array(places[name], np.float64) for name in ("latitude", "longitude")], 1)
    points = np.array([[p.latitude, p.longitude] for p in predictions])
    rows, with_headings = [], any(answer.headings for answer in predictions)
    for i, (name, state, answer) in enumerate(
        zip(places["sample_id"], places["state"], predictions, strict=True)
    ):
        known = bool(np.isfinite(truth[i]).all())
        rows.append(
            {
                "sample_id": name,
                "split": splits[i],
                "predicted_latitude": answer.latitude,
                "predicted_longitude": answer.longitude,
                "radius_m": answer.radius_m,
                "predicted_state": answer.states[0].name if answer.states else None,
                "probability": answer.states[0].probability if answer.states else None,
                "state": state,
                "latitude": truth[i, 0] if known else None,
                "longitude": truth[i, 1] if known else None,
                "distance_m": float(great_circle_m(points[i], truth[i])) if known else None,
            }
        )
        if with_headings:
            rows[-1] |= {"predicted_headings": answer.headings, "headings": plain(places["headings"][i])}
    write_csv(folder / "predictions.csv", rows)
    details = [
        {
            name: row[name]
            for name in ("split", "state", "predicted_state", "probability")
            if row[name] is not None
        }
        for row in rows
    ]
    known_truth = truth if np.isfinite(truth).any() else None
    write_geojson(folder / "predictions.geojson", points, rows, truth=known_truth)
    write_map(
        folder / "map.html",
        points,
        known_truth,
        labels=[row["sample_id"] for row in rows],
        details=details,
        radius_m=[p.radius_m for p in predictions],
        outlines=outlines,
        title="Places and predictions",
        splits=splits,
        headings=[p.headings[0] if len(p.headings) == 1 else None for p in predictions],
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
    path, source = Path(trainer.args.output_dir) / "submission.csv", Path(source)
    write_submission(path, source / TEMPLATE, template["sample_id"], predictions)
    mapping = source / MAPPING
    problems = check_submission(path, source / TEMPLATE, mapping if mapping.is_file() else None)
    if problems:
        raise DataError(f"{path}: " + "; ".join(problems))


def plot_run(
    folder: str | Path, model, outputs, labels: np.ndarray, truth: np.ndarray, baseline_km=None, outlines=None
) -> None:
    """Plots of held-out places for the card: errors on a map and as a curve, confusion, reliability.

    Args:
        outputs: of the model on these places.
        labels: (n,) class numbers, negative where unknown.
        truth: (n, 2) degrees, NaN where unknown.
        baseline_km: distances of the constant answer on the same places.
    """
    folder = Path(folder)
    points = np.array([[p.latitude, p.longitude] for p in model.decode(outputs, top_k=1)])
    located = np.isfinite(truth).all(1)
    if located.any():
        curves = {"model": great_circle_m(points[located], truth[located]) / 1000}
        if baseline_km is not None:
            curves["constant answer"] = baseline_km
        plot_error_cdf(folder / "error_cdf.png", curves)
        error_map_png(
            folder / "error_map.png", points[located], truth[located], "Held-out places", outlines=outlines
        )
    known = labels >= 0
    if outputs.logits is not None and known.any():
        before = outputs.logits.softmax(-1).numpy()[known]
        after = (outputs.logits / model.config.temperature).softmax(-1).numpy()[known]
        names = [model.config.id2label[i] for i in range(model.config.num_classes)]
        if len(names) <= CONFUSION_CLASSES:
            plot_confusion(folder / "confusion.png", labels[known], after.argmax(1), names)
        plot_reliability(folder / "reliability.png", after, labels[known], before=before)
