"""The encoders that a config names: attention over the features of a sequence of frames, and recurrent cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from geohf.errors import DataError
from geohf.tiles.cells import Cell, ConvGRUCell, ConvLSTMCell, RecurrentEncoder
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.dates import DATE_FEATURES, PLANES, date_features, date_planes
from geohf.vision.towers import tower_features

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
        self, size: int, steps: int, layers: int = 2, heads: int = 4, dropout: float = 0.0, date_size: int = 0
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
    """One learned query per head over time (Garnot and Landrieu, Lightweight Temporal Self-Attention, AALTD 2020).

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


def attention_over_time(config: TileSequenceConfig) -> LightTemporalAttention | TemporalAttention:
    """For features of frames, `config.hidden_sizes[-1]` wide."""
    width, date_size = config.hidden_sizes[-1], DATE_FEATURES if config.dates else 0
    if config.encoder == "ltae":
        return LightTemporalAttention(width, config.frames, config.dropout, date_size)
    layers, heads = config.attention_layers, config.attention_heads
    return TemporalAttention(width, config.frames, layers, heads, config.dropout, date_size)


def recurrent_encoder(config: TileSequenceConfig) -> RecurrentEncoder:
    """ConvLSTM or ConvGRU over frames, with planes for dates where the model sees them."""
    planes = PLANES if config.dates else 0
    inputs = [config.bands * config.patch_size**2 + planes, *config.hidden_sizes[:-1]]
    cells: list[Cell] = []
    for layer in zip(inputs, config.hidden_sizes, config.kernel_sizes, strict=True):
        gru = config.encoder == "convgru"
        cells.append(ConvGRUCell(*layer) if gru else ConvLSTMCell(*layer, config.peephole))
    return RecurrentEncoder(cells, config.norm, config.patch_size)


class EncodesTiles:
    """What a tile model makes of frames, before its head."""

    config: Any  # `TileSequenceConfig`
    dtype: torch.dtype
    tower: Any
    projection: nn.Module
    temporal: nn.Module
    answer_date: nn.Module

    def state(
        self,
        pixel_values: torch.Tensor | None,
        step_mask: torch.Tensor | None = None,
        dates: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the head sees of tiles, (batch, size); see `forward`."""
        frames = pixel_values if features is None else features
        if frames is None:
            raise DataError("the model needs pixel_values, or the features of its frame encoder")
        step_mask = None if step_mask is not None and bool(step_mask.all()) else step_mask
        seen = self._seen_dates(frames, step_mask, dates)
        of_frames = self._features if features is None else self._over_time
        state = of_frames(frames, step_mask, seen and seen[0])
        return state if seen is None else state + self.answer_date(seen[1])

    def _seen_dates(self, frames, step_mask, dates) -> tuple[torch.Tensor, torch.Tensor] | None:
        """`date_features` of a batch, in the model's own type; None of a model that sees no dates."""
        if not self.config.dates:
            return None
        if dates is None:
            raise DataError(
                "this model sees dates: give every sample the `dates` of its frames and the `date` of its answer"
            )
        of_frames, of_answer = date_features(dates, _all_seen(frames) if step_mask is None else step_mask)
        return of_frames.to(self.dtype), of_answer.to(self.dtype)

    def _features(self, pixel_values, step_mask, dates) -> torch.Tensor:
        if not self.config.framewise:
            state = self.tower(pixel_values, step_mask, None if dates is None else date_planes(dates))
            return torch.cat([state.mean((-2, -1)), state.amax((-2, -1))], -1)
        step_mask = _all_seen(pixel_values) if step_mask is None else step_mask
        seen = tower_features(self.tower, pixel_values[step_mask])  # missing frames cost nothing
        return self._over_time(_in_place(seen, step_mask), step_mask, dates)

    def _over_time(self, features, step_mask, dates) -> torch.Tensor:
        """(batch, steps, feature_size) of frames to (batch, width)."""
        if features.shape[1] > self.config.frames and not self.config.dates:
            raise DataError(
                f"{features.shape[1]} frames, but the model's attention knows {self.config.frames} at most"
            )
        step_mask = _all_seen(features) if step_mask is None else step_mask
        seen = self.projection(features[step_mask].to(self.dtype))
        return self.temporal(_in_place(seen, step_mask), step_mask, dates)


def _all_seen(frames: torch.Tensor) -> torch.Tensor:
    return torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)


def _in_place(seen: torch.Tensor, step_mask: torch.Tensor) -> torch.Tensor:
    """(seen steps, size) to (batch, steps, size), 0 where masked."""
    out = seen.new_zeros(*step_mask.shape, seen.shape[-1])
    out[step_mask] = seen
    return out
