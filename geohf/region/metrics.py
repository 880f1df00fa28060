"""How good answers are: errors of given and of routed regions, the router, and the seed's MSE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from geohf.geo import frame_distance
from geohf.geo.scalers import CoordinateScaler
from geohf.metrics.directions import HIGHER, LOWER, MetricInfo

UNITS = ("m", "units")  # of the frames
METRICS = {"accuracy": HIGHER, "point_loss": LOWER, "region_loss": LOWER}
METRICS |= {
    f"{prefix}{name}_{unit}": MetricInfo(False, unit)
    for prefix in ("", "routed_")
    for name in ("mean", "median", "p90")
    for unit in UNITS
}


def error_summary(errors, unit: str, prefix: str = "") -> dict[str, float]:
    """Mean, median and 90th percentile of distances.

    Args:
        errors: (n,) metres or units of the data; no entry gives no number.
        unit: `m` or `units`, the end of each name.

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
    """Squared errors a row, averaged over both coordinates: in scaled coordinates, and in the frame's own units.

    Args:
        points, truth: (n, 2) latitude and longitude; longitudes differ the short way round.
        scaler: one a row, (n, 2).
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
    """A row of numbers for every region, and the last one for all of them.

    Args:
        names: of the regions.
        labels, predicted: (n,) the true region's number and the router's.
        truth: (n, 2) points.
        answers: name -> (n, 2) points; `given` are those of the true region's expert.
        scaler: of all regions.

    Returns:
        Dicts with `region`, `n`, `mse_scaled` and `mse` (of the true region's expert, as the seed reports them;
        over all they are means over photographs, so large regions weigh more), mean, median and 90th percentile
        of the error of each of the answers, and `router_accuracy`.
    """
    scaled, unscaled = squared_errors(answers["given"], truth, scaler[labels])
    errors = {name: frame_distance(points, truth, scaler.frame) for name, points in answers.items()}
    right = predicted == labels

    def numbers(rows: np.ndarray) -> dict[str, float]:
        summary = {"mse_scaled": float(scaled[rows].mean()), "mse": float(unscaled[rows].mean())}
        for name, values in errors.items():
            summary |= error_summary(values[rows], unit, f"{name}_")
        return summary | {"router_accuracy": float(right[rows].mean())}

    table = []
    for number, name in enumerate(names):
        rows = labels == number
        if rows.any():
            table.append({"region": name, "n": int(rows.sum())} | numbers(rows))
    everything = np.ones(len(labels), bool)
    return [*table, {"region": "all", "n": len(labels)} | numbers(everything)]
