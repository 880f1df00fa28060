"""The five tasks' numbers as an `evaluate.Metric`: `GeoMetric("street").compute(predictions=..., references=...)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value

from geohf.errors import DataError, require_choice
from geohf.geo import frame_distance
from geohf.parts.evaluator import evaluate_detections
from geohf.place.metrics import place_metrics
from geohf.region.metrics import error_summary
from geohf.street.metrics import ranked_metrics
from geohf.tiles.metrics import tile_metrics

Rows = Sequence[Mapping[str, Any]]


def measure_region(predictions: Rows, references: Rows, frame: str = "wgs84") -> dict[str, float]:
    """Distances to the truth, and how often the region is right.

    Args:
        predictions, references: dicts with `region`, `latitude` and `longitude`.
        frame: `planar` for coordinates in units of the data.

    Returns:
        `routed_mean_m`, `routed_median_m`, `routed_p90_m` (`_units` of planar data) and `router_accuracy`.
    """
    _require_known(references, "region")
    points, truth = _points(predictions, "prediction", frame), _points(references, "reference", frame)
    missed = frame_distance(points, truth, frame)
    hits = [own["region"] == true["region"] for own, true in zip(predictions, references, strict=True)]
    unit = "m" if frame == "wgs84" else "units"
    return error_summary(missed, unit, "routed_") | {"router_accuracy": float(np.mean(hits))}


def measure_street(predictions: Rows, references: Rows, scored: bool = True) -> dict[str, float]:
    """The competition's score, top-1 and top-5, calibration, and distances, see `geohf.street.metrics.street_metrics`.

    No `ece` where a probability is unknown, and distances alone where no prediction has states.

    Args:
        predictions: dicts with `states` (up to five names, best first), `probability` of the first (None where unknown),
            `latitude` and `longitude`.
        references: dicts with `state`, `latitude` and `longitude`.
        scored: the classes are states, so that the competition's score has a meaning.
    """
    _require_known(references, "state")
    points, truth = _points(predictions, "prediction"), _points(references, "reference")
    states = [list(row["states"] or []) for row in predictions]
    names = {name: number for number, name in enumerate(sorted({row["state"] for row in references}))}
    labels = np.array([names[row["state"]] for row in references])
    ranked, confidence = None, None
    if any(states):
        ranked = np.array([[names.get(name, -1) for name in (told + [None] * 5)[:5]] for told in states])
        given = [row["probability"] for row in predictions]
        confidence = None if None in given else np.array(given)
    return ranked_metrics(ranked, confidence, points, labels, truth, scored)


def measure_place(
    predictions: Sequence[Sequence[int]],
    references: Rows,
    database_points: Sequence,
    radii_m: Sequence[float] = (25.0,),
    n: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Recall of a search, and distances to the top answers, see `geohf.place.metrics.place_metrics`.

    Args:
        predictions: of each query the numbers of its best database images, best first, at least the largest of `n`.
        references: dicts with `latitude` and `longitude` of the query.
        database_points: (m, 2) degrees of the database images.
    """
    if len({len(ranked) for ranked in predictions}) > 1:
        raise DataError("predictions name different numbers of database images; name as many for every query")
    ranked, points = np.array(predictions, np.int64), np.asarray(database_points, np.float64)
    if ranked.size and not (ranked.min() >= 0 and ranked.max() < len(points)):
        raise DataError(
            f"predictions name images {ranked.min()} to {ranked.max()}; the database has {len(points)}, from 0"
        )
    return place_metrics(ranked, points, _points(references, "reference"), radii_m, n)


def measure_tiles(predictions: Sequence[float], references: Rows) -> dict[str, float]:
    """Errors of one target, and the skill over the baselines that look at no image, see `geohf.tiles.metrics.tile_metrics`.

    Args:
        predictions: one number per tile.
        references: dicts with `value`, and with `last` and `trend`, what persistence and the trend would have said (None
            where they cannot).
    """
    _require_known(references, "value")
    bad = np.flatnonzero(~np.isfinite(np.array(predictions, np.float64)))
    if len(bad):
        raise DataError(f"prediction {bad[0]} is no finite number; leave out what has no answer")
    columns = ([row[name] for row in references] for name in ("value", "last", "trend"))
    return tile_metrics(predictions, *(np.array(column, np.float64) for column in columns))


_POINT = {"latitude": Value("float64"), "longitude": Value("float64")}
_BOXES = {"boxes": List(List(Value("float64"), length=4))} | dict.fromkeys(
    ("labels", "states"), List(Value("int64"))
)
_SCORES = dict.fromkeys(("scores", "state_scores"), List(Value("float64")))
_TILE = dict.fromkeys(("value", "last", "trend"), Value("float64"))
# task: features of a prediction, of a reference, and what measures them
TASKS = {
    "region": (_POINT | {"region": Value("string")}, _POINT | {"region": Value("string")}, measure_region),
    "street": (
        _POINT | {"states": List(Value("string")), "probability": Value("float64")},
        _POINT | {"state": Value("string")},
        measure_street,
    ),
    "parts": (_BOXES | _SCORES, _BOXES, evaluate_detections),
    "place": (List(Value("int64")), _POINT, measure_place),
    "tiles": (Value("float64"), _TILE, measure_tiles),
}


class GeoMetric(evaluate.Metric):  # type: ignore[name-defined]  # which `evaluate` imports by a star
    """The numbers of a task, equal to those of its Trainer's `evaluate`.

    Args:
        config_name: region, street, parts, place or tiles; what it takes and gives stands at `measure_<task>`, for
            parts at `geohf.parts.evaluate_detections`. Further arguments are `evaluate.Metric`'s.

    >>> metric = GeoMetric("tiles", keep_in_memory=True)
    >>> metric.compute(predictions=[2.0], references=[{"value": 3.0, "last": 1.0, "trend": None}])["mae"]
    1.0
    """

    def _info(self):
        require_choice(tuple(TASKS), config_name=self.config_name)
        prediction, reference, measure = TASKS[self.config_name]
        return evaluate.MetricInfo(
            description=f"What geohf reports of the task {self.config_name}.",
            citation="",
            inputs_description=measure.__doc__,
            features=Features({"predictions": prediction, "references": reference}),
        )

    def _compute(self, predictions, references, **settings):
        if not len(predictions):
            raise DataError("there are no predictions to measure")
        return TASKS[self.config_name][2](predictions, references, **settings)


def _points(rows: Rows, name: str, frame: str = "wgs84") -> np.ndarray:
    """(n, 2) latitude and longitude; every row has to have both, and of `wgs84` they have to be degrees."""
    points = np.array([[row["latitude"], row["longitude"]] for row in rows], np.float64)
    bad = np.flatnonzero(~np.isfinite(points).all(1))
    if len(bad):
        raise DataError(
            f"{name} {bad[0]} has no finite latitude and longitude; leave out what has no position"
        )
    latitude, longitude = points.T
    bad = np.flatnonzero((np.abs(latitude) > 90) | (longitude < -180) | (longitude >= 360))
    if frame == "wgs84" and len(bad):
        where = f"({latitude[bad[0]]:.12g}, {longitude[bad[0]]:.12g})"
        raise DataError(f"{name} {bad[0]}: {where} is no latitude in -90..90 and longitude in -180..360")
    return points


def _require_known(references: Rows, column: str) -> None:
    """Every reference has to name its class: None would equal a prediction of None."""
    for row, reference in enumerate(references):
        if reference[column] is None:
            raise DataError(f"reference {row} has no {column}; leave out what has none")
