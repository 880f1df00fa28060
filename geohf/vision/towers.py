"""A backbone as a module: made of its config with random weights, run to its pooled feature, taken apart, fitted to bands."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from geohf.errors import DataError


def build_tower(config: Any) -> PreTrainedModel:
    """A backbone with random weights."""
    return tower_class(config)._from_config(config, **without_pooler(config))


def tower_features(tower: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """The pooled feature of each image: (batch, 3, height, width) to (batch, features).

    CLIP gives its projected feature, others their pooled output, and a backbone without one its class token
    (sequences) or the average over the map (convolutional).
    """
    output = tower(pixel_values)
    for name in ("image_embeds", "pooler_output"):
        pooled = getattr(output, name, None)
        if pooled is not None:
            return pooled.flatten(1)
    hidden = output.last_hidden_state
    return hidden.mean((-2, -1)) if hidden.ndim == 4 else hidden[:, 0]


def feature_size(config: PreTrainedConfig, side: int | None = None) -> int:
    """Length of a backbone's pooled feature, found by a pass without storage, of images of its own size or this side."""
    with torch.device("meta"):
        tower = build_tower(config)
        size = side or getattr(config, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else size
        channels = (getattr(config, "model_args", None) or {}).get(
            "in_chans", getattr(config, "num_channels", 3)
        )
        with torch.no_grad():
            return tower_features(tower.eval(), torch.empty(1, channels, height, width)).shape[-1]


def keep_statistics(module: nn.Module) -> None:
    """Set every batch norm to use the statistics that it has, whatever mode the module is in."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """The backbone's blocks from input to output, for unfreezing the last ones.

    They are the layers of a transformer or the stages of a convolutional net: the outermost row of modules
    that holds most parameters. A row is a list, or siblings that are numbered (`layer1`, `layer2`, ...).
    """
    rows = []
    for module in tower.modules():
        numbered = defaultdict(list)
        for name, child in module.named_children():
            if name[-1].isdigit():
                numbered[name.rstrip("0123456789")].append(child)
        rows += [row for row in numbered.values() if len(row) > 1]
    return max(rows, key=lambda row: sum(p.numel() for m in row for p in m.parameters()), default=[tower])


def tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """transformers' class of a backbone; DataError where it has none."""
    if config.model_type == "clip_vision_model":
        from transformers import CLIPVisionModelWithProjection

        return CLIPVisionModelWithProjection
    from transformers import MODEL_MAPPING

    model_class: Any = MODEL_MAPPING.get(type(config), None)
    if model_class is None or model_class.main_input_name != "pixel_values":
        raise DataError(f"transformers has no backbone of the type {config.model_type!r}")
    return model_class


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Keyword arguments for a backbone without an extra pooler.

    ViT's and its relatives' is random in most repos; the class token is taken instead.
    """
    accepts = "add_pooling_layer" in inspect.signature(tower_class(config).__init__).parameters
    return {"add_pooling_layer": False} if accepts else {}


def adapt_first_convolution(
    name: str, weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights of a backbone for three bands, for one that differs from it in the number of bands alone.

    As timm does (`timm.models.adapt_input_conv`): the first convolution's weights are repeated over the bands and
    scaled by 3 / bands, or summed for one band.

    Raises:
        DataError: the backbones differ in more than a convolution over three bands.
    """
    from timm.models import adapt_input_conv

    weights = dict(weights)
    for key, new in wanted.items():
        old = weights.get(key, new)
        if old.shape == new.shape:
            continue
        if old.ndim != 4 or old.shape[1] != 3:
            raise DataError(
                f"{name}: the backbone's weights {key} {tuple(old.shape)} cannot be fitted to {tuple(new.shape)}; take "
                "one of timm's towers, or --pretrained false"
            )
        weights[key] = adapt_input_conv(new.shape[1], old)
    return weights
