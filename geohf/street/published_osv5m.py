"""The baseline of OpenStreetView-5M as its authors published it (Astruc et al., 2404.18873), as a geohf model.

A folder with config.json and model.safetensors, as huggingface_hub's mixin writes them, and the table of the cells, which
lies in the authors' repository under `utils/`. The class token of a CLIP, without CLIP's last norm, goes into two heads: the
cell, and a step from the mean of the cell's training points towards its edges, at most 1.2 times as far.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from geohf.data.tables import read_table
from geohf.errors import DataError, listed
from geohf.geo.quadtree import tree_of_boxes
from geohf.models.configuration import as_data_error
from geohf.models.published import fill_published
from geohf.street.cells import cell_names
from geohf.vision.backbones import resolve_backbone
from geohf.vision.preprocessing import CLIP
from geohf.vision.repos import read_tensors
from geohf.vision.timm_towers import TimmTowerConfig

if TYPE_CHECKING:
    from geohf.street.modeling import GeoStreetModel

TITLE, LICENSE = "OSV-5M's baseline (github.com/gastruc/osv5m)", "mit"
BACKBONE = "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"
CELLS = "quadtree_10_1000.csv"
COLUMNS = ("cluster_id", "min_lat", "min_lon", "max_lat", "max_lon", "mean_lat", "mean_lon")
REACH, GROUPS = 1.2, 4
BICUBIC = 3
VISION = "backbone.clip.vision_model."
TOKENS = (f"{VISION}embeddings.class_embedding", f"{VISION}embeddings.position_embedding.weight")
# position numbers, and CLIP's norm that the heads do not see
UNUSED = re.compile(rf"{re.escape(VISION)}(embeddings\.position_ids|post_layernorm\.(weight|bias))")
# published part of a name -> ours
PARTS = {
    f"{VISION}embeddings.class_embedding": "tower.timm.cls_token",
    f"{VISION}embeddings.patch_embedding.": "tower.timm.patch_embed.proj.",
    f"{VISION}embeddings.position_embedding.weight": "tower.timm.pos_embed",
    f"{VISION}pre_layrnorm.": "tower.timm.norm_pre.",
    f"{VISION}encoder.layers.": "tower.timm.blocks.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
    ".self_attn.qkv.": ".attn.qkv.",
    ".self_attn.out_proj.": ".attn.proj.",
    "mid.classif.": "head.classify.",
    "mid.reg.": "head.locate.",
}


def load_osv5m(kind: type[GeoStreetModel], folder: Path, backbone: str | None) -> GeoStreetModel:
    """The model in a published folder.

    Args:
        backbone: a folder with the config.json of the CLIP that it stands on, whose weights are not read; from the Hub where
            None.

    Raises:
        DataError: a file is missing, or its tensors or cells are not those of this model.
    """
    absent = [name for name in ("config.json", "model.safetensors", CELLS) if not (folder / name).is_file()]
    if absent:
        hint = f"; the cells lie in the authors' repository, utils/{CELLS}" if CELLS in absent else ""
        raise DataError(f"{folder}: is no folder of OSV-5M's baseline: it lacks {', '.join(absent)}{hint}")
    file = folder / "model.safetensors"
    tensors = _joined(_named(read_tensors(file), file), file)
    cells = read_cells(folder / CELLS)
    clip = resolve_backbone(backbone or _backbone_of(folder)).config
    if clip.model_type != "clip_vision_model" or clip.hidden_act not in ("gelu", "quick_gelu"):
        raise DataError(f"{backbone}: is no CLIP of vision transformers, which OSV-5M's baseline stands on")
    hidden, gps_hidden = (f"mid.classif.{layer}.bias" for layer in (1, 4))
    _require_weights(tensors, (hidden, gps_hidden), file)
    with as_data_error():
        config = kind.config_class(
            vision_config=_tower(clip),
            image_processor={
                "size": {"shortest_edge": clip.image_size},
                "crop_size": {"height": clip.image_size, "width": clip.image_size},
                "resample": BICUBIC,
                "image_mean": CLIP[0],
                "image_std": CLIP[1],
            },
            feature_size=clip.hidden_size,
            hidden_size=len(tensors[hidden]),
            gps_hidden_size=len(tensors[gps_hidden]),
            head_norm_groups=GROUPS,
            point_estimate="top",
            backbone_name=TITLE,
            backbone_license=LICENSE,
            **cells,
        )
    model = kind(config)
    parts = nn.Module()
    parts.tower, parts.head = model.tower, nn.Module()
    parts.head.classify, parts.head.locate = model.head.classify, model.head.locate
    fill_published(parts, tensors, _our_name, _their_name, file)
    return model.eval()


def read_cells(path: Path) -> dict[str, Any]:
    """The config's fields about the cells of a table whose row i is cell i."""
    table = read_table(path, required=COLUMNS, numbers=COLUMNS)[list(COLUMNS)].to_numpy(np.float64)
    numbers, low, high, mean = table[:, 0], table[:, 1:3], table[:, 3:5], table[:, 5:]
    wrong = (numbers != np.arange(len(table))) | ~((low <= mean) & (mean <= high)).all(1)
    wrong |= (np.abs(np.c_[low, high]) > (90, 180, 90, 180)).any(1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{path}, row {row + 2}: is no cell {row} whose mean lies between its corners")
    try:
        tree = tree_of_boxes(low, high)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return {
        "cells": True,
        "cell_tree": tree.to_dict(),
        "class_centroids": mean.tolist(),
        "class_extents": (REACH * (high - mean)).tolist(),
        "class_extents_southwest": (REACH * (mean - low)).tolist(),
        "gps_box": [*low.min(0).tolist(), *high.max(0).tolist()],
        "id2label": dict(enumerate(cell_names(mean))),
    }


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a published folder."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: is no config, but {type(config).__name__}")
    return config


