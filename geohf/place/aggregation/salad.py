"""SALAD: the patches of a picture, transported to clusters and to a bin for what tells no place."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

HIDDEN, DROPOUT, STEPS = 512, 0.3, 3  # as published
LEAST_ATTENTION = 0.01  # FoL takes less for none


def transport(scores: torch.Tensor, bin_score: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """Each patch's shares of the clusters and the bin, by Sinkhorn's steps on logarithms.

    A cluster may take the mass of one patch, the bin that of the rest: patches beyond the clusters' number.

    Args:
        scores: (batch, clusters, patches), with fewer clusters than patches.
        bin_score: the bin's score, a scalar for every patch, or (batch, 1, patches).
        steps: how often rows and columns are scaled.

    Returns:
        (batch, clusters + 1, patches), the bin last; the shares of a patch sum to 1.
    """
    batch, clusters, patches = scores.shape
    scores = torch.cat([scores, bin_score.expand(batch, 1, patches)], 1).float()
    mass = scores.new_zeros(clusters + 1, 1)
    mass[-1] = math.log(patches - clusters)
    of_patches = scores.new_zeros(batch, 1, patches)
    for _ in range(steps):
        of_clusters = mass - (scores + of_patches).logsumexp(2, keepdim=True)
        of_patches = -(scores + of_clusters).logsumexp(1, keepdim=True)
    return (scores + of_clusters + of_patches).exp()


class SALAD(nn.Module):
    """Features of patches summed over the clusters that they are transported to, beside a token of the whole picture.

    Izquierdo and Civera: Optimal Transport Aggregation for Visual Place Recognition, CVPR 2024. With `linear_dim` the
    last layer of MegaLoc (Berton and Masone 2025) stands behind it. With `attention` a patch's score of the bin is what the
    class token's attention to it lacks to 1, as in FoL (Wang et al., Focus on Local, AAAI 2025).

    Args:
        channels: of the tokens that come in.
        clusters: how many; fewer than patches.
        cluster_dim: length of what a cluster sums.
        token_dim: length of what is taken of the class token.
        linear_dim: length behind a last linear layer; None: there is none.
        attention: the tokens that come in have the attention to them as a channel more.
    """

    def __init__(
        self,
        channels: int,
        clusters: int,
        cluster_dim: int,
        token_dim: int,
        linear_dim: int | None = None,
        attention: bool = False,
    ):
        super().__init__()
        self.token_features = nn.Sequential(
            nn.Linear(channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, token_dim)
        )
        self.cluster_features, self.score = (
            nn.Sequential(nn.Linear(channels, HIDDEN), nn.Dropout(DROPOUT), nn.ReLU(), nn.Linear(HIDDEN, out))
            for out in (cluster_dim, clusters)
        )
        self.dust_bin = None if attention else nn.Parameter(torch.tensor(1.0))
        whole = token_dim + clusters * cluster_dim
        self.linear = nn.Identity() if linear_dim is None else nn.Linear(whole, linear_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, channels, 1 + patches), the class token first, to (batch, token_dim + cluster_dim x clusters).

        The number of feature f and cluster c is token_dim + f x clusters + c.
        """
        tokens = tokens.mT
        if self.dust_bin is not None:
            bin_score: torch.Tensor = self.dust_bin
        else:
            tokens, attention = tokens[..., :-1], tokens[:, 1:, -1]
            bin_score = (1 - torch.where(attention >= LEAST_ATTENTION, attention, 0.0))[:, None]
        patches = tokens[:, 1:]
        shares = transport(self.score(patches).mT, bin_score)[:, :-1]
        features = self.cluster_features(patches)
        sums = features.mT @ shares.mT.to(features.dtype)  # (batch, cluster_dim, clusters)
        parts = F.normalize(self.token_features(tokens[:, 0]), dim=-1), F.normalize(sums, dim=1).flatten(1)
        return self.linear(F.normalize(torch.cat(parts, -1), dim=-1))
