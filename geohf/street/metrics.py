"""How good answers are: the competition's score, distances, shares within radii, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.metrics.calibration import expected_calibration_error
from geohf.metrics.density import density_metrics
from geohf.metrics.directions import HIGHER, LOWER, MetricInfo
from geohf.metrics.headings import HEADING_METRICS, constant_heading, heading_metrics
from geohf.metrics.intervals import bootstrap_intervals, mean_interval, share_interval
from geohf.metrics.records import Metric, join_metrics
from geohf.models.heading import degrees_of_directions
from geohf.street.answers import StreetPrediction, answered_points
from geohf.street.density import mixtures_of, weighted_candidates

if TYPE_CHECKING:
    from geohf.street.levels import Levels

RANK_WEIGHTS = (1.00, 0.60, 0.40, 0.25, 0.15)
COMPETITION_RADIUS_M = 6_371_000.0
RADII_KM = (1, 25, 100, 200, 500, 750, 1000, 2500)
KM = MetricInfo(False, "km")
CLASS_METRICS = {"score": HIGHER, "top1": HIGHER, "top5": HIGHER, "ece": LOWER}
METRICS = CLASS_METRICS | {"mean_km": KM, "median_km": KM, "std_km": KM}
METRICS |= {f"within_{radius}_km": HIGHER for radius in RADII_KM}
METRICS |= {"geoscore": HIGHER, "class_loss": LOWER, "gps_loss": LOWER, "match_loss": LOWER}
METRICS |= {"heading_loss": LOWER} | HEADING_METRICS


def state_score(top5, true_state) -> float:
    """The competition's credit for states: 1.00, 0.60, 0.40, 0.25, 0.15 for the rank of the first right one.

    Args:
        top5: (n, k) state indices, best first, k at most 5; -1 is no answer. A state named twice counts once.
        true_state: (n,) state indices.

    Raises:
        DataError: lengths that do not fit, an index that is no number, or a true one that is NaN.

    >>> state_score([[5, 3, -1, -1, -1], [1, 2, 3, 4, 5]], [3, 9])
    0.3
    """
    try:
        top5, true_state = np.asarray(top5, np.float64), np.asarray(true_state, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"states are scored by their indices, which are numbers: {error}") from None
    if top5.ndim != 2 or top5.shape[1] > 5 or true_state.shape != top5.shape[:1] or not len(top5):
        raise DataError(
            f"top5 must be (n, at most 5) for n > 0 true states; got {top5.shape} and {true_state.shape}"
        )
    if np.isnan(true_state).any():
        raise DataError("a true state is NaN, so no answer can be scored")
    hits = (top5 == true_state[:, None]) & (top5 >= 0)
    weights = np.asarray(RANK_WEIGHTS)[: top5.shape[1]]
    return float(np.where(hits.any(1), weights[hits.argmax(1)], 0.0).mean())


def distance_score(points, true_points) -> float:
    """The competition's credit for points: 1 minus the mean distance over 5000 km, not below 0."""
    points, true_points = np.asarray(points, np.float64), np.asarray(true_points, np.float64)
    if points.shape != true_points.shape or points.ndim != 2 or not len(points):
        raise DataError(
            f"points must be (n, 2) for n > 0 true ones; got {points.shape} and {true_points.shape}"
        )
    if not np.isfinite(points).all() or not np.isfinite(true_points).all():
        raise DataError("a point is NaN or infinite, so no distance can be scored")
    mean_km = great_circle_m(points, true_points, radius_m=COMPETITION_RADIUS_M).mean() / 1000
    return float(max(0.0, 1.0 - mean_km / 5000.0))


def competition_score(top5, points, true_state, true_points) -> float:
    """0.70 of the credit for states plus 0.30 of the credit for points, in [0, 1].

    Args:
        top5: (n, k) state indices, see `state_score`.
        points, true_points: (n, 2) latitude and longitude in degrees.
        true_state: (n,) state indices.

    >>> competition_score([[4]], [[36.0, -119.0]], [4], [[36.0, -119.0]])
    1.0
    """
    if len(np.asarray(points)) != len(np.asarray(true_state)):
        raise DataError(f"{len(points)} points for {len(true_state)} true states")
    return 0.70 * state_score(top5, true_state) + 0.30 * distance_score(points, true_points)


