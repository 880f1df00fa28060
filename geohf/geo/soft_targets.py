"""Targets for classification over geographic cells that know how far cells lie apart."""

from __future__ import annotations

import torch

from geohf.geo._arrays import as_numpy
from geohf.geo.distance import EARTH_RADIUS_M, distance_matrix_m
from geohf.geo.sphere import unit_vectors

# Of more classes than this, rows are made as they are needed, and distances by a matrix product: within a meter.
MANY_CLASSES = 1024


def cell_soft_targets(centroids, temperature_km: float = 300.0, labels=None) -> torch.Tensor:
    """One row of targets a class: the softmax of minus the distance between centroids over the temperature.

    Of few classes, row ``label`` of all of them, built once, is that label's target; of thousands, whose matrix would
    take gigabytes, the rows of a batch are computed as they are needed.

    Args:
        centroids: (C, 2) latitude and longitude in degrees, numpy or torch.
        temperature_km: kilometers over which a cell's weight falls to 1/e.
        labels: (B,) the classes whose rows are wanted; None: all.

    Returns:
        (C, C) or (B, C) float32 tensor on the centroids' device; every row sums to 1.

    Raises:
        ValueError: a temperature that is not above zero, a shape that is not (C, 2).

    >>> cell_soft_targets([[0.0, 0.0], [0.0, 1.0]], temperature_km=111.195080).round(decimals=4)
    tensor([[0.7311, 0.2689],
            [0.2689, 0.7311]])
    """
    _check_positive("temperature_km", temperature_km)
    centroids = _double(centroids)
    kilometers = _kilometers(centroids if labels is None else centroids[labels], centroids)
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
        (B, C) float32 tensor on the points' device.

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
    # torch's softmax is fused; its exp alone takes ten times as long where most results are next to nothing
    targets = torch.softmax(-_kilometers(points, centroids) / tau_km, dim=1)
    return (targets if normalize else targets / targets.amax(1, keepdim=True)).to(torch.float32)


def _kilometers(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    if len(centroids) <= MANY_CLASSES:
        return distance_matrix_m(points, centroids) / 1000.0
    chord = torch.addmm(points.new_full((), 2.0), unit_vectors(points), unit_vectors(centroids).T, alpha=-2.0)
    # the product is in float64, where a difference from 1 still tells centimeters; what follows need not be
    half = chord.to(torch.float32).clamp_(0.0, 4.0).sqrt_().mul_(0.5).clamp_(max=1.0)
    return half.asin_().mul_(2.0 * EARTH_RADIUS_M / 1000.0)


def _double(points) -> torch.Tensor:
    # Lists go through numpy: torch would read them as float32, which costs a meter.
    points = points.detach() if isinstance(points, torch.Tensor) else torch.from_numpy(as_numpy(points))
    return points.to(torch.float64)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be above zero and finite, got {value}")
