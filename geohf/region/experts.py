"""The two parts of a region model that are trained by themselves: a region's expert, and the router."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import nn
from transformers.utils import ModelOutput

from geohf.geo import frame_distance
from geohf.geo.scalers import CoordinateScaler
from geohf.metrics.headings import heading_metrics
from geohf.models.heading import HeadingHead, degrees_of_directions, heading_loss, perceptron
from geohf.models.prototypes import Prototypes
from geohf.region.configuration import GeoRegionConfig
from geohf.region.losses import point_loss, region_loss
from geohf.region.metrics import error_summary, region_accuracy
from geohf.vision.augmentation import averaged_features
from geohf.vision.towers import build_tower, tower_features

# of degrees and of projected meters: what float32 leaves of a number
_ROUNDING = 1e-6

Part = TypeVar("Part", bound=nn.Module)


@dataclass
class RegionOutput(ModelOutput):
    """Output of the region model and of its parts, which leave out what is not theirs.

    Attributes:
        loss: scalar, where the truth was given.
        logits: (batch, regions) of the router, uncalibrated; a region that was given has 0 and the others -inf.
        scaled: (batch, regions, 2) what every expert answers in its region's scaled coordinates, NaN where it
            was not asked; (batch, 2) of one expert.
        coordinates: (batch, 2) float64, in degrees or units of the data.
        loss_parts: the loss by its parts.
        directions: (batch, 2) where each photograph looks, sine and cosine of the degrees clockwise from north; None
            where the model does not tell.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    scaled: torch.Tensor | None = None
    coordinates: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    directions: torch.Tensor | None = None

    def routed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`logits` and `scaled`, which the whole model always gives."""
        assert self.logits is not None
        assert self.scaled is not None
        return self.logits, self.scaled


class _Part(nn.Module):
    """A module whose batch norms that do not learn use the statistics they have, as in `GeoPreTrainedModel`."""

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode and any(p.requires_grad for p in module.parameters()))
        return self


class RegionExpert(_Part):
    """One region's way from pixels, or from a shared tower's features, to its scaled coordinates.

    Its scaler's numbers are in the config of the whole model, where every digit counts, and as float32 buffers
    among the weights, so that weights and config of different trainings are not taken for one model.
    """

    accepts_loss_kwargs = False
    targets: ClassVar[tuple[str, ...]] = ("coordinates",)
    scaler_center: torch.Tensor
    scaler_scale: torch.Tensor

    def __init__(self, config: GeoRegionConfig, number: int):
        super().__init__()
        self.config, self.number = config, number
        self.tower = build_tower(config.vision_config) if config.experts == "separate" else None
        self.head = perceptron(config.feature_size, config.hidden_size, 2, config.dropout)
        counts = config.prototypes or [0] * config.num_regions
        self.prototypes = Prototypes(counts[number], config.feature_size) if config.refine else None
        self.register_buffer("scaler_center", torch.zeros(2))
        self.register_buffer("scaler_scale", torch.ones(2))
        self.store_scaler()

    @property
    def scaler(self) -> CoordinateScaler:
        """The region's scaler."""
        return self.config.coordinate_scaler[self.number]

    def store_scaler(self) -> None:
        """Write the config's scaler into the buffers, in float32 whatever the model is in."""
        if self.config.scalers is not None:
            self.scaler_center = self.scaler_center.new_tensor(self.scaler.center, dtype=torch.float32)
            self.scaler_scale = self.scaler_scale.new_tensor(self.scaler.scale, dtype=torch.float32)

    def has_own_scaler(self) -> bool:
        """Whether the weights were trained with the config's scaler."""
        pairs = (self.scaler_center, self.scaler.center), (self.scaler_scale, self.scaler.scale)
        return all(np.allclose(own.cpu().numpy(), known, rtol=_ROUNDING, atol=0) for own, known in pairs)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
        test_time: str | None = None,
    ) -> RegionOutput:
        """Locate photographs within the region.

        Args:
            pixel_values: (batch, 3, height, width), for an expert with a tower of its own.
            features: (batch, features) of its tower, instead; of the shared one, for an expert without.
            coordinates: (batch, 2) true latitude and longitude, NaN where unknown.
            loss_items: part -> rows over which its mean goes; None: the rows of this batch that count.
            test_time: see `geohf.vision.augmentation.averaged_features`.
        """
        if features is None:
            assert pixel_values is not None
            assert self.tower is not None
            features = averaged_features(self.tower, pixel_values, test_time)
        scaled = self.head(features).float()
        if self.prototypes is not None and len(self.prototypes.points) and not self.training:
            scaled = self.prototypes.refine(features, features.new_ones(len(features), 1), scaled)
        if coordinates is None:
            return RegionOutput(scaled=scaled)
        items = (loss_items or {}).get("point_loss")
        loss = point_loss(self.config.point_loss, scaled, coordinates, self.scaler, items)
        return RegionOutput(loss, scaled=scaled, loss_parts={"point_loss": loss})

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many rows of a batch count."""
        return {"point_loss": batch["coordinates"].isfinite().all(-1).sum()}

    def measure(self, outputs: RegionOutput, coordinates: torch.Tensor) -> dict[str, float]:
        """Loss and errors over a whole dataset."""
        assert outputs.scaled is not None
        loss = point_loss(self.config.point_loss, outputs.scaled, coordinates, self.scaler)
        points = self.scaler.inverse_transform(outputs.scaled)
        return {"loss": float(loss)} | located_errors(self.config, points, coordinates)


class RegionRouter(_Part):
    """The tower and head that name the region, and `direct`, which may tell where a photograph looks, to be trained alone.

    They are the model's own, shared with it, not copied.
    """

    tower: nn.Module

    accepts_loss_kwargs = False

    def __init__(
        self, config: GeoRegionConfig, tower: nn.Module, head: nn.Module, direct: HeadingHead | None = None
    ):
        super().__init__()
        self.config, self.tower, self.head, self.direct = config, tower, head, direct
        self.targets = ("labels",) if direct is None else ("labels", "headings")

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
        features: torch.Tensor | None = None,
    ) -> RegionOutput:
        """Name regions: (batch, 3, height, width) pixels, or (batch, features) of the tower, to (batch, regions) logits."""
        if features is None:
            assert pixel_values is not None
            features = tower_features(self.tower, pixel_values)
        logits = self.head(features).float()
        directions = None if self.direct is None else self.direct(features)
        if labels is None:
            return RegionOutput(logits=logits, directions=directions)
        parts = router_losses(logits, directions, labels, headings, loss_items or {})
        return RegionOutput(sum(parts.values()), logits=logits, loss_parts=parts, directions=directions)

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many rows of a batch count."""
        return count_router_items(batch, self.direct is not None)

    def measure(
        self, outputs: RegionOutput, labels: torch.Tensor, headings: torch.Tensor | None = None
    ) -> dict[str, float]:
        """Loss, accuracy and errors of headings over a whole dataset."""
        assert outputs.logits is not None
        parts = router_losses(outputs.logits, outputs.directions, labels, headings, {})
        numbers = {"loss": float(sum(parts.values())), "accuracy": region_accuracy(outputs.logits, labels)}
        return numbers | measured_headings(outputs.directions, headings)


