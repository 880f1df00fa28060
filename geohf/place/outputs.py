"""What a place run leaves for people: answers as CSV, GeoJSON and a map, strips of pictures, plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geohf.geo import great_circle_m
from geohf.place.evaluation import Search
from geohf.place.splits import PlaceData
from geohf.report import error_map_png, plot_error_cdf, write_csv, write_geojson, write_map
from geohf.report.strips import Answer, plot_strips
from geohf.vision.images import open_image

STRIPS, STRIP_ANSWERS = 8, 5


def write_answers(folder: str | Path, data: PlaceData, found: Search, sure: np.ndarray | None) -> None:
    """Write predictions.csv, predictions.geojson and map.html of the test queries.

    Args:
        found: the search of the trained model.
        sure: (q,) confidences, None where there are none.
    """
    folder, points = Path(folder), data.points
    top = found.answers[:, 0]
    rows = [
        {
            "image": data.names[query],
            "sequence": data.sequences[query],
            "latitude": points[query, 0],
            "longitude": points[query, 1],
            "answer": data.names[answer],
            "predicted_latitude": points[answer, 0],
            "predicted_longitude": points[answer, 1],
            "similarity": float(found.similarity[i, 0]),
            "confidence": None if sure is None else float(sure[i]),
            "distance_m": float(found.error_m[i]),
            "right": bool(found.right[i, 0]),
        }
        for i, (query, answer) in enumerate(zip(found.queries, top, strict=True))
    ]
    write_csv(folder / "predictions.csv", rows)
    details = [
        {name: row[name] for name in ("sequence", "similarity", "confidence", "right")} for row in rows
    ]
    write_geojson(folder / "predictions.geojson", points[top], rows, truth=points[found.queries])
    write_map(
        folder / "map.html",
        points[top],
        points[found.queries],
        labels=[row["image"] for row in rows],
        details=details,
        title=f"{len(rows)} queries: where they were taken, and where their top answers were",
    )


def plot_answers(folder: str | Path, data: PlaceData, found: dict[str, Search]) -> None:
    """Draw strips of queries and their answers, errors as a curve, and errors on a map.

    Args:
        found: stage -> its search; the last one is drawn in strips and on the map.
    """
    folder = Path(folder)
    plot_error_cdf(folder / "error_cdf.png", {name: search.error_m / 1000 for name, search in found.items()})
    last = list(found.values())[-1]
    points = data.points
    error_map_png(
        folder / "error_map.png", points[last.answers[:, 0]], points[last.queries], "Test queries", unit="m"
    )
    # right and wrong ones in the proportion in which they occur, spread over the drives
    shown = np.unique(np.linspace(0, len(last.queries) - 1, STRIPS).round().astype(int))
    strips = []
    for i in shown:
        answers = [
            Answer(
                open_image(data.files[row], size=256),
                f"{_metres(points[row], points[last.queries[i]])}, cos {last.similarity[i, j]:.2f}",
                bool(last.right[i, j]),
            )
            for j, row in enumerate(last.answers[i, :STRIP_ANSWERS])
        ]
        query = last.queries[i]
        strips.append((open_image(data.files[query], size=256), f"query ({data.sequences[query]})", answers))
    plot_strips(
        folder / "answers.png", strips, "Queries and their top answers: green within the radius, red beyond"
    )


def _metres(a: np.ndarray, b: np.ndarray) -> str:
    metres = float(great_circle_m(a, b))
    return f"{metres:.0f} m" if metres < 1000 else f"{metres / 1000:.1f} km"
