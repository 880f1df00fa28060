"""Backbones that give feature maps: torchvision's and timm's behind one builder."""

from __future__ import annotations

import difflib

import torch
from torch import nn
from torchvision.models import mobilenet_v3_large, resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from geohf.errors import DataError
from geohf.parts.configuration import PartStateConfig

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
MOBILENET = "mobilenet_v3_large"
GROUP_WIDTH = 8  # channels a group


class FeatureBackbone(nn.Module):
    """(batch, 3, H, W) to a dict of feature maps named "0", "1", ..., fine to coarse.

    Attributes:
        levels: which of the backbone's maps these are.
        channels, strides: of every map.
    """

    def __init__(self, config: PartStateConfig):
        super().__init__()
        if config.backbone in RESNETS:
            build = _resnet
        else:
            build = _mobilenet if config.backbone == MOBILENET else _timm
        self.body, self.levels, self.channels, self.strides = build(config)
        if config.norm != "batch":
            replace_batch_norms(self.body, config.norm, config.norm_eps)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.body(pixel_values)
        maps = list(maps.values()) if isinstance(maps, dict) else maps
        return {str(level): features for level, features in enumerate(maps)}


def _chosen(config: PartStateConfig, default: list[int], available: int) -> list[int]:
    levels = list(config.feature_levels or default)
    if not levels or sorted(set(levels)) != levels or levels[0] < 0 or levels[-1] >= available:
        raise DataError(
            f"{config.backbone} has the feature levels 0 to {available - 1}; feature_levels is {levels}"
        )
    return levels


def _resnet(config):
    body = getattr(resnet, config.backbone)(weights=None)
    levels = _chosen(config, [0, 1, 2, 3], 4)
    widths = [body.inplanes // 2 ** (3 - level) for level in levels]
    layers = {f"layer{level + 1}": str(i) for i, level in enumerate(levels)}
    return IntermediateLayerGetter(body, layers), levels, widths, [4 * 2**level for level in levels]


def _mobilenet(config):
    features = mobilenet_v3_large(weights=None).features
    # the strided blocks and the last one end a stage each, as in torchvision's own detectors
    ends = [0, *(i for i, block in enumerate(features) if getattr(block, "_is_cn", False)), len(features) - 1]
    strides = [2, 4, 8, 16, 32, 32]
    levels = _chosen(config, [len(ends) - 2, len(ends) - 1], len(ends))
    layers = {str(ends[level]): str(i) for i, level in enumerate(levels)}
    widths = [features[ends[level]].out_channels for level in levels]
    return IntermediateLayerGetter(features, layers), levels, widths, [strides[level] for level in levels]


def _timm(config):
    import timm

    name = config.backbone.removeprefix("timm/")
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, [*timm.list_models(), *RESNETS, MOBILENET], n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise DataError(f"no backbone {config.backbone!r}: neither torchvision nor timm knows it{hint}")
    arguments = dict(config.backbone_args or {})
    try:
        with torch.device("meta"):
            whole = timm.create_model(name, features_only=True, **arguments)
        reductions = whole.feature_info.reduction()
        if len(set(reductions)) < len(reductions):  # a plain transformer: all maps have one size
            default = [len(reductions) - 1]
        else:
            default = [i for i, reduction in enumerate(reductions) if reduction >= 4]
        levels = _chosen(config, default, len(reductions))
        body = timm.create_model(name, features_only=True, out_indices=levels, **arguments)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise DataError(f"backbone {config.backbone!r} gives no feature maps: {error}") from None
    maps = ChannelsFirst(body) if str(getattr(body, "output_fmt", "")).endswith("NHWC") else body
    return maps, levels, body.feature_info.channels(), body.feature_info.reduction()


class ChannelsFirst(nn.Module):
    """Turns the (batch, height, width, channels) maps of some transformers round."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        return [features.permute(0, 3, 1, 2).contiguous() for features in self.body(pixel_values)]


def replace_batch_norms(module: nn.Module, norm: str, eps: float | None = None) -> None:
    """Put frozen batch norms of the same values, or new group norms, in the place of batch norms."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            replace_batch_norms(child, norm, eps)
            continue
        width = child.num_features
        if norm == "frozen":
            new: nn.Module = FrozenBatchNorm2d(width, eps=child.eps if eps is None else eps)
            known = new.state_dict()
            new.load_state_dict({key: value for key, value in child.state_dict().items() if key in known})
        else:
            new = nn.GroupNorm(width // GROUP_WIDTH if width % GROUP_WIDTH == 0 else 1, width)
        act = getattr(child, "act", None)
        if isinstance(act, nn.Module):  # timm joins norm and activation
            new = nn.Sequential(new, act)
        setattr(module, name, new)
