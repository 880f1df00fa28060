"""Vision backbones, from timm and from transformers, behind one builder.

`resolve_backbone` reads a backbone's configuration only; then `build_tower` makes it with random weights, or `load_tower`
with its published ones. A saved model is built from its own config and never asks for the backbone's repo again.
"""

from __future__ import annotations

import copy
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from geohf.errors import DataError, listed, require_at_least
from geohf.vision.licenses import published_license
from geohf.vision.preprocessing import default_processing, published_processing
from geohf.vision.repos import PICKLED, hub_files, hub_weights, read_tensors, reason_of
from geohf.vision.timm_towers import TimmSource, describe_timm, load_timm, timm_name, timm_source
from geohf.vision.timm_towers import TimmTower as TimmTower
from geohf.vision.timm_towers import TimmTowerConfig as TimmTowerConfig
from geohf.vision.towers import (
    adapt_first_convolution,
    build_tower,
    feature_size,
    tower_class,
    without_pooler,
)
from geohf.vision.weights import align_weights

UNUSED = "mask_token"  # it stands for masked patches, and no tower of ours masks any
DESCRIBED_BY = ("config.json", "preprocessor_config.json", "README.md")


@dataclass
class Backbone:
    """What a task's config needs to know of a backbone.

    Attributes:
        name: as the user gave it.
        config: of the backbone, complete: `build_tower` needs nothing else.
        image_processor: keyword arguments of a transformers image processor (size, crop_size, resample,
            image_mean, image_std).
        feature_size: length of the pooled feature.
        license: of the published weights, where the repo or timm states one.
        published_bands: bands of the images that the published weights of a transformers tower take.
        timm: where a backbone of timm's has its weights.
        weights: a file of weights to take instead of the published ones, or the folder of a geohf model.
    """

    name: str
    config: PreTrainedConfig
    image_processor: dict
    feature_size: int
    license: str | None = None
    published_bands: int = 3
    timm: TimmSource | None = None
    weights: Path | None = None


def resolve_backbone(
    name: str, image_size: int | None = None, weights: str | os.PathLike | None = None, **model_args
) -> Backbone:
    """Find a backbone by name, reading configuration only.

    Args:
        name: a timm name (`"resnet50.a1_in1k"`), a repo of the Hub or a folder in transformers' or timm's format
            (`"geolocal/StreetCLIP"`), or a geohf model, whose tower is meant.
        image_size: input side in pixels where it shall differ from the backbone's own.
        weights: a file of weights for this tower, instead of those that the name stands for.
        model_args: further keyword arguments for `timm.create_model`; `in_chans`, the number of bands, holds for
            transformers backbones too.

    Raises:
        DataError: nothing is found under this name, or it cannot take so many bands or images of this size; there is
            no such file of weights.
    """
    require_at_least(1, image_size=image_size)
    given = None if weights is None else Path(weights)
    require_weights(given, pretrained=True)
    folder, raw = backbone_config(name)
    if folder is None or ("architecture" in raw and raw.get("model_type") != TimmTowerConfig.model_type):
        source = timm_source(name, folder, given)
        ours, processing, license = describe_timm(source, image_size, model_args)
        license = None if given else license
        return Backbone(name, ours, processing, feature_size(ours), license, timm=source)
    license = None if given else published_license(name, folder) or raw.get("backbone_license")
    if str(raw.get("model_type")).startswith("geohf_") and raw["model_type"] != TimmTowerConfig.model_type:
        config, processing = _tower_of_ours(name, raw)
        given = given or (folder if Path(name).is_dir() else None)
    else:
        config = _transformers_config(name, folder)
        processing = published_processing(name, folder, config)
    if image_size is not None:
        _require_size(name, config, image_size)
        processing |= {
            "size": {"shortest_edge": image_size},
            "crop_size": {"height": image_size, "width": image_size},
        }
    published = getattr(config, "num_channels", 3)
    _set_bands(name, config, model_args.get("in_chans", published))
    return Backbone(name, config, processing, feature_size(config), license, published, weights=given)


def backbone_config(name: str) -> tuple[Path | None, dict]:
    """The folder of a backbone's config.json, and what this holds; no folder for a name of timm's registry.

    Raises:
        DataError: there is no such backbone, or the folder lacks its config.json.
    """
    import timm

    path = Path(name)
    if name and path.is_file():
        raise DataError(
            f"{name}: is a file; name what it holds the weights of with --backbone and give the file as "
            "--backbone_weights"
        )
    is_folder = bool(name) and path.is_dir()
    if not (is_folder and (path / "config.json").is_file()) and timm_name(name):
        return None, {}
    folder: Path | None = path
    if is_folder:
        if not (path / "config.json").is_file():
            held = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", *PICKLED))
            hint = (
                f"; name what {held[0]} holds the weights of; give it as --backbone_weights" if held else ""
            )
            raise DataError(
                f"{name}: lacks the config.json of timm or transformers that says what it is{hint}"
            )
    else:
        folder = hub_files(name, DESCRIBED_BY, timm.list_models())
    if folder is None:
        raise DataError(f"{name}: the repo holds no config.json that says what it is")
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{name}: its config.json cannot be read ({error})") from None
    if not isinstance(raw, dict):
        raise DataError(f"{name}: its config.json describes no model")
    return folder, raw


