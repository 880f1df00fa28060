"""Attention over the features of a sequence of frames."""

from __future__ import annotations

import torch
from torch import nn

CHANNELS = 8  # of a head of the light attention, at least; with fewer a head cannot tell dates apart
MOST_HEADS = 16
KEY_SIZE = 8


class TemporalAttention(nn.Module):
    """Transformer layers over time, and the mean of the steps that were seen.

    Without dates positions count back from the last step, so that shorter sequences end alike.

    Args:
        size: of the features.
        steps: the longest sequence.
        layers, heads, dropout: of the transformer.
        date_size: length of a step's date features, which then are its position; 0: none.
    """

    def __init__(
        self,
        size: int,
        steps: int,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        date_size: int = 0,
    ):
        super().__init__()
        self.positions, self.dates = _positions(size, steps, date_size)
        layer = nn.TransformerEncoderLayer(
            size, heads, 2 * size, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(size), enable_nested_tensor=False)

    def forward(
        self, features: torch.Tensor, step_mask: torch.Tensor, dates: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(batch, steps, size), (batch, steps) bool and (batch, steps, date_size) to (batch, size).

        Masked steps are neither seen nor counted.
        """
        hidden = _placed(self, features, dates)
        hidden = self.layers(hidden, src_key_padding_mask=~step_mask)
        seen = step_mask[..., None]
        return torch.where(seen, hidden, 0).sum(1) / seen.sum(1).clamp(min=1)


class LightTemporalAttention(nn.Module):
    """One learned query a head over time (Garnot and Landrieu, Lightweight Temporal Self-Attention, AALTD 2020).

    Each head attends with its own share of the channels. The paper's batch norm is a layer norm here, which no other
    row can change.

    Args:
        size: of the features; heads have `CHANNELS` each, `MOST_HEADS` of them at most.
        steps, dropout, date_size: as `TemporalAttention`'s.
    """

    def __init__(self, size: int, steps: int, dropout: float = 0.0, date_size: int = 0):
        super().__init__()
        self.positions, self.dates = _positions(size, steps, date_size)
        self.heads = next(n for n in range(min(MOST_HEADS, max(1, size // CHANNELS)), 0, -1) if not size % n)
        self.norm = nn.GroupNorm(self.heads, size)
        self.query = nn.Parameter(torch.empty(self.heads, KEY_SIZE))
        nn.init.normal_(self.query, std=(2 / KEY_SIZE) ** 0.5)
        self.keys = nn.Linear(size, self.heads * KEY_SIZE)
        self.output = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size), nn.GELU(), nn.Dropout(dropout))

    def forward(
        self, features: torch.Tensor, step_mask: torch.Tensor, dates: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As `TemporalAttention.forward`."""
        hidden = _placed(self, self.norm(features.flatten(0, 1)).view_as(features), dates)
        keys = self.keys(hidden).unflatten(-1, (self.heads, KEY_SIZE))
        scores = torch.einsum("bthk,hk->bht", keys, self.query) / KEY_SIZE**0.5
        scores = scores.masked_fill(~step_mask[:, None], torch.finfo(scores.dtype).min)
        weights = torch.where(step_mask[:, None], scores.softmax(-1), 0)
        values = hidden.unflatten(-1, (self.heads, -1))
        return self.output(torch.einsum("bht,bthc->bhc", weights, values).flatten(1))


def _positions(size: int, steps: int, date_size: int) -> tuple[nn.Parameter | None, nn.Linear | None]:
    """Learned positions by step, or a linear layer from date features."""
    if date_size:
        return None, nn.Linear(date_size, size)
    positions = nn.Parameter(torch.empty(steps, size))
    nn.init.trunc_normal_(positions, std=0.02)
    return positions, None


def _placed(module, features: torch.Tensor, dates: torch.Tensor | None) -> torch.Tensor:
    if module.dates is not None:
        return features + module.dates(dates)
    return features + module.positions[len(module.positions) - features.shape[1] :]
