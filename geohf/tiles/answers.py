"""What the tile model gives back: tensors of a batch, and a tile's answer in the user's units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from geohf.errors import DataError
from geohf.tiles.losses import MOST_LOG_VARIANCE
from geohf.tiles.rows import name_of

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
            for an image, (batch, prediction_length, bands, height, width) for several.
        region: (batch,) whose margins the intervals have, see `region_numbers`; None: the pooled ones.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    predictions: torch.Tensor | None = None
    region: torch.Tensor | None = None

    @property
    def raw(self) -> torch.Tensor:
        """`predictions`, which every forward pass has."""
        assert self.predictions is not None
        return self.predictions


@dataclass
class TilePrediction:
    """The answer for one tile.

    Attributes:
        values: target -> value, in the target's unit; empty for an image.
        low, high: target -> the ends of the interval; None where it was not calibrated.
        image: (height, width, bands) float32 in the images' unit, (frames, height, width, bands) of a model that predicts
            several; None for numbers.
    """

    values: dict[str, float]
    low: dict[str, float] | None = None
    high: dict[str, float] | None = None
    image: np.ndarray | None = None

    def as_row(self) -> dict[str, float]:
        """A flat row for a table: every target's value, and the ends of its interval where it was calibrated."""
        if self.low is None or self.high is None:
            return dict(self.values)
        row: dict[str, float] = {}
        for name, value in self.values.items():
            row |= {name: value, f"low_{name}": self.low[name], f"high_{name}": self.high[name]}
        return row


def raw_numbers(
    config: TileSequenceConfig, raw: torch.Tensor, last_values: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The head's raw answers (batch, targets, quantiles), and what they count from and in: (batch, targets)."""
    shape = len(raw), len(config.targets)
    level_mean, level_std, last_slope, change_mean, change_std = (
        torch.tensor(getattr(config, name), dtype=torch.float32, device=raw.device).expand(shape)
        for name in ("level_mean", "level_std", "last_slope", "change_mean", "change_std")
    )
    raw = raw.float().unflatten(-1, (shape[1], config.answers_per_target))
    if config.answers == "level":
        return raw, level_mean, level_std
    last = torch.full_like(level_mean, torch.nan) if last_values is None else last_values.float()
    start = last_slope * last + change_mean
    if config.answers == "change":
        return raw, start, change_std
    known, (as_change, as_level) = last.isfinite(), raw.chunk(2, -1)
    return (
        torch.where(known[..., None], as_change, as_level),
        torch.where(known, start, level_mean),
        torch.where(known, change_std, level_std),
    )


def gaussian_ends(raw: torch.Tensor, coverage: float) -> torch.Tensor:
    """(..., 2) means and logarithms of variances to (..., 3): the interval's low end, the mean, and its high end."""
    mean, log_variance = raw[..., 0], raw[..., 1].clamp(-MOST_LOG_VARIANCE, MOST_LOG_VARIANCE)
    reach = NormalDist().inv_cdf((1 + coverage) / 2) * (log_variance / 2).exp()
    return torch.stack([mean - reach, mean, mean + reach], -1)


def region_name(cell: Any) -> str:
    """What a sample's `region` is called in tables and in `region_margins`: `1225` for 1225.0, and for a tensor of it."""
    return name_of(cell.item() if hasattr(cell, "item") else cell)


def region_numbers(config: TileSequenceConfig, names: Iterable[Any]) -> torch.Tensor | None:
    """(n,) which of `config.region_margins` each region has, from 1, and 0 for the pooled one; None where all have it."""
    if not config.region_margins:
        return None
    number = {name_of(name): i for i, name in enumerate(config.region_margins, start=1)}
    return torch.tensor([number.get(region_name(name), 0) for name in names])


def margins_of(config: TileSequenceConfig, region: torch.Tensor | None) -> torch.Tensor:
    """(targets,) or (n, targets) by which intervals are widened, float64; 0 of a model that is not calibrated."""
    pooled = torch.tensor(config.interval_margin or [0.0] * len(config.targets), dtype=torch.float64)
    if config.interval_margin is None or region is None or not config.region_margins:
        return pooled
    own = torch.tensor(list(config.region_margins.values()), dtype=torch.float64)
    return torch.cat([pooled[None], own])[region.cpu().long()]


def intervals_of(
    config: TileSequenceConfig, values: torch.Tensor, region: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The answer and the interval's ends, (n, targets) each, in the targets' units.

    Args:
        values: (n, targets, quantiles) what the model says.
        region: (n,) whose margins the intervals have, see `region_numbers`; None: the pooled ones.
    """
    values = values.sort(-1).values  # quantiles that were learned one by one may cross
    margin, middle = margins_of(config, region).to(values), values[..., values.shape[-1] // 2]
    low, high = values[..., 0] - margin, values[..., -1] + margin
    return middle, torch.minimum(middle, low), torch.maximum(middle, high)


# values, and the interval's ends or None: (n, targets) float64 each
Answers = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


def answers_of(config: TileSequenceConfig, values: torch.Tensor, region: torch.Tensor | None) -> Answers:
    """Outputs as numbers, see `intervals_of`; ends are None of a model that is not calibrated."""
    middle, low, high = (part.double().numpy() for part in intervals_of(config, values, region))
    return (middle, low, high) if config.interval_margin is not None else (middle, None, None)


def predictions_of(config: TileSequenceConfig, outputs: TileSequenceOutput) -> list[TilePrediction]:
    """Outputs as answers in the user's units, one per tile.

    Raises:
        DataError: the model knows changes only, and a tile came without its last known value.
    """
    values = outputs.raw.float().cpu()
    if config.head == "image":
        images = values.movedim(-3, -1) * torch.tensor(config.band_std) + torch.tensor(config.band_mean)
        return [TilePrediction({}, image=image.numpy()) for image in images]
    if bool(values.isnan().any()):
        tile = int(values.isnan().any((1, 2)).nonzero()[0])
        raise DataError(
            f"tile {tile} of the batch has no last value: this model predicts the change to it; give "
            '{"frames": [...], "last_values": ...}'
        )
    # by tolist, not by numpy: these may lie on a GPU, and carry gradients
    parts = [part.tolist() for part in intervals_of(config, values, outputs.region)]
    parts = parts if config.interval_margin is not None else parts[:1]
    answers = []
    for row in zip(*parts, strict=True):
        named: list[Any] = [dict(zip(config.targets, numbers, strict=True)) for numbers in row]
        answers.append(TilePrediction(*named))
    return answers