def _transformers_config(name: str, folder: Path) -> PreTrainedConfig:
    try:
        whole = AutoConfig.from_pretrained(folder)
    except ValueError as error:
        raise DataError(f"{name}: config.json names no model that transformers knows: {error}") from None
    config = getattr(whole, "vision_config", whole)
    if config.model_type == "clip_vision_model" and config is not whole:
        config.projection_dim = whole.projection_dim  # the repo's projection follows the outer one
    return config


def _tower_of_ours(name: str, raw: dict) -> tuple[PreTrainedConfig, dict]:
    """Config and image processing of the backbone of a geohf model."""
    tower = raw.get("vision_config")
    if not tower:
        raise DataError(f"{name}: is a {raw['model_type']} model whose backbone cannot start another")
    config = AutoConfig.for_model(**tower)
    kept = raw.get("image_processor") or {}
    names = ("size", "crop_size", "resample", "image_mean", "image_std")
    processing = {key: kept[key] for key in names if key in kept}
    if len(processing) < len(names):
        processing = default_processing(name, config) | processing
    return config, processing


def require_weights(weights: str | os.PathLike | None, pretrained: bool) -> None:
    """Raise DataError where a file of weights is not there, or would not be read."""
    if weights is None:
        return
    if not pretrained:
        raise DataError(
            f"{weights} would not be read: --backbone_weights needs --backbone, not --pretrained false"
        )
    if not Path(weights).exists():
        raise DataError(f"{weights}: no such file of weights")


def load_tower(backbone: Backbone) -> PreTrainedModel:
    """A backbone with its published weights, in float32.

    Raises:
        DataError: the weights cannot be read, or are not, name by name and shape by shape, those of the backbone.
    """
    if backbone.timm is not None:
        return load_timm(backbone.timm, backbone.config)
    try:
        return _load_transformers(backbone)
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{backbone.name}: the backbone's weights cannot be loaded: {reason_of(error)}"
        ) from error


def _load_transformers(backbone: Backbone) -> PreTrainedModel:
    published = backbone.config
    if getattr(published, "num_channels", backbone.published_bands) != backbone.published_bands:
        published = copy.deepcopy(published)
        published.num_channels = backbone.published_bands
    kind: Any = tower_class(backbone.config)
    # a CLIP repo holds a text tower too, and each of its weights would be reported; what carries the name of a part
    # of the backbone must find its place
    with torch.device("meta"):
        parts = "|".join(re.escape(part) for part, _ in build_tower(published).named_children())
    prefix = re.escape(kind.base_model_prefix)
    lenient = {
        "_keys_to_ignore_on_load_unexpected": [rf"^(?!(?:{prefix}\.)?(?:{parts})\.)", f"{UNUSED}$"],
        "__module__": kind.__module__,
    }
    where: Path | None = backbone.weights
    if where is None:
        where = Path(backbone.name) if Path(backbone.name).is_dir() else hub_weights(backbone.name)
    given = {}
    if where.is_file() or _is_ours(where):
        tensors, where = read_tensors(where), None
        ours = {key[len("tower.") :]: t for key, t in tensors.items() if key.startswith("tower.")}
        given = {"state_dict": ours or tensors}  # of a geohf model its tower
    derived: Any = type(kind.__name__, (kind,), lenient)
    tower, info = derived.from_pretrained(
        where,
        config=published,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are listed; they are refused below
        **given,
        **without_pooler(backbone.config),
    )
    tower.__class__ = kind
    tower._keys_to_ignore_on_load_unexpected = set(kind._keys_to_ignore_on_load_unexpected or ())
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(UNUSED))
    misshapen = sorted(f"{key} {tuple(old)}, not {tuple(new)}" for key, old, new in info["mismatched_keys"])
    for keys, problem in (
        (misshapen, "the backbone's weights cannot be loaded, they have another shape"),
        (missing, "the repo lacks weights of the backbone"),
        (sorted(info["unexpected_keys"]), "the backbone has no place for these weights of the repo"),
    ):
        if keys:
            raise DataError(f"{backbone.weights or backbone.name}: {problem}: {listed(keys)}")
    if published is not backbone.config:
        loaded, tower = tower.state_dict(), build_tower(backbone.config).eval()
        tower.load_state_dict(adapt_first_convolution(backbone.name, loaded, tower.state_dict()))
    align_weights(tower)
    return tower


def _is_ours(folder: Path) -> bool:
    kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    return kind.startswith("geohf_") and kind != TimmTowerConfig.model_type


def _require_size(name: str, config: PreTrainedConfig, side: int) -> None:
    """Raise DataError where a transformers tower cannot take images of this side."""
    own = getattr(config, "image_size", side)
    patch = getattr(config, "patch_size", 1)
    if isinstance(patch, int) and side % patch:
        raise DataError(f"{name}: image size {side} is no multiple of its patch size {patch}")
    try:
        feature_size(config, side)
    except (RuntimeError, ValueError, AssertionError):
        raise DataError(f"{name}: its image size is {own} and cannot be changed to {side}") from None


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
