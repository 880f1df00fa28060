"""What a street run leaves for people: predictions as CSV, GeoJSON and a map, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.tables import points_of
from geohf.geo import great_circle_m
from geohf.report import (
    error_map_png,
    plot_confusion,
    plot_error_cdf,
    plot_reliability,
    write_csv,
    write_geojson,
    write_map,
)
from geohf.street.modeling import StreetPrediction

if TYPE_CHECKING:
    from datasets import Dataset


def write_predictions(
    folder: str | Path,
    dataset: Dataset,
    predictions: Sequence[StreetPrediction],
    splits: Sequence[str],
    outlines=None,
) -> None:
    """Write predictions.csv, predictions.geojson and map.html for places whose truth may be known.

    Args:
        dataset: the places, in the order of the predictions.
        splits: the split that each place belongs to.
        outlines: GeoJSON of borders for the map.
    """
    folder, truth = Path(folder), points_of(dataset)
    points = np.array([[p.latitude, p.longitude] for p in predictions])
    rows = []
    for i, (name, state, answer) in enumerate(
        zip(dataset["sample_id"][:], dataset["state"][:], predictions, strict=True)
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
    write_csv(folder / "predictions.csv", rows)
    details = [
        {
            name: row[name]
            for name in ("split", "state", "predicted_state", "probability")
            if row[name] is not None
        }
        for row in rows
    ]
    columns = {
        name: [detail.get(name) for detail in details]
        for name in dict.fromkeys(k for d in details for k in d)
    }
    truth = truth if np.isfinite(truth).any() else None
    write_geojson(folder / "predictions.geojson", points, rows, truth=truth)
    radius = None if predictions[0].radius_m is None else [p.radius_m for p in predictions]
    counts = ", ".join(f"{list(splits).count(name)} {name}" for name in dict.fromkeys(splits))
    title = f"Places and predictions: {counts}"
    write_map(
        folder / "map.html",
        points,
        truth,
        labels=[row["sample_id"] for row in rows],
        details=columns,
        radius_m=radius,
        outlines=outlines,
        title=title,
    )


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
        plot_confusion(folder / "confusion.png", labels[known], after.argmax(1), names)
        plot_reliability(folder / "reliability.png", after, labels[known], before=before)


def coverage_of(predictions: Sequence[StreetPrediction], truth: np.ndarray) -> float | None:
    """Share of places whose truth lies within the answered radius; None without radius or truth."""
    located = np.isfinite(truth).all(1)
    if not located.any() or predictions[0].radius_m is None:
        return None
    points = np.array([[p.latitude, p.longitude] for p in predictions])
    radius = np.array([p.radius_m for p in predictions])
    return float((great_circle_m(points, truth) <= radius)[located].mean())
