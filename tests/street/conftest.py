"""What the tests of the street task share: tiny models, pictures, a fresh process's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# far apart, two of them at the antimeridian's side, one whose extent crosses it
STATES = {
    "California": (36.8, -119.4, 4.6, 5.1),
    "Texas": (31.5, -99.3, 5.2, 6.4),
    "Alaska": (64.1, -178.5, 7.0, 9.0),
    "Maine": (45.3, -69.2, 2.1, 2.0),
    "Hawaii": (20.3, -156.4, 1.5, 2.5),
}
CLASSES = {
    "class_centroids": [list(row[:2]) for row in STATES.values()],
    "class_extents": [list(row[2:]) for row in STATES.values()],
    "class_indices": [4, 42, 1, 18, 10],
    "id2label": dict(enumerate(STATES)),
    "gps_box": [18.0, 172.0, 72.0, -66.0],
}
HEADINGS = ("north", "east", "south", "west")
# a repo of geohf's tower of tiny size and random weights
TOWER = {"name": "test_resnet", "pretrained": False, "image_size": 32}


def build_model(seed: int = 0, **fields):
    """A street model on a tiny tower with weights of this seed; `classes=False` only regresses."""
    from geohf.street import GeoStreetModel

    classes = fields.pop("classes", True)
    defaults = CLASSES if classes else {"gps_head": "bounded", "gps_box": CLASSES["gps_box"]}
    torch.manual_seed(seed)
    name, options = TOWER["name"], {k: v for k, v in TOWER.items() if k != "name"}
    return GeoStreetModel.from_backbone(name, **options, **(defaults | {"hidden_size": 24} | fields))


def patches(seed: int, count: int) -> list[Image.Image]:
    """Pictures of four coloured patches, 48 x 40."""
    rng = np.random.default_rng(seed)
    colours = rng.choice(np.array([0, 255], np.uint8), (count, 2, 2, 3))
    return [Image.fromarray(c).resize((48, 40), Image.Resampling.BICUBIC) for c in colours]


def spread_out(model):
    """Random weights answer almost alike for all pictures; here the heads are scaled until answers differ."""
    with torch.inference_mode():
        features = model.view_features(model.processor(patches(1, 64))["pixel_values"])
        place = model.head.fuse_views(features)
        for name, deviation in (("classify", 1.5), ("locate", 0.7)):
            layers = getattr(model.head, name, None)
            if layers is None:
                continue
            outputs = layers.eval()(place)
            layers[-1].weight.mul_(deviation / outputs.std(0)[:, None])
            layers[-1].bias.zero_().sub_(layers(place).mean(0))
    return model.eval()


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[Path]:
    """Eight different photographs, 48 x 40."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"p{i}.png" for i in range(8)]
    for path, picture in zip(paths, patches(7, 8), strict=True):
        picture.save(path)
    return paths


@pytest.fixture
def street_model() -> Callable:
    """`street_model(seed=0, **config_fields)`, see `build_model`."""
    return lambda seed=0, **fields: spread_out(build_model(seed, **fields))


def flat(predictions) -> list[dict]:
    """Predictions as plain dicts, which compare exactly and travel through JSON."""
    return [asdict(prediction) for prediction in predictions]
