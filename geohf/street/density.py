"""Where a place may be, as a density: of the `vmf` head, or of the classes of a street model, spread around their points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from geohf.geo import points_from_vectors, unit_vectors
from geohf.geo.density import NOWHERE, SphericalMixture, log_normalizer
from geohf.metrics.density import Mixtures, fit_masses, fit_scale
from geohf.models.losses import mean_of_known
from geohf.street.configuration import GeoStreetConfig

if TYPE_CHECKING:
    from geohf.street.head import GeoStreetOutput

MOST_PARTS = 256  # of the most probable classes
# nearly uniform, and a standard deviation of 6 km, or of 1/30 of the box where it is a city's
LEAST_LOG_KAPPA, MOST_LOG_KAPPA, MOST_OF_BOX = -4.0, 14.0, 4.0


def point_layers(config: GeoStreetConfig, outputs: int) -> nn.Sequential:
    """From a place's features to what tells its point."""
    return nn.Sequential(
        nn.LayerNorm(config.feature_size),
        nn.Linear(config.feature_size, config.hidden_size),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden_size, config.gps_hidden_size),
        nn.GELU(),
        nn.Linear(config.gps_hidden_size, outputs),
    )


class MixtureHead(nn.Module):
    """From a place's features to a mixture.

    The means are steps from the middle of the training places' box, in units of its size, and so are the spreads: an
    untrained head says that a place lies somewhere in the box.
    """

    def __init__(self, config: GeoStreetConfig):
        super().__init__()
        self.layers = point_layers(config, 5 * config.vmf_components)
        south, west, north, east = config.gps_box or (-90.0, -180.0, 90.0, 180.0)
        height, width = north - south, (east - west) % 360 or 360.0
        self.middle = [(south + north) / 2, west + width / 2]
        across = math.hypot(height, width * math.cos(math.radians(self.middle[0])))
        self.unit = math.radians(across) / 4  # a box is about four standard deviations wide
        self.most = max(MOST_LOG_KAPPA, MOST_OF_BOX - 2 * math.log(self.unit))

    def forward(self, place: torch.Tensor) -> torch.Tensor:
        """(batch, features) to (batch, components, 5): the logarithm of the weight, the mean, that of kappa; float32."""
        raw = self.layers(place).float().unflatten(-1, (-1, 5))
        middle = unit_vectors(raw.new_tensor(self.middle))
        means = nn.functional.normalize(middle + self.unit * raw[..., 1:4], dim=-1)
        log_kappas = (raw[..., 4:] - 2 * math.log(self.unit)).clamp(LEAST_LOG_KAPPA, self.most)
        return torch.cat([raw[..., :1].log_softmax(-2), means, log_kappas], -1)


def mixture_log_density(mixture: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(batch,) the log density at (batch, 2) degrees of (batch, components, 5), see `MixtureHead`, in nats per steradian.

    `NOWHERE` of the mass is uniform. cos - 1 is taken from the chord, which is exact where float32 rounds 1 - 1e-8 to 1.
    """
    log_weights, means, log_kappas = mixture[..., 0], mixture[..., 1:4], mixture[..., 4]
    vectors = unit_vectors(points.to(mixture.dtype))[:, None]
    kappas = log_kappas.exp()
    falls = -kappas * ((means - vectors) ** 2).sum(-1) / 2
    peaked = (log_weights + log_normalizer(kappas) + falls).logsumexp(-1) + math.log(1 - NOWHERE)
    return torch.logaddexp(peaked, torch.full_like(peaked, math.log(NOWHERE / (4 * math.pi))))


def mixture_loss(
    mixture: torch.Tensor, truth: torch.Tensor, items: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean negative log density of true points, in nats per steradian.

    Args:
        mixture: (batch, components, 5), see `MixtureHead`.
        truth: (batch, 2) degrees; rows with NaN do not count.
        items: number to divide by; None: the rows that count.
    """
    counts = truth.isfinite().all(-1)
    rows = -mixture_log_density(mixture, torch.where(counts[:, None], truth, 0.0))
    return mean_of_known(rows, counts, items)


def components_of(mixture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The (batch, components) weights, and the (batch, components, 3) latitude, longitude and kappa."""
    points = points_from_vectors(mixture[..., 1:4])
    return mixture[..., 0].exp(), torch.cat([points, mixture[..., 4:].exp()], -1)


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
    return lambda rows, scale=None: mixture_of(config, probabilities[rows], candidates[rows], scale)


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
    mixtures = mixtures_of(config, probabilities, candidates)
    config.density_scale = fit_scale(mixtures, truth)
    config.region_masses = fit_masses(mixtures, truth, blocks)
