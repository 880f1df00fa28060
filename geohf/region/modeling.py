"""The region model: from a photograph to its region and its point, by the experts of all regions in one repo."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers.utils import can_return_tuple

from geohf.data.classes import warn_of_spellings
from geohf.errors import DataError
from geohf.geo.scalers import CoordinateScaler, fit_scaler
from geohf.models.configuration import as_data_error
from geohf.models.heading import HeadingHead, perceptron, refuse_mirrors
from geohf.models.loading import load_model
from geohf.models.modeling import GeoPreTrainedModel
from geohf.region.answering import RegionAnswering
from geohf.region.configuration import GeoRegionConfig
from geohf.region.experts import (
    RegionExpert,
    RegionOutput,
    RegionRouter,
    count_router_items,
    located_errors,
    measured_headings,
    router_losses,
)
from geohf.region.losses import point_loss
from geohf.region.metrics import region_accuracy
from geohf.region.processing import GeoRegionImageProcessor
from geohf.region.rows import as_photos, located
from geohf.region.selection import names_of, region_order
from geohf.vision.augmentation import averaged_features
from geohf.vision.towers import build_tower

if TYPE_CHECKING:
    from geohf.data.task_data import TaskData
    from geohf.region.arguments import RegionArguments

logger = logging.getLogger(__name__)

# what the sample is trained with: a backbone that learns in seconds on a CPU, from random weights
SAMPLE_BACKBONE, SAMPLE_IMAGE_SIZE = "test_resnet", 48
REAL_BACKBONE = "convnext_small"
MODEL_FIELDS = (
    "frame",
    "experts",
    "scaler",
    "point_loss",
    "radius_coverage",
    "refine",
    "density",
    "predict_heading",
)


class GeoRegionModel(RegionAnswering, GeoPreTrainedModel):
    """Coordinates of photographs by regions: a router, and an expert a region.

    >>> from geohf.region import GeoRegionConfig
    >>> from geohf.vision.backbones import TimmTowerConfig
    >>> config = GeoRegionConfig(vision_config=TimmTowerConfig(architecture="test_resnet"), feature_size=96,
    ...                          id2label={0: "3", 1: "5"}, experts="shared",
    ...                          scalers=[{"center": [36.37, 127.36], "scale": [0.01, 0.01]},
    ...                                   {"center": [36.35, 127.38], "scale": [0.01, 0.01]}])
    >>> output = GeoRegionModel(config).eval()(torch.zeros(1, 3, 64, 64))
    >>> output.logits.shape, output.scaled.shape, output.coordinates.shape
    (torch.Size([1, 2]), torch.Size([1, 2, 2]), torch.Size([1, 2]))
    """

    config_class = GeoRegionConfig
    processor_class = GeoRegionImageProcessor
    card_template = "region.md"
    _no_split_modules = ["RegionExpert"]  # noqa: RUF012  transformers declares it so
    _keep_in_fp32_modules_strict = {"scaler_center", "scaler_scale", "prototypes"}  # noqa: RUF012

    def __init__(self, config: GeoRegionConfig):
        super().__init__(config)
        self.tower = build_tower(config.vision_config)
        sizes = config.feature_size, config.hidden_size, config.num_regions
        self.router: nn.Module = perceptron(*sizes, config.dropout)
        experts = nn.ModuleList(RegionExpert(config, i) for i in range(config.num_regions))
        self.experts: Sequence[RegionExpert] = experts  # type: ignore[assignment]  # torch does not say of what
        self.targets: tuple[str, ...] = ("labels", "coordinates")
        if config.predict_heading:
            self.direct = HeadingHead(config.feature_size, config.hidden_size, config.dropout)
            self.targets = (*self.targets, "headings")
        self.finish_init()

    @classmethod
    def from_backbone(cls, name: str, **kwargs) -> GeoRegionModel:
        """As `GeoPreTrainedModel.from_backbone`; every expert's tower starts from the same weights."""
        model = super().from_backbone(name, **kwargs)
        for expert in model.experts:
            if expert.tower is not None:
                expert.tower.load_state_dict(model.tower.state_dict())
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info=False, **kwargs):
        """As `GeoPreTrainedModel.from_pretrained`; weights of other scalers than the config's are a DataError, too."""
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        for expert in model.experts:
            if model.config.scalers is not None and not expert.has_own_scaler():
                raise DataError(
                    f"{pretrained_model_name_or_path}: the weights of region {model.config.id2label[expert.number]} "
                    "belong to another scaler than that of config.json, which was changed"
                )
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `GeoPreTrainedModel.save_pretrained`."""
        for expert in self.experts:
            expert.store_scaler()  # a model that was cast as a whole has it in half precision
        super().save_pretrained(save_directory, *args, **kwargs)

    def set_scaler(self, region: str, scaler: CoordinateScaler) -> None:
        """Give a region another scaler, before its expert is trained anew."""
        number, scalers = self.region_number(region), self.config.scalers
        assert scalers is not None
        scalers[number] = scaler.to_dict()
        self.experts[number].store_scaler()

    def router_module(self) -> RegionRouter:
        """The router with its tower, to be trained without the experts."""
        return RegionRouter(self.config, self.tower, self.router, getattr(self, "direct", None))

    def take_router(self, router: RegionRouter) -> None:
        """Put back what `router_module` gave; adapters leave heads that are other objects."""
        self.tower, self.router = router.tower, router.head
        if router.direct is not None:
            self.direct = router.direct

    @property
    def scaler(self) -> CoordinateScaler:
        """All regions' scalers as one."""
        return self.config.coordinate_scaler

    # ---- forward

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        regions: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
        test_time: str | None = None,
    ) -> RegionOutput:
        """Locate photographs.

        Args:
            pixel_values: (batch, 3, height, width).
            regions: (batch,) numbers of the regions that are given, -1 where unknown: such a photograph is located
                by the experts of all regions, weighted with the router's probabilities.
            labels: (batch,) true region numbers for the loss; in training only their experts run.
            coordinates: (batch, 2) true latitude and longitude, NaN where unknown.
            headings: (batch,) true degrees clockwise from north, NaN where unknown.
            loss_items: part -> rows over which its mean goes; None: the rows of this batch that count.
            test_time: see `geohf.vision.augmentation.averaged_features`.
        """
        refuse_mirrors(self.config.predict_heading, test_time)
        given = torch.full((len(pixel_values),), -1) if regions is None else regions
        given = given.to(pixel_values.device)
        asked = labels if self.training and labels is not None else given
        routed = labels is not None or bool((given < 0).any())
        shared = self.config.experts == "shared"
        told = self.config.predict_heading
        looked = shared or routed or told
        features = averaged_features(self.tower, pixel_values, test_time) if looked else None
        directions = self.direct(features) if told else None
        inputs = {"pixel_values": pixel_values}
        if shared:
            assert features is not None
            inputs = {"features": features}
        scaled = self._ask_experts(inputs, asked, None if shared else test_time)
        logits = (
            self.router(features).float()
            if features is not None
            else scaled.new_zeros(len(scaled), self.config.num_regions)
        )
        loss, parts = None, None
        if labels is not None and coordinates is not None:
            loss, parts = self.losses(logits, scaled, labels, coordinates, loss_items, directions, headings)
        others = torch.arange(logits.shape[1], device=given.device) != given[:, None]
        known = given[:, None] >= 0
        logits = torch.where(known, 0.0, logits).masked_fill(known & others, -torch.inf)
        with torch.no_grad():
            # in training not every expert that the router may think of was asked
            coordinates = None if self.training else self.locate(logits, scaled)
        return RegionOutput(loss, logits, scaled, coordinates, parts, directions)

    def _ask_experts(
        self, inputs: dict[str, torch.Tensor], asked: torch.Tensor, test_time: str | None
    ) -> torch.Tensor:
        """(batch, regions, 2): every row of its own expert, or of all where that is unknown; else NaN."""
        answers = []
        for expert in self.experts:
            rows = (asked == expert.number) | (asked < 0)
            if bool(rows.all()):
                answers.append(expert(**inputs, test_time=test_time).scaled)
                continue
            answer = torch.full((len(asked), 2), torch.nan, device=asked.device)
            if bool(rows.any()):
                own = {name: values[rows] for name, values in inputs.items()}
                own_answer = expert(**own, test_time=test_time).scaled
                answer = answer.index_put((rows.nonzero()[:, 0],), own_answer)
            answers.append(answer)
        return torch.stack(answers, 1)

    # ---- learning

    def losses(self, logits, scaled, labels, coordinates, items=None, directions=None, headings=None):
        """The total loss and its parts: the true region's expert is measured, and the router."""
        items, own = items or {}, labels.clamp(min=0)
        mine = scaled[torch.arange(len(own), device=own.device), own]
        truth = torch.where((labels >= 0)[:, None], coordinates, torch.nan)
        own_scaler = self.config.coordinate_scaler[np.array(own.tolist(), np.int64)]
        loss = point_loss(self.config.point_loss, mine, truth, own_scaler, items.get("point_loss"))
        parts = {"point_loss": loss} | router_losses(logits, directions, labels, headings, items)
        return sum(parts.values()), parts

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many rows of a batch count for each part of the loss."""
        located = batch["coordinates"].isfinite().all(-1) & (batch["labels"] >= 0)
        return {"point_loss": located.sum()} | count_router_items(batch, self.config.predict_heading)

    def measure(
        self,
        outputs: RegionOutput,
        labels: torch.Tensor,
        coordinates: torch.Tensor,
        headings: torch.Tensor | None = None,
    ) -> dict[str, float]:
        """Loss, its parts, the router's accuracy, the routed errors and those of headings over a whole dataset."""
        # over all rows at once: the mean of the batches' means would depend on their sizes
        logits, scaled = outputs.routed()
        loss, parts = self.losses(logits, scaled, labels, coordinates, None, outputs.directions, headings)
        metrics = {"loss": float(loss)} | {name: float(part) for name, part in parts.items()}
        metrics["accuracy"] = region_accuracy(logits, labels)
        metrics |= located_errors(self.config, self.locate(logits, scaled), coordinates, "routed_")
        return metrics | measured_headings(outputs.directions, headings)


