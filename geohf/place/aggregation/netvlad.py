"""NetVLAD: what the places of a map differ in from the centers of clusters."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

MOST_FITTED, ROUNDS = 50_000, 20
NEAREST_SHARE = 100.0  # how much more of a place the nearest center gets than the second, at the start


class NetVLAD(nn.Module):
    """Differences of places of length 1 from the centers of soft clusters, summed for each cluster.

    Arandjelović et al.: NetVLAD: CNN Architecture for Weakly Supervised Place Recognition, CVPR 2016. `fit` starts the
    centers as those of k-means.

    Args:
        channels: of the map that comes in.
        clusters: how many.
    """

    fitted: torch.Tensor

    def __init__(self, channels: int, clusters: int):
        super().__init__()
        self.assign = nn.Linear(channels, clusters)
        self.centers = nn.Parameter(torch.randn(clusters, channels) / math.sqrt(channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, features: torch.Tensor) -> None:
        """Start from k-means of the places of training maps, (n, channels, rows, columns); once."""
        if self.fitted:
            return
        places = some_places(features, self.centers.device)
        centers = k_means(places, len(self.centers))
        nearest = torch.cdist(places, centers).square().topk(min(2, len(centers)), largest=False).values
        gap = (nearest[:, -1] - nearest[:, 0]).mean().clamp(min=1e-6)
        sharpness = math.log(NEAREST_SHARE) / gap
        self.centers.copy_(centers)
        self.assign.weight.copy_(2 * sharpness * centers)
        self.assign.bias.copy_(-sharpness * centers.square().sum(1))
        self.fitted.fill_(True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to (batch, clusters x channels) of length 1."""
        places = F.normalize(features.flatten(2).mT, dim=-1)
        shares = self.assign(places).softmax(-1)
        sums = shares.mT @ places - shares.sum(1)[..., None] * self.centers
        return F.normalize(F.normalize(sums, dim=-1).flatten(1), dim=-1)


def some_places(features: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(n, channels) places of length 1 of maps (m, channels, rows, columns), at most `MOST_FITTED` by lot."""
    places = F.normalize(features.float().movedim(1, -1).flatten(0, -2), dim=-1).to(device)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:MOST_FITTED]
    return places[order.to(device)]


def k_means(points: torch.Tensor, clusters: int) -> torch.Tensor:
    """(clusters, d) centers of (n, d) points by Lloyd's rounds, each begun far from those before it.

    A cluster that loses all its points keeps its center.
    """
    chosen = [points[0]]
    far = (points - points[0]).square().sum(1)
    for _ in range(clusters - 1):
        chosen.append(points[far.argmax()])
        far = torch.minimum(far, (points - chosen[-1]).square().sum(1))
    centers = torch.stack(chosen)
    for _ in range(ROUNDS):
        nearest = torch.cdist(points, centers).argmin(1)
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=clusters)[:, None]
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
    return centers
