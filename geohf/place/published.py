"""Checkpoints of place recognition as their authors published them, as geohf models.

CosPlace and EigenPlaces: a ResNet of torchvision, whose children bear their numbers, behind it lengths of 1, GeM
and one linear layer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from geohf.errors import DataError, did_you_mean
from geohf.models.published import fill_published
from geohf.place.configuration import GeoPlaceConfig
from geohf.vision.preprocessing import IMAGENET
from geohf.vision.repos import read_tensors
from geohf.vision.timm_towers import TimmTowerConfig

if TYPE_CHECKING:
    from geohf.place.modeling import GeoPlaceModel

# as cards name them
PUBLISHED = {
    "cosplace": "CosPlace (github.com/gmberton/CosPlace)",
    "eigenplaces": "EigenPlaces (github.com/gmberton/EigenPlaces)",
}
# the code is under MIT; whether this covers weights that were trained on Street View, its author leaves open
LICENSE = "mit-code-street-view-weights"
# blocks of the third stage, and whether a block is a bottleneck
RESNETS = {(2, False): "resnet18", (6, True): "resnet50", (23, True): "resnet101", (36, True): "resnet152"}
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
HEAD = {
    "aggregation.1.p": "head.aggregate.gem.p",
    "aggregation.3.weight": "head.aggregate.linear.weight",
    "aggregation.3.bias": "head.aggregate.linear.bias",
}


def load_published(
    kind: type[GeoPlaceModel], name: str, file: str | os.PathLike, image_size: tuple[int, int]
) -> GeoPlaceModel:
    """The model in a published checkpoint, see `GeoPlaceModel.from_published`."""
    if name not in PUBLISHED:
        raise DataError(
            f"no published model {name!r}{did_you_mean(name, PUBLISHED)}; there are {', '.join(PUBLISHED)}"
        )
    tensors = read_tensors(file)
    architecture = _resnet_of(tensors, file)
    linear = tensors.get("aggregation.3.weight")
    if linear is None or linear.ndim != 2:
        raise DataError(f"{file}: lacks the matrix aggregation.3.weight of {name}")
    if min(image_size) < 32:
        raise DataError(f"image_size must be at least 32 pixels a side, got {image_size}")
    height, width = image_size
    size = {"height": height, "width": width}
    channels = 512 if architecture == "resnet18" else 2048
    mean, std = IMAGENET
    config = GeoPlaceConfig(
        vision_config=TimmTowerConfig(architecture=architecture, image_size=224),
        image_processor={
            "size": size,
            "crop_size": size,
            "resample": 2,
            "image_mean": list(mean),
            "image_std": list(std),
        },
        feature_size=channels,
        feature_map=[channels, -(-height // 32), -(-width // 32)],
        pooling="gem_linear",
        gem_dim=len(linear),
        projection_dim=None,
        backbone_name=PUBLISHED[name],
        backbone_license=LICENSE,
    )
    model = kind(config)
    fill_published(model, tensors, _our_name, _their_name, file)
    return model.eval()


def _resnet_of(tensors: Mapping[str, torch.Tensor], file: str | os.PathLike) -> str:
    blocks = {int(found[1]) for name in tensors if (found := re.match(r"backbone\.6\.(\d+)\.", name))}
    found = RESNETS.get((len(blocks), any(".conv3." in name for name in tensors)))
    if found is None:
        raise DataError(
            f"{file}: its backbone is none of {', '.join(RESNETS.values())}: backbone.6 has {len(blocks)} blocks"
        )
    return found


def _our_name(name: str) -> str:
    """The name that a published tensor has in our model; its own where it has none."""
    found = re.fullmatch(r"backbone\.(\d)\.(.+)", name)
    if found and found[1] in CHILDREN:
        return f"tower.timm.{CHILDREN[found[1]]}.{found[2]}"
    return HEAD.get(name, name)


def _their_name(name: str) -> str:
    """The name that a parameter of our model has in the published file."""
    numbers = {child: number for number, child in CHILDREN.items()}
    published = {new: old for old, new in HEAD.items()}
    child, _, rest = name.removeprefix("tower.timm.").partition(".")
    return published.get(name) or f"backbone.{numbers[child]}.{rest}"
