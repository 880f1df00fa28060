"""The place model: a photograph to a descriptor, and with an index to where it was taken."""

from __future__ import annotations

import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.utils import can_return_tuple

from geohf.models.configuration import as_data_error
from geohf.place.aggregation.supervlad import CLUSTERS as SUPERVLAD_CLUSTERS
from geohf.place.confidence import forget_confidence
from geohf.place.configuration import ENCODERS, PROJECTING_POOLINGS, GeoPlaceConfig
from geohf.place.head import HYBRID_FIELDS, GeoPlaceOutput, PlaceHead
from geohf.place.losses import CellClassifier
from geohf.place.options import EVALUATE_OPTIONS, PREDICT_OPTIONS
from geohf.place.processing import GeoPlaceImageProcessor
from geohf.place.retrieval import PlaceRetrieval
from geohf.place.sizes import see_at
from geohf.vision.backbones import backbone_config, resolve_backbone
from geohf.vision.pooling import map_size, pooled
from geohf.vision.preprocessing import with_fit
from geohf.vision.towers import build_tower

if TYPE_CHECKING:
    from geohf.data.task_data import TaskData
    from geohf.place.arguments import PlaceArguments

logger = logging.getLogger(__name__)

# what the sample is trained with: a backbone of random weights that takes seconds on a CPU
SAMPLE_MODEL, SAMPLE_IMAGE_SIZE = "test_resnet", 160
SAMPLE_MIX = {"mix_depth": 2, "mix_channels": 96, "mix_rows": 8}
REAL_MODEL = "dinov2_b"
MODEL_FIELDS = (
    *("dropout", "positive_m", "negative_m", "heading_deg", "cell_m", "loss", *HYBRID_FIELDS),
    *("truncate_dim", "matryoshka_dims"),
)
POOLING_FIELDS = (
    *("mix_depth", "mix_channels", "mix_rows", "clusters", "cluster_dim", "token_dim"),
    *("boq_channels", "boq_queries", "boq_rows"),
)


class GeoPlaceModel(PlaceRetrieval):
    """Descriptors of places, near for pictures of one place in any light and far for others.

    The backbone is frozen, and stays in eval mode, unless its parameters are asked to learn.

    >>> from geohf.place import GeoPlaceConfig
    >>> from geohf.vision.backbones import TimmTowerConfig
    >>> config = GeoPlaceConfig(vision_config=TimmTowerConfig(architecture="test_resnet"), feature_size=96)
    >>> GeoPlaceModel(config).eval()(torch.zeros(1, 3, 64, 64)).descriptors.shape
    torch.Size([1, 256])
    """

    config_class = GeoPlaceConfig
    processor_class = GeoPlaceImageProcessor
    card_template = "place.md"
    starts_frozen = True
    predict_options = PREDICT_OPTIONS
    evaluate_options = EVALUATE_OPTIONS
    _no_split_modules: set[str] | list[str] | None = ["PlaceHead"]  # noqa: RUF012  transformers declares it so
    _keep_in_fp32_modules_strict: set[str] | list[str] | None = [  # noqa: RUF012
        "standardize",
        "descriptor_norm",
        "whiten",
    ]

    def __init__(self, config: GeoPlaceConfig):
        super().__init__(config)
        self.tower = build_tower(config.vision_config).requires_grad_(False)
        self.head = PlaceHead(config)
        self.finish_init()

    @classmethod
    def from_backbone(
        cls,
        name: str,
        *,
        pretrained: bool = True,
        image_size: int | None = None,
        fit: str | None = "squeeze",
        **config_fields,
    ) -> GeoPlaceModel:
        """A new model around one of the reference implementation's encoders (`geohf.place.configuration.ENCODERS`) or any other backbone.

        Args:
            name, pretrained, image_size, fit: see `GeoPreTrainedModel.from_backbone`; the whole picture tells a place better
                than its middle.
            config_fields: see `GeoPlaceConfig`; with neither `head` nor `projection_dim` the head is `residual`, and none
                behind the poolings that project themselves.

        Raises:
            DataError: no such backbone, or an image size that it cannot take.
        """
        name = ENCODERS.get(name, name)
        if config_fields.get("pooling", "tower") != "tower":
            backbone = resolve_backbone(name, image_size)
            crop = backbone.image_processor["crop_size"]
            config_fields["feature_map"] = map_size(backbone.config, (crop["height"], crop["width"]))
        if config_fields.get("pooling") == "supervlad":
            config_fields = {"clusters": SUPERVLAD_CLUSTERS} | config_fields
        if not {"head", "projection_dim"} & set(config_fields):
            projects = config_fields.get("pooling") in PROJECTING_POOLINGS
            config_fields |= {"projection_dim": None} if projects else {"head": "residual"}
        model = super().from_backbone(
            name, pretrained=pretrained, image_size=image_size, fit=fit, **config_fields
        )
        model.tower.requires_grad_(False)
        return model

    @classmethod
    def from_published(
        cls, name: str, file: str | os.PathLike, image_size: tuple[int, int] | None = None
    ) -> GeoPlaceModel:
        """The model in a checkpoint that its authors published, see `geohf.place.published`.

        Args:
            name: one of `geohf.place.published.LAYOUTS`: `cosplace`, `eigenplaces`, `mixvpr`, `salad`, `cliquemining`,
                `boq-dinov2`, `boq-resnet50`, `megaloc`, `fol`.
            file: the checkpoint, read as tensors alone.
            image_size: height and width that photographs are resized to, without a crop; None: those that it was
                published for. DINOv2 takes any multiples of 14, its position embeddings are brought to the size.

        Raises:
            DataError: another name, or a file whose tensors are not, name by name and shape by shape, the model's.
        """
        from geohf.place.published import load_published

        return load_published(cls, name, file, image_size)

    def train(self, mode: bool = True):
        """Set training mode, but leave what is frozen of the backbone in eval mode."""
        super().train(mode)
        _eval_frozen(self.tower)
        return self

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        coordinates: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
        classifier: CellClassifier | None = None,
    ) -> GeoPlaceOutput:
        """Describe photographs.

        Args:
            pixel_values: (batch, 3, height, width).
            coordinates, headings, classifier: see `PlaceHead.forward`.
        """
        features = pooled(self.tower, pixel_values, self.config.backbone_pool)
        return self.head(features, coordinates, headings, classifier=classifier)


