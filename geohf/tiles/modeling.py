"""The tile model: from a sequence of tiles to a number, several, or the next image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from geohf.errors import DataError
from geohf.hub.modeling import GeoPreTrainedModel
from geohf.tiles.attention import TemporalAttention
from geohf.tiles.cells import ConvGRUCell, ConvLSTMCell, RecurrentEncoder
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.losses import regression_loss
from geohf.tiles.processing import TileSequenceProcessor
from geohf.vision.backbones import build_tower, describe_backbone, load_tower, tower_features


@dataclass
class TileSequenceOutput(ModelOutput):
    """Outputs of the tile model.

    Attributes:
        loss: scalar, where labels were given.
        loss_parts: the loss by its name.
        values: (batch, targets, quantiles) in the targets' units, one quantile for other losses; NaN where the
            model knows changes only and no last value was given. (batch, bands, height, width), standardised,
            for an image.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    values: torch.Tensor | None = None


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


class TileSequenceModel(GeoPreTrainedModel):
    """Regression on sequences of tiles.

    >>> from geohf.tiles import TileSequenceConfig
    >>> model = TileSequenceModel(TileSequenceConfig(hidden_sizes=[8], image_size=[16, 16], answers="level")).eval()
    >>> model(torch.zeros(2, 6, 3, 16, 16)).values.shape
    torch.Size([2, 1, 1])
    """

    config_class = TileSequenceConfig
    processor_class = TileSequenceProcessor
    card_template = "tiles.md"

    def __init__(self, config: TileSequenceConfig):
        super().__init__(config)
        if config.encoder == "attention":
            self.tower = build_tower(config.vision_config)
            width = config.hidden_sizes[-1]
            self.projection = nn.Linear(config.feature_size, width)
            self.temporal = TemporalAttention(
                width, config.frames, config.attention_layers, config.attention_heads, config.dropout
            )
            features = width
        else:
            self.tower = RecurrentEncoder(_cells(config), config.norm, config.patch_size)
            features = 2 * config.hidden_sizes[-1]
        if config.head == "image":
            self.head = nn.Conv2d(config.hidden_sizes[-1], config.bands * config.patch_size**2, 1)
            last = self.head
        else:
            last = nn.Linear(config.head_size, self._answers_a_target * len(config.targets))
            self.head = nn.Sequential(
                nn.Linear(features, config.head_size), nn.GELU(), nn.Dropout(config.dropout), last
            )
        # the first answer is the baseline's: the last value with the mean change, the last image, or the mean
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.finish_init()

    @classmethod
    def from_backbone(
        cls, name: str, *, pretrained: bool = True, image_size: int | None = None, **config_fields
    ) -> TileSequenceModel:
        """A new model whose frame encoder is a vision tower, with attention over time.

        Args:
            name: any timm name.
            pretrained: load the tower's published weights; its first layer is fitted to the number of bands.
            image_size: input side in pixels; the tower's own where None.
            config_fields: of `TileSequenceConfig`.

        Raises:
            DataError: there is no such tower.
        """
        bands = len(config_fields.get("band_mean") or [0] * 3)
        backbone = describe_backbone(name, image_size, in_chans=bands)
        side = backbone.image_processor["crop_size"]
        config = TileSequenceConfig(
            encoder="attention",
            vision_config=backbone.config,
            feature_size=backbone.feature_size,
            backbone_name=name if pretrained else None,
            backbone_license=backbone.license if pretrained else None,
            image_size=[side["height"], side["width"]],
            **config_fields,
        )
        model = cls(config)
        if pretrained:
            model.tower = load_tower(backbone)
        return model.eval()

    @property
    def processor(self) -> TileSequenceProcessor:
        """The processor that belongs to this model, made from its config."""
        config = self.config
        return TileSequenceProcessor(
            size=dict(zip(("height", "width"), config.image_size, strict=True)),
            image_mean=config.band_mean,
            image_std=config.band_std,
            nodata=config.nodata,
            max_nodata=config.max_nodata,
            targets=config.targets,
        )

    @property
    def _quantiles(self) -> int:
        return len(self.config.quantiles) if self.config.loss == "quantile" else 1

    @property
    def _answers_a_target(self) -> int:
        return self._quantiles * (2 if self.config.answers == "both" else 1)

    def forward(
        self,
        pixel_values: torch.Tensor,
        step_mask: torch.Tensor | None = None,
        last_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
    ) -> TileSequenceOutput:
        """Predict tiles.

        Args:
            pixel_values: (batch, steps, bands, height, width), standardised, oldest step first.
            step_mask: (batch, steps) bool, False for steps to pass over, whatever they hold; None: all are seen.
            last_values: (batch, targets) the last known values in the targets' units, NaN where unknown.
            labels: (batch, targets) in the targets' units, or (batch, bands, height, width) standardised for an
                image; NaN entries do not count.
            loss_items: what the loss is divided by, see `GeoTrainer`.
        """
        if step_mask is not None and bool(step_mask.all()):
            step_mask = None
        if self.config.head == "image":
            raw, base, scale = self._image(pixel_values, step_mask)
        else:
            raw = self.head(self._features(pixel_values, step_mask)).float()
            raw, base, scale = self._numbers(raw, last_values)
        loss = parts = None
        if labels is not None:
            truth = (labels.float() - base) / scale
            predicted = raw if self.config.loss == "quantile" else raw.reshape(truth.shape)
            items = None if loss_items is None else loss_items[self.config.loss]
            loss = regression_loss(self.config.loss, predicted, truth, self.config.quantiles, items)
            parts = {f"{self.config.loss}_loss": loss}
        if self.config.head == "image":
            return TileSequenceOutput(loss, parts, base + raw)
        return TileSequenceOutput(loss, parts, base[..., None] + scale[..., None] * raw)

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many entries of a batch count for the loss."""
        return {self.config.loss: batch["labels"].isfinite().sum()}

    def _features(self, pixel_values, step_mask) -> torch.Tensor:
        if self.config.encoder != "attention":
            state = self.tower(pixel_values, step_mask)
            return torch.cat([state.mean((-2, -1)), state.amax((-2, -1))], -1)
        if pixel_values.shape[1] > self.config.frames:
            raise DataError(
                f"{pixel_values.shape[1]} frames, but the model's attention knows {self.config.frames} at most"
            )
        if step_mask is None:
            step_mask = torch.ones(pixel_values.shape[:2], dtype=torch.bool, device=pixel_values.device)
        seen = self.projection(
            tower_features(self.tower, pixel_values[step_mask])
        )  # missing frames cost nothing
        features = seen.new_zeros(*step_mask.shape, seen.shape[-1])
        features[step_mask] = seen
        return self.temporal(features, step_mask)

    def _numbers(self, raw, last_values):
        """The head's raw answers (batch, targets, quantiles), and what they count from and in: (batch, targets)."""
        config = self.config
        raw = raw.unflatten(-1, (len(config.targets), self._answers_a_target))
        shape = raw.shape[:2]
        level = (raw.new_tensor(numbers).expand(shape) for numbers in (config.level_mean, config.level_std))
        if config.answers == "level":
            return (raw, *level)
        last = raw.new_full(shape, torch.nan) if last_values is None else last_values.float()
        base, scale = (
            last + raw.new_tensor(config.change_mean),
            raw.new_tensor(config.change_std).expand(shape),
        )
        if config.answers == "change":
            return raw, base, scale
        known = last.isfinite()
        level_base, level_scale = level
        as_change, as_level = raw.chunk(2, -1)
        return (
            torch.where(known[..., None], as_change, as_level),
            torch.where(known, base, level_base),
            torch.where(known, scale, level_scale),
        )

    def _image(self, pixel_values, step_mask):
        """The change to the last seen frame, that frame, and 1: all standardised."""
        state = self.tower(pixel_values, step_mask)
        change = F.pixel_shuffle(self.head(state), self.config.patch_size).float()
        if step_mask is None:
            return change, pixel_values[:, -1].float(), 1.0
        steps = torch.arange(step_mask.shape[1], device=step_mask.device)
        last = torch.where(step_mask, steps, 0).amax(1)
        return change, pixel_values[torch.arange(len(last), device=last.device), last].float(), 1.0

    # ---- answers

    def decode(self, outputs: TileSequenceOutput) -> list[TilePrediction]:
        """Turn outputs into answers in the user's units.

        Raises:
            DataError: the model knows changes only, and a tile came without its last known value.
        """
        config = self.config
        values = outputs.values.float().cpu()
        if config.head == "image":
            images = values.movedim(1, -1) * torch.tensor(config.band_std) + torch.tensor(config.band_mean)
            return [TilePrediction({}, image=image.numpy()) for image in images]
        if bool(values.isnan().any()):
            tile = int(values.isnan().any((1, 2)).nonzero()[0])
            raise DataError(
                f"tile {tile} of the batch has no last value: this model predicts the change to it; give "
                '{"frames": [...], "last_values": ...}'
            )
        middle, low, high = (part.tolist() for part in self.intervals(values))
        calibrated = config.interval_margin is not None

        def named(numbers):
            return dict(zip(config.targets, numbers, strict=True))

        return [
            TilePrediction(
                named(middle[i]), *((named(low[i]), named(high[i])) if calibrated else (None, None))
            )
            for i in range(len(values))
        ]

    def intervals(
        self, values: torch.Tensor, margin: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(n, targets, quantiles) to the answer and the interval's ends, (n, targets) each.

        Args:
            margin: (targets,) by which the interval is widened; the config's where None.
        """
        values = values.sort(-1).values  # quantiles that were learned one by one may cross
        if margin is None:
            margin = values.new_tensor(self.config.interval_margin or [0.0] * values.shape[1])
        middle = values[..., values.shape[-1] // 2]
        return (
            middle,
            torch.minimum(middle, values[..., 0] - margin),
            torch.maximum(middle, values[..., -1] + margin),
        )

    def predict(self, inputs: Any, batch_size: int = 32) -> list[TilePrediction]:
        """Predict tiles from lists of frames (paths, arrays, PIL images, None for a missing year).

        Args:
            inputs: a list of samples, see `TileSequenceProcessor`; an array of 5 dimensions is many samples.
            batch_size: tiles in one pass.
        """
        if getattr(inputs, "ndim", 0) == 5:
            inputs = list(inputs)
        return super().predict(inputs, batch_size)


def _cells(config: TileSequenceConfig) -> list[nn.Module]:
    inputs = [config.bands * config.patch_size**2, *config.hidden_sizes[:-1]]
    layers = zip(inputs, config.hidden_sizes, config.kernel_sizes, strict=True)
    if config.encoder == "convgru":
        return [ConvGRUCell(*layer) for layer in layers]
    return [ConvLSTMCell(*layer, config.peephole) for layer in layers]
