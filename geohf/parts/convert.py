"""Annotations from any layout that is read to any that is written, with a state for each box."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.cells import file_in
from geohf.errors import DataError, require_choice
from geohf.io import atomic_write, refuse_overwriting
from geohf.parts.answer_table import is_answer_table
from geohf.parts.boxes import xyxy_to_xywh
from geohf.parts.coco import is_coco
from geohf.parts.cvat import write_cvat
from geohf.parts.data import load_parts, split_parts
from geohf.parts.folders import annotation_files
from geohf.parts.label_studio import (
    LABEL_CONFIG,
    is_label_studio,
    write_label_config,
    write_label_studio,
)
from geohf.parts.records import PartRecord, PhotoRecord, Source, parse_json, read_text
from geohf.parts.voc import unique_stems, write_voc
from geohf.parts.vocabulary import attributes_of, names_of
from geohf.parts.yolo import is_yolo, labels_of, write_yolo
from geohf.vision.formats import is_image_name

if TYPE_CHECKING:
    from datasets import Dataset

    Splits = Mapping[str, Dataset]
    Writer = Callable[[Mapping[str, Path], Splits, bool], None]

logger = logging.getLogger(__name__)

DECIMALS = 3  # of a pixel, and of trust; float32 coordinates below 8192 keep them
FILES = {"train": "train", "validation": "val", "test": "test"}  # as the reference implementation names them


def write_coco(path: str | Path, dataset: Dataset, predicted: bool = False) -> None:
    """Write a split as COCO JSON, with `state` and `trust` in each annotation and a list `states` like `categories`.

    Category ids start at 1 in the order of the parts, state ids at 0.

    Args:
        predicted: boxes are answers, and trust is their `score`.
    """
    source = records_of(dataset)
    categories = {name: i for i, name in enumerate(source.parts, 1)}
    states = {name: i for i, name in enumerate(source.states)}
    images: list[dict] = []
    annotations: list[dict] = []
    for number, photo in enumerate(source.photos, 1):
        images.append({"id": number, "file_name": photo.name, "width": photo.width, "height": photo.height})
        for part in photo.parts:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": categories[part.name],
                "bbox": part.box,
                "area": round(part.box[2] * part.box[3], DECIMALS),
                "iscrowd": int(part.crowd),
                "score" if predicted else "trust": part.trust,
            }
            annotation |= {} if part.crowd else {"state": states[part.state]}
            annotations.append(annotation | ({"attributes": part.attributes} if part.attributes else {}))
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in categories.items()],
        "states": [{"id": i, "name": name} for name, i in states.items()],
    } | ({"attributes": source.attributes} if source.attributes else {})
    with atomic_write(path) as file:
        json.dump(content, file)


def write_coco_results(path: str | Path, dataset: Dataset, truths: str | Path) -> None:
    """Write answers as COCO's list of results, with the ids of photos and categories of a file of truths, as COCO's tools want.

    Raises:
        DataError: the file is not COCO's, does not know a photo or a part, or has two of a name.
    """
    content = parse_json(read_text(truths), truths)
    if not isinstance(content, dict) or not is_coco(content):
        raise DataError(f"{truths}: is no COCO file, whose ids the results must have")
    photos = _ids(content["images"], "file_name", truths)
    categories = _ids(content.get("categories"), "name", truths)
    source = records_of(dataset)
    unknown = [photo.name for photo in source.photos if photo.name not in photos]
    unknown += [name for name in source.parts if name not in categories]
    if unknown:
        raise DataError(f"{truths}: does not know {', '.join(unknown[:5])}")
    results = [
        {"image_id": photos[photo.name], "category_id": categories[part.name]}
        | {"bbox": part.box, "score": part.trust, "state": part.state}
        for photo in source.photos
        for part in photo.parts
    ]
    with atomic_write(path) as file:
        json.dump(results, file)


def _ids(entries: Any, key: str, path: str | Path) -> dict[str, Any]:
    """The id of each entry of a COCO file by its name, which stands under a key."""
    ids: dict[str, Any] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or entry.get("id") is None or not isinstance(entry.get(key), str):
            raise DataError(f"{path}: an entry lacks `id` or `{key}`: {entry!r}")
        if entry[key] in ids:
            raise DataError(f"{path}: two entries have the {key} {entry[key]!r}, so that it names no id")
        ids[entry[key]] = entry["id"]
    return ids


def write_delftbikes(path: str | Path, dataset: Dataset) -> None:
    """Write a split in the layout of DelftBikes.

    Raises:
        DataError: a photo shows a part twice, or a crowd of it, which that layout cannot say.
    """
    source, content = records_of(dataset), {}
    for photo in source.photos:
        parts: dict[str, dict] = {}
        for part in photo.parts:
            if part.name in parts or part.crowd:
                how = "as a crowd" if part.crowd else "twice"
                raise DataError(f"{photo.name}: shows {part.name!r} {how}, which this layout cannot say")
            parts[part.name] = {
                "part_name": part.name,
                "object_state": part.state,
                "object_state_class": list(source.states).index(part.state),
                "trust": part.trust,
                "absolute_bounding_box": dict(zip(("left", "top", "width", "height"), part.box, strict=True)),
            }
        size = {"filename": photo.name, "width": photo.width, "height": photo.height, "channels": 3}
        content[photo.name] = {"image": size, "parts": parts}
    with atomic_write(path) as file:
        json.dump(content, file)


def statistics_of(dataset: Dataset) -> dict:
    """Counts of a split: `images`, `annotations`, and of each state `states` and each part `parts`, by name.

    A crowd counts as an annotation of its part, in no state.
    """
    parts, states = names_of(dataset)
    statistics: dict[str, Any] = {"images": len(dataset), "annotations": 0}
    for key, names in (("parts", parts), ("states", states)):
        counts = Counter(names[i] for row in dataset[key] for i in row if i >= 0)
        statistics[key] = {name: counts[name] for name in names.values()}
    return statistics | {"annotations": sum(statistics["parts"].values())}


def convert(
    source: str | Path,
    folder: str | Path,
    layout: str = "coco",
    validation: float = 0.0,
    seed: int = 42,
    truths: str | Path | None = None,
    **loading: Any,
) -> dict[str, dict]:
    """Load annotations, check them, and write each split in a layout, `train_coco.json` and so on.

    Args:
        source: see `load_parts`, as for `loading`.
        folder: where the files go; photos stay where they are, but those of YOLO and VOC are copied into its folders of images.
            Of a table of answers, see `geohf.parts.answer_table`, trust is the score, COCO's boxes have it as such, and
            Label Studio's tasks show predictions.
        layout: one of `LAYOUTS`.
        truths: a COCO file: answers become its results, `results.json`, with its ids.
        validation: share of train that becomes validation, stratified by state; only where the source has none.

    Returns:
        split -> statistics.

    Raises:
        DataError: an unknown layout, or one that cannot say what the source does; a file that is read, or another photo, would
            be overwritten.
    """
    require_choice(LAYOUTS, layout=layout)
    predicted = is_answer_table(Path(source))
    if predicted and validation:
        raise DataError(f"{source}: is a table of answers, of which none is held out for validation")
    splits, _ = load_parts(source, **loading)
    attributes = attributes_of(splits)
    if attributes and layout in ("yolo", "delftbikes"):
        raise DataError(
            f"{layout} holds one state a box, and no {', '.join(attributes)}: leave out --attributes"
        )
    if validation:
        if "validation" in splits:
            raise DataError(f"{source}: has a validation split already; leave out the share for validation")
        splits = {**splits, **split_parts(splits["train"], validation=validation, test=0.0, seed=seed)}
    folder, read = Path(folder), _files_read(Path(source))
    if truths is not None:
        if layout != "coco" or not predicted:
            raise DataError(
                "truths give their ids to answers that are written in the layout coco, and to nothing else"
            )
        refuse_overwriting(folder / "results.json", [*read, truths])
        write_coco_results(folder / "results.json", splits["train"], truths)
    else:
        name, write = LAYOUTS[layout]
        names = {split: "predictions" if predicted else FILES[split] for split in splits}
        paths = {split: folder / name.format(own) for split, own in names.items()}
        for file in paths.values():
            refuse_overwriting(file, read)
        _refuse_what_lies_beside(layout, folder, read, splits)
        write(paths, splits, predicted)
    return {split: statistics_of(dataset) for split, dataset in splits.items()}


def _files_read(source: Path) -> list[Path]:
    """The files of annotations that a source was read from; the folder of the XML files where each photo has its own."""
    files = annotation_files(source, warn=False).values() if source.is_dir() else [source]
    return [file / _VOC_FOLDER if file.is_dir() else file for file in files]


def _refuse_what_lies_beside(layout: str, folder: Path, read: Iterable[Path], splits: Splits) -> None:
    """Raise DataError where a file that is read, and that no annotation file's own name tells, would be overwritten."""
    for file in read:
        if layout == "voc":  # one photo's XML alone
            refuse_overwriting(folder / _VOC_FOLDER / file.name, [file])
        if layout == "label_studio" and _has_label_config(file):
            refuse_overwriting(folder / LABEL_CONFIG, [file.with_name(LABEL_CONFIG)])
        if layout == "yolo" and is_yolo(file):
            for split, dataset in splits.items():
                for target, image in _photos(dataset, folder / "images" / FILES[split]):
                    refuse_overwriting(
                        labels_of(target, folder), [labels_of(Path(image["path"]), file.parent)]
                    )


