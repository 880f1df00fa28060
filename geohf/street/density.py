"""Where a place may be, by the classes of a street model: their probabilities, spread around their points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.geo.density import SphericalMixture
from geohf.metrics.density import Mixtures, fit_masses, fit_scale
from geohf.street.configuration import GeoStreetConfig
from geohf.street.mixture import components_of

if TYPE_CHECKING:
    from geohf.street.head import GeoStreetOutput

MOST_PARTS = 256  # of the most probable classes


def mixture_of(
    config: GeoStreetConfig, probabilities: torch.Tensor, candidates: torch.Tensor, scale: float | None = None
) -> SphericalMixture:
    """The density of each place: its most probable classes, each spread by its extent times the fitted scale.

    Args:
        probabilities: (batch, classes).
        candidates: (batch, classes, 2) degrees; (batch, components, 3) of the `vmf` head, with their own kappa.
        scale: in place of the config's.
    """
    spread = config.density_scale if scale is None else scale
    assert spread is not None  # fitted, or given
    top = probabilities.double().topk(min(MOST_PARTS, probabilities.shape[-1]))
    if config.gps_head == "vmf":
        kappas = candidates[..., 2].double().gather(1, top.indices) / spread**2
    else:
        centroids = torch.tensor(config.class_centroids, dtype=torch.float64)
        sides = config.class_extents or [[1.0, 1.0]] * len(centroids)  # as the head takes them
        extents = torch.tensor(sides, dtype=torch.float64).deg2rad()
        east = extents[:, 1] * centroids[:, 0].deg2rad().cos()
        sigma = spread * ((extents[:, 0] ** 2 + east**2) / 2).sqrt()
        kappas = (1.0 / sigma.clamp(min=1e-4) ** 2).to(top.indices.device)[top.indices]
    points = candidates[..., :2].double().gather(1, top.indices[..., None].expand(-1, -1, 2))
    weights = top.values / top.values.sum(-1, keepdim=True)
    return SphericalMixture.around(weights, points, kappas).or_anywhere()


def mixtures_of(config: GeoStreetConfig, probabilities: torch.Tensor, candidates: torch.Tensor) -> Mixtures:
    """`mixture_of` some rows."""
    return lambda rows: mixture_of(config, probabilities[rows], candidates[rows])


def weighted_candidates(
    config: GeoStreetConfig, outputs: GeoStreetOutput
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `mixture_of` takes of a model's outputs: calibrated probabilities and candidates of classes or components."""
    if outputs.mixture is not None:
        return components_of(outputs.mixture)
    assert outputs.logits is not None
    assert outputs.candidates is not None
    return (outputs.logits.float() / config.temperature).softmax(-1), outputs.candidates


def calibrate_density(config, probabilities, candidates, truth: np.ndarray, blocks=None) -> None:
    """Fit the scale by the likelihood of validation places, then the masses whose regions hold 50 and 90 % of them.

    Args:
        truth: (n, 2) degrees, all known.
        blocks: (n,) see `geohf.metrics.calibration.conformal_quantile`.
    """
    config.density_scale = fit_scale(
        lambda rows, scale: mixture_of(config, probabilities[rows], candidates[rows], scale), truth
    )
    config.region_masses = fit_masses(mixtures_of(config, probabilities, candidates), truth, blocks)
