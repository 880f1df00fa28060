"""Mixtures of von Mises-Fisher distributions on the globe, and their credible regions as GeoJSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from geohf.geo.sphere import points_from_vectors, unit_vectors

DRAWS = 1024
AT_ONCE = 64  # places whose draws are in memory
NOWHERE = 0.01  # of the mass lies anywhere on earth: a photograph may come from where no other has


def log_normalizer(kappa: torch.Tensor) -> torch.Tensor:
    """The logarithm of the von Mises-Fisher density at its mean, in nats per steradian: finite from 0 to any kappa.

    The density is `kappa / (2 pi (1 - e^(-2 kappa))) e^(kappa (cos - 1))`. Source: Mardia and Jupp, Directional
    Statistics, 2000, section 9.3.2.
    """
    kappa = kappa.clamp(min=1e-9)  # at 0 the quotient is 0 / 0; its limit is 1 / (4 pi)
    return (kappa / -torch.expm1(-2.0 * kappa)).log() - math.log(2.0 * math.pi)


@dataclass
class SphericalMixture:
    """One mixture a row, in float64.

    Attributes:
        weights: (batch, K) that sum to 1.
        means: (batch, K, 3) unit vectors.
        kappas: (batch, K) concentrations; 0 is the uniform distribution, and 1 / sqrt(kappa) about the standard
            deviation in radians along an axis.
    """

    weights: torch.Tensor
    means: torch.Tensor
    kappas: torch.Tensor

    @classmethod
    def around(cls, weights: torch.Tensor, points: torch.Tensor, kappas: torch.Tensor) -> SphericalMixture:
        """Of (batch, K, 2) degrees in place of unit vectors."""
        return cls(weights.double(), unit_vectors(points.double()), kappas.double())

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, rows) -> SphericalMixture:
        """The mixtures of some rows; one number gives a mixture of one row."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1 or None)
        return SphericalMixture(self.weights[rows], self.means[rows], self.kappas[rows])

    def or_anywhere(self) -> SphericalMixture:
        """With one part more: `NOWHERE` of the mass, spread over all the earth."""
        uniform = self.weights.new_full((len(self), 1), NOWHERE)
        north = self.means.new_tensor([0.0, 0.0, 1.0]).expand(len(self), 1, 3)
        return SphericalMixture(
            torch.cat([self.weights * (1.0 - NOWHERE), uniform], 1),
            torch.cat([self.means, north], 1),
            torch.cat([self.kappas, torch.zeros_like(uniform)], 1),
        )

    def log_prob(self, points: torch.Tensor) -> torch.Tensor:
        """(batch, n) log density at (batch, n, 2) or (n, 2) degrees, in nats per steradian, with a gradient.

        A place that is known to within 10 km has about 13 nats, one of which nothing is known -2.53.
        """
        vectors = unit_vectors(points.double())
        vectors = vectors.expand(len(self), *vectors.shape[-2:])
        # cos - 1 from the chord: the cosine of two places a meter apart is 1 to the fourteenth digit
        chords = torch.cdist(vectors, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        falls = chords.square() * (-0.5 * self.kappas[:, None])
        heights = self.weights.log() + log_normalizer(self.kappas)
        return (falls + heights[:, None]).logsumexp(-1)

    def sample(self, draws: int = DRAWS, seed: int = 0) -> torch.Tensor:
        """(batch, draws, 2) degrees; the same seed gives the same points.

        Sobol's, scrambled: shares and means lie several times closer to the mixture's than those of points by lot.
        """
        shape = len(self), draws
        sobol = torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(draws, dtype=torch.float64)
        spin, height, chosen = (column.expand(shape).to(self.weights.device) for column in sobol.T)
        which = torch.searchsorted(self.weights.cumsum(-1), chosen.contiguous()).clamp(
            max=self.weights.shape[1] - 1
        )
        kappa = self.kappas.gather(1, which).clamp(min=1e-9)
        mean = self.means.gather(1, which[..., None].expand(*shape, 3))
        # how far below the mean, by the inverse of its distribution; Wenzel Jakob, 2012
        fall = -torch.log(height + (1.0 - height) * torch.exp(-2.0 * kappa)) / kappa
        ring = (fall * (2.0 - fall)).clamp(min=0.0).sqrt()
        east, north = _tangents(mean)
        angle = 2.0 * math.pi * spin
        around = angle.cos()[..., None] * east + angle.sin()[..., None] * north
        return points_from_vectors(mean * (1.0 - fall)[..., None] + around * ring[..., None])

    def credibility(self, points: torch.Tensor) -> torch.Tensor:
        """(batch,) the mass of where the density is greater than at (batch, 2) degrees.

        It is the least credible region that holds the point: 0 at the highest peak, 1 where nothing is expected.
        """
        own = self.log_prob(points[:, None])
        return (self.log_prob(self.sample()) > own).double().mean(-1)

    def threshold(self, mass: float) -> torch.Tensor:
        """(batch,) the log density above which so much of the mass lies: the edge of the credible region."""
        return self.log_prob(self.sample()).quantile(1.0 - mass, dim=-1)

    def localizability(self) -> torch.Tensor:
        """(batch,) nats that are known of the place: the uniform distribution's entropy less the mixture's; 0 for nothing.

        Source: Dufour et al., Around the World in 80 Timesteps (PLONK), arXiv 2412.06781, who take minus the entropy.
        """
        parts = [self[i : i + AT_ONCE] for i in range(0, len(self), AT_ONCE)] or [self]
        logarithms = [part.log_prob(part.sample()).mean(-1) for part in parts]
        return torch.cat(logarithms) + math.log(4.0 * math.pi)


def _tangents(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two unit vectors at right angles to each of the (..., 3) unit vectors and to each other."""
    x, y, z = vectors.unbind(-1)
    # Duff et al., Building an Orthonormal Basis, Revisited, 2017
    sign = torch.where(z >= 0, 1.0, -1.0).to(vectors)
    a = -1.0 / (sign + z)
    b = x * y * a
    east = torch.stack([1.0 + sign * x * x * a, sign * b, -sign * x], -1)
    return east, torch.stack([b, sign + y * y * a, -y], -1)


MOST_STEPS = 160  # of a window's grid, each way


def credible_region(mixture: SphericalMixture, mass: float) -> dict:
    """Where the density of a mixture of one row is greatest, as far as it needs to hold so much of the mass.

    A GeoJSON MultiPolygon, cut at the antimeridian; empty where the region is smaller than can be drawn.
    """
    edge = float(mixture.threshold(mass))
    windows = _windows(mixture, edge)
    polygons = [polygon for window in windows for polygon in _outlines(mixture, edge, *window)]
    return {"type": "MultiPolygon", "coordinates": polygons}


def _windows(mixture: SphericalMixture, edge: float) -> list[tuple[np.ndarray, float]]:
    """Boxes (south, west, north, east) that together hold the region, and the step of a grid for each, in degrees."""
    weights, means, kappas = mixture.weights[0], mixture.means[0], mixture.kappas[0].clamp(min=1e-9)
    # where the sum of K terms reaches the edge, one of them reaches the edge less log K
    spare = weights.log() + log_normalizer(kappas) + np.log(len(weights)) - edge
    there = spare > 0
    if not there.any():
        return []
    # an angle of cosine 1 - h has a chord of sqrt(2 h), which is not lost in rounding where kappa is large
    falls = (spare[there] / kappas[there]).clamp(max=2.0)
    reach = torch.rad2deg(2.0 * torch.asin((falls / 2.0).sqrt())).numpy()
    steps = np.rad2deg(1.0 / np.sqrt(kappas[there].numpy())) / 4.0
    x, y, z = means[there].numpy().T
    latitude, longitude = np.rad2deg(np.arctan2(z, np.hypot(x, y))), np.rad2deg(np.arctan2(y, x))
    boxes: list[tuple[np.ndarray, float]] = []
    for lat, lon, size, step in zip(latitude, longitude, reach, steps, strict=True):
        south, north = max(lat - size, -90.0), min(lat + size, 90.0)
        wide = 180.0
        if abs(lat) + size < 90.0:
            ratio = np.sin(np.deg2rad(size)) / np.cos(np.deg2rad(lat))
            wide = float(np.rad2deg(np.arcsin(min(ratio, 1.0))))
        west, east = (-180.0, 180.0) if wide >= 180.0 else (lon - wide, lon + wide)
        parts = [(west, east)]
        if west < -180.0:
            parts = [(west + 360.0, 180.0), (-180.0, east)]
        elif east > 180.0:
            parts = [(west, 180.0), (-180.0, east - 360.0)]
        for low, high in parts:
            boxes = _joined(boxes, np.array([south, low, north, high]), step)
    return boxes


def _joined(boxes, box: np.ndarray, step: float) -> list[tuple[np.ndarray, float]]:
    """The boxes with one more; those that meet become one."""
    apart = []
    for other, own in boxes:
        if (box[:2] <= other[2:]).all() and (other[:2] <= box[2:]).all():
            box = np.concatenate([np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])])
            step = min(step, own)
        else:
            apart.append((other, own))
    return _joined(apart, box, step) if len(apart) < len(boxes) else [*boxes, (box, step)]


def _outlines(mixture: SphericalMixture, edge: float, box: np.ndarray, step: float) -> list:
    """The region within a box: polygons as lists of rings of [longitude, latitude]."""
    from contourpy import FillType, contour_generator

    counts = np.clip(np.ceil((box[2:] - box[:2]) / step), 8, MOST_STEPS).astype(int) + 1
    spacing = float(((box[2:] - box[:2]) / counts).min())
    digits = int(np.clip(np.ceil(1.0 - np.log10(spacing)), 5, 9))  # of degrees; the fifth is a meter
    latitude, longitude = (np.linspace(box[i], box[2 + i], counts[i]) for i in (0, 1))
    grid = np.stack(np.meshgrid(latitude, longitude, indexing="ij"), -1).reshape(-1, 2)
    heights = mixture.log_prob(torch.from_numpy(grid))[0].numpy().reshape(counts)
    drawn = contour_generator(longitude, latitude, heights, fill_type=FillType.OuterOffset)
    return [
        [corners[a:b].round(digits).tolist() for a, b in pairwise(offsets)]
        for corners, offsets in zip(*drawn.filled(edge, np.inf), strict=True)
    ]
