"""The next frames: what a model with an image head predicts, and what it learns from them.

Every answer is the newest seen frame and a change to it. SimVP and TAU give all changes at once. ConvLSTM and ConvGRU go on from
frame to frame: what was predicted is the next input, as in sequence-to-sequence models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from geohf.errors import DataError
from geohf.tiles.frames import carried_forward
from geohf.tiles.losses import difference_divergence, regression_loss

if TYPE_CHECKING:
    from geohf.tiles.cells import RecurrentEncoder
    from geohf.tiles.configuration import TileSequenceConfig

DIVERGENCE_WEIGHT = 0.1  # of TAU's second loss, as published


def video_changes(
    tower: nn.Module, head: nn.Module, frames: torch.Tensor, step_mask: torch.Tensor | None, length: int
) -> torch.Tensor:
    """(batch, answered, bands, height, width) changes to the newest seen frame, of SimVP and TAU.

    A masked frame is what was seen last before it, or what was seen first; shorter sequences begin with their first frame.

    Args:
        frames: (batch, steps, bands, height, width).
        step_mask: (batch, steps) bool, False for masked ones.
        length: the steps that the model knows.

    Raises:
        DataError: there are more frames than that.
    """
    steps = frames.shape[1]
    if steps > length:
        raise DataError(f"{steps} frames, but the model knows {length} at most")
    frames = carried_forward(frames, step_mask)
    if steps < length:
        frames = torch.cat([frames[:, :1].expand(-1, length - steps, -1, -1, -1), frames], 1)
    maps = tower(frames)
    return head(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


def rolled_changes(
    tower: RecurrentEncoder,
    head: nn.Module,
    frames: torch.Tensor,
    newest: torch.Tensor,
    step_mask: torch.Tensor | None,
    answered: int,
    planes: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """(batch, answered, bands, height, width) changes to the newest seen frame, of recurrent cells.

    Args:
        frames, step_mask, planes: see `RecurrentEncoder`.
        newest: (batch, bands, height, width) the newest seen frame.
        shift: (batch, hidden) that the dates add to what the head sees, of a model that answers with one frame.
    """
    maps, states = tower.encode(frames, step_mask, planes)
    change: torch.Tensor | None = None
    changes = []
    for _ in range(answered):
        if change is not None:
            maps = tower.step((newest + change).to(frames.dtype), states)
        seen = maps if shift is None else maps + shift[..., None, None]
        step = F.pixel_shuffle(head(seen), tower.patch_size)
        change = step if change is None else change + step
        changes.append(change)
    return torch.stack(changes, 1)


def frames_loss(
    config: TileSequenceConfig,
    predicted: torch.Tensor,
    truth: torch.Tensor,
    items: dict[str, torch.Tensor] | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of predicted changes and its parts; TAU learns the differences between its frames, too.

    Args:
        predicted, truth: (batch, answered, bands, height, width), NaN where the truth is not known.
        items: what the parts are divided by, see `frames_items`.
    """
    items = items or {}
    loss = regression_loss(config.loss, predicted, truth, items=items.get(config.loss))
    parts = {f"{config.loss}_loss": loss}
    if config.encoder == "tau" and config.prediction_length > 1:
        parts["divergence_loss"] = difference_divergence(predicted, truth, items=items.get("divergence"))
        loss = loss + DIVERGENCE_WEIGHT * parts["divergence_loss"]
    return loss, parts


def frames_items(config: TileSequenceConfig, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """How many entries of labels count for each part of `frames_loss`."""
    items: dict[str, torch.Tensor] = {config.loss: labels.isfinite().sum()}
    if config.encoder == "tau" and config.prediction_length > 1:
        items["divergence"] = labels.diff(dim=1).isfinite().sum()
    return items
