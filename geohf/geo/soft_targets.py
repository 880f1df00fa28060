"""Targets for classification over geographic cells that know how far cells lie apart."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from geohf.geo._arrays import as_numpy
from geohf.geo.distance import EARTH_RADIUS_M, distance_matrix_m
from geohf.geo.sphere import unit_vectors

# Of more classes than this, targets are sparse: weights below e^-20 of a row's greatest, which add up to less than
# float32 can tell, are left out, and so are the passes over thousands of cells that most of them would take.
MANY_CLASSES = 1024
_NEGLIGIBLE = 20.0
# radians: by as much may a cosine in float32 mistake the distance to the nearest cell, and once more that to another
_SLACK = 2e-3
_RUN = 8  # cells that follow each other, and so are neighbors mostly


def cell_soft_targets(centroids, temperature_km: float = 300.0, labels=None) -> torch.Tensor:
    """One row of targets a class: the softmax of minus the distance between centroids over the temperature.

    Of few classes, row `label` of all of them, built once, is that label's target; of thousands, the rows of a batch
    are computed as they are needed.

    Args:
        centroids: (C, 2) latitude and longitude in degrees, numpy or torch.
        temperature_km: kilometers over which a cell's weight falls to 1/e.
        labels: (B,) the classes whose rows are wanted; None: all.

    Returns:
        (C, C) or (B, C) float32 tensor on the centroids' device, sparse for more than `MANY_CLASSES`; every row sums
        to 1.

    Raises:
        ValueError: a temperature that is not above zero, a shape that is not (C, 2).

    >>> cell_soft_targets([[0.0, 0.0], [0.0, 1.0]], temperature_km=111.195080).round(decimals=4)
    tensor([[0.7311, 0.2689],
            [0.2689, 0.7311]])
    """
    _check_positive("temperature_km", temperature_km)
    centroids = _double(centroids)
    return _weights(centroids if labels is None else centroids[labels], centroids, temperature_km)


def point_soft_targets(points, centroids, tau_km: float = 75.0, normalize: bool = False) -> torch.Tensor:
    """Targets of PIGEON: cells weighed by their distance from the true point, not from the true cell's center.

    `exp(-(d - d_min) / tau)`, where `d` is the distance from a point to every centroid and `d_min` the least
    of them: the nearest cell weighs 1. Source: Haas et al., PIGEON, arXiv 2307.05845, haversine smoothing.

    Args:
        points: (B, 2) true latitude and longitude in degrees, numpy or torch.
        centroids: (C, 2) degrees, numpy or torch.
        tau_km: kilometers over which a cell's weight falls to 1/e.
        normalize: divide every row by its sum.

    Returns:
        (B, C) float32 tensor on the points' device, sparse for more than `MANY_CLASSES`.

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
    return _weights(points, centroids, tau_km, greatest=not normalize)


def _weights(points, centroids, scale_km: float, greatest: bool = False) -> torch.Tensor:
    """`exp(-distance / scale)` over its sum in each row, or over its greatest."""
    if len(centroids) > MANY_CLASSES:
        return _near_weights(points, centroids, scale_km, greatest)
    # torch's softmax is fused; its exp alone takes ten times as long where most results are next to nothing
    weights = torch.softmax(-(distance_matrix_m(points, centroids) / 1000.0) / scale_km, dim=1)
    return (weights / weights.amax(1, keepdim=True) if greatest else weights).to(torch.float32)


def _near_weights(points, centroids, scale_km: float, greatest: bool) -> torch.Tensor:
    """The same as a sparse tensor of the cells that are not negligible."""
    radius_km = EARTH_RADIUS_M / 1000.0
    points, centroids = unit_vectors(points).T.contiguous(), unit_vectors(centroids).T.contiguous()
    pairs = _near_pairs(points.float(), centroids.float(), _NEGLIGIBLE * scale_km / radius_km + _SLACK)
    rows, cells = pairs
    apart = points.index_select(1, rows) - centroids.index_select(1, cells)
    halves = apart.square_().sum(0).float().sqrt_().mul_(0.5)
    weights = halves.clamp_(max=1.0).asin_().mul_(-2.0 * radius_km / scale_km)
    top = weights.new_full(points.shape[1:], -math.inf).scatter_reduce_(0, rows, weights, "amax")
    weights.sub_(top[rows]).exp_()
    if not greatest:
        sums = top.new_zeros(len(top), dtype=torch.float64).index_add_(0, rows, weights.double())
        weights /= sums.float()[rows]
    shape = points.shape[1], centroids.shape[1]
    return torch.sparse_coo_tensor(pairs, weights, shape, is_coalesced=True, check_invariants=False)


def _near_pairs(points: torch.Tensor, centroids: torch.Tensor, reach: float) -> torch.Tensor:
    """(2, pairs) ascending rows and cells that are at most `reach` radians farther than the row's nearest cell.

    Args:
        points, centroids: (3, n) unit vectors.
    """
    cells = centroids.shape[1]
    # of each few cells the nearest tells whether any is near: one comparison and one place to look for them all
    runs = functional.pad(centroids, (0, -cells % _RUN), mode="replicate").unflatten(1, (-1, _RUN))
    (x, y, z), (a, b, c) = runs.mT.contiguous(), points[..., None, None]
    # not a matrix product, which may be one in bfloat16 or TF32
    cosines = (a * x).addcmul_(b, y).addcmul_(c, z)  # (points, cells of a run, runs)
    nearest = cosines.amax(1)
    farthest = nearest.amax(1, keepdim=True).clamp_(-1.0, 1.0).acos_().add_(reach).clamp_(max=math.pi).cos_()
    rows, numbers = (nearest >= farthest).nonzero().T
    first = rows * cosines[0].numel() + numbers
    own = first[:, None] + torch.arange(_RUN, device=rows.device) * cosines.shape[2]
    kept, places = (cosines.take(own) >= farthest[rows]).nonzero().T
    pairs = torch.stack([rows[kept], numbers[kept] * _RUN + places])
    return pairs[:, pairs[1] < cells] if cells % _RUN else pairs


def _double(points) -> torch.Tensor:
    # Lists go through numpy: torch would read them as float32, which costs a meter.
    points = points.detach() if isinstance(points, torch.Tensor) else torch.from_numpy(as_numpy(points))
    return points.to(torch.float64)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be above zero and finite, got {value}")
