"""Targets for classification over geographic cells that know how far cells lie apart."""

from __future__ import annotations

import math

import numpy as np
import torch

from geohf.geo._arrays import as_numpy
from geohf.geo._metric import check_length
from geohf.geo.distance import EARTH_RADIUS_M, distance_matrix_m
from geohf.geo.sphere import unit_vectors

# Of more classes than this, targets are sparse: weights below e^-20 of a row's greatest, which add up to less than
# float32 can tell, are left out, and so are the passes over thousands of cells that most of them would take.
MANY_CLASSES = 1024
_NEGLIGIBLE = 20.0
_SLACK = 2e-3  # of the sphere's radius: more than cosines in float32 can mistake a distance by
_RUN = 8  # neighbors that are looked for as one


def cell_soft_targets(centroids, temperature_km: float = 300.0, labels=None) -> torch.Tensor:
    """One row of targets a class: the softmax of minus the distance between centroids over the temperature.

    Of few classes, row `label` of all of them, built once, is that label's target; of thousands, the rows of a
    batch are computed as they are needed.

    Args:
        centroids: (C, 2) latitude and longitude in degrees, numpy or torch; or `CentroidRuns` of them.
        temperature_km: kilometers over which a cell's weight falls to 1/e.
        labels: (B,) the classes whose rows are wanted; None: all.

    Returns:
        (C, C) or (B, C) float32 tensor on the centroids' device, sparse above `MANY_CLASSES`; every row sums to 1.

    Raises:
        ValueError: a temperature that is not above zero, a shape that is not (C, 2).

    >>> cell_soft_targets([[0.0, 0.0], [0.0, 1.0]], temperature_km=111.195080).round(decimals=4)
    tensor([[0.7311, 0.2689],
            [0.2689, 0.7311]])
    """
    check_length("temperature_km", temperature_km)
    if isinstance(centroids, CentroidRuns):
        points = centroids.points
    else:
        points = centroids = _double(centroids)
    return _weights(points if labels is None else points[labels], centroids, temperature_km)


def point_soft_targets(points, centroids, tau_km: float = 75.0, normalize: bool = False) -> torch.Tensor:
    """Targets of PIGEON: cells weighed by their distance from the true point, not from the true cell's center.

    `exp(-(d - d_min) / tau)`, where `d` is the distance from a point to every centroid and `d_min` the least of
    them: the nearest cell weighs 1. Source: Haas et al., PIGEON, arXiv 2307.05845, haversine smoothing.

    Args:
        points: (B, 2) true latitude and longitude in degrees, numpy or torch.
        centroids: (C, 2) degrees, numpy or torch; or `CentroidRuns` of them.
        tau_km: kilometers over which a cell's weight falls to 1/e.
        normalize: divide every row by its sum.

    Returns:
        (B, C) float32 tensor on the points' device, sparse for more than `MANY_CLASSES`.

    Raises:
        ValueError: a tau that is not above zero, wrong shapes, no centroids.

    >>> point_soft_targets([[0.0, 0.25]], [[0.0, 0.0], [0.0, 1.0]], tau_km=55.597540).round(decimals=4)
    tensor([[1.0000, 0.3679]])
    """
    check_length("tau_km", tau_km)
    points = _double(points)
    if not isinstance(centroids, CentroidRuns):
        centroids = _double(centroids).to(points.device)
        if len(centroids) == 0:
            raise ValueError("centroids are empty")
    return _weights(points, centroids, tau_km, greatest=not normalize)


