"""SuperVLAD: sums of what belongs to a few soft clusters, without their centers."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from geohf.place.aggregation.netvlad import NEAREST_SHARE, k_means, some_places

GHOSTS = 1  # clusters for what tells no place, which are left out, as published
CLUSTERS = 4  # as published


class SuperVLAD(nn.Module):
    """Places of length 1 of a map summed over soft clusters, each sum and then the whole of length 1.

    Lu et al.: SuperVLAD: Compact and Robust Image Descriptors for Visual Place Recognition, NeurIPS 2024. `fit` starts the
    clusters, the ghost among them, as those of k-means.

    Args:
        channels: of the map that comes in.
        clusters: how many, beside the ghost.
    """

    fitted: torch.Tensor

    def __init__(self, channels: int, clusters: int = CLUSTERS):
        super().__init__()
        self.assign = nn.Linear(channels, clusters + GHOSTS, bias=False)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, features: torch.Tensor) -> None:
        """Start from k-means of the places of training maps, (n, channels, rows, columns); once."""
        if self.fitted:
            return
        places = some_places(features, self.assign.weight.device)
        directions = F.normalize(k_means(places, len(self.assign.weight)), dim=-1)
        best = (places @ directions.T).topk(2).values
        gap = (best[:, 0] - best[:, 1]).mean().clamp(min=1e-6)
        self.assign.weight.copy_(math.log(NEAREST_SHARE) / gap * directions)
        self.fitted.fill_(True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to (batch, clusters x channels) of length 1."""
        places = F.normalize(features.flatten(2).mT, dim=-1)
        shares = self.assign(places).softmax(-1)[..., :-GHOSTS]
        return F.normalize(F.normalize(shares.mT @ places, dim=-1).flatten(1), dim=-1)