def distance_metrics(distance_km) -> dict[str, float]:
    """Mean, median and standard deviation in km, shares within `RADII_KM`, and the GeoScore (0 to 5000).

    The GeoScore of one place is 5000 * exp(-km / 1492.7), averaged unrounded.
    """
    km = np.asarray(distance_km, np.float64)
    metrics = {"mean_km": km.mean(), "median_km": np.median(km), "std_km": km.std()}
    metrics |= {f"within_{radius}_km": (km <= radius).mean() for radius in RADII_KM}
    metrics["geoscore"] = (5000 * np.exp(-km / 1492.7)).mean()
    return {name: float(value) for name, value in metrics.items()}


def street_metrics(
    logits, points, labels, true_points, temperature: float = 1.0, scored: bool = True
) -> dict[str, float]:
    """Everything that is reported for the street task.

    Args:
        logits: (n, classes) or None.
        points, true_points: (n, 2) degrees; rows whose truth is NaN count for states only.
        labels: (n,) class numbers; negative ones are unknown.
        scored: the classes are states, so that the competition's score has a meaning.

    Returns:
        `score` (only where states and points are known), `top1`, `top5`, `ece`, and `distance_metrics`.
    """
    ranked, probabilities = None, None
    if logits is not None:
        ranked, scaled = _top5(logits), np.asarray(logits, np.float64) / temperature
        probabilities = np.exp(scaled - scaled.max(1, keepdims=True))
        probabilities = probabilities.max(1) / probabilities.sum(1)
    return ranked_metrics(ranked, probabilities, points, labels, true_points, scored)


def ranked_metrics(ranked, confidence, points, labels, true_points, scored: bool = True) -> dict[str, float]:
    """`street_metrics` of classes that are ranked already.

    Args:
        ranked: (n, k) class numbers, best first, k at most 5, -1 for none; None: no class is told.
        confidence: (n,) the probability of the first; None: `ece` is not measured.
    """
    metrics = {}
    labels, points, true_points = _as_arrays(labels, points, true_points)
    located, labeled = np.isfinite(true_points).all(-1), labels >= 0
    if ranked is not None and labeled.any():
        both = located & labeled
        if scored and both.any():
            metrics["score"] = competition_score(ranked[both], points[both], labels[both], true_points[both])
        hits = ranked[labeled] == labels[labeled, None]
        metrics["top1"], metrics["top5"] = float(hits[:, 0].mean()), float(hits.any(1).mean())
        if confidence is not None:
            metrics["ece"] = expected_calibration_error(confidence[labeled], hits[:, 0])
    if located.any():
        metrics |= distance_metrics(great_circle_m(points[located], true_points[located]) / 1000)
    return metrics


def _as_arrays(labels, *points) -> tuple[np.ndarray, ...]:
    return np.asarray(labels), *(np.asarray(one, np.float64) for one in points)


def _top5(logits) -> np.ndarray:
    """(n, 5) class numbers, best first."""
    return np.argsort(-np.asarray(logits, np.float64), axis=1, kind="stable")[:, :5]


def constant_baseline(labels, points, num_classes: int) -> tuple[np.ndarray | None, np.ndarray]:
    """The best answer that looks at no image: the most frequent states, and one point for all.

    The point is the training place with the least mean distance to all others (of at most 2,000 drawn).

    Returns:
        (logits, point): (classes,) log frequencies or None, and (2,) degrees.

    Raises:
        DataError: no place has a position.
    """
    labels, points = _as_arrays(labels, points)
    counts = np.bincount(labels[labels >= 0], minlength=num_classes) if num_classes else None
    logits = None if counts is None else np.log(counts + 1e-9)
    points = points[np.isfinite(points).all(-1)]
    if not len(points):
        raise DataError("no training place has a position, so there is no constant baseline to compare with")
    some = points[np.random.default_rng(0).permutation(len(points))[:2000]]
    means = [great_circle_m(point, some).mean() for point in some]
    return logits, some[int(np.argmin(means))]


