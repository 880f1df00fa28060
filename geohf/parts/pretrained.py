"""Starting from published weights: torchvision's detectors trained on COCO, and backbones alone."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, detection, get_model, get_model_weights

from geohf.errors import DataError
from geohf.parts.backbone import MOBILENET, RESNETS, FeatureBackbone, replace_batch_norms
from geohf.parts.configuration import PartStateConfig
from geohf.vision.backbones import backbone_config, load_tower, resolve_backbone
from geohf.vision.repos import hub_weights, read_tensors, reason_of
from geohf.vision.timm_towers import TimmTowerConfig, timm_name, timm_source, whole_timm

if TYPE_CHECKING:
    from geohf.parts.starting import StartingDetector

_MOBILE = {
    "backbone": MOBILENET,
    "norm_eps": 1e-5,
    "anchor_sizes": [[32, 64, 128, 256, 512]] * 3,
    "rpn_score_threshold": 0.05,
}
# what sets each of torchvision's detectors apart from the config's defaults
COCO_DETECTORS = {
    "fasterrcnn_resnet50_fpn": {"backbone": "resnet50", "norm_eps": 0.0},
    "fasterrcnn_resnet50_fpn_v2": {
        "backbone": "resnet50",
        "norm": "batch",
        "pyramid_norm": True,
        "rpn_conv_depth": 2,
        "box_head": "conv",
    },
    "fasterrcnn_mobilenet_v3_large_fpn": _MOBILE,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _MOBILE
    | {
        "rpn_pre_nms_top_n_test": 150,
        "rpn_post_nms_top_n_test": 150,
        "image_size": [320, 320],
    },
}
# layers that are as wide as the number of classes, and so begin anew
CLASS_LAYERS = ("roi_heads.box_predictor.", "roi_heads.state_head.")

# beginnings of the fields that another model takes over; the others belong to classes and training
STRUCTURE = (
    *("architecture", "detector_config", "backbone", "norm", "feature_levels", "pyramid_", "image_size"),
    *("anchor_", "aspect_", "rpn_", "roi_", "box_", "state_hidden_size", "state_dropout"),
)


def coco_fields(name: str) -> dict:
    """Config fields of a detector or backbone by name, or of what a folder or repo holds.

    Raises:
        DataError: the folder or repo holds no backbone for parts.
    """
    if name in COCO_DETECTORS or not is_place(name):
        return dict(COCO_DETECTORS.get(name, {"backbone": name, "norm": "batch"}))
    folder, raw = backbone_config(name)
    if raw.get("model_type") == PartStateConfig.model_type:
        fields = (key for key in PartStateConfig.__annotations__ if key.startswith(STRUCTURE))
        return {key: raw[key] for key in fields if key in raw and not key.endswith("_weight")}
    timm = TimmTowerConfig.model_type
    if "architecture" in raw and raw.get("model_type", timm) == timm:
        source = timm_source(name, folder)
        architecture, args = source.architecture, dict(source.model_args)
    else:
        tower = raw.get("vision_config") or {}
        if tower.get("model_type") != timm:
            kind = tower.get("model_type") or raw.get("model_type")
            raise DataError(f"{name}: parts takes backbones of torchvision and timm, this is one of {kind}")
        architecture, args = tower["architecture"], dict(tower.get("model_args") or {})
    return {"backbone": architecture, "backbone_args": args or None, "norm": "batch"}


def own_normalization(name: str, weights: str | os.PathLike | None) -> dict | None:
    """The mean and standard deviation that weights of timm were trained with, as `image_processor`; None for torchvision's."""
    if name in (*COCO_DETECTORS, *RESNETS, MOBILENET):
        return None
    raw = backbone_config(name)[1] if is_place(name) else {}
    if raw.get("model_type") == PartStateConfig.model_type:
        return raw.get("image_processor")
    settings = resolve_backbone(name, weights=weights).image_processor
    return {key: list(settings[key]) for key in ("image_mean", "image_std")}


def is_place(name: str) -> bool:
    """Whether this names a folder or a repo, and not one of timm's models."""
    return (timm_name(name) is None and ("/" in name or Path(name).exists())) or (
        Path(name) / "config.json"
    ).is_file()


def load_published(model: StartingDetector, name: str, weights: str | os.PathLike | None = None) -> None:
    """Load published weights into a detector that was built for them.

    Args:
        name: as `coco_fields` takes it.
        weights: a file of weights to take instead of the published ones.

    Raises:
        DataError: there are none, they cannot be fetched, or are not those of the layers that the config asks for.
    """
    try:
        if name in COCO_DETECTORS:
            if weights is None:
                published = get_model_weights(getattr(detection, name)).DEFAULT
                load_coco_weights(model, published.get_state_dict(progress=False, check_hash=True))
            else:
                load_coco_weights(model, read_tensors(weights))
        elif is_place(name) and backbone_config(name)[1].get("model_type") == PartStateConfig.model_type:
            folder = Path(name) if Path(name).is_dir() else hub_weights(name)
            load_coco_weights(model, read_tensors(weights or folder), same_classes(model, name))
        else:
            _load_backbone(model.tower, model.config, name, weights)
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{weights or name}: the published weights cannot be loaded: {reason_of(error)}"
        ) from error


