"""How good answers are: errors of given and of routed regions, the router, and the reference implementation's MSE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from geohf.errors import DataError
from geohf.geo import frame_distance, frame_mean
from geohf.geo.scalers import CoordinateScaler
from geohf.metrics.density import density_metrics
from geohf.metrics.directions import HIGHER, LOWER, MetricInfo
from geohf.metrics.headings import HEADING_METRICS, constant_heading, heading_metrics
from geohf.metrics.intervals import bootstrap_intervals, mean_interval, share_interval
from geohf.metrics.records import Metric, join_metrics
from geohf.region.answers import RegionAnswers, points_array
from geohf.region.configuration import GeoRegionConfig

UNITS = ("m", "units")  # of the frames
METRICS = {"accuracy": HIGHER} | dict.fromkeys(("point_loss", "region_loss", "heading_loss"), LOWER)
METRICS |= HEADING_METRICS
METRICS |= {
    f"{prefix}{name}_{unit}": MetricInfo(False, unit)
    for prefix in ("", "routed_")
    for name in ("mean", "median", "p90")
    for unit in UNITS
}


def error_summary(errors, unit: str, prefix: str = "") -> dict[str, float]:
    """Mean, median and 90th percentile of (n,) distances, in meters (`m`) or `units` of the data; of none, nothing.

    >>> error_summary([1.0, 2.0, 6.0], "m", "routed_")
    {'routed_mean_m': 3.0, 'routed_median_m': 2.0, 'routed_p90_m': 5.2}
    """
    if not len(errors):
        return {}
    numbers = {"mean": np.mean(errors), "median": np.median(errors), "p90": np.quantile(errors, 0.9)}
    return {f"{prefix}{name}_{unit}": float(round(value, 9)) for name, value in numbers.items()}


def region_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of rows whose region is named right, of those whose region is known; NaN where none is."""
    known = labels >= 0
    return float((logits.argmax(-1) == labels)[known].double().mean())


def coverage(radii: Sequence[float | None], errors: np.ndarray) -> float | None:
    """Share of errors within their radius; None where no radius was calibrated."""
    return None if None in radii else float((errors <= np.array(radii)).mean())


