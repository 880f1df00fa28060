"""What a region run leaves for people: predictions as CSV, GeoJSON and a map, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.geo import frame_distance
from geohf.region.modeling import RegionPrediction
from geohf.report import (
    error_map_png,
    plot_confusion,
    plot_dropped,
    plot_error_cdf,
    plot_scatter,
    write_csv,
    write_geojson,
    write_map,
)
from geohf.tables import points_of

if TYPE_CHECKING:
    from datasets import Dataset


def points_array(predictions: Sequence[RegionPrediction]) -> np.ndarray:
    """(n, 2) latitude and longitude of answers."""
    return np.array([[p.latitude, p.longitude] for p in predictions])


def coverage(predictions: Sequence[RegionPrediction], truth: np.ndarray, frame: str) -> float | None:
    """Share of true points within the answered radius; None where no radius was calibrated."""
    if predictions[0].radius is None:
        return None
    radius = np.array([p.radius for p in predictions])
    return float((frame_distance(points_array(predictions), truth, frame) <= radius).mean())


def write_predictions(
    folder: Path,
    dataset: Dataset,
    routed: Sequence[RegionPrediction],
    given: Sequence[RegionPrediction],
    frame,
) -> None:
    """Write predictions.csv, and for `wgs84` predictions.geojson and map.html.

    Args:
        dataset: the photographs, in the order of the predictions.
        routed, given: answers without and with the region.
    """
    truth, points, own = points_of(dataset), points_array(routed), points_array(given)
    errors = [frame_distance(answers, truth, frame) for answers in (points, own)]
    unit = routed[0].unit
    rows = [
        {
            "filename": name,
            "Region_ID": region,
            "latitude": truth[i, 0],
            "longitude": truth[i, 1],
            "predicted_latitude": answer.latitude,
            "predicted_longitude": answer.longitude,
            f"radius_{unit}": answer.radius,
            "predicted_region": answer.regions[0].name,
            "probability": answer.regions[0].probability,
            f"distance_{unit}": errors[0][i],
            "given_region_latitude": own[i, 0],
            "given_region_longitude": own[i, 1],
            f"given_region_distance_{unit}": errors[1][i],
        }
        for i, (name, region, answer) in enumerate(
            zip(dataset["filename"], dataset["region"], routed, strict=True)
        )
    ]
    write_csv(folder / "predictions.csv", rows)
    if frame == "planar":  # a planar frame has no place on a map of the earth
        return
    write_geojson(folder / "predictions.geojson", points, rows, truth=truth)
    shown = ("Region_ID", "predicted_region", "probability", "given_region_distance_m")
    write_map(
        folder / "map.html",
        points,
        truth,
        labels=dataset["filename"],
        details={name: [row[name] for row in rows] for name in shown},
        radius_m=None if routed[0].radius is None else [answer.radius for answer in routed],
        title=f"{len(rows)} photographs: where they are and where the model puts them",
    )


def plot_run(
    folder: Path,
    names: Sequence[str],
    labels: np.ndarray,
    truth: np.ndarray,
    routed: Sequence[RegionPrediction],
    given: Sequence[RegionPrediction],
    centres: np.ndarray,
    frame: str,
) -> None:
    """Plots of held-out photographs for the card: their errors on a map or in the plane, and the router's.

    Args:
        names: of the regions.
        labels: (n,) true region numbers.
        truth: (n, 2) true points.
        routed, given: answers without and with the region.
        centres: (regions, 2) the answers that look at no image.
    """
    points = points_array(routed)
    if frame == "planar":
        plot_scatter(folder / "error_scatter.png", truth, points, "units of the data")
    else:
        error_map_png(folder / "error_map.png", points, truth, "Held-out photographs", unit="m")
        answers = {
            "routed": points,
            "region given": points_array(given),
            "centre of the region": centres[labels],
        }
        plot_error_cdf(
            folder / "error_cdf.png",
            {name: frame_distance(p, truth, frame) / 1000 for name, p in answers.items()},
        )
    if len(names) > 1:
        number = {name: i for i, name in enumerate(names)}
        predicted = np.array([number[answer.regions[0].name] for answer in routed])
        plot_confusion(folder / "confusion.png", labels, predicted, list(names))


def write_dropped(folder: Path, kept: Dataset, dropped: Sequence[dict], frame: str) -> None:
    """Write dropped.csv and dropped.png: the rows that filters left out, and why."""
    write_csv(folder / "dropped.csv", dropped)
    points = {
        name: np.array([[r["latitude"], r["longitude"]] for r in dropped if r["filter"] == name])
        for name in dict.fromkeys(row["filter"] for row in dropped)
    }
    unit = "degrees" if frame == "wgs84" else "units of the data"
    plot_dropped(folder / "dropped.png", points_of(kept), points, unit)
