"""Attention over the features of a sequence of frames."""

from __future__ import annotations

import torch
from torch import nn


class TemporalAttention(nn.Module):
    """Transformer layers over time, and the mean of the steps that were seen.

    Positions count back from the last step, so that shorter sequences end alike.

    Args:
        size: of the features.
        steps: the longest sequence.
        layers, heads, dropout: of the transformer.
    """

    def __init__(self, size: int, steps: int, layers: int = 2, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        self.positions = nn.Parameter(torch.empty(steps, size))
        nn.init.trunc_normal_(self.positions, std=0.02)
        layer = nn.TransformerEncoderLayer(
            size, heads, 2 * size, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(size), enable_nested_tensor=False)

    def forward(self, features: torch.Tensor, step_mask: torch.Tensor) -> torch.Tensor:
        """(batch, steps, size) and (batch, steps) bool to (batch, size); masked steps are neither seen nor counted."""
        steps = features.shape[1]
        hidden = features + self.positions[len(self.positions) - steps :]
        hidden = self.layers(hidden, src_key_padding_mask=~step_mask)
        seen = step_mask[..., None]
        return torch.where(seen, hidden, 0).sum(1) / seen.sum(1).clamp(min=1)