def router_losses(logits, directions, labels, headings, items):
    """The losses of the region, and of the heading where it is told; `items` as in `RegionRouter.forward`."""
    parts = {"region_loss": region_loss(logits, labels, items.get("region_loss"))}
    if directions is not None and headings is not None:
        parts["heading_loss"] = heading_loss(directions, headings, items.get("heading_loss"))
    return parts


def count_router_items(batch: dict, with_headings: bool) -> dict[str, torch.Tensor]:
    """How many rows of a batch count for each of `router_losses`."""
    counts = {"region_loss": (batch["labels"] >= 0).sum()}
    return counts | ({"heading_loss": batch["headings"].isfinite().sum()} if with_headings else {})


def located_errors(config: GeoRegionConfig, points, coordinates, prefix: str = "") -> dict[str, float]:
    """The `error_summary` of (n, 2) points where the truth is known."""
    errors = frame_distance(points, coordinates, config.frame)[coordinates.isfinite().all(-1)]
    return error_summary(errors.numpy(), config.unit, prefix)


def measured_headings(directions: torch.Tensor | None, headings: torch.Tensor | None) -> dict[str, float]:
    """See `heading_metrics`; nothing of a model that does not tell."""
    if directions is None or headings is None:
        return {}
    return dict(heading_metrics(degrees_of_directions(directions).numpy(), headings.numpy()))


def without_tower(part: Part) -> Part:
    """An expert or a router for features alone; all but the tower is shared with the part, not copied."""
    heads = copy.copy(part)
    heads._modules = part._modules | {"tower": None}
    return heads


def given_logits(labels: torch.Tensor, regions: int) -> torch.Tensor:
    """(n, regions) logits that are certain of these regions, as the model gives where the region is given."""
    mine = torch.arange(regions) == labels[:, None]
    return torch.where(mine, 0.0, -torch.inf)
