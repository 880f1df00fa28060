"""Targets for classification over geographic cells that know how far cells lie apart."""

from __future__ import annotations

import torch

from geohf.geo._arrays import as_numpy
from geohf.geo.distance import distance_matrix_m


def cell_soft_targets(centroids, temperature_km: float = 300.0) -> torch.Tensor:
    """One row of targets a class: the softmax of minus the distance between centroids over the temperature.

    Built once and kept as a buffer; row ``label`` is that label's target.

    Args:
        centroids: (C, 2) latitude and longitude in degrees, numpy or torch.
        temperature_km: kilometers over which a cell's weight falls to 1/e.

    Returns:
        (C, C) float32 tensor on the centroids' device, computed in float64; every row sums to 1.

    Raises:
        ValueError: a temperature that is not above zero, a shape that is not (C, 2).

    >>> cell_soft_targets([[0.0, 0.0], [0.0, 1.0]], temperature_km=111.195080).round(decimals=4)
    tensor([[0.7311, 0.2689],
            [0.2689, 0.7311]])
    """
    _check_positive("temperature_km", temperature_km)
    centroids = _double(centroids)
    kilometers = distance_matrix_m(centroids, centroids) / 1000.0
    return torch.softmax(-kilometers / temperature_km, dim=1).to(torch.float32)


def point_soft_targets(points, centroids, tau_km: float = 75.0, normalize: bool = False) -> torch.Tensor:
    """Targets of PIGEON: cells weighed by their distance from the true point, not from the true cell's center.

    ``exp(-(d - d_min) / tau)``, where ``d`` is the distance from a point to every centroid and ``d_min`` the least
    of them: the nearest cell weighs 1. Source: Haas et al., PIGEON, arXiv 2307.05845, haversine smoothing.

    Args:
        points: (B, 2) true latitude and longitude in degrees, numpy or torch.
        centroids: (C, 2) degrees, numpy or torch.
        tau_km: kilometers over which a cell's weight falls to 1/e.
        normalize: divide every row by its sum.

    Returns:
        (B, C) float32 tensor on the points' device, computed in float64.

    Raises:
        ValueError: a tau that is not above zero, wrong shapes, no centroids.

    >>> point_soft_targets([[0.0, 0.25]], [[0.0, 0.0], [0.0, 1.0]], tau_km=55.597540).round(decimals=4)
    tensor([[1.0000, 0.3679]])
    """
    _check_positive("tau_km", tau_km)
    points = _double(points)
    centroids = _double(centroids).to(points.device)
    if len(centroids) == 0:
        raise ValueError("centroids are empty")
    kilometers = distance_matrix_m(points, centroids) / 1000.0
    nearest = kilometers.amin(1, keepdim=True)
    targets = torch.exp((nearest - kilometers) / tau_km)
    if normalize:
        targets = targets / targets.sum(1, keepdim=True)
    return targets.to(torch.float32)


def _double(points) -> torch.Tensor:
    # Lists go through numpy: torch would read them as float32, which costs a meter.
    points = points.detach() if isinstance(points, torch.Tensor) else torch.from_numpy(as_numpy(points))
    return points.to(torch.float64)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be above zero and finite, got {value}")
