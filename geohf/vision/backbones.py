"""Vision towers, from timm and from transformers, behind one builder.

A tower is always made in two steps: `describe_backbone` reads its configuration only, `build_tower` makes it
with random weights, and `load_tower` makes it with its published ones. A model that was saved once is built
from its own config and never asks for the backbone's repo again.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_utils import SizeDict
from transformers.modeling_outputs import BaseModelOutputWithPooling

from geohf.errors import DataError, require_at_least
from geohf.vision.bands import adapt_first_convolution
from geohf.vision.initialization import mark_initialized
from geohf.vision.licences import published_licence
from geohf.vision.weights import AlignedLoading, align_weights


class TimmTowerConfig(PreTrainedConfig):
    """A timm model without its classifier.

    Args:
        architecture: the exact timm name, e.g. `"convnext_tiny.fb_in22k"`; any tag names weights only.
        image_size: input side in pixels.
        model_args: further keyword arguments of `timm.create_model`.
    """

    model_type = "geohf_timm"

    architecture: str = "resnet18"
    image_size: int = 224
    model_args: dict | None = None


class TimmTower(AlignedLoading, PreTrainedModel):
    """A timm model as a transformers model whose `pooler_output` is timm's pooled feature."""

    config_class = TimmTowerConfig
    main_input_name = "pixel_values"
    base_model_prefix = "tower"

    def __init__(self, config: TimmTowerConfig):
        super().__init__(config)
        import timm

        self.timm = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
        mark_initialized(self)
        self.post_init()

    def _init_weights(self, module):
        # every parameter has timm's own values already; what is not saved must be computed again after
        # transformers built the model without storage
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """(batch, 3, height, width) to `pooler_output` of (batch, features)."""
        return BaseModelOutputWithPooling(pooler_output=self.timm(pixel_values))


AutoConfig.register(TimmTowerConfig.model_type, TimmTowerConfig, exist_ok=True)
AutoModel.register(TimmTowerConfig, TimmTower, exist_ok=True)


@dataclass
class Backbone:
    """What a task's config needs to know of a tower.

    Attributes:
        name: as the user gave it.
        config: of the tower, complete: `build_tower` needs nothing else.
        image_processor: keyword arguments of a transformers image processor (size, crop_size, resample,
            image_mean, image_std).
        feature_size: length of the pooled feature.
        license: of the published weights, where the repo or timm states one.
        published_bands: bands of the images that the published weights of a transformers tower take.
    """

    name: str
    config: PreTrainedConfig
    image_processor: dict
    feature_size: int
    license: str | None = None
    published_bands: int = 3


def describe_backbone(name: str, image_size: int | None = None, **model_args) -> Backbone:
    """Find a tower by name, reading configuration only.

    Args:
        name: a timm name (`"resnet50.a1_in1k"`, `"timm/resnet50.a1_in1k"`), a repo of the Hub or a folder in
            transformers' or timm's format (`"geolocal/StreetCLIP"`).
        image_size: input side in pixels where it shall differ from the tower's own (timm only: a transformers
            tower has a fixed size).
        model_args: further keyword arguments for `timm.create_model`; `in_chans`, the number of bands, holds for
            transformers towers too.

    Raises:
        DataError: nothing is found under this name, or it cannot take so many bands.
    """
    require_at_least(1, image_size=image_size)
    timm_name = _timm_name(name)
    if timm_name is None:
        try:
            whole = AutoConfig.from_pretrained(name)
        except ValueError as error:
            raise DataError(f"{name}: config.json names no model that transformers knows: {error}") from None
        config = getattr(whole, "vision_config", whole)
        if config.model_type == "clip_vision_model" and config is not whole:
            config.projection_dim = whole.projection_dim  # the repo's projection follows the outer one
        if image_size is not None and image_size != getattr(config, "image_size", image_size):
            raise DataError(
                f"{name}: its image size is {config.image_size} and cannot be changed to {image_size}"
            )
        processing, licence = _transformers_processing(name, config), published_licence(name)
        published = getattr(config, "num_channels", 3)
        _set_bands(name, config, model_args.get("in_chans", published))
        return Backbone(name, config, processing, feature_size(config), licence, published)
    config, processing, licence = _describe_timm(timm_name, image_size, model_args)
    return Backbone(name, config, processing, feature_size(config), licence)


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """A tower with random weights."""
    return _tower_class(config)._from_config(config, **_without_pooler(config))