def _backbone_of(folder: Path) -> str:
    """The repo of the CLIP that a published config.json names."""
    entry: Any = read_config(folder)
    for name in ("model", "backbone", "instance", "path"):
        entry = entry.get(name) if isinstance(entry, dict) else None
    return str(entry or BACKBONE)


def _tower(clip: Any) -> TimmTowerConfig:
    """A backbone of timm as CLIP's, whose feature is the class token before the last norm."""
    return TimmTowerConfig(
        architecture="vit_large_patch14_clip_224",
        image_size=clip.image_size,
        model_args={
            "img_size": clip.image_size,
            "patch_size": clip.patch_size,
            "embed_dim": clip.hidden_size,
            "depth": clip.num_hidden_layers,
            "num_heads": clip.num_attention_heads,
            "mlp_ratio": clip.intermediate_size / clip.hidden_size,
            "act_layer": clip.hidden_act,
            "final_norm": False,
        },
    )


def _require_weights(tensors: dict[str, torch.Tensor], names: Sequence[str], file: Path) -> None:
    absent = [name for name in names if name not in tensors]
    if absent:
        raise DataError(f"{file}: lacks these weights of the model: {listed(absent)}")


def _named(tensors: dict[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Each tensor once, without what is unused: the mixin's module has each part under two names."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        own = name.removeprefix("model.")
        if own in renamed and not torch.equal(renamed[own], tensor):
            raise DataError(f"{file}: {own} and model.{own} are not the same weights")
        renamed[own] = tensor
    return {name: tensor for name, tensor in renamed.items() if not UNUSED.fullmatch(name)}


def _joined(tensors: dict[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Query, key and value of each layer as one, and tokens in the shapes of timm's."""
    joined = dict(tensors)
    for name in [name for name in joined if re.search(r"\.self_attn\.[qkv]_proj\.", name)]:
        three = [re.sub(r"\.[qkv]_proj\.", f".{part}_proj.", name) for part in "qkv"]
        if name != three[0] and three[0] in tensors:
            continue  # the query's turn has come or comes
        _require_weights(tensors, three, file)
        joined[name.replace(".q_proj.", ".qkv.")] = torch.cat([joined.pop(other) for other in three])
    for name in TOKENS:
        if name in joined:
            joined[name] = joined[name].reshape(1, -1, joined[name].shape[-1])
    return joined


def _our_name(name: str) -> str:
    """The name that a published tensor has in our model; its own where it has none."""
    for theirs, ours in PARTS.items():
        name = name.replace(theirs, ours)
    return name


def _their_name(name: str) -> str:
    """The name that a parameter of our model has in the published file."""
    for theirs, ours in PARTS.items():
        name = name.replace(ours, theirs)
    return name
