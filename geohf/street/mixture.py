"""A head that answers with a density: a mixture of von Mises-Fisher distributions on the sphere.

What PLONK (Dufour et al., CVPR 2025, arXiv 2412.06781) compares its flows with. Means are unit vectors, so that no meridian
and no pole is a border.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from geohf.geo import points_from_vectors, unit_vectors
from geohf.geo.density import NOWHERE, log_normalizer
from geohf.models.losses import mean_of_known
from geohf.street.configuration import GeoStreetConfig

# nearly uniform, and a standard deviation of 6 km, or of 1/30 of the box where it is a city's
LEAST_LOG_KAPPA, MOST_LOG_KAPPA, MOST_OF_BOX = -4.0, 14.0, 4.0


class MixtureHead(nn.Module):
    """From a place's features to a mixture.

    The means are steps from the middle of the training places' box, in units of its size, and so are the spreads: an
    untrained head says that a place lies somewhere in the box.

    Args:
        config: its `feature_size`, `hidden_size`, `gps_hidden_size`, `dropout`, `vmf_components` and `gps_box`.
    """

    def __init__(self, config: GeoStreetConfig):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(config.feature_size),
            nn.Linear(config.feature_size, config.hidden_size),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden_size, config.gps_hidden_size),
            nn.GELU(),
            nn.Linear(config.gps_hidden_size, 5 * config.vmf_components),
        )
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
