"""What the tile model gives back: tensors of a batch, and a tile's answer in the user's units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers.utils import ModelOutput


@dataclass
class TileSequenceOutput(ModelOutput):
    """Outputs of the tile model.

    Attributes:
        loss: scalar, where labels were given.
        loss_parts: the loss by its name.
        predictions: (batch, targets, quantiles) in the targets' units, one quantile for other losses; NaN where the
            model knows changes only and no last value was given. (batch, bands, height, width), standardised,
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