def load_tower(backbone: Backbone) -> PreTrainedModel:
    """A tower with its published weights, in float32.

    Raises:
        DataError: the repo has no weights, lacks one, or has it in another shape.
    """
    timm_name = _timm_name(backbone.name)
    try:
        if timm_name is not None:
            return _load_timm(timm_name, backbone.config)
        return _load_transformers(backbone)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{backbone.name}: the tower's weights cannot be loaded: {reason}") from error


def _load_timm(name: str, config: TimmTowerConfig) -> TimmTower:
    import timm

    tower = build_tower(config)
    published = timm.create_model(
        name,
        pretrained=True,  # this is the second step, asked for by name
        num_classes=0,
        **(config.model_args or {}),
    )
    tower.timm.load_state_dict(published.state_dict())
    return tower


def _load_transformers(backbone: Backbone) -> PreTrainedModel:
    published = backbone.config
    if getattr(published, "num_channels", backbone.published_bands) != backbone.published_bands:
        published = copy.deepcopy(published)
        published.num_channels = backbone.published_bands
    kind = _tower_class(backbone.config)
    # a CLIP repo holds a text tower too, and each of its weights would be reported
    lenient = {"_keys_to_ignore_on_load_unexpected": [""], "__module__": kind.__module__}
    tower, info = type(kind.__name__, (kind,), lenient).from_pretrained(
        backbone.name,
        config=published,
        dtype=torch.float32,
        output_loading_info=True,
        **_without_pooler(backbone.config),
    )
    tower.__class__ = kind
    tower._keys_to_ignore_on_load_unexpected = set(kind._keys_to_ignore_on_load_unexpected or ())
    if info["missing_keys"]:
        raise DataError(
            f"{backbone.name}: the repo lacks weights of the tower: {sorted(info['missing_keys'])[:5]}"
        )
    if published is not backbone.config:
        adapted = build_tower(backbone.config).eval()
        adapted.load_state_dict(adapt_first_convolution(backbone.name, tower, adapted))
        tower = adapted
    align_weights(tower)
    return tower


def _set_bands(name: str, config: PreTrainedConfig, bands: int) -> None:
    """Make the config of a transformers tower that of one for images of so many bands."""
    if bands == getattr(config, "num_channels", 3):
        return
    try:
        config.num_channels = bands
        feature_size(config)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{name}: this tower cannot take images of {bands} bands ({reason}); take one of timm's, which can"
        ) from None


