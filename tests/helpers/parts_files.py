"""Small annotated photos on disk for the tests of loading."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image


def part(state="intact", box=(4, 6, 10, 8), trust=0.9, **changes) -> dict:
    """The entry of one part, its box as left, top, width, height."""
    sides = dict(zip(("left", "top", "width", "height"), box, strict=True))
    entry = {"object_state": state, "trust": trust, "absolute_bounding_box": sides}
    return {key: value for key, value in (entry | changes).items() if value is not None}


def photo(width=40, height=30, **parts) -> dict:
    """The entry of one photo with these parts, by default an intact saddle and an absent bell."""
    parts = parts or {"saddle": part(), "bell": part("absent", (20, 5, 6, 6))}
    return {"image": {"width": width, "height": height, "channels": 3}, "parts": parts}


def write_photos(folder: Path, photos: dict, listed_only=(), split: str = "train") -> Path:
    """Write photos of 40 x 30 pixels, each of another color, and `<split>_annotations.json`; those `listed_only` get no file."""
    (folder / split).mkdir(parents=True)
    for i, name in enumerate(photos):
        if name not in listed_only:
            Image.new("RGB", (40, 30), (i % 6 * 50, i // 6 % 6 * 50, 128)).save(folder / split / name)
    (folder / f"{split}_annotations.json").write_text(json.dumps(photos))
    return folder


def coco(folder: Path, annotations, name: str = "train_coco.json", size=(40, 30), **changes) -> Path:
    """A COCO file with one gray photo of 40 x 30, categories `wheel` and `door`, states `whole` and `dented`."""
    content = {
        "images": [{"id": 7, "file_name": "1.jpg", "width": size[0], "height": size[1]}],
        "categories": [{"id": 9, "name": "door"}, {"id": 4, "name": "wheel"}],
        "states": [{"id": 1, "name": "dented"}, {"id": 0, "name": "whole"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 4, "bbox": [1, 2, 10, 8]} | annotation
            for i, annotation in enumerate(annotations, 1)
        ],
    }
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", size).save(folder / "images" / "1.jpg")
    path = folder / name
    path.write_text(json.dumps(content | changes))
    return path
