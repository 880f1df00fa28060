"""Features of mean 0 and variance 1, by what the training images showed."""

from __future__ import annotations

import torch
from torch import nn


class FeatureStandardizer(nn.Module):
    """Subtracts the training features' mean and divides by their standard deviation.

    Pooled features of a frozen backbone share a large mean, beside which their differences are small, and a head
    spends its first epochs on finding that out. Does nothing before `fit`.

    Args:
        size: length of a feature.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("std", torch.ones(size, dtype=torch.float32))

    def fit(self, features: torch.Tensor) -> None:
        """Take mean and standard deviation from (n, size) training features; a constant one keeps scale 1."""
        std, mean = torch.std_mean(features.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., size) to (..., size) in the features' own type."""
        return ((features.float() - self.mean) / self.std).to(features.dtype)
