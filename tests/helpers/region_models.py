"""Tiny models and runs for the region tests."""

from dataclasses import fields
from pathlib import Path

import torch

from geohf.recipes.train_region import run as run_region
from geohf.region import GeoRegionConfig, GeoRegionModel
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.sample import EXCLUDE, TRAIN_IMAGES, TRAIN_TABLE, VAL_IMAGES, VAL_TABLE
from geohf.vision.backbones import TimmTowerConfig

WGS84 = [
    {"center": [36.361, 127.361], "scale": [0.0015, 0.002]},
    {"center": [36.366, 127.367], "scale": [0.0016, 0.0021]},
    {"center": [36.371, 127.354], "scale": [0.0017, 0.0022]},
]
PLANAR = [
    {"center": [220800.5, 186300.25], "scale": [150.0, 140.0]},
    {"center": [221400.125, 186900.0], "scale": [151.0, 141.0]},
    {"center": [222000.0, 185700.75], "scale": [152.0, 142.0]},
]


def build_model(experts="separate", frame="wgs84", regions=3, seed=0, **settings) -> GeoRegionModel:
    """An untrained model of regions "1", "3", "5", whose answers differ from photograph to photograph."""
    torch.manual_seed(seed)
    fields = {
        "vision_config": TimmTowerConfig(architecture="test_resnet", image_size=48),
        "image_processor": {
            "size": {"shortest_edge": 48},
            "crop_size": {"height": 48, "width": 48},
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
        "feature_size": 96,
        "id2label": dict(enumerate(["1", "3", "5"][:regions])),
        "scalers": (WGS84 if frame == "wgs84" else PLANAR)[:regions],
    }
    config = GeoRegionConfig(**(fields | settings), experts=experts, frame=frame)
    return GeoRegionModel(config).eval()


def options_of(sample: Path, **changes) -> RegionArguments:
    """The options of a small run on a sample's files as if they were a user's."""
    defaults = {
        "train_csv": str(sample / TRAIN_TABLE),
        "train_dir": str(sample / TRAIN_IMAGES),
        "val_csv": str(sample / VAL_TABLE),
        "val_dir": str(sample / VAL_IMAGES),
        "exclude": [str(sample / EXCLUDE)],
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": 48,
        "min_rows": 10,
    }
    return RegionArguments(**(defaults | changes))


def arguments_of(folder: Path, **changes) -> RegionTrainingArguments:
    """The training arguments of a small run: three epochs, on the CPU, quiet."""
    defaults = {
        "output_dir": str(folder),
        "num_train_epochs": 3,
        "t_0": 3,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return RegionTrainingArguments(**(defaults | changes))


def small_run(folder: Path, sample: Path, **changes):
    """Run the recipe's function: (its folder, its Trainer); changes go to the options or the training, by name."""
    names = {field.name for field in fields(RegionArguments)}
    options = {name: value for name, value in changes.items() if name in names}
    training = {name: value for name, value in changes.items() if name not in names}
    run = folder / "run"
    return run, run_region(options_of(sample, **options), arguments_of(run, **training))


def tensors(model) -> dict[str, torch.Tensor]:
    """A copy of all weights and statistics."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def table_of(trainer) -> list[dict]:
    """The last evaluation's numbers: a row a region, and one for all."""
    return trainer.evaluated.details["table"]
