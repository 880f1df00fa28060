"""Annotations from one layout to the other: DelftBikes to COCO with a state for each box, and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.errors import DataError
from geohf.parts.boxes import xyxy_to_xywh
from geohf.parts.data import load_parts, split_parts
from geohf.parts.vocabulary import names_of
from geohf.report import atomic_write

if TYPE_CHECKING:
    from datasets import Dataset

DECIMALS = 3  # of a pixel, and of trust; float32 coordinates below 8192 keep them
FILES = {
    "train": "train",
    "validation": "val",
    "test": "test",
}  # as the reference implementation names its files


def write_coco(path: str | Path, dataset: Dataset) -> dict:
    """Write a split as COCO JSON, with `state` and `trust` in each annotation and a list `states` like `categories`.

    Category ids start at 1 in the order of the parts, state ids at 0.

    Returns:
        Statistics, see `statistics_of`.
    """
    parts, states = names_of(dataset)
    images, annotations = [], []
    for number, row in enumerate(_rows(dataset), 1):
        images.append(
            {"id": number, "file_name": row["image_id"], "width": row["width"], "height": row["height"]}
        )
        for box, part, state, trust, crowd in _parts(row):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": part + 1,
                "bbox": box,
                "area": round(box[2] * box[3], DECIMALS),
                "iscrowd": int(crowd),
                "state": state,
                "trust": trust,
            }
            annotations.append({key: v for key, v in annotation.items() if key != "state" or not crowd})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in parts.items()],
        "states": [{"id": i, "name": name} for i, name in states.items()],
    }
    with atomic_write(path) as file:
        json.dump(content, file)
    return statistics_of(dataset)


def write_delftbikes(path: str | Path, dataset: Dataset) -> dict:
    """Write a split in the layout of DelftBikes.

    Returns:
        Statistics, see `statistics_of`.

    Raises:
        DataError: a photo shows a part twice, or a crowd of it, which that layout cannot say.
    """
    names, states = names_of(dataset)
    content = {}
    for row in _rows(dataset):
        size = {"filename": row["image_id"], "width": row["width"], "height": row["height"], "channels": 3}
        parts = {}
        for box, part, state, trust, crowd in _parts(row):
            if names[part] in parts or crowd:
                how = "as a crowd" if crowd else "twice"
                raise DataError(
                    f"{row['image_id']}: shows {names[part]!r} {how}, which this layout cannot say"
                )
            parts[names[part]] = {
                "part_name": names[part],
                "object_state": states[state],
                "object_state_class": state,
                "trust": trust,
                "absolute_bounding_box": dict(zip(("left", "top", "width", "height"), box, strict=True)),
            }
        content[row["image_id"]] = {"image": size, "parts": parts}
    with atomic_write(path) as file:
        json.dump(content, file)
    return statistics_of(dataset)


def statistics_of(dataset: Dataset) -> dict:
    """Counts of a split: `images`, `annotations`, and of each state `states` and each part `parts`, by name.

    A crowd counts as an annotation of its part, in no state.
    """
    parts, states = names_of(dataset)
    columns = {"parts": parts, "states": states}
    counts = {
        key: Counter(names[i] for row in dataset[key] for i in row if i >= 0)
        for key, names in columns.items()
    }
    return {"images": len(dataset), "annotations": counts["parts"].total()} | {
        key: {name: counts[key][name] for name in names.values()} for key, names in columns.items()
    }


def convert(
    source: str | Path,
    folder: str | Path,
    layout: str = "coco",
    validation: float = 0.0,
    seed: int = 42,
    **loading,
) -> dict[str, dict]:
    """Load annotations, check them, and write each split as `train_coco.json`, `val_coco.json` and so on.

    Args:
        source: see `load_parts`, as for `loading`.
        folder: where the JSON files go; photos stay where they are.
        layout: `coco`, or `delftbikes` for `train_annotations.json` and so on.
        validation: share of train that becomes validation, stratified by state; only where the source has none.

    Returns:
        split -> statistics.
    """
    splits, _ = load_parts(source, **loading)
    if validation:
        if "validation" in splits:
            raise DataError(f"{source}: has a validation split already; leave out the share for validation")
        splits = {**splits, **split_parts(splits["train"], validation=validation, test=0.0, seed=seed)}
    if layout not in ("coco", "delftbikes"):
        raise DataError(f"layout must be coco or delftbikes, got {layout!r}")
    write, ending = (write_coco, "coco") if layout == "coco" else (write_delftbikes, "annotations")
    return {
        split: write(Path(folder) / f"{FILES[split]}_{ending}.json", dataset)
        for split, dataset in splits.items()
    }


def _rows(dataset: Dataset):
    return dataset.remove_columns("image")


def _parts(row: dict):
    """(left, top, width, height), part, state, trust and iscrowd of each part."""
    boxes = xyxy_to_xywh(row["boxes"]).round(DECIMALS).tolist()
    trust = np.round(row["trust"], DECIMALS).tolist()
    return zip(boxes, row["parts"], row["states"], trust, row["iscrowd"], strict=True)
