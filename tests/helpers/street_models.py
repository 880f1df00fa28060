"""What the tests of the street task share: tiny models, pictures, arguments, and how answers compare."""

from __future__ import annotations

import csv
from dataclasses import asdict

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from geohf.geo import great_circle_m
from geohf.street import GeoStreetModel
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.training.parser import GeoArgumentParser

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


def build_model(seed: int = 0, **fields):
    """A street model on a tiny tower with weights of this seed; `classes=False` only regresses."""
    classes = fields.pop("classes", True)
    defaults = CLASSES if classes else {"gps_head": "bounded", "gps_box": CLASSES["gps_box"]}
    torch.manual_seed(seed)
    fields = defaults | {"hidden_size": 24} | fields
    return GeoStreetModel.from_backbone("test_resnet", pretrained=False, image_size=32, **fields)


def patches(seed: int, count: int) -> list[Image.Image]:
    """Pictures of four colored patches, 48 x 40."""
    rng = np.random.default_rng(seed)
    colors = rng.choice(np.array([0, 255], np.uint8), (count, 2, 2, 3))
    return [Image.fromarray(c).resize((48, 40), Image.Resampling.BICUBIC) for c in colors]


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


def tiny_clip(folder, seed=0):
    torch.manual_seed(seed)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
    text = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 8, "intermediate_size": 8}
    config = CLIPConfig(
        vision_config={**layers, "image_size": 32, "patch_size": 16},
        text_config={**text, "vocab_size": 20},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def flat(predictions) -> list[dict]:
    """Predictions as plain dicts, which compare exactly and travel through JSON."""
    return [asdict(prediction) for prediction in predictions]


def close(found, expected):
    """Equal answers, up to what the size of a batch does to the last digits."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert great_circle_m((a["latitude"], a["longitude"]), (b["latitude"], b["longitude"])) < 20
        assert [s["name"] for s in a["states"]] == [s["name"] for s in b["states"]]
        np.testing.assert_allclose(
            [s["probability"] for s in a["states"]], [s["probability"] for s in b["states"]], atol=1e-4
        )


PLOTS = {
    "confusion.png", "error_cdf.png", "error_map.png", "learning_curves.png", "reliability.png", "risk_coverage.png",
}  # fmt: skip
FILES = {
    "config.json", "model.safetensors", "preprocessor_config.json", "README.md", "metrics.json", "submission.csv",
    "predictions.csv", "predictions.geojson", "map.html", "log_history.csv", *PLOTS,
}  # fmt: skip


def parse(*words):
    always = ("--use_cpu", "--disable_tqdm", "true")
    return GeoArgumentParser(StreetArguments, StreetTrainingArguments).parse(
        [str(w) for w in (*words, *always)]
    )


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
