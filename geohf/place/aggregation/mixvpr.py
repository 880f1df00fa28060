"""MixVPR: layers that mix the places of a map."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


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