def _has_label_config(file: Path) -> bool:
    """Whether tasks were read with the configuration beside them; beside another layout an earlier run may have written one."""
    is_json = file.name.lower().endswith((".json", ".json.gz"))
    if not is_json or not file.with_name(LABEL_CONFIG).is_file():
        return False
    return is_label_studio(parse_json(read_text(file), file))


def records_of(dataset: Dataset) -> Source:
    """The photos of a split as records, boxes and trust rounded to `DECIMALS`, attributes that somebody told."""
    (parts, states), attributes = names_of(dataset), attributes_of(dataset)
    photos = []
    for row in dataset.remove_columns("image"):
        photo = PhotoRecord(row["image_id"], row["width"], row["height"])
        boxes = xyxy_to_xywh(row["boxes"]).round(DECIMALS).tolist()
        trust = np.round(row["trust"], DECIMALS).tolist()
        columns = zip(boxes, row["parts"], row["states"], trust, row["iscrowd"], strict=True)
        for i, (box, part, state, sure, crowd) in enumerate(columns):
            told = {name: values[row[name][i]] for name, values in attributes.items() if row[name][i] >= 0}
            record = PartRecord(parts[part], states.get(state), box, sure, crowd=crowd, attributes=told)
            photo.parts.append(record)
        photos.append(photo)
    return Source(Path(), photos, list(parts.values()), list(states.values()), attributes=attributes)


