"""Annotations as Label Studio exports them as JSON: tasks with boxes in percent, and choices for each box."""

from __future__ import annotations

import json
import re
import uuid
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import Element

from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.io import add_element, atomic_write, write_xml
from geohf.parts.frame import four_numbers
from geohf.parts.markup import read_xml, require_upright
from geohf.parts.records import PartRecord, PhotoRecord, Source
from geohf.parts.segments import box_of_segmentation
from geohf.vision.formats import is_image_name

LABEL_CONFIG = "label_config.xml"  # beside the tasks: their JSON says nothing of labels that no box has
# Label Studio puts it before the name of a file that was uploaded
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
_SIDES = ("x", "y", "width", "height")
_PLACE = {"x", "points"}  # of a box, of a polygon
_LABELS = ("rectanglelabels", "polygonlabels", "labels")
_ATTRIBUTES = ("choices", "text", "number", "rating", "taxonomy")
_OF_PHOTOS = ("choices", "textarea", "number", "rating", "taxonomy", "datetime")  # unless they have a box


def is_label_studio(content: Any) -> bool:
    """Whether this is a list of Label Studio's tasks."""
    return isinstance(content, list) and any(
        isinstance(task, dict) and ("data" in task or "annotations" in task) for task in content
    )


def read_label_studio(content: list, path: Path, errors: RowErrors) -> Source:
    """The photos of tasks; a task without an annotation, or with several, is noted in `errors`.

    Of several annotations the one that is the ground truth counts; those that were cancelled do not. The choices, texts and
    numbers that share a box's `id` are its attributes.
    """
    photos = []
    for number, task in enumerate(content, 1):
        where = f"task {task.get('id', number)}" if isinstance(task, dict) else f"task {number}"
        try:
            photos.append(_photo(task))
        except DataError as error:
            errors.add(path, where, str(error))
    return Source(path, photos, [], [])


