"""What a config names of the encoder: attention over the features of frames, and recurrent cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from geohf.errors import DataError
from geohf.tiles.attention import LightTemporalAttention, TemporalAttention
from geohf.tiles.cells import Cell, ConvGRUCell, ConvLSTMCell, RecurrentEncoder
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.dates import DATE_FEATURES, PLANES, date_features, date_planes
from geohf.vision.towers import tower_features


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
        state = of_frames(frames, step_mask, None if seen is None else seen[0])
        return state if seen is None else state + self.answer_date(seen[1])

    def _seen_dates(self, frames, step_mask, dates) -> tuple[torch.Tensor, torch.Tensor] | None:
        """`date_features` of a batch, in the model's own type; None of a model that sees no dates."""
        if not self.config.dates:
            return None
        if dates is None:
            raise DataError(
                "this model sees dates: give every sample the `dates` of its frames and the `date` of its answer"
            )
        if step_mask is None:
            step_mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        of_frames, of_answer = date_features(dates, step_mask)
        return of_frames.to(self.dtype), of_answer.to(self.dtype)

    def _features(self, pixel_values, step_mask, dates) -> torch.Tensor:
        if not self.config.framewise:
            state = self.tower(pixel_values, step_mask, None if dates is None else date_planes(dates))
            return torch.cat([state.mean((-2, -1)), state.amax((-2, -1))], -1)
        if step_mask is None:
            step_mask = torch.ones(pixel_values.shape[:2], dtype=torch.bool, device=pixel_values.device)
        seen = tower_features(self.tower, pixel_values[step_mask])  # missing frames cost nothing
        features = seen.new_zeros(*step_mask.shape, seen.shape[-1])
        features[step_mask] = seen
        return self._over_time(features, step_mask, dates)

    def _over_time(self, features, step_mask, dates) -> torch.Tensor:
        """(batch, steps, feature_size) of frames to (batch, width)."""
        if features.shape[1] > self.config.frames and not self.config.dates:
            raise DataError(
                f"{features.shape[1]} frames, but the model's attention knows {self.config.frames} at most"
            )
        if step_mask is None:
            step_mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        seen = self.projection(features[step_mask].to(self.dtype))
        hidden = seen.new_zeros(*step_mask.shape, seen.shape[-1])
        hidden[step_mask] = seen
        return self.temporal(hidden, step_mask, dates)
