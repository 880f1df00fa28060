"""Coordinates scaled to the size of one: robust, standard and minmax, in both frames, numpy and torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geohf.errors import DataError, require_choice
from geohf.geo._arrays import as_double, as_numpy, as_pairs, as_rows, namespace, wrap_longitude
from geohf.geo.frames import check_frame, frame_mean

SCALERS = ("robust", "standard", "minmax")

_EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class CoordinateScaler:
    """`(point - center) / scale`, a column at a time, and back.

    In `wgs84` longitudes differ the short way round, so a region may lie across the antimeridian, and points that
    come back are degrees again: latitude in [-90, 90], longitude in [-180, 180).

    Attributes:
        center, scale: (..., 2) float64, in degrees or data units, the scale above zero; several scalers in one have
            leading dimensions, which broadcast against those of the points.
        frame: `"wgs84"` or `"planar"`.
    """

    center: np.ndarray
    scale: np.ndarray
    frame: str = "wgs84"

    def transform(self, points):
        """Points (..., 2) to scaled coordinates (..., 2), float64, numpy or torch.

        >>> CoordinateScaler(np.array([10.0, 179.9]), np.array([0.5, 0.1])).transform([[10.5, -179.9]]).round(6)
        array([[1., 2.]])
        """
        xp = namespace(points)
        points = as_pairs(points, cast=as_double)
        away = points - self._like(self.center, points)
        if self.frame == "wgs84":
            away = xp.stack([away[..., 0], wrap_longitude(xp, away[..., 1])], -1)
        return away / self._like(self.scale, points)

    def inverse_transform(self, scaled):
        """Scaled coordinates (..., 2) to points (..., 2), float64, numpy or torch.

        >>> CoordinateScaler(np.array([10.0, 179.9]), np.array([0.5, 0.1])).inverse_transform([[1.0, 2.0]]).round(6)
        array([[  10.5, -179.9]])
        """
        xp = namespace(scaled)
        scaled = as_pairs(scaled, "scaled", as_double)
        points = self._like(self.center, scaled) + scaled * self._like(self.scale, scaled)
        if self.frame == "wgs84":
            latitude, longitude = points[..., 0], points[..., 1]
            points = xp.stack([xp.clip(latitude, -90.0, 90.0), wrap_longitude(xp, longitude)], -1)
        return points

    def __getitem__(self, index) -> CoordinateScaler:
        """The scaler, or scalers, at an index of several."""
        return CoordinateScaler(self.center[index], self.scale[index], self.frame)

    def to_dict(self) -> dict[str, list]:
        """Plain numbers for a config; see `from_dict`."""
        return {"center": self.center.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, numbers: dict[str, Any], frame: str) -> CoordinateScaler:
        """The scaler that `to_dict` described, every digit as it was; ValueError for other keys or shapes, or no scale."""
        if set(numbers) != {"center", "scale"}:
            raise ValueError(f"a scaler is described by 'center' and 'scale', got {sorted(numbers)}")
        center, scale = (as_pairs(numbers[name], name, as_numpy) for name in ("center", "scale"))
        if center.shape != scale.shape or not (np.isfinite(center).all() and (scale > 0).all()):
            raise ValueError("a scaler needs finite centers and as many scales above zero")
        return cls(center, scale, check_frame(frame))

    @staticmethod
    def stack(scalers: Sequence[CoordinateScaler]) -> CoordinateScaler:
        """Several scalers of one frame as one of (n, 2) centers and scales."""
        (frame,) = {scaler.frame for scaler in scalers}
        return CoordinateScaler(
            np.stack([s.center for s in scalers]), np.stack([s.scale for s in scalers]), frame
        )

    @staticmethod
    def _like(numbers: np.ndarray, array):
        return array.new_tensor(numbers) if hasattr(array, "new_tensor") else numbers


def fit_scaler(points, kind: str = "robust", frame: str = "wgs84") -> CoordinateScaler:
    """Fit a scaler on points: give it training rows only, or the held-out rows leak into training.

    `robust`: the median, and the distance between the quartiles. `standard`: mean and standard deviation. `minmax`:
    the range becomes -1 to 1. They equal scikit-learn's RobustScaler, StandardScaler and
    MinMaxScaler(feature_range=(-1, 1)): a column that does not vary (scale 0) is divided by 1, and in `minmax` its
    range counts as 1: its value becomes -1.

    Args:
        points: (n, 2) latitude and longitude in degrees, or data units.
        kind: one of `SCALERS`.
        frame: `"wgs84"` or `"planar"`.

    Raises:
        DataError: no points, points that are not finite, an unknown kind or frame.
        ValueError: a shape that is not (n, 2).

    >>> fit_scaler([[1000.0, 0.0], [1002.0, 0.0], [1004.0, 0.0]], "minmax", "planar")
    CoordinateScaler(center=array([1.002e+03, 5.000e-01]), scale=array([2. , 0.5]), frame='planar')
    """
    require_choice(SCALERS, scaler=kind)
    points = as_rows(points)
    if not len(points) or not np.isfinite(points).all():
        raise DataError("a scaler needs at least one point, and finite ones only")
    points = around_mean(points, check_frame(frame))
    if kind == "robust":
        low, center, high = np.quantile(points, [0.25, 0.5, 0.75], axis=0)
        scale = _without_zeros(high - low)
    elif kind == "standard":
        center, variance = points.mean(0), points.var(0)
        # the variance of equal numbers is rounding (scikit-learn's bound)
        rounding = len(points) * _EPS * variance + (len(points) * center * _EPS) ** 2
        scale = np.where(variance <= rounding, 1.0, np.sqrt(variance))
    else:
        low, high = points.min(0), points.max(0)
        scale = _without_zeros(high - low) / 2
        center = low + scale
    return CoordinateScaler(center, scale, frame)


def around_mean(points: np.ndarray, frame: str) -> np.ndarray:
    """Points (n, 2) whose longitudes run on across the antimeridian, within 180° of the points' mean; `planar` ones as is.

    Only then do medians, quartiles and ranges of longitudes mean something. Points that have no mean, because they cancel
    out on the sphere, are a DataError.
    """
    if frame == "planar" or not len(points):
        return points
    try:
        middle = frame_mean(points, frame=frame)[1]
    except ValueError as error:
        raise DataError(str(error)) from None
    longitude = points[:, 1]
    # whole turns only, so that a longitude that needs none keeps every digit
    return np.stack([points[:, 0], longitude - 360.0 * np.round((longitude - middle) / 360.0)], 1)


def _without_zeros(scale: np.ndarray) -> np.ndarray:
    return np.where(scale < 10 * _EPS, 1.0, scale)
