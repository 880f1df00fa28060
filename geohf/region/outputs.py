"""What a region run leaves for people: predictions as CSV, GeoJSON and a map, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.tables import points_of
from geohf.geo import frame_distance
from geohf.region.answers import points_array
from geohf.region.evaluation import RegionAnswers
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

if TYPE_CHECKING:
    from datasets import Dataset


def write_predictions(folder: Path, dataset: Dataset, answers: RegionAnswers, frame: str) -> None:
    """Write predictions.csv, and for `wgs84` predictions.geojson and map.html.

    Args:
        dataset: the photographs, in the order of the answers.
    """
    routed, truth = answers.routed, answers.truth
    points, own = points_array(routed), points_array(answers.given)
    errors = [frame_distance(found, truth, frame) for found in (points, own)]
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
            zip(dataset["filename"][:], dataset["region"][:], routed, strict=True)
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
        labels=dataset["filename"][:],
        details={name: [row[name] for row in rows] for name in shown},
        radius_m=None if routed[0].radius is None else [answer.radius for answer in routed],
        title=f"{len(rows)} photographs: where they are and where the model puts them",
    )


def plot_run(
    folder: Path, names: Sequence[str], answers: RegionAnswers, centres: np.ndarray, frame: str
) -> None:
    """Plots of held-out photographs for the card: their errors on a map or in the plane, and the router's.

    Args:
        names: of the regions.
        centres: (n, 2) the centre of each photograph's region, the answer that looks at no image.
    """
    truth, points = answers.truth, points_array(answers.routed)
    if frame == "planar":
        plot_scatter(folder / "error_scatter.png", truth, points, "units of the data")
    else:
        error_map_png(folder / "error_map.png", points, truth, "Held-out photographs", unit="m")
        compared = {
            "routed": points,
            "region given": points_array(answers.given),
            "centre of the region": centres,
        }
        plot_error_cdf(
            folder / "error_cdf.png",
            {name: frame_distance(p, truth, frame) / 1000 for name, p in compared.items()},
        )
    if len(names) > 1:
        number = {name: i for i, name in enumerate(names)}
        predicted = np.array([number[answer.regions[0].name] for answer in answers.routed])
        plot_confusion(folder / "confusion.png", answers.labels, predicted, list(names))


def write_dropped(folder: Path, kept: Dataset, dropped: Sequence[dict], frame: str) -> None:
    """Write dropped.csv and dropped.png: the rows that filters left out, and why."""
    write_csv(folder / "dropped.csv", dropped)
    points = {
        name: np.array([[r["latitude"], r["longitude"]] for r in dropped if r["filter"] == name])
        for name in dict.fromkeys(row["filter"] for row in dropped)
    }
    unit = "degrees" if frame == "wgs84" else "units of the data"
    plot_dropped(folder / "dropped.png", points_of(kept), points, unit)
