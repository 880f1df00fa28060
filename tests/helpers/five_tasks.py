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


def rows_of(name: str, count: int = 4) -> list[dict]:
    """Rows that the task's Trainer learns from."""
    rng = np.random.default_rng(2)
    photos = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(count)]
    if name == "tiles":
        pixels = torch.from_numpy(rng.normal(size=(count, 4, 3, 16, 16)).astype(np.float32))
        return [
            {
                "pixel_values": x,
                "step_mask": torch.ones(4, dtype=torch.bool),
                "labels": torch.tensor([10.0 + i]),
            }
            for i, x in enumerate(pixels)
        ]
    if name == "parts":
        truth = {"boxes": [[8.0, 8.0, 40.0, 40.0]], "parts": [0], "states": [0], "trust": [1.0]}
        return [{"image": photo, "image_id": str(i)} | truth for i, photo in enumerate(photos)]
    state = next(iter(street_models.STATES))
    point = {"latitude": 36.35, "longitude": 127.38, "heading": 0.0, "region": "3", "state": state}
    apart = 1e-4 if name == "place" else 0.01  # pictures of one place
    return [{"image": photo, **point} | {"latitude": 36.35 + i * apart} for i, photo in enumerate(photos)]


def trainer_of(name: str, folder, model=None, count: int = 4, **arguments):
    """A Trainer of the task's tiny model on so many rows, one step an epoch on the CPU."""
    import geohf

    kind, options = {
        "street": (geohf.GeoStreetTrainer, geohf.StreetTrainingArguments),
        "region": (geohf.GeoRegionTrainer, geohf.RegionTrainingArguments),
        "place": (geohf.GeoPlaceTrainer, geohf.PlaceTrainingArguments),
        "parts": (geohf.PartStateTrainer, geohf.PartTrainingArguments),
        "tiles": (geohf.TileSequenceTrainer, geohf.TileTrainingArguments),
    }[name]
    arguments = {
        "use_cpu": True,
        "disable_tqdm": True,
        "num_train_epochs": 1,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    } | arguments
    if name == "place":  # by default its head alone learns, which has no card to push
        arguments = {"finetune": "all", "head_epochs": arguments["num_train_epochs"]} | arguments
    args = options(output_dir=str(folder), **arguments)
    return kind(model or TASKS[name].make(), args, train_dataset=rows_of(name, count))
