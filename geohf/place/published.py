"""Checkpoints of place recognition as their authors published them, as geohf models."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from geohf.errors import DataError, require_choice
from geohf.models.configuration import as_data_error
from geohf.models.published import fill_published
from geohf.place.configuration import GeoPlaceConfig
from geohf.vision.preprocessing import IMAGENET
from geohf.vision.repos import read_tensors
from geohf.vision.timm_towers import TimmTowerConfig

if TYPE_CHECKING:
    from geohf.place.modeling import GeoPlaceModel


Tensors = Mapping[str, torch.Tensor]
Size = tuple[int, int]

# blocks of the third stage, and whether a block is a bottleneck
RESNETS = {(2, False): "resnet18", (6, True): "resnet50", (23, True): "resnet101", (36, True): "resnet152"}
LAYERS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
CHILDREN = ("0", "1", "4", "5", "6", "7")  # numbers of these layers among a ResNet's children
DINOV2 = {384: "vit_small", 768: "vit_base", 1024: "vit_large"}
PATCH, OFFSET = 14, 0.1  # of DINOv2; its own interpolation of positions adds a tenth of a patch


@dataclass
class Contents:
    """A published file, read: what model it needs, and its tensors in the model's shapes."""

    tower: TimmTowerConfig
    feature_map: list[int]  # channels, rows and columns
    prefixes: dict[str, str]  # published beginning of a name -> ours
    tensors: dict[str, torch.Tensor]  # by their published names
    fields: dict[str, Any] = field(default_factory=dict)  # of the config, about pooling


def _with(prefixes: Mapping[str, str], name: str) -> str:
    """The name with another beginning; as it is where none is known."""
    longest = max((before for before in prefixes if name.startswith(before)), key=len, default="")
    return prefixes.get(longest, "") + name.removeprefix(longest)


def _shape(tensors: Tensors, name: str, dims: int, file: str | os.PathLike) -> torch.Size:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != dims:
        raise DataError(
            f"{file}: lacks the {'matrix' if dims == 2 else 'weights'} {name}, of {dims} dimensions"
        )
    return tensor.shape


def _count(tensors: Tensors, pattern: str) -> int:
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


# ---- backbones


