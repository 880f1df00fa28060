"""The tile model: from a sequence of tiles to a number, several, or the next image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature
from transformers.utils import can_return_tuple

from geohf.errors import DataError
from geohf.models.configuration import as_data_error
from geohf.models.modeling import GeoPreTrainedModel
from geohf.tiles.answers import (
    TilePrediction,
    TileSequenceOutput,
    gaussian_ends,
    predictions_of,
    raw_numbers,
    region_numbers,
)
from geohf.tiles.clusters import cluster_names, nearest_clusters
from geohf.tiles.configuration import FRAMEWISE, TileSequenceConfig
from geohf.tiles.dataset import as_sequences
from geohf.tiles.dates import DATE_FEATURES, date_planes
from geohf.tiles.encoders import EncodesTiles, attention_over_time, recurrent_encoder
from geohf.tiles.forecast import frames_items, frames_loss, rolled_changes, video_changes
from geohf.tiles.frames import last_seen
from geohf.tiles.inputs import labeled_tiles, read_tiles
from geohf.tiles.losses import regression_loss
from geohf.tiles.metrics import measure
from geohf.tiles.processing import TileCollator, TileSequenceProcessor, settings_of
from geohf.tiles.scales import backbone_scales, config_fields
from geohf.tiles.simvp import SimVP
from geohf.vision.backbones import require_weights, resolve_backbone
from geohf.vision.towers import build_tower

if TYPE_CHECKING:
    from geohf.data.inputs import Part
    from geohf.data.task_data import TaskData
    from geohf.tiles.arguments import TileArguments

NO_TABLE = (
    "this model answers with images, which no table holds; predict gives them as arrays, and "
    "geohf.tiles.scene.predict_scene as a GeoTIFF"
)


class TileSequenceModel(EncodesTiles, GeoPreTrainedModel):
    """Regression on sequences of tiles.

    >>> from geohf.tiles import TileSequenceConfig
    >>> model = TileSequenceModel(TileSequenceConfig(hidden_sizes=[8], image_size=[16, 16], answers="level")).eval()
    >>> model(torch.zeros(2, 6, 3, 16, 16)).predictions.shape
    torch.Size([2, 1, 1])
    """

    config_class = TileSequenceConfig
    processor_class = TileSequenceProcessor
    card_template = "tiles.md"
    sample_dimensions = 4  # steps, height, width, bands

    def __init__(self, config: TileSequenceConfig):
        super().__init__(config)
        features = width = config.hidden_sizes[-1]
        if config.video:
            width, hidden = config.hidden_sizes
            sizes = (config.prediction_length, width, hidden, config.translator_blocks)
            self.tower = SimVP(config.bands, config.frames, *sizes, config.encoder)
        elif config.framewise:
            self.tower = build_tower(config.vision_config)
            self.projection = nn.Linear(config.feature_size, width)
            self.temporal = attention_over_time(config)
        else:
            self.tower = recurrent_encoder(config)
            features = width if config.head == "image" else 2 * width
        if config.dates:  # the horizon, and the time of the year that is asked for
            self.answer_date = nn.Linear(DATE_FEATURES, features)
        self.head: nn.Module
        last: nn.Conv2d | nn.Linear
        if config.head == "image":
            self.head = last = nn.Conv2d(width, config.bands * config.patch_size**2, 1)
        else:
            last = nn.Linear(config.head_size, config.answers_per_target * len(config.targets))
            first = nn.Linear(features, config.head_size)
            self.head = nn.Sequential(first, nn.GELU(), nn.Dropout(config.dropout), last)
        # the first answer is the baseline's: the last value with the mean change, the last image, or the mean
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.finish_init()

    @classmethod
    def from_backbone(
        cls,
        name: str,
        *,
        pretrained: bool = True,
        image_size: int | None = None,
        backbone_weights: str | os.PathLike | None = None,
        **config_fields,
    ) -> TileSequenceModel:
        """A new model whose frame encoder is a vision backbone, with attention over time.

        Args:
            name: any timm name, or a vision backbone of transformers (a repo or a folder).
            pretrained: load the tower's published weights; its first layer is fitted to the number of bands.
            image_size: input side in pixels; the tower's own where None.
            backbone_weights: a file of weights for the tower, instead of the published ones.
            config_fields: of `TileSequenceConfig`.

        Raises:
            DataError: there is no such tower, or it cannot take so many bands.
        """
        bands = len(config_fields.get("band_mean") or [0] * 3)
        require_weights(backbone_weights, pretrained)
        backbone = resolve_backbone(name, image_size, backbone_weights, in_chans=bands)
        side = backbone.image_processor["crop_size"]
        fields = {"encoder": "attention"} | config_fields | {"image_size": [side["height"], side["width"]]}
        return cls.around(backbone, str(backbone_weights or name) if pretrained else None, **fields)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """A small sample as `forward` takes it, as in transformers."""
        frame = np.arange(64 * self.config.bands, dtype=np.uint16).reshape(8, 8, self.config.bands)
        return dict(self.processor([{"frames": [frame], "dates": [2020], "date": 2021}]))

    @property
    def processor_settings(self) -> dict:
        """What the processor is made with, from the config."""
        return settings_of(self.config)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        step_mask: torch.Tensor | None = None,
        last_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        dates: torch.Tensor | None = None,
        region: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
        features: torch.Tensor | None = None,
    ) -> TileSequenceOutput:
        """Predict tiles.

        Args:
            pixel_values: (batch, steps, bands, height, width), standardized, oldest step first.
            step_mask: (batch, steps) bool, False for steps to pass over, whatever they hold; None: all are seen.
            last_values: (batch, targets) the last known values in the targets' units, NaN where unknown.
            labels: (batch, targets) in the targets' units, or (batch, bands, height, width) standardized for an
                image, (batch, prediction_length, ...) for several; NaN entries do not count.
            dates: (batch, steps + 1, 2) of the frames and the answer, see `geohf.tiles.dates.frame_dates`; for a model
                with `config.dates` alone.
            region: (batch,) which margin of the interval each tile has, see `region_numbers`; answers alone depend on it.
            loss_items: what the loss is divided by, see `PhaseTrainer`.
            features: (batch, steps, feature_size) what the frame encoder makes of the frames, in place of
                `pixel_values`; see `geohf.tiles.features`.
        """
        if self.config.head == "image":
            return self._next_frames(pixel_values, step_mask, labels, dates, loss_items)
        state = self.state(pixel_values, step_mask, dates, features)
        raw, base, scale = raw_numbers(self.config, self.head(state), last_values)
        loss = parts = None
        if labels is not None:
            targets = (labels.float() - base) / scale
            predicted = raw if self.config.loss in ("quantile", "gaussian") else raw.reshape(targets.shape)
            items = None if loss_items is None else loss_items[self.config.loss]
            loss = regression_loss(self.config.loss, predicted, targets, self.config.quantiles, items)
            parts = {f"{self.config.loss}_loss": loss}
        if self.config.loss == "gaussian":
            raw = gaussian_ends(raw, self.config.coverage)
        if self.config.clusters is not None:
            region = region_numbers(self.config, cluster_names(nearest_clusters(self.config.clusters, state)))
            region = None if region is None else region.to(raw.device)
        return TileSequenceOutput(loss, parts, base[..., None] + scale[..., None] * raw, region)

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many entries of a batch count for the loss; of a change those whose last value is known, too."""
        labels, last = batch["labels"], batch.get("last_values")
        if self.config.head != "image" and self.config.answers == "change":
            labels = labels * torch.nan if last is None else torch.where(last.isfinite(), labels, torch.nan)
        return frames_items(self.config, labels)

    def _next_frames(self, pixel_values, step_mask, labels, dates, loss_items) -> TileSequenceOutput:
        if pixel_values is None:
            raise DataError("the model needs pixel_values")
        step_mask = None if step_mask is not None and bool(step_mask.all()) else step_mask
        seen = self._seen_dates(pixel_values, step_mask, dates)
        config, base = self.config, last_seen(pixel_values, step_mask).float()
        if config.video:
            raw = video_changes(self.tower, self.head, pixel_values, step_mask, config.frames)
        else:
            planes = (None, None) if seen is None else (date_planes(seen[0]), self.answer_date(seen[1]))
            settings = (base, step_mask, config.prediction_length)
            raw = rolled_changes(self.tower, self.head, pixel_values, *settings, *planes)
        raw, base = raw.float(), base[:, None]
        loss = parts = None
        if labels is not None:
            targets = labels.float().reshape(raw.shape) - base
            loss, parts = frames_loss(config, raw, targets, loss_items)
        frames = base + raw
        return TileSequenceOutput(loss, parts, frames if config.prediction_length > 1 else frames[:, 0])

    # ---- answers

    def decode(self, outputs: TileSequenceOutput) -> list[TilePrediction]:
        """Turn outputs into answers in the user's units, see `predictions_of`."""
        return predictions_of(self.config, outputs)

    def read_source(self, source: str) -> Part:
        """The tiles of a table; see `geohf.tiles.inputs`."""
        if self.config.head == "image":
            raise DataError(NO_TABLE)
        return read_tiles(source, self.config)

    def prepare(self, samples: list) -> BatchFeature:
        """As the processor's, with each sample's `region`, by which its interval may be another."""
        batch = super().prepare(samples)
        names = [sample.get("region") if isinstance(sample, Mapping) else None for sample in samples]
        region = region_numbers(self.config, names)
        if region is not None:
            batch["region"] = region
        return batch

    def rows_of(self, answer: TilePrediction) -> list[dict[str, Any]]:
        """See `TilePrediction.as_row`; an answer that is an image is a DataError."""
        if answer.image is not None:
            raise DataError(NO_TABLE)
        return super().rows_of(answer)

    def predict(self, inputs: Any, batch_size: int = 32, **options) -> list[TilePrediction]:
        """Predict tiles from lists of frames (paths, arrays, PIL images, None for a missing year).

        Args:
            inputs: samples, see `TileSequenceProcessor`; an array of 5 dimensions is many samples; a table of tiles.
            batch_size: tiles in one pass.
        """
        return super().predict(inputs, batch_size, **options)

    @torch.inference_mode()
    def evaluate(
        self, data: str | os.PathLike, batch_size: int = 32, on_error: str = "raise"
    ) -> dict[str, float]:
        """Errors of level and rate, skill over persistence and trend, and coverage, at the table's last label.

        Args:
            data: a table as `load_tiles` takes it, with the folder `Images` beside it, or the folder of a
                `tiles.csv`.
        """
        dataset = labeled_tiles(os.fspath(data), self.config, on_error)
        outputs = self.outputs_on(dataset, TileCollator(self.config), batch_size)
        values, region = outputs.raw, outputs.region
        if self.config.head != "image" and bool(values.isnan().any()):
            row = dataset.windows.rows[int(values.isnan().any((1, 2)).nonzero()[0])]
            raise DataError(
                f"{data}: tile {dataset.known_table.tile_ids[row]} has no value before the last label, which the model "
                "counts from"
            )
        region = dataset.region_numbers(self.config) if region is None else region
        metrics = measure(self.config, values, dataset, intervals=False, region=region)
        return {metric.name: metric.value for metric in metrics}


def make_model(options: TileArguments, data: TaskData) -> TileSequenceModel:
    """A model for these training rows: their scales, and the network that the options name.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    options.require_backbone()
    fields = config_fields(options, data)
    with as_data_error():
        if options.encoder not in FRAMEWISE or options.backbone is None:
            return TileSequenceModel(TileSequenceConfig(**fields))
        height, width = fields.pop("image_size")
        if height != width:
            raise DataError(
                f"--encoder {options.encoder} takes square tiles, no --image_size {height} x {width}"
            )
        if options.normalize == "backbone":
            fields |= backbone_scales(options.backbone, fields, as_sequences(data.train))
        weights: dict[str, Any] = {
            "pretrained": options.pretrained,
            "backbone_weights": options.backbone_weights,
        }
        fields |= {"image_size": height, "patch_size": 1}
        return TileSequenceModel.from_backbone(options.backbone, **weights, **fields)
