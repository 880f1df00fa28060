"""SuperVLAD: sums of what belongs to a few soft clusters, without their centers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

GHOSTS = 1  # clusters for what tells no place, which are left out, as published
CLUSTERS = 4  # as published


class SuperVLAD(nn.Module):
    """Places of a map summed over soft clusters, each sum and then the whole of length 1.

    Lu et al.: SuperVLAD: Compact and Robust Image Descriptors for Visual Place Recognition, NeurIPS 2024.
    Unlike theirs, places come with the lengths that they have, and the assignment begins at random, not with k-means.

    Args:
        channels: of the map that comes in.
        clusters: how many, beside the ghost.
    """

    def __init__(self, channels: int, clusters: int = CLUSTERS):
        super().__init__()
        self.assign = nn.Linear(channels, clusters + GHOSTS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to (batch, clusters x channels) of length 1."""
        places = features.flatten(2).mT
        shares = self.assign(places).softmax(-1)[..., :-GHOSTS]
        return F.normalize(F.normalize(shares.mT @ places, dim=-1).flatten(1), dim=-1)
