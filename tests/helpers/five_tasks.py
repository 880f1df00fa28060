"""A tiny model of every task, for tests of what all five have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from geohf import TileSequenceConfig, TileSequenceModel
from helpers import parts_models, place_models, region_models, street_models

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
TILES = list(np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), np.uint8))


def tile_model() -> TileSequenceModel:
    torch.manual_seed(0)
    scales = {"level_mean": [10.0], "level_std": [2.0], "band_mean": [100.0] * 3, "band_std": [50.0] * 3}
    config = TileSequenceConfig(hidden_sizes=[8], image_size=[16, 16], frames=4, answers="level", **scales)
    return TileSequenceModel(config).eval()


@dataclass
class Task:
    """A tiny model, its pipeline, one sample of it, and a field of its config that changes the shape of a weight."""

    make: Callable
    pipeline: str
    sample: object
    shape: tuple[str, object]


TASKS = {
    "street": Task(street_models.build_model, "street-geolocation", PHOTO, ("hidden_size", 32)),
    "region": Task(region_models.build_model, "geo-region", PHOTO, ("hidden_size", 48)),
    "place": Task(place_models.build_model, "place-recognition", PHOTO, ("projection_dim", 12)),
    "parts": Task(parts_models.build_model, "part-state-detection", PHOTO, ("box_hidden_size", 48)),
    "tiles": Task(tile_model, "tile-sequence-regression", TILES, ("hidden_sizes", [12])),
}