def _tell_kept(options: RegionArguments, config: GeoRegionConfig) -> None:
    """Say which options the model that training goes on from does not follow."""
    known = type(options).__dataclass_fields__
    kept = [
        f"--{name} {getattr(options, name)} (it has {getattr(config, name)})"
        for name in MODEL_FIELDS
        if getattr(options, name) not in (known[name].default, getattr(config, name))
    ]
    if kept:
        logger.warning(
            "%s stays as it was trained: without effect are %s", options.start_from, ", ".join(kept)
        )


def make_model(options: RegionArguments, data: TaskData) -> GeoRegionModel:
    """A model of the training rows' regions, scaled by these rows: a new one, or that of `start_from`.

    Options that do not go together, or a backbone that is not found, are a DataError.
    """
    train = as_photos(data.labeled)
    named, points = np.array(names_of(train), object), located(train, options.frame)
    named[~np.isfinite(points).all(1)] = None
    regions = region_order(name for name in named if name is not None)
    if options.start_from is not None:
        model = load_model(options.start_from, "cpu", GeoRegionModel).float()
        _tell_kept(options, model.config)
        for name in options.regions or regions:
            model.set_scaler(name, fit_scaler(points[named == name], model.config.scaler, model.config.frame))
        return model
    warn_of_spellings(regions, "regions")
    scalers = [fit_scaler(points[named == name], options.scaler, options.frame).to_dict() for name in regions]
    fields = {name: getattr(options, name) for name in MODEL_FIELDS}
    tiny = options.train_csv is None and options.backbone is None
    with as_data_error():
        return GeoRegionModel.from_backbone(
            options.backbone or (SAMPLE_BACKBONE if tiny else REAL_BACKBONE),
            pretrained=not tiny if options.pretrained is None else options.pretrained,
            backbone_weights=options.backbone_weights,
            image_size=SAMPLE_IMAGE_SIZE if tiny and options.image_size is None else options.image_size,
            fit=options.fit,
            id2label=dict(enumerate(regions)),
            scalers=scalers,
            **fields,
        )
