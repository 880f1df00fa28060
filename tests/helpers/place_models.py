"""What the tests of the place task share: tiny models, pictures with positions, and short runs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from geohf.geo import EARTH_RADIUS_M
from geohf.place import GeoPlaceModel
from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.losses import CellClassifier
from geohf.training.parser import GeoArgumentParser

ORIGIN = np.array([36.2748, -115.0130])
# meters of a batch that two processes halve: places that both see, so that pairs reach across
MET_IN_BOTH = [0, 200, 400, 600, 800, 1000, 5, 205, 405, 610, 810, 1011]


def build_model(seed: int = 0, backbone: str = "test_resnet", **fields) -> GeoPlaceModel:
    """A place model on a tiny tower with weights of this seed."""
    torch.manual_seed(seed)
    fields = {"projection_dim": 16} | fields
    return GeoPlaceModel.from_backbone(backbone, pretrained=False, image_size=64, **fields)


def along(meters, north: bool = True) -> np.ndarray:
    """(n, 2) degrees of points so many meters from ORIGIN to the north or the east."""
    degrees = np.degrees(np.asarray(meters, float) / EARTH_RADIUS_M)
    zero = np.zeros_like(degrees)
    east = degrees / np.cos(np.radians(ORIGIN[0]))
    return ORIGIN + np.stack([degrees, zero] if north else [zero, east], -1)


def classes_of_places() -> CellClassifier:
    """The classes of `MET_IN_BOTH`, for descriptors of 16 numbers."""
    return CellClassifier(unit(12, 16), along(MET_IN_BOTH), np.full(12, np.nan))


def write_pictures(folder: Path, names, seed: int = 0) -> None:
    """Different pictures of colored patches, 48 x 40."""
    rng = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        patches = rng.integers(0, 256, (3, 3, 3), np.uint8)
        Image.fromarray(patches).resize((48, 40), Image.Resampling.NEAREST).save(path)


def write_csv(path: Path, header: str, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parse(*words) -> tuple[PlaceArguments, PlaceTrainingArguments]:
    always = ("--use_cpu", "true", "--disable_tqdm", "true")
    parser = GeoArgumentParser(PlaceArguments, PlaceTrainingArguments)
    return parser.parse([str(word) for word in (*words, *always)])


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)