def same_classes(model: StartingDetector, name: str) -> tuple[str, ...]:
    """Those of `CLASS_LAYERS` that stand for the same parts, or the same states, in the model and in this one."""
    raw = backbone_config(name)[1]
    same_parts = raw.get("id2label") == {str(i): part for i, part in model.config.id2label.items()}
    same_states = raw.get("id2state") == {str(i): state for i, state in model.config.id2state.items()}
    same_states = same_states and (raw.get("attributes") or {}) == (model.config.attributes or {})
    per_part = raw.get("state_per_part") or model.config.state_per_part
    return CLASS_LAYERS[:1] * same_parts + CLASS_LAYERS[1:] * (same_states and (same_parts or not per_part))


def load_coco_weights(
    model: StartingDetector, published: dict[str, torch.Tensor], kept: tuple[str, ...] = ()
) -> None:
    """Load the state dict of a torchvision Faster R-CNN, all but what depends on the classes.

    Args:
        kept: those of `CLASS_LAYERS` whose classes are the model's own, and that are loaded too.

    Raises:
        RuntimeError: the model has other layers.
    """
    source = {_current_name(name): tensor for name, tensor in published.items()}
    own = model.state_dict()
    anew = tuple(layer for layer in CLASS_LAYERS if layer not in kept)
    source = {n: t for n, t in source.items() if not n.startswith(anew)}
    source = {n: t for n, t in source.items() if n in own or not n.endswith("num_batches_tracked")}
    missing = sorted(n for n in own if n not in source and not n.startswith(anew))
    if any(not n.endswith("num_batches_tracked") for n in missing):
        raise RuntimeError(f"they lack {len(missing)} of the detector's weights, among them {missing[0]}")
    _, unexpected = model.load_state_dict(source, strict=False)
    if unexpected:
        raise RuntimeError(
            f"the detector has no place for {len(unexpected)} of them, among them {unexpected[0]}"
        )


def _current_name(name: str) -> str:
    """A weight's name here; torchvision itself translates the names of an old file when it loads one."""
    name = name.replace("backbone.body.", "tower.body.").replace("backbone.fpn.", "pyramid.")
    name = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
    return re.sub(r"^(pyramid\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)


def _load_backbone(
    tower: FeatureBackbone, config: PartStateConfig, name: str, weights: str | os.PathLike | None
) -> None:
    if config.norm == "group":
        raise ValueError("they have batch norms: use norm batch or frozen, or pretrained=False")
    if config.backbone in RESNETS or config.backbone == MOBILENET:
        body = _torchvision_body(config, weights)
    else:
        import timm

        args = dict(config.backbone_args or {})
        published = timm.create_model(
            config.backbone.removeprefix("timm/"), features_only=True, out_indices=tower.levels, **args
        )
        _fill(published, _timm_weights(name, args, weights))
        body = nn.ModuleDict({"body": published}) if hasattr(tower.body, "body") else published
    if config.norm == "frozen":
        replace_batch_norms(body, "frozen", config.norm_eps)
    own = tower.body.state_dict()
    tower.body.load_state_dict({name: tensor for name, tensor in body.state_dict().items() if name in own})


def _timm_weights(name: str, args: dict, weights: str | os.PathLike | None) -> dict[str, torch.Tensor]:
    folder, raw = backbone_config(name)
    if folder is not None and "architecture" not in raw:  # a geohf model of another task
        tower: Any = load_tower(resolve_backbone(name, weights=weights))
        return tower.timm.state_dict()
    return whole_timm(
        timm_source(name, folder, None if weights is None else Path(weights)), args
    ).state_dict()


def _fill(body: nn.Module, published: dict[str, torch.Tensor]) -> None:
    """Load the weights of a whole model of timm into what gives its feature maps, which joins names by underscores."""
    flat = {name.replace(".", "_"): tensor for name, tensor in published.items()}
    names = {name: name.replace(".", "_") for name in body.state_dict()}
    names = {name: old if old in flat else old.removeprefix("model_") for name, old in names.items()}
    body.load_state_dict({name: flat[old] for name, old in names.items() if old in flat})


def _torchvision_body(config: PartStateConfig, weights: str | os.PathLike | None) -> nn.Module:
    if weights is None:
        kind = MobileNet_V3_Large_Weights.IMAGENET1K_V1 if config.backbone == MOBILENET else "IMAGENET1K_V1"
        whole = get_model(config.backbone, weights=kind)
    else:
        tensors = read_tensors(weights)
        last = next((tensors[n] for n in ("fc.weight", "classifier.3.weight") if n in tensors), None)
        whole = get_model(config.backbone, weights=None, num_classes=1000 if last is None else len(last))
        whole.load_state_dict(tensors)
    return whole.features if config.backbone == MOBILENET else whole
