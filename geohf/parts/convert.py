"""Annotations from any layout that is read to any that is written, with a state for each box."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.tables import file_in
from geohf.errors import DataError, require_choice
from geohf.io import atomic_write
from geohf.parts.boxes import xyxy_to_xywh
from geohf.parts.cvat import write_cvat
from geohf.parts.data import load_parts, split_parts
from geohf.parts.label_studio import write_label_studio
from geohf.parts.records import PartRecord, PhotoRecord, Source
from geohf.parts.voc import unique_stems, write_voc
from geohf.parts.vocabulary import names_of
from geohf.parts.yolo import write_yolo

if TYPE_CHECKING:
    from datasets import Dataset

    Splits = Mapping[str, Dataset]

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
    images: list[dict] = []
    annotations: list[dict] = []
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
    **loading: Any,
) -> dict[str, dict]:
    """Load annotations, check them, and write each split in a layout, `train_coco.json` and so on.

    Args:
        source: see `load_parts`, as for `loading`.
        folder: where the files go; photos stay where they are, but those of YOLO and VOC are copied into its folders
            of images, by whose names these layouts know them.
        layout: one of `LAYOUTS`.
        validation: share of train that becomes validation, stratified by state; only where the source has none.

    Returns:
        split -> statistics.

    Raises:
        DataError: an unknown layout, or one that cannot say what the source does.
    """
    require_choice(LAYOUTS, layout=layout)
    splits, _ = load_parts(source, **loading)
    if validation:
        if "validation" in splits:
            raise DataError(f"{source}: has a validation split already; leave out the share for validation")
        splits = {**splits, **split_parts(splits["train"], validation=validation, test=0.0, seed=seed)}
    LAYOUTS[layout](Path(folder), splits)
    return {split: statistics_of(dataset) for split, dataset in splits.items()}


def records_of(dataset: Dataset) -> Source:
    """The photos of a split as records, boxes rounded to `DECIMALS`."""
    parts, states = names_of(dataset)
    photos = []
    for row in _rows(dataset):
        photo = PhotoRecord(row["image_id"], row["width"], row["height"])
        for box, part, state, trust, crowd in _parts(row):
            photo.parts.append(PartRecord(parts[part], states.get(state), box, trust, crowd=crowd))
        photos.append(photo)
    return Source(Path(), photos, list(parts.values()), list(states.values()))


def _each(ending: str, write: Callable[[Path, Dataset], Any]) -> Callable[[Path, Splits], None]:
    """Writes a file a split, called after it."""

    def write_splits(folder: Path, splits: Splits) -> None:
        for split, dataset in splits.items():
            write(folder / f"{FILES[split]}_{ending}", dataset)

    return write_splits


def _yolo(folder: Path, splits: Splits) -> None:
    write_yolo(folder, {split: records_of(dataset) for split, dataset in splits.items()})
    for split, dataset in splits.items():
        _copy_photos(dataset, folder / "images" / FILES[split])


def _voc(folder: Path, splits: Splits) -> None:
    unique_stems(name for dataset in splits.values() for name in dataset["image_id"])
    for split, dataset in splits.items():
        write_voc(folder, FILES[split], records_of(dataset))
        _copy_photos(dataset, folder / "JPEGImages")


def _copy_photos(dataset: Dataset, folder: Path) -> None:
    for name, image in zip(dataset["image_id"], dataset["image"], strict=True):
        target = Path(file_in(folder, name))
        content = image["bytes"] or Path(image["path"]).read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            with atomic_write(target, binary=True) as file:
                file.write(content)


LAYOUTS: dict[str, Callable[[Path, Splits], None]] = {
    "coco": _each("coco.json", write_coco),
    "delftbikes": _each("annotations.json", write_delftbikes),
    "cvat": _each("cvat.xml", lambda path, dataset: write_cvat(path, records_of(dataset))),
    "label_studio": _each(
        "label_studio.json", lambda path, dataset: write_label_studio(path, records_of(dataset))
    ),
    "yolo": _yolo,
    "voc": _voc,
}


def _rows(dataset: Dataset) -> Dataset:
    """Without the column that holds the pictures."""
    return dataset.remove_columns("image")


def _parts(row: dict) -> Iterator[tuple[list[float], int, int, float, bool]]:
    """(left, top, width, height), part, state, trust and iscrowd of each part."""
    boxes = xyxy_to_xywh(row["boxes"]).round(DECIMALS).tolist()
    trust = np.round(row["trust"], DECIMALS).tolist()
    return zip(boxes, row["parts"], row["states"], trust, row["iscrowd"], strict=True)