def squared_errors(points, truth, scaler: CoordinateScaler) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of (n, 2) points, averaged over both coordinates: in scaled coordinates, and in the frame's own units.

    Longitudes differ the short way round; the scaler is one a row.
    """
    difference = scaler.transform(points) - scaler.transform(truth)
    if scaler.frame == "wgs84":
        turn = 360.0 / scaler.scale[..., 1]
        difference[..., 1] -= turn * np.round(difference[..., 1] / turn)
    return (difference**2).mean(-1), ((difference * scaler.scale) ** 2).mean(-1)


def evaluation_rows(
    names: Sequence[str],
    labels: np.ndarray,
    truth: np.ndarray,
    answers: Mapping[str, np.ndarray],
    predicted: np.ndarray,
    scaler: CoordinateScaler,
    unit: str,
) -> list[dict]:
    """A row of numbers for every region that has photographs, and the last one for all of them.

    Args:
        names: of the regions.
        labels, predicted: (n,) the true region's number and the router's.
        truth: (n, 2) points.
        answers: name -> (n, 2) points; `given` are those of the true region's expert.
        scaler: of all regions.

    Returns:
        Dicts with `region`, `n`, `mse_scaled` and `mse` (of the true region's expert, as in the reference
        implementation; over all they are means over photographs, so large regions weigh more), mean, median and
        90th percentile of the error of each of the answers, and `router_accuracy`.
    """
    scaled, unscaled = squared_errors(answers["given"], truth, scaler[labels])
    errors = {name: frame_distance(points, truth, scaler.frame) for name, points in answers.items()}
    right = predicted == labels

    def numbers(rows: np.ndarray) -> dict[str, float]:
        summary = {"mse_scaled": float(scaled[rows].mean()), "mse": float(unscaled[rows].mean())}
        for name, values in errors.items():
            summary |= error_summary(values[rows], unit, f"{name}_")
        return summary | {"router_accuracy": float(right[rows].mean())}

    parts = {name: labels == number for number, name in enumerate(names)}
    table = [{"region": name, "n": int(r.sum())} | numbers(r) for name, r in parts.items() if r.any()]
    return [*table, {"region": "all", "n": len(labels)} | numbers(np.ones(len(labels), bool))]


def measure(
    config: GeoRegionConfig,
    answers: RegionAnswers,
    train: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None,
    intervals: bool = True,
) -> list[Metric]:
    """The numbers of all photographs, their intervals where they are asked for, and the constant baseline's.

    The baseline answers the region's center where the region is given, and the center of all where it is not.

    Args:
        train: (labels, points, headings) of the training photographs, which make the baseline; None: there is none.
    """
    values = {name: value for name, value in region_table(config, answers)[-1].items() if name != "region"}
    baseline: dict[str, float] = {}
    if train is not None:
        located = train[1][np.isfinite(train[1]).all(1)]
        for prefix, points in (
            ("given_", region_centers(config, *train[:2])[answers.labels]),
            ("routed_", np.broadcast_to(_center(located, config.frame), answers.truth.shape)),
        ):
            errors = frame_distance(points, answers.truth, config.frame)
            baseline |= error_summary(errors, config.unit, prefix)
    for name, mixtures in answers.densities.items():
        missed = frame_distance(points_array(getattr(answers, name)), answers.truth, config.frame)
        masses = getattr(config, f"{name}_masses")
        values |= density_metrics(mixtures, answers.truth, missed, masses, config.unit, f"{name}_")
    if config.predict_heading and answers.headings is not None:
        headings = [answer.heading for answer in answers.routed]
        values |= heading_metrics(np.array(headings, np.float64), answers.headings)
        if train is not None and train[2] is not None:
            baseline |= heading_metrics(constant_heading(train[2]), answers.headings)
    ends = region_intervals(config, answers) if intervals else {}
    return join_metrics({name: v for name, v in values.items() if v is not None}, ends, baseline)


def region_table(
    config: GeoRegionConfig, answers: RegionAnswers, centers: np.ndarray | None = None
) -> list[dict]:
    """`evaluation_rows` of the answers, and of `region_centers` where given; the last row has their radii's coverage."""
    points = {"given": points_array(answers.given), "routed": points_array(answers.routed)}
    others = {} if centers is None else {"center": centers[answers.labels]}
    rows = evaluation_rows(
        config.regions,
        answers.labels,
        answers.truth,
        points | others,
        answers.named(config.label2id),
        config.coordinate_scaler,
        config.unit,
    )
    for name, predicted in points.items():
        errors = frame_distance(predicted, answers.truth, config.frame)
        rows[-1][f"{name}_coverage"] = coverage([answer.radius for answer in getattr(answers, name)], errors)
    return rows


def region_centers(config: GeoRegionConfig, labels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(regions, 2) the mean of each region's training points; its scaler's center, where it has none this time."""
    centers = config.coordinate_scaler.center.copy()
    known = np.isfinite(points).all(1)
    for number in np.unique(labels[(labels >= 0) & known]):
        centers[number] = _center(points[(labels == number) & known], config.frame)
    return centers


def region_intervals(config: GeoRegionConfig, answers: RegionAnswers) -> dict[str, tuple[float, float]]:
    """The ends of 95 % intervals of the numbers that the card names first, drawn photograph by photograph."""
    points = points_array(answers.routed), points_array(answers.given)
    routed, given = (frame_distance(part, answers.truth, config.frame) for part in points)
    intervals = {
        f"routed_mean_{config.unit}": mean_interval(routed),
        f"given_mean_{config.unit}": mean_interval(given),
        "router_accuracy": share_interval(answers.named(config.label2id) == answers.labels),
    }
    median = f"routed_median_{config.unit}"
    intervals |= bootstrap_intervals(lambda rows: {median: np.median(routed[rows])}, np.arange(len(routed)))
    return {name: ends for name, ends in intervals.items() if ends is not None}


def _center(points: np.ndarray, frame: str) -> np.ndarray:
    try:
        return frame_mean(points, frame=frame)
    except ValueError as error:
        raise DataError(f"the training points have no mean: {error}") from None
