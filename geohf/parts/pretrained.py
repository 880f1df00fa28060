"""Starting from published weights: torchvision's detectors trained on COCO, and backbones alone."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, detection, get_model_weights

from geohf.errors import DataError
from geohf.parts.configuration import PartStateConfig
from geohf.parts.tower import MOBILENET, RESNETS, FeatureTower, replace_batch_norms

MOBILE_ANCHORS = [[32, 64, 128, 256, 512]] * 3
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
    "fasterrcnn_mobilenet_v3_large_fpn": {
        "backbone": MOBILENET,
        "norm_eps": 1e-5,
        "anchor_sizes": MOBILE_ANCHORS,
        "rpn_score_threshold": 0.05,
    },
    "fasterrcnn_mobilenet_v3_large_320_fpn": {
        "backbone": MOBILENET,
        "norm_eps": 1e-5,
        "anchor_sizes": MOBILE_ANCHORS,
        "rpn_score_threshold": 0.05,
        "rpn_pre_nms_top_n_test": 150,
        "rpn_post_nms_top_n_test": 150,
        "image_size": [320, 320],
    },
}
# layers that are as wide as the number of classes, and so begin anew
CLASS_LAYERS = ("roi_heads.box_predictor.", "roi_heads.state_head.")


def coco_fields(name: str) -> dict:
    """Config fields of a detector or backbone by name."""
    return dict(COCO_DETECTORS.get(name, {"backbone": name, "norm": "batch"}))


def load_published(model: nn.Module, name: str) -> None:
    """Load published weights into a detector that was built for them.

    Raises:
        DataError: there are none, they cannot be fetched, or the config asks for other layers.
    """
    try:
        if name in COCO_DETECTORS:
            _load_detector(model, name)
        else:
            _load_tower(model.tower, model.config)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{name}: the published weights cannot be loaded: {reason}") from error


def _load_detector(model: nn.Module, name: str) -> None:
    weights = get_model_weights(getattr(detection, name)).DEFAULT
    load_coco_weights(model, weights.get_state_dict(progress=False, check_hash=True))


def load_coco_weights(model: nn.Module, published: dict[str, torch.Tensor]) -> None:
    """Load the state dict of a torchvision Faster R-CNN, all but what depends on the classes.

    Raises:
        RuntimeError: the model has other layers.
    """
    source = {}
    for name, tensor in published.items():
        # names that torchvision itself translates when it loads an old file
        for old, new in (
            ("rpn.head.conv.weight", "rpn.head.conv.0.0.weight"),
            ("rpn.head.conv.bias", "rpn.head.conv.0.0.bias"),
        ):
            name = new if name == old else name
        name = name.replace("backbone.body.", "tower.body.").replace("backbone.fpn.", "pyramid.")
        for block in ("inner_blocks", "layer_blocks"):
            head, _, tail = name.partition(f"pyramid.{block}.")
            if tail.count(".") == 1 and not head:  # "0.weight" of an old file is "0.0.weight" today
                level, kind = tail.split(".")
                name = f"pyramid.{block}.{level}.0.{kind}"
        source[name] = tensor
    own = model.state_dict()
    source = {n: t for n, t in source.items() if not n.startswith(CLASS_LAYERS)}
    source = {n: t for n, t in source.items() if n in own or not n.endswith("num_batches_tracked")}
    wanted = {n for n in own if not n.startswith(CLASS_LAYERS)}
    if wanted - set(source) - {n for n in wanted if n.endswith("num_batches_tracked")}:
        missing = sorted(wanted - set(source))
        raise RuntimeError(f"they lack {len(missing)} of the detector's weights, among them {missing[0]}")
    _, unexpected = model.load_state_dict(source, strict=False)
    if unexpected:
        raise RuntimeError(
            f"the detector has no place for {len(unexpected)} of them, among them {unexpected[0]}"
        )


def _load_tower(tower: FeatureTower, config: PartStateConfig) -> None:
    if config.norm == "group":
        raise ValueError("they have batch norms: use norm batch or frozen, or pretrained=False")
    if config.backbone in RESNETS or config.backbone == MOBILENET:
        body = _torchvision_body(config)
    else:
        import timm

        published = timm.create_model(
            config.backbone.removeprefix("timm/"),
            pretrained=True,  # this is the second step, asked for by name
            features_only=True,
            out_indices=tower.levels,
            **(config.backbone_args or {}),
        )
        body = nn.ModuleDict({"body": published}) if hasattr(tower.body, "body") else published
    if config.norm == "frozen":
        replace_batch_norms(body, "frozen", config.norm_eps)
    own = tower.body.state_dict()
    tower.body.load_state_dict({name: tensor for name, tensor in body.state_dict().items() if name in own})


def _torchvision_body(config: PartStateConfig) -> nn.Module:
    from torchvision.models import get_model

    weights = MobileNet_V3_Large_Weights.IMAGENET1K_V1 if config.backbone == MOBILENET else "IMAGENET1K_V1"
    whole = get_model(config.backbone, weights=weights)
    return whole.features if config.backbone == MOBILENET else whole