class CentroidRuns:
    """Thousands of centroids in runs of neighbors, arranged once: targets of a batch then look into few of the runs.

    Args:
        centroids: (C, 2) latitude and longitude in degrees, numpy or torch.

    Raises:
        ValueError: a shape that is not (C, 2), or no centroids.
    """

    def __init__(self, centroids) -> None:
        from scipy.spatial import cKDTree

        self.points = _double(centroids)
        if len(self.points) == 0:
            raise ValueError("centroids are empty")
        vectors = unit_vectors(self.points)
        near = cKDTree(vectors.cpu().numpy(), leafsize=_RUN).indices
        orders = [torch.arange(len(vectors)), torch.from_numpy(near.astype(np.int64))]
        runs = [_runs(vectors, order.to(vectors.device)) for order in orders]
        # cells of a tree are in order already, and then the targets need not be sorted
        self._ordered = bool(runs[0][3].mean() <= 2 * runs[1][3].mean())
        self._cells, vectors, middles, radii = runs[0 if self._ordered else 1]
        self._vectors = vectors.movedim(-1, 0).contiguous()
        self._middles, self._radii = middles.float().T.contiguous(), radii.float()

    def __len__(self) -> int:
        return len(self.points)

    def weights(self, points: torch.Tensor, scale_km: float, greatest: bool = False) -> torch.Tensor:
        """(B, C) sparse float32 `exp(-distance / scale)` of (B, 2) float64 degrees where it is not negligible, over its sum
        in each row, or over its greatest.
        """
        slope = -2.0 * EARTH_RADIUS_M / 1000.0 / scale_km  # of a weight's logarithm over half of the angle
        points = unit_vectors(points).T
        # not a matrix product, which may be one in bfloat16 or TF32
        (x, y, z), (a, b, c) = self._middles, points.float()[..., None]
        chords = (a * x).addcmul_(b, y).addcmul_(c, z).mul_(-2.0).add_(2.0).clamp_(min=0.0).sqrt_()
        angles = chords.amin(1).mul_(0.5).clamp_(max=1.0).asin_() - _NEGLIGIBLE / slope
        reach = angles.clamp_(max=math.pi / 2).sin_().mul_(2.0).add_(_SLACK)
        rows, runs = (chords <= reach[:, None] + self._radii).nonzero().T
        apart = self._vectors.index_select(1, runs) - points.index_select(1, rows)[..., None]
        halves = apart.square_().sum(0).float().sqrt_().mul_(0.5)
        weights = halves.clamp_(max=1.0).asin_().mul_(slope).nan_to_num_(nan=-math.inf)
        top = weights.new_full(points.shape[1:], -math.inf).scatter_reduce_(0, rows, weights.amax(1), "amax")
        weights = weights.sub_(top.index_select(0, rows)[:, None]).view(-1)
        kept = (weights >= -_NEGLIGIBLE).nonzero()[:, 0]
        own, weights = kept // _RUN, weights.index_select(0, kept).exp_()
        rows = rows.index_select(0, own)
        cells = self._cells.index_select(0, runs.index_select(0, own) * _RUN + kept % _RUN)
        if not greatest:
            sums = top.new_zeros(len(top), dtype=torch.float64).index_add_(0, rows, weights.double())
            weights /= sums.float().index_select(0, rows)
        pairs = torch.stack([rows, cells])
        if not self._ordered:
            order = (rows * len(self) + cells).argsort()
            pairs, weights = pairs.index_select(1, order), weights.index_select(0, order)
        shape = points.shape[1], len(self)
        return torch.sparse_coo_tensor(pairs, weights, shape, is_coalesced=True, check_invariants=False)


def _runs(vectors: torch.Tensor, order: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cells, vectors, middles and radii of runs of `_RUN` cells that follow each other; what fills the last is NaN."""
    places = torch.arange(-(-len(order) // _RUN) * _RUN, device=order.device).clamp_(max=len(order) - 1)
    cells = order[places].view(-1, _RUN)
    vectors = vectors[cells]
    middles = vectors[:, _RUN // 2]
    radii = (vectors - middles[:, None]).norm(dim=-1).amax(1)
    vectors = vectors.clone()
    vectors.view(-1, 3)[len(order) :] = math.nan
    return cells.view(-1), vectors, middles, radii


def _weights(points, centroids, scale_km: float, greatest: bool = False) -> torch.Tensor:
    """`exp(-distance / scale)` over its sum in each row, or over its greatest."""
    if len(centroids) > MANY_CLASSES and not isinstance(centroids, CentroidRuns):
        centroids = CentroidRuns(centroids)
    if isinstance(centroids, CentroidRuns):
        return centroids.weights(points, scale_km, greatest)
    # torch's softmax is fused; its exp alone takes ten times as long where most results are next to nothing
    weights = torch.softmax(-(distance_matrix_m(points, centroids) / 1000.0) / scale_km, dim=1)
    return (weights / weights.amax(1, keepdim=True) if greatest else weights).to(torch.float32)


def _double(points) -> torch.Tensor:
    # Lists go through numpy: torch would read them as float32, which costs a meter.
    points = points.detach() if isinstance(points, torch.Tensor) else torch.from_numpy(as_numpy(points))
    return points.to(torch.float64)
