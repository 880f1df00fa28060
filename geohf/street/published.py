"""Models of geolocation as their authors published them, as geohf models.

GeoCLIP: two layers behind CLIP's projected feature, a location encoder on the Equal Earth map, the scale of their cosines,
and a gallery of positions. They lie in the package `geoclip` of the package index, as three files and a table, or in a
folder of the Hub with a config.json; CLIP itself is fetched from its own repo, or read from a folder. OSV-5M's baseline:
see `geohf.street.published_osv5m`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from geohf.errors import DataError, require_choice
from geohf.models.published import fill_published
from geohf.street.gallery import gallery_points
from geohf.street.published_osv5m import TITLE as OSV5M
from geohf.street.published_osv5m import load_osv5m, read_config
from geohf.vision.licenses import is_noncommercial
from geohf.vision.repos import read_tensors

if TYPE_CHECKING:
    from geohf.street.modeling import GeoStreetModel

# as cards name them
PUBLISHED = {"geoclip": "GeoCLIP (github.com/VicenteVivan/geo-clip)", "osv5m": OSV5M}
LICENSE = "mit"
BACKBONE = "openai/clip-vit-large-patch14"
RELEASE, VERSION = "geoclip-geolocation", 1
SIGMAS = [1.0, 16.0, 256.0]
# file of the package -> what its tensors are called in a release folder
FILES = {
    "location_encoder_weights.pth": "location_encoder.",
    "image_encoder_mlp_weights.pth": "image_encoder.mlp.",
    "logit_scale_weights.pth": "",
}
GALLERY = "gps_gallery/coordinates_100K.csv"
# published layer of a scale's net -> ours
LAYERS = {"capsule.0.b": "frequencies"} | {
    f"{theirs}.{kind}": f"layers.{ours}.{kind}"
    for theirs, ours in (("capsule.1", 0), ("capsule.3", 2), ("capsule.5", 4), ("head.0", 6))
    for kind in ("weight", "bias")
}


@dataclass
class Published:
    """What a published model holds."""

    tensors: dict[str, torch.Tensor]  # under the names of a release folder
    gallery: np.ndarray  # (n, 2) degrees
    sigmas: list[float]  # of the location encoder's scales
    backbone: str = BACKBONE  # the repo whose vision backbone it stands on


def load_published(
    kind: type[GeoStreetModel], name: str, folder: str | os.PathLike | None, backbone: str | None
) -> GeoStreetModel:
    """The model in a published folder, see `GeoStreetModel.from_published`."""
    require_choice(PUBLISHED, **{"published model": name})
    if name == "osv5m":
        if folder is None:
            raise DataError("osv5m: name the folder that holds it")
        return load_osv5m(kind, Path(folder), backbone)
    where = _installed() if folder is None else Path(folder)
    release = _read_release(where) if (where / "config.json").is_file() else _read_package(where)
    hidden, last = (
        release.tensors.get(f"location_encoder.LocEnc0.{name}.weight") for name in ("capsule.1", "head.0")
    )
    if hidden is None or last is None or hidden.ndim != 2 or last.ndim != 2:
        raise DataError(f"{where}: lacks the location encoder of {name}")
    model = kind.from_backbone(
        backbone or release.backbone,
        gps_head="gallery",
        location_encoder="equal_earth",
        location_size=len(last),
        location_hidden_size=len(hidden),
        location_sigmas=release.sigmas,
        noise_m=150.0,
    )
    match = model.head.match
    parts = nn.Module()
    parts.location, parts.image, parts.logit_scale = match.location, match.image, match.logit_scale
    fill_published(parts, release.tensors, _our_name, _their_name, where)
    match.set_gallery(release.gallery)
    if not is_noncommercial(model.config.backbone_license):
        model.config.backbone_license = LICENSE
    model.config.backbone_name = PUBLISHED[name]
    return model.eval()


def _installed() -> Path:
    """The folder of the installed package, which is not imported."""
    spec = importlib.util.find_spec("geoclip")
    if spec is None or spec.origin is None:
        raise DataError(
            "geoclip: name the folder that holds it, or install the package: pip install --no-deps geoclip==1.3.0"
        )
    return Path(spec.origin).parent / "model"


def _read_package(folder: Path) -> Published:
    weights = next((f for f in (folder / "weights", folder / "model/weights") if f.is_dir()), folder)
    needed = {file: weights / file for file in FILES} | {GALLERY: weights.parent / GALLERY}
    absent = [name for name, path in needed.items() if not path.is_file()]
    if absent:
        raise DataError(
            f"{folder}: is no folder of GeoCLIP's: it lacks {', '.join(absent)}, and a config.json of the type {RELEASE}"
        )
    tensors: dict[str, torch.Tensor] = {}
    for file, prefix in FILES.items():
        tensors |= {prefix + name: tensor for name, tensor in read_tensors(needed[file]).items()}
    # a file of one number, which is called by the file
    tensors = {"logit_scale" if name == "logit_scale_weights" else name: t for name, t in tensors.items()}
    return Published(tensors, gallery_points(needed[GALLERY], repeats=True), SIGMAS)


def _read_release(folder: Path) -> Published:
    config = read_config(folder)
    kind, version = config.get("model_type"), config.get("format_version")
    if kind != RELEASE or version != VERSION:
        raise DataError(f"{folder}: is a {kind} of format {version}; {RELEASE} of format {VERSION} is wanted")
    gallery = str(config.get("gallery_file"))
    if Path(gallery).name != gallery or not (folder / gallery).is_file():
        raise DataError(f"{folder}: lacks the gallery {gallery!r} that its config.json names")
    backbone = config.get("backbone") or {}
    return Published(
        read_tensors(folder / "model.safetensors"),
        gallery_points(folder / gallery, repeats=True),
        [float(sigma) for sigma in config.get("sigma") or SIGMAS],
        str(backbone.get("repo_id") or BACKBONE),
    )


def _our_name(name: str) -> str:
    """The name that a published tensor has in our model; its own where it has none."""
    scale = re.fullmatch(r"location_encoder\.LocEnc(\d+)\.(.+)", name)
    if scale and scale[2] in LAYERS:
        return f"location.scales.{scale[1]}.{LAYERS[scale[2]]}"
    return name.replace("image_encoder.mlp.", "image.", 1)


def _their_name(name: str) -> str:
    """The name that a parameter of our model has in a release folder."""
    scale = re.fullmatch(r"location\.scales\.(\d+)\.(.+)", name)
    if scale:
        theirs = {ours: published for published, ours in LAYERS.items()}
        return f"location_encoder.LocEnc{scale[1]}.{theirs[scale[2]]}"
    return name.replace("image.", "image_encoder.mlp.", 1)