def tower_features(tower: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """The pooled feature of each image: (batch, 3, height, width) to (batch, features).

    CLIP gives its projected feature, others their pooled output, and a tower without one its class token
    (sequences) or the average over the map (convolutional).
    """
    output = tower(pixel_values)
    for name in ("image_embeds", "pooler_output"):
        pooled = getattr(output, name, None)
        if pooled is not None:
            return pooled.flatten(1)
    hidden = output.last_hidden_state
    return hidden.mean((-2, -1)) if hidden.ndim == 4 else hidden[:, 0]


def feature_size(config: PreTrainedConfig) -> int:
    """Length of a tower's pooled feature, found by a pass without storage."""
    with torch.device("meta"):
        tower = build_tower(config)
        size = getattr(config, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else size
        channels = (getattr(config, "model_args", None) or {}).get(
            "in_chans", getattr(config, "num_channels", 3)
        )
        with torch.no_grad():
            return tower_features(tower.eval(), torch.empty(1, channels, height, width)).shape[-1]


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """The tower's blocks from input to output, for unfreezing the last ones.

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


def _tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    if config.model_type == "clip_vision_model":
        from transformers import CLIPVisionModelWithProjection

        return CLIPVisionModelWithProjection
    from transformers import MODEL_MAPPING

    model_class = MODEL_MAPPING.get(type(config), None)
    if model_class is None or model_class.main_input_name != "pixel_values":
        raise DataError(f"transformers has no vision tower of the type {config.model_type!r}")
    return model_class


def _without_pooler(config) -> dict:
    """ViT's and its relatives' extra pooler is random in most repos: leave it out, take the class token."""
    accepts = "add_pooling_layer" in inspect.signature(_tower_class(config).__init__).parameters
    return {"add_pooling_layer": False} if accepts else {}


def _timm_name(name: str) -> str | None:
    """What `timm.create_model` calls this tower, or None where it belongs to transformers."""
    import timm

    plain = name.removeprefix("timm/")
    is_folder = (Path(name) / "config.json").is_file()
    if not is_folder and timm.is_model(plain.split(".")[0]):
        return plain
    try:
        raw, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        architecture = plain.rpartition("/")[2].split(".")[0]
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f" (timm has {', '.join(close)})" if close else ""
        reason = str(error).partition("\n")[0]
        raise DataError(f"no backbone {name!r}: neither timm nor the Hub knows it{hint}: {reason}") from None
    if "architecture" not in raw:
        return None
    return f"local-dir:{name}" if is_folder else f"hf-hub:{name}"


def _describe_timm(
    name: str, image_size: int | None, model_args: dict
) -> tuple[TimmTowerConfig, dict, str | None]:
    import timm
    from timm.data import resolve_data_config
    from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
    from torchvision.transforms import InterpolationMode
    from transformers.image_utils import pil_torch_interpolation_mapping

    source, _, where = name.partition(":")
    if where:
        load = load_model_config_from_path if source == "local-dir" else load_model_config_from_hf
        pretrained, architecture, saved_args = load(where)
        model_args = {**(saved_args or {}), **model_args}
        model_args.pop("num_classes", None)  # a tower has none
    else:
        architecture = name
        try:
            pretrained = timm.get_pretrained_cfg(name).to_dict()
        except RuntimeError as error:
            raise DataError(f"no backbone {name!r}: {error}") from None
    data = resolve_data_config(pretrained_cfg=pretrained)
    built_size = model_args.get("img_size") or data["input_size"][-1]
    own_size = built_size if isinstance(built_size, int) else built_size[-1]
    size = image_size or own_size
    if size != own_size and (pretrained.get("fixed_input_size") or "img_size" in model_args):
        model_args = {**model_args, "img_size": size}
    shortest = round(size / (data["crop_pct"] or 1)) if size == own_size else size
    mode = {m.value: m for m in InterpolationMode}.get(data["interpolation"], InterpolationMode.BICUBIC)
    resample = {v: k for k, v in pil_torch_interpolation_mapping.items()}[mode]
    config = TimmTowerConfig(architecture=architecture, image_size=size, model_args=model_args or None)
    processing = {
        "size": {"shortest_edge": shortest},
        "crop_size": {"height": size, "width": size},
        "resample": int(resample),
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
    }
    return config, processing, pretrained.get("license")


def _transformers_processing(name: str, config: PreTrainedConfig) -> dict:
    from transformers import AutoImageProcessor

    size = getattr(config, "image_size", None) or 224
    processing = {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    try:
        published = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):  # a repo without preprocessor_config.json
        return processing
    for key in processing:
        value = getattr(published, key, None)
        if value is not None:
            processing[key] = int(value) if key == "resample" else _plain(value)
    if not getattr(published, "do_center_crop", False) and "height" in processing["size"]:
        # a tower that squeezes its images takes them squeezed
        processing["crop_size"] = {k: processing["size"][k] for k in ("height", "width")}
    return processing


def _plain(value):
    # a SizeDict is no Mapping and yields pairs
    return dict(value) if isinstance(value, (Mapping, SizeDict)) else list(value)