def _resnet(
    tensors: Tensors, prefix: str, names: tuple[str, ...], size: Size, file: str | os.PathLike
) -> Contents:
    """A ResNet of torchvision whose layers bear these names; with fewer names than `LAYERS` it is cut."""
    third = f"{prefix}{names[4]}"
    blocks = _count(tensors, rf"{re.escape(third)}\.(\d+)\.")
    bottleneck = any(".conv3." in name for name in tensors if name.startswith(prefix))
    architecture = RESNETS.get((blocks, bottleneck))
    if architecture is None:
        raise DataError(
            f"{file}: its backbone is none of {', '.join(RESNETS.values())}: {third} has {blocks} blocks"
        )
    if min(size) < 32:
        raise DataError(f"image_size must be at least 32 pixels a side, got {size}")
    cut = len(names) < len(LAYERS)
    channels = (512 if architecture == "resnet18" else 2048) // (2 if cut else 1)
    tower = TimmTowerConfig(architecture=architecture, image_size=224, stages=len(names) - 2 if cut else None)
    prefixes = {f"{prefix}{a}.": f"tower.timm.{b}." for a, b in zip(names, LAYERS, strict=False)}
    rows, columns = (-(-side // (16 if cut else 32)) for side in size)
    return Contents(tower, [channels, rows, columns], prefixes, dict(tensors))


def _dinov2(tensors: Tensors, prefix: str, norm: bool, size: Size, file: str | os.PathLike) -> Contents:
    """DINOv2, its position embeddings brought to the size as DINOv2 itself does; with or without its last norm."""
    if any(side % PATCH or side < PATCH for side in size):
        raise DataError(f"image_size must be multiples of {PATCH} pixels, got {size}")
    _, count, width = _shape(tensors, f"{prefix}pos_embed", 3, file)
    depth = _count(tensors, rf"{re.escape(prefix)}blocks\.(\d+)\.")
    if width not in DINOV2 or not depth or math.isqrt(count - 1) ** 2 != count - 1:
        raise DataError(
            f"{file}: its backbone is no ViT of DINOv2: {depth} blocks of {width} channels, {count} positions"
        )
    rows, columns = (side // PATCH for side in size)
    # what masked patches are trained with, and a norm that the model does not use
    unused = [f"{prefix}mask_token", *([] if norm else [f"{prefix}norm.weight", f"{prefix}norm.bias"])]
    kept = {name: tensor for name, tensor in tensors.items() if name not in unused}
    kept[f"{prefix}pos_embed"] = _positions(tensors[f"{prefix}pos_embed"], rows, columns)
    args = {"img_size": list(size), "depth": depth} | ({} if norm else {"final_norm": False})
    architecture = f"{DINOV2[width]}_patch14_dinov2"
    tower = TimmTowerConfig(architecture=architecture, image_size=max(size), model_args=args)
    return Contents(tower, [width, rows, columns], {prefix: "tower.timm."}, kept)


def _positions(embedding: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(1, 1 + n x n, d) to (1, 1 + rows x columns, d), bicubic; the class token's stays."""
    side = math.isqrt(embedding.shape[1] - 1)
    if (rows, columns) == (side, side):
        return embedding
    grid = embedding[:, 1:].float().unflatten(1, (side, side)).movedim(-1, 1)
    scale = ((rows + OFFSET) / side, (columns + OFFSET) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat([embedding[:, :1], grid.flatten(2).mT.to(embedding.dtype)], 1)


# ---- whole files


def read_cosplace(tensors: Tensors, size: Size, file: str | os.PathLike) -> Contents:
    """CosPlace and EigenPlaces: a ResNet, lengths of 1, GeM and one linear layer."""
    contents = _resnet(tensors, "backbone.", CHILDREN, size, file)
    out, _ = _shape(tensors, "aggregation.3.weight", 2, file)
    contents.fields |= {"pooling": "gem_linear", "gem_dim": out}
    contents.prefixes["aggregation.1.p"] = "head.aggregate.gem.p"
    contents.prefixes["aggregation.3."] = "head.aggregate.linear."
    return contents


def read_mixvpr(tensors: Tensors, size: Size, file: str | os.PathLike) -> Contents:
    """MixVPR on a ResNet that is cut behind its third stage."""
    contents = _resnet(tensors, "backbone.model.", LAYERS[:-1], size, file)
    channels, _ = _shape(tensors, "aggregator.channel_proj.weight", 2, file)
    rows, places = _shape(tensors, "aggregator.row_proj.weight", 2, file)
    _, high, wide = contents.feature_map
    if places != high * wide:
        raise DataError(
            f"{file}: mixes maps of {places} places, and pictures of {size[0]} x {size[1]} pixels have {high} x {wide}; "
            "leave --image_size out"
        )
    depth = _count(tensors, r"aggregator\.mix\.(\d+)\.")
    contents.prefixes |= {
        f"aggregator.mix.{i}.mix.{theirs}.": f"head.aggregate.mixers.{i}.{ours}."
        for i in range(depth)
        for theirs, ours in (("0", "norm"), ("1", "hidden"), ("3", "out"))
    }
    contents.prefixes["aggregator.channel_proj."] = "head.aggregate.channels."
    contents.prefixes["aggregator.row_proj."] = "head.aggregate.rows."
    # the published code has had this layer with a bias and without one
    contents.tensors.setdefault("aggregator.row_proj.bias", torch.zeros(rows))
    contents.fields |= {"pooling": "mixvpr", "mix_depth": depth, "mix_channels": channels, "mix_rows": rows}
    return contents


def read_boq(tensors: Tensors, size: Size, file: str | os.PathLike) -> Contents:
    """BoQ, on DINOv2 without its last norm or on a ResNet that is cut behind its third stage."""
    if any(name.startswith("backbone.dino.") for name in tensors):
        contents = _dinov2(tensors, "backbone.dino.", False, size, file)
    else:
        contents = _resnet(tensors, "backbone.net.", CHILDREN[:-1], size, file)
    _, queries, width = _shape(tensors, "aggregator.boqs.0.queries", 3, file)
    contents.prefixes["aggregator."] = "head.aggregate."
    contents.fields |= {
        "pooling": "boq",
        "boq_channels": width,
        "boq_queries": queries,
        "boq_blocks": _count(tensors, r"aggregator\.boqs\.(\d+)\."),
        "boq_rows": _shape(tensors, "aggregator.fc.weight", 2, file)[0],
    }
    return contents


def read_salad(tensors: Tensors, size: Size, file: str | os.PathLike) -> Contents:
    """SALAD and CliqueMining: DINOv2 with its last norm."""
    return _salad(tensors, "backbone.model.", "aggregator.", size, file)


def read_megaloc(tensors: Tensors, size: Size, file: str | os.PathLike) -> Contents:
    """MegaLoc: SALAD and a linear layer."""
    nested = any(name.startswith("backbone.model.") for name in tensors)
    contents = _salad(tensors, "backbone.model." if nested else "backbone.", "aggregator.agg.", size, file)
    contents.fields["salad_linear_dim"] = _shape(tensors, "aggregator.linear.weight", 2, file)[0]
    contents.prefixes["aggregator.linear."] = "head.aggregate.linear."
    return contents


def read_fol(tensors: Tensors, size: Size, file: str | os.PathLike) -> Contents:
    """FoL's global descriptor: SALAD whose bin is scored by attention. Its local features are left out."""
    kept = dict(tensors)
    for name, dims in (("upconv.weight", 4), ("upconv.bias", 1), ("upconv2.weight", 4), ("upconv2.bias", 1)):
        _shape(tensors, name, dims, file)
        del kept[name]
    contents = _salad(kept, "backbone.model.", "aggregator.", size, file)
    contents.fields["salad_attention"] = True
    return contents


def _salad(tensors: Tensors, backbone: str, head: str, size: Size, file: str | os.PathLike) -> Contents:
    contents = _dinov2(tensors, backbone, True, size, file)
    contents.prefixes[head] = "head.aggregate."
    contents.fields |= {
        "pooling": "salad",
        "clusters": _shape(tensors, f"{head}score.3.weight", 4, file)[0],
        "cluster_dim": _shape(tensors, f"{head}cluster_features.3.weight", 4, file)[0],
        "token_dim": _shape(tensors, f"{head}token_features.2.weight", 2, file)[0],
    }
    for name, tensor in contents.tensors.items():
        if name.startswith(head) and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            contents.tensors[name] = tensor.flatten(1)  # convolutions of one pixel
    return contents


@dataclass(frozen=True)
class Layout:
    """What is known of a published model beside its file."""

    title: str  # as cards name it
    license: str | None  # of the weights; None where their authors state none
    image_size: Size  # height and width that it was published for
    resample: int  # Pillow's number of the interpolation
    read: Callable[[Tensors, Size, str | os.PathLike], Contents]  # of its file


# the code is under MIT; whether this covers weights that were trained on Street View, its author leaves open
STREET_VIEW = "mit-code-street-view-weights"
BILINEAR, BICUBIC = 2, 3
BOQ = "BoQ (github.com/amaralibey/Bag-of-Queries)"
LAYOUTS = {
    "cosplace": Layout(
        "CosPlace (github.com/gmberton/CosPlace)", STREET_VIEW, (480, 640), BILINEAR, read_cosplace
    ),
    "eigenplaces": Layout(
        "EigenPlaces (github.com/gmberton/EigenPlaces)", STREET_VIEW, (480, 640), BILINEAR, read_cosplace
    ),
    "mixvpr": Layout("MixVPR (github.com/amaralibey/MixVPR)", None, (320, 320), BICUBIC, read_mixvpr),
    "salad": Layout("SALAD (github.com/serizba/salad)", "gpl-3.0", (322, 322), BILINEAR, read_salad),
    "cliquemining": Layout(
        "CliqueMining (github.com/serizba/cliquemining)", None, (322, 322), BILINEAR, read_salad
    ),
    "boq-dinov2": Layout(BOQ, "mit", (322, 322), BICUBIC, read_boq),
    "boq-resnet50": Layout(BOQ, "mit", (384, 384), BICUBIC, read_boq),
    "fol": Layout("FoL (github.com/chenshunpeng/FoL)", "apache-2.0", (504, 504), BILINEAR, read_fol),
    "megaloc": Layout("MegaLoc (github.com/gmberton/MegaLoc)", "mit", (322, 322), BILINEAR, read_megaloc),
}
PUBLISHED = {name: layout.title for name, layout in LAYOUTS.items()}


def load_published(
    kind: type[GeoPlaceModel], name: str, file: str | os.PathLike, image_size: tuple[int, int] | None = None
) -> GeoPlaceModel:
    """The model in a published checkpoint, see `GeoPlaceModel.from_published`."""
    require_choice(LAYOUTS, **{"published model": name})
    layout, tensors = LAYOUTS[name], read_tensors(file)
    height, width = image_size or layout.image_size
    contents = layout.read(tensors, (height, width), file)
    size, (mean, std) = {"height": height, "width": width}, map(list, IMAGENET)
    seen = {"size": size, "crop_size": size, "resample": layout.resample}
    seen |= {"image_mean": mean, "image_std": std}
    with as_data_error():
        config = GeoPlaceConfig(
            vision_config=contents.tower,
            image_processor=seen,
            feature_size=contents.feature_map[0],
            feature_map=contents.feature_map,
            projection_dim=None,
            standardize=False,
            backbone_name=layout.title,
            backbone_license=layout.license,
            **contents.fields,
        )
    model, back = kind(config), {ours: theirs for theirs, ours in contents.prefixes.items()}
    names = partial(_with, contents.prefixes), partial(_with, back)  # ours of theirs, and the other way round
    fill_published(model, contents.tensors, *names, file)
    return model.eval()
