"""Pooling that learns: from a tower's map to one vector."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from geohf.place.configuration import GeoPlaceConfig


class GeM(nn.Module):
    """Generalized mean over the map, `mean(x^p)^(1/p)` a channel: the average for p = 1, the maximum for large p.

    Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation, 2018. Negative values count
    as zero.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to (batch, channels)."""
        return features.clamp(min=self.eps).pow(self.p).mean((-2, -1)).pow(1 / self.p)


class GeMLinear(nn.Module):
    """Places of the map at length 1, generalised mean, one linear layer: the head of CosPlace and EigenPlaces.

    Berton, Masone, Caputo: Rethinking Visual Geo-localization for Large-Scale Applications, CVPR 2022.
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.gem = GeM()
        self.linear = nn.Linear(channels, out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to (batch, out)."""
        return self.linear(self.gem(F.normalize(features, dim=1)))


class FeatureMixer(nn.Module):
    """One block of MixVPR: every place of the map sees every other, the same way in each channel."""

    def __init__(self, places: int):
        super().__init__()
        self.norm = nn.LayerNorm(places)
        self.hidden = nn.Linear(places, places)
        self.out = nn.Linear(places, places)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, places) to the same."""
        return features + self.out(F.relu(self.hidden(self.norm(features))))


class MixVPR(nn.Module):
    """Feature mixing over the map, then two projections, one of the channels and one of the map.

    Ali-bey, Chaib-draa, Giguère: MixVPR: Feature Mixing for Visual Place Recognition, WACV 2023.

    Args:
        feature_map: channels, rows and columns that come in.
        depth: mixers, L in the paper.
        channels, rows: the sides of what goes out, d and r in the paper.
    """

    def __init__(self, feature_map: list[int], depth: int, channels: int, rows: int):
        super().__init__()
        places = feature_map[1] * feature_map[2]
        self.mixers = nn.Sequential(*(FeatureMixer(places) for _ in range(depth)))
        self.channels = nn.Linear(feature_map[0], channels)
        self.rows = nn.Linear(places, rows)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to (batch, channels x rows) of length 1."""
        mixed = self.mixers(features.flatten(2))
        mixed = self.rows(self.channels(mixed.mT).mT)
        return F.normalize(mixed.flatten(1), dim=-1)


def make_aggregator(config: GeoPlaceConfig) -> nn.Module:
    """The head's own pooling, which does nothing where the tower has pooled."""
    if config.pooling == "gem":
        return GeM()
    if config.pooling == "gem_linear":
        return GeMLinear(config.channels, config.gem_dim)
    if config.pooling == "mixvpr":
        return MixVPR(config.feature_map, config.mix_depth, config.mix_channels, config.mix_rows)
    return nn.Identity()