def _each(write: Callable[[Path, Dataset, bool], Any]) -> Writer:
    """Writes a file per split."""

    def write_splits(paths: Mapping[str, Path], splits: Splits, predicted: bool) -> None:
        for split, dataset in splits.items():
            write(paths[split], dataset, predicted)

    return write_splits


def _yolo(paths: Mapping[str, Path], splits: Splits, predicted: bool) -> None:
    folder = paths["train"].parent
    folders = {split: folder / "images" / FILES[split] for split in splits}
    for split, dataset in splits.items():
        _require_no_others(folders[split], dataset["image_id"][:])
        _require_same_photos(dataset, folders[split])
    write_yolo(folder, {split: records_of(dataset) for split, dataset in splits.items()})
    for split, dataset in splits.items():
        _copy_photos(dataset, folders[split])


def _require_no_others(folder: Path, names: Iterable[str]) -> None:
    """Raise DataError where a folder, of which YOLO takes every photo, holds some that are not of the split."""
    others = {path for path in folder.rglob("*") if is_image_name(path)} - {folder / name for name in names}
    if others:
        raise DataError(
            f"{folder}: {len(others)} photos there, such as {min(others).relative_to(folder)}, are not of this split, and YOLO takes "
            "every photo of the folder: write to an empty one (--folder)"
        )


def _label_studio(paths: Mapping[str, Path], splits: Splits, predicted: bool) -> None:
    for split, dataset in splits.items():
        source = records_of(dataset)
        write_label_studio(paths[split], source, predicted)
    write_label_config(paths["train"].with_name(LABEL_CONFIG), source)  # the names are those of every split


def _voc(paths: Mapping[str, Path], splits: Splits, predicted: bool) -> None:
    folder = paths["train"].parent
    unique_stems(name for dataset in splits.values() for name in dataset["image_id"])
    counts = [statistics_of(dataset)["states"] for dataset in splits.values()]
    unused = [state for state in counts[0] if not any(count[state] for count in counts)]
    if unused:
        logger.warning("Pascal VOC has no list of states: %s, which no box has, is lost", ", ".join(unused))
    for dataset in splits.values():
        _require_same_photos(dataset, folder / "JPEGImages")
    for split, dataset in splits.items():
        write_voc(folder, FILES[split], records_of(dataset))
        _copy_photos(dataset, folder / "JPEGImages")


def _photos(dataset: Dataset, folder: Path) -> Iterator[tuple[Path, dict]]:
    """Where each photo of a split goes, and its cell."""
    for name, image in zip(dataset["image_id"], dataset["image"], strict=True):
        yield Path(file_in(folder, name)), image


def _require_same_photos(dataset: Dataset, folder: Path) -> None:
    """Raise DataError where a folder holds another photo under the name of one of the split."""
    for target, image in _photos(dataset, folder):
        if target.is_file() and target.read_bytes() != _content(image):
            raise DataError(
                f"{target}: is another photo of that name and would be overwritten: write to an empty folder (--folder)"
            )


def _copy_photos(dataset: Dataset, folder: Path) -> None:
    for target, image in _photos(dataset, folder):
        if not target.is_file():
            with atomic_write(target, binary=True) as file:
                file.write(_content(image))


def _content(image: dict) -> bytes:
    return image["bytes"] or Path(image["path"]).read_bytes()


_VOC_FOLDER = "Annotations"
# what each layout writes its annotations to, some a file per split, and how
LAYOUTS: dict[str, tuple[str, Writer]] = {
    "coco": ("{}_coco.json", _each(write_coco)),
    "delftbikes": ("{}_annotations.json", _each(lambda path, rows, _: write_delftbikes(path, rows))),
    "cvat": ("{}_cvat.xml", _each(lambda path, rows, _: write_cvat(path, records_of(rows)))),
    "label_studio": ("{}_label_studio.json", _label_studio),
    "yolo": ("data.yaml", _yolo),
    "voc": (_VOC_FOLDER, _voc),
}
