"""Generalized mean pooling, alone and in front of a linear layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


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
    """Places of the map at length 1, generalized mean, one linear layer: the head of CosPlace and EigenPlaces.

    Berton, Masone, Caputo: Rethinking Visual Geo-localization for Large-Scale Applications, CVPR 2022.
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.gem = GeM()
        self.linear = nn.Linear(channels, out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to (batch, out)."""
        return self.linear(self.gem(F.normalize(features, dim=1)))
