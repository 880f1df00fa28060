"""What the tile model gives back: tensors of a batch, and a tile's answer in the user's units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.utils import ModelOutput

from geohf.errors import DataError

if TYPE_CHECKING:
    from geohf.tiles.configuration import TileSequenceConfig


@dataclass
class TileSequenceOutput(ModelOutput):
    """Outputs of the tile model.

    Attributes:
        loss: scalar, where labels were given.
        loss_parts: the loss by its name.
        predictions: (batch, targets, quantiles) in the targets' units, one quantile for other losses; NaN where the
            model knows changes only and no last value was given. (batch, bands, height, width), standardized,
            for an image.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    predictions: torch.Tensor | None = None


@dataclass
class TilePrediction:
    """The answer for one tile.

    Attributes:
        values: target -> value, in the target's unit; empty for an image.
        low, high: target -> the ends of the interval; None where it was not calibrated.
        image: (height, width, bands) float32 in the images' unit; None for numbers.
    """

    values: dict[str, float]
    low: dict[str, float] | None = None
    high: dict[str, float] | None = None
    image: np.ndarray | None = None

    def as_row(self) -> dict[str, float]:
        """A flat row for a table: every target's value, and the ends of its interval where it was calibrated."""
        row = {}
        for name, value in self.values.items():
            row[name] = value
            if self.low is not None and self.high is not None:
                row |= {f"low_{name}": self.low[name], f"high_{name}": self.high[name]}
        return row


def intervals_of(
    config: TileSequenceConfig, values: torch.Tensor, margin: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The answer and the interval's ends, (n, targets) each, in the targets' units.

    Args:
        values: (n, targets, quantiles) what the model says.
        margin: (targets,) by which the interval is widened; the config's where None.
    """
    values = values.sort(-1).values  # quantiles that were learned one by one may cross
    if margin is None:
        margin = values.new_tensor(config.interval_margin or [0.0] * values.shape[1])
    middle = values[..., values.shape[-1] // 2]
    return (
        middle,
        torch.minimum(middle, values[..., 0] - margin),
        torch.maximum(middle, values[..., -1] + margin),
    )


def predictions_of(config: TileSequenceConfig, outputs: TileSequenceOutput) -> list[TilePrediction]:
    """Outputs as answers in the user's units, one per tile.

    Raises:
        DataError: the model knows changes only, and a tile came without its last known value.
    """
    values = outputs.predictions.float().cpu()
    if config.head == "image":
        images = values.movedim(1, -1) * torch.tensor(config.band_std) + torch.tensor(config.band_mean)
        return [TilePrediction({}, image=image.numpy()) for image in images]
    if bool(values.isnan().any()):
        tile = int(values.isnan().any((1, 2)).nonzero()[0])
        raise DataError(
            f"tile {tile} of the batch has no last value: this model predicts the change to it; give "
            '{"frames": [...], "last_values": ...}'
        )
    middle, low, high = (part.tolist() for part in intervals_of(config, values))
    calibrated = config.interval_margin is not None

    def named(numbers: list[float]) -> dict[str, float]:
        return dict(zip(config.targets, numbers, strict=True))

    return [
        TilePrediction(named(middle[i]), *((named(low[i]), named(high[i])) if calibrated else (None, None)))
        for i in range(len(values))
    ]