def _eval_frozen(module: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in module.parameters()):
        module.eval()
        return
    for child in module.children():
        if next(child.parameters(), None) is not None:
            _eval_frozen(child)


def make_model(options: PlaceArguments, data: TaskData | None = None) -> GeoPlaceModel:
    """A new model around the backbone that the options name first, or the trained place model of that name.

    Raises:
        DataError: options that do not go together, or a name that nothing has.
    """
    is_sample = options.train_csv is None and options.models is None
    name = (options.models or [SAMPLE_MODEL if is_sample else REAL_MODEL])[0]
    if _is_place_model(name):
        return _trained_model(name, options)
    given = {field: getattr(options, field) for field in (*MODEL_FIELDS, *POOLING_FIELDS)}
    pooling = options.pooling or ("mixvpr" if is_sample else "tower")
    given = {name: value for name, value in given.items() if value is not None}
    given |= {"pooling": pooling, "confidence_m": options.radii_m[0], **_head_fields(options, pooling)}
    pretrained, image_size = options.pretrained is not False, options.image_size
    if is_sample:
        given |= SAMPLE_MIX
        pretrained, image_size = bool(options.pretrained), image_size or SAMPLE_IMAGE_SIZE
    with as_data_error():
        return GeoPlaceModel.from_backbone(
            name,
            pretrained=pretrained,
            image_size=image_size,
            backbone_weights=options.backbone_weights,
            fit=options.fit or "squeeze",
            **given,
        )


def _trained_model(name: str, options: PlaceArguments) -> GeoPlaceModel:
    """A trained place model with the loss and the length of descriptors that are asked for; its network stays as it is."""
    given = {field.name: (getattr(options, field.name), field.default) for field in fields(options)}
    asked = {name: value for name, (value, default) in given.items() if value != default}
    changes = {field: asked[field] for field in MODEL_FIELDS if field in asked}
    model = GeoPlaceModel.from_pretrained(name, dtype=torch.float32, **changes)
    side, seen = options.image_size, model.dummy_inputs["pixel_values"].shape[-2:]
    if side is not None and tuple(seen) != (side, side):
        see_at(model, side, side)
    of_network = ("backbone_weights", "pooling", "head", "projection_dim", *POOLING_FIELDS)
    own = {field: (None, 0, "none", getattr(model.config, field, None)) for field in of_network}
    unused = [f"--{field}" for field in of_network if asked.get(field) not in own[field]]
    kept = {field: getattr(model.config, field) for field in MODEL_FIELDS if field not in asked}
    told = [f"--{field} {own}" for field, own in kept.items() if own != getattr(options, field)]
    if told:  # a flag that says the default is as one that is not given
        logger.warning("%s keeps what it was trained with in place of defaults: %s", name, ", ".join(told))
    if unused:
        logger.warning("%s is trained and keeps its network: %s not used", name, ", ".join(unused))
    if options.fit is not None:
        before = model.processor_settings
        model.config.image_processor = with_fit(before, options.fit)
        if model.config.image_processor != before:
            forget_confidence(model.config, f"pictures are fitted by {options.fit}")
    return model


def _head_fields(options: PlaceArguments, pooling: str) -> dict[str, Any]:
    head, projects = options.head, pooling in PROJECTING_POOLINGS
    if head is None:
        named = options.projection_dim or (options.methods[0] == "original" and not projects)
        head = "mlp" if named else "none" if projects or options.projection_dim == 0 else "residual"
    dim = (options.projection_dim or 256) if head == "mlp" else None
    return {"head": "residual" if head == "residual" else "mlp", "projection_dim": dim}


def _is_place_model(name: str) -> bool:
    # timm's names need no look at the Hub
    looked_up = name not in ENCODERS and ("/" in name or Path(name).is_dir())
    return looked_up and backbone_config(name)[1].get("model_type") == GeoPlaceConfig.model_type