def read_label_config(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The labels of a labeling configuration, and the values of its choices by their names."""
    root = read_xml(path)
    choices = {group.get("name", ""): _names_in(group, "Choice") for group in root.iter("Choices")}
    labels = list(dict.fromkeys(_names_in(root, "Label")))
    return labels, {name: values for name, values in choices.items() if values}


def _names_in(element: Element, tag: str) -> list[str]:
    # tasks hold the alias where there is one
    return [each.get("alias") or each.get("value") or "" for each in element.iter(tag)]


def write_label_config(path: Path, source: Source) -> None:
    """Write the labeling configuration that the tasks of `write_label_studio` need, which lists every part and state."""
    view = Element("View")
    add_element(view, "Image", name="image", value="$image")
    labels = add_element(view, "RectangleLabels", name="label", toName="image")
    for name in source.parts:
        add_element(labels, "Label", value=name)
    for key, values in {"state": source.states, **source.attributes, "iscrowd": ["true"]}.items():
        choices = add_element(view, "Choices", name=key, toName="image", perRegion="true")
        for value in values:
            add_element(choices, "Choice", value=value)
    add_element(view, "Number", name="trust", toName="image", perRegion="true", min=0, max=1)
    write_xml(path, view)


def uploaded_names(names: list[str]) -> list[str]:
    """The names as they were before files were uploaded."""
    return [
        str(PurePosixPath(name).with_name(_UPLOADED.sub("", PurePosixPath(name).name, count=1)))
        for name in names
    ]


def _photo(task: Any) -> PhotoRecord:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise DataError("has no `data`; export as JSON, not as JSON-MIN")
    name = _name_of(task["data"])
    made = task.get("annotations", task.get("completions")) or []
    made = [each for each in made if isinstance(each, dict) and not each.get("was_cancelled")]
    made = [each for each in made if each.get("ground_truth")] or made
    if len(made) != 1:
        told = f"{len(made)} annotations, and none alone is the ground truth" if made else "no annotation"
        raise DataError(f"{name}: the task has {told}")
    regions: dict[Any, list[dict]] = defaultdict(list)
    for result in made[0].get("result") or []:
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict) and (result.get("id") is not None):
            regions[result["id"]].append(result)
    photo = PhotoRecord(name)
    for key, results in regions.items():
        if any(result.get("type") not in _OF_PHOTOS or _has_place(result) for result in results):
            photo.parts.append(_part(key, results, photo))
    return photo


def _has_place(result: dict) -> bool:
    return bool(_PLACE & result["value"].keys())


def _part(key: str, results: list[dict], photo: PhotoRecord) -> PartRecord:
    part = PartRecord(None, number=key, problem=f"region {key} has no label")
    place = next(filter(_has_place, results), results[0])
    for result in results:
        value = result["value"]
        names = next((value[kind] for kind in _LABELS if value.get(kind)), None)
        if names:
            part.name = names[0]
            several = f"the box has {len(names)} labels: {', '.join(map(str, names))}"
            part.problem = several if len(names) > 1 else ""
        for kind in _ATTRIBUTES:
            if kind in value:
                told = value[kind] if isinstance(value[kind], list) else [value[kind]]
                if len(told) > 1:
                    values = ", ".join(map(str, told))
                    part.problem = f"{result.get('from_name')} has {len(told)} values: {values}"
                first = told[0] if told else None
                # a taxonomy gives the way down to its leaf
                first = " / ".join(map(str, first)) if isinstance(first, list) else first
                part.attributes[str(result.get("from_name"))] = first
    part.trust = part.attributes.pop("trust", 1.0)
    part.crowd = part.attributes.pop("iscrowd", None) == "true"
    try:
        part.box = _pixels(place, photo)
    except DataError as error:
        part.problem = str(error)
    return part


def _pixels(result: dict, photo: PhotoRecord) -> list[float]:
    """A box of percent, or that around a polygon, in pixels; the photo gets the size that the result tells."""
    value = result["value"]
    if "points" in value:
        value = dict(zip(_SIDES, box_of_segmentation([value["points"]]), strict=True))
    if any(side not in value for side in _SIDES):
        raise DataError(f"{result.get('type')} is no box: it must have {', '.join(_SIDES)}")
    size = [result.get("original_width") or 0, result.get("original_height") or 0]
    if not all(isinstance(side, (int, float)) and side > 0 for side in size):
        raise DataError(
            "the box is in percent, and `original_width` and `original_height` do not say of what"
        )
    if result.get("image_rotation"):
        raise DataError(
            f"the photo was rotated by {result['image_rotation']} degrees; boxes must be those of the photo"
        )
    require_upright(value.get("rotation"))
    photo.width, photo.height = size
    percent = four_numbers([value[side] for side in _SIDES])
    return [share * side / 100 for share, side in zip(percent, size * 2, strict=True)]


def _name_of(data: dict) -> str:
    named = [value for value in data.values() if isinstance(value, str) and is_image_name(_path(value))]
    value = data.get("image") or (named[0] if len(named) == 1 else None)
    if not isinstance(value, str):
        raise DataError(f"`data` names no image, or several: {', '.join(map(str, data))}")
    return _path(value)


def _path(address: str) -> str:
    """The file that an address of a task stands for: of what was uploaded, and of the web, the name alone."""
    parts = urlsplit(address)
    if not parts.scheme and not address.startswith("/"):
        return address  # a name, in which # and % are what they are
    if "d" in parse_qs(parts.query):
        return parse_qs(parts.query)["d"][0].lstrip("/")
    return PurePosixPath(unquote(parts.path)).name


def write_label_studio(path: str | Path, source: Source, predicted: bool = False) -> None:
    """Write tasks with annotations, or with predictions and their scores, which Label Studio shows as a start.

    Its labeling is that of `write_label_config`; `data` names each photo's file.
    """
    tasks = []
    for number, photo in enumerate(source.photos, 1):
        results = [result for part in photo.parts for result in _results(number, part, photo, predicted)]
        answer: dict[str, Any] = {"result": results}
        if predicted:
            scores = [part.trust for part in photo.parts]
            answer |= {"model_version": "geohf", "score": sum(scores) / len(scores) if scores else 0.0}
        task = {"id": number, "data": {"image": photo.name}}
        tasks.append(task | {"predictions" if predicted else "annotations": [answer]})
    with atomic_write(path) as file:
        json.dump(tasks, file, indent=1)


def _results(number: int, part: PartRecord, photo: PhotoRecord, predicted: bool) -> list[dict]:
    sides = zip(_SIDES, part.box, (photo.width, photo.height) * 2, strict=True)
    place = {key: 100 * side / size for key, side, size in sides} | {"rotation": 0}
    where = f"{number} {part.name} {part.box}"
    shared = {"id": uuid.uuid5(uuid.NAMESPACE_OID, where).hex[:10], "to_name": "image", "image_rotation": 0}
    shared |= {"original_width": photo.width, "original_height": photo.height}
    told: list[tuple[str, str, dict]] = [("label", "rectanglelabels", {"rectanglelabels": [part.name]})]
    values = {"iscrowd": "true"} if part.crowd else {"state": part.state, **part.attributes}
    told += [(name, "choices", {"choices": [value]}) for name, value in values.items()]
    if part.trust != 1 and not predicted:
        told.append(("trust", "number", {"number": part.trust}))
    score = {"score": part.trust} if predicted else {}
    return [
        shared | {"from_name": name, "type": kind, "value": place | value} | score
        for name, kind, value in told
    ]
