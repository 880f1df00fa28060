"""Where a photograph may have been taken, by the experts of a region model: their points, spread by what each of them misses."""

from __future__ import annotations

import torch

from geohf.geo import EARTH_RADIUS_M
from geohf.geo.density import SphericalMixture
from geohf.metrics.density import Mixtures
from geohf.region.configuration import GeoRegionConfig

LEAST_SIGMA = 0.01 / EARTH_RADIUS_M  # radians: a centimeter, of an expert that was never wrong


def mixture_of(
    config: GeoRegionConfig, points: torch.Tensor, weights: torch.Tensor, scale: float | None = None
) -> SphericalMixture:
    """The density of each photograph: each expert's point, spread by its expected error times the fitted scale, or another.

    Points and weights are those of `geohf.region.decoding.weighted_points`.
    """
    spread = config.density_scale if scale is None else scale
    assert spread is not None  # fitted, or given
    sigma = (spread / EARTH_RADIUS_M) * weights.new_tensor(config.expert_errors)
    kappas = (sigma.clamp(min=LEAST_SIGMA) ** -2.0).expand_as(weights)
    return SphericalMixture.around(weights, points, kappas).or_anywhere()


def mixtures_of(config: GeoRegionConfig, points: torch.Tensor, weights: torch.Tensor) -> Mixtures:
    """`mixture_of` some rows."""
    return lambda rows, scale=None: mixture_of(config, points[rows], weights[rows], scale)


def has_density(config: GeoRegionConfig) -> bool:
    """Whether answers come with a density: it was asked for, and fitted."""
    return config.density and config.density_scale is not None and config.expert_errors is not None