def street_intervals(logits, points, labels, truth, scored: bool = True) -> dict[str, tuple[float, float]]:
    """The ends of a 95 % interval of the score, top-1, and the mean and median distance; see `street_metrics`."""
    labels, points, truth = _as_arrays(labels, points, truth)
    located, labeled, intervals = np.isfinite(truth).all(1), labels >= 0, {}
    if logits is not None and labeled.any():
        top5 = _top5(logits)
        intervals["top1"] = share_interval(top5[labeled, 0] == labels[labeled])
        if scored:
            both = labeled & located
            columns = [column[both] for column in (top5, points, labels, truth)]
            intervals |= bootstrap_intervals(
                lambda rows: {"score": competition_score(*(column[rows] for column in columns))},
                np.arange(both.sum()),
            )
    km = great_circle_m(points[located], truth[located]) / 1000
    intervals["mean_km"] = mean_interval(km)
    intervals |= bootstrap_intervals(lambda rows: {"median_km": np.median(km[rows])}, np.arange(len(km)))
    return {name: ends for name, ends in intervals.items() if ends is not None}


def measure(
    config,
    outputs,
    answers,
    labels,
    truth,
    train=None,
    intervals: bool = True,
    headings=None,
    levels: Levels | None = None,
) -> list[Metric]:
    """The numbers of a model's answers, their intervals, and the constant baseline's.

    Args:
        config, outputs: the model's.
        answers: `StreetPrediction`s, one a place.
        labels: (n,) class numbers, negative where unknown.
        truth: (n, 2) degrees, NaN where unknown.
        train: (labels, points, headings) of the training places, for the constant baseline; there is none where it is
            None, or holds no position.
        headings: (n, max_views) true degrees of the views, NaN where unknown, for a model that tells them.
        levels: names of points, whose right shares are told, too.
    """
    logits = None if outputs.logits is None else outputs.logits.numpy()
    points = answered_points(answers)
    scored = not config.cells
    values = street_metrics(logits, points, labels, truth, config.temperature, scored)
    if (covered := coverage_of(answers, truth)) is not None:
        values["coverage"] = covered
    located = np.isfinite(truth).all(1)
    if config.density and config.density_scale is not None and located.any():
        own = torch.from_numpy(located)
        shares, candidates = weighted_candidates(config, outputs)
        missed_km = great_circle_m(points[located], truth[located]) / 1000
        mixtures = mixtures_of(config, shares[own], candidates[own])
        values |= density_metrics(mixtures, truth[located], missed_km, config.region_masses, "km")
    ends = street_intervals(logits, points, labels, truth, scored) if intervals else {}
    baseline, point = {}, None
    if train is not None and np.isfinite(train[1]).all(1).any():
        frequencies, point = constant_baseline(train[0], train[1], config.num_classes)
        frequencies = None if frequencies is None else np.tile(frequencies, (len(labels), 1))
        baseline = street_metrics(frequencies, np.tile(point, (len(labels), 1)), labels, truth, scored=scored)
    if outputs.directions is not None and headings is not None:
        values |= heading_metrics(degrees_of_directions(outputs.directions).numpy(), headings)
        if train is not None:
            baseline |= heading_metrics(constant_heading(train[2]), headings)
    named = [] if levels is None else level_metrics(levels, answers, truth, point, intervals)
    return join_metrics(values, ends, baseline) + named


def level_metrics(
    levels: Levels,
    answers: Sequence[StreetPrediction],
    truth: np.ndarray,
    constant: np.ndarray | None = None,
    intervals: bool = True,
) -> list[Metric]:
    """`country_accuracy` and so on, and `consistency`, the share of points in the state that is answered.

    Args:
        truth: (n, 2) degrees, NaN where unknown: such places have no say in the accuracy.
        constant: (2,) degrees of the constant baseline.
    """
    points, located = answered_points(answers), np.isfinite(truth).all(1)
    if not located.any():
        return []
    hits = levels.hits(points[located], truth[located])
    shares = {name: float(own.mean()) for name, own in hits.items()}
    same = levels.consistency(points, [a.states[0].name if a.states else None for a in answers])
    if same is not None:
        shares["consistency"] = same
    ends = {name: share_interval(own) for name, own in hits.items()} if intervals else {}
    baseline = {}
    if constant is not None:
        always = levels.hits(np.broadcast_to(constant, truth[located].shape), truth[located])
        baseline = {name: float(own.mean()) for name, own in always.items()}
    return join_metrics(shares, ends, baseline)


def coverage_of(predictions: Sequence, truth: np.ndarray) -> float | None:
    """Share of places whose truth lies within the answered radius; None without radius or truth."""
    located = np.isfinite(truth).all(1)
    if not located.any() or predictions[0].radius_m is None:
        return None
    radius = np.array([p.radius_m for p in predictions])
    return float((great_circle_m(answered_points(predictions), truth) <= radius)[located].mean())
