"""Annotations in COCO's layout with a `state` for each box."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.parts.attributes import OCCLUDED, is_occluded, say_occluded, state_names, state_of, tells_no_state
from geohf.parts.records import JsonObject, PartRecord, PhotoRecord, Source
from geohf.parts.segments import box_of_segmentation
from geohf.parts.vocabulary import NO_STATES, PRESENT, STATES


def is_coco(content: dict) -> bool:
    """Whether this is COCO's layout."""
    return isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list)


def read_coco(
    content: JsonObject,
    path: Path,
    errors: RowErrors,
    states: Sequence[str] | None = None,
    state_attribute: str | None = None,
    further: Sequence[str] = (),
) -> Source:
    """The photos of a COCO file, and the names in the order of their ids; an annotation that cannot be read is noted in `errors`.

    A box's state stands in the annotation or among its `attributes`, as a name or as an id of the file's `states`
    (a list of id and name, like `categories`). A box that is `iscrowd`, or to `ignore`, needs none. Without `bbox`
    the box is that around `segmentation`.

    Args:
        states: where the file has no list `states`; by default those of the bicycle.
        state_attribute: the name of the state; by default the first of `attributes.STATE_NAMES` that a box has, and where no
            box of the file has one, each is `PRESENT`; `NO_STATES`: states are not read, a box without one is `PRESENT`.
        further: attributes beside the state, which stand where it does.

    Raises:
        DataError: no categories, ids that stand there twice, or a list whose entries lack `id` or `name`.
    """
    names = state_names(state_attribute)
    used = {_id(a.get("category_id")) for a in content["annotations"] if isinstance(a, dict)}
    parts, groups = _categories(content.get("categories"), path, used)
    if content.get("states"):
        state_ids = _names(content["states"], "states", path)
    else:
        state_ids = dict(enumerate(states or STATES))
        boxes = (_attributes(a, names) for a in content["annotations"] if isinstance(a, dict))
        if state_attribute is None and tells_no_state(boxes, path, further):
            state_attribute, state_ids = NO_STATES, {0: PRESENT}
    photos, marked = _photos(content["images"], path), 0
    for annotation in content["annotations"]:
        if not isinstance(annotation, dict):
            raise DataError(f"{path}: an entry of `annotations` is {annotation!r}, not an object")
        where = f"annotation {annotation.get('id')}"
        photo = photos.get(_id(annotation.get("image_id")))
        if photo is None:
            errors.add(path, where, f"`image_id` {annotation.get('image_id')!r} is no image of the file")
            continue
        category = annotation.get("category_id")
        part = PartRecord(
            parts.get(_id(category), category),
            trust=1.0 if annotation.get("trust") is None else annotation["trust"],
            number=_id(annotation.get("id")),
        )
        photo.parts.append(part)
        part.attributes = _attributes(annotation, further)
        try:
            part.crowd = _flag(annotation, "iscrowd", where) or _flag(annotation, "ignore", where)
            if not part.crowd:
                attributes = _attributes(annotation, names)
                if state_attribute == NO_STATES and all(attributes.get(name) is None for name in names):
                    attributes = {names[0]: PRESENT}
                elif is_occluded(attributes, names, state_ids.values()):
                    attributes, marked = {names[0]: OCCLUDED}, marked + 1
                value = state_of(attributes, names, where)
                part.state = value if value in state_ids.values() else state_ids.get(_id(value), value)
            if _id(category) not in parts:
                raise DataError(
                    f"unknown part: `category_id` {category!r} of {where} is no category of the file"
                )
            part.box = annotation.get("bbox")
            if part.box in (None, []) and annotation.get("segmentation"):
                part.box = box_of_segmentation(annotation["segmentation"])
        except DataError as error:
            part.problem = str(error)
    _require_sizes(content["annotations"], path)
    say_occluded(marked, path)
    return Source(path, list(photos.values()), list(parts.values()), list(state_ids.values()), groups=groups)


def attribute_values(content: JsonObject) -> dict[str, list[str]]:
    """The values of attributes that a file lists, as we write it: `attributes`, an object of names and lists."""
    listed = content.get("attributes")
    entries = listed.items() if isinstance(listed, dict) else ()
    return {name: list(map(str, values)) for name, values in entries if isinstance(values, list)}


def _require_sizes(annotations: list[dict], path: Path) -> None:
    """Refuse boxes of left, top, right, bottom, where `area` tells that they are."""
    table = []
    for annotation in annotations:
        with suppress(KeyError, TypeError, ValueError):
            table.append(np.array([*annotation["bbox"], annotation["area"]], float))
    table = [row for row in table if len(row) == 5 and np.isfinite(row).all() and row[4] > 0]
    if not table:
        return
    left, top, width, height, area = np.array(table).T
    corners = np.isclose((width - left) * (height - top), area, rtol=1e-3, atol=0)
    if (corners & ~np.isclose(width * height, area, rtol=1e-3, atol=0)).all():
        raise DataError(
            f"{path}: by its `area` each `bbox` is left, top, right, bottom; it must be left, top, width, height"
        )


def _photos(images: list, path: Path) -> dict[Any, PhotoRecord]:
    photos: dict[Any, PhotoRecord] = {}
    for image in images:
        name = (image.get("file_name") or image.get("path")) if isinstance(image, dict) else None
        if not isinstance(name, str) or not name or _id(image.get("id")) is None:
            raise DataError(f"{path}: an entry of `images` lacks `id` or `file_name`: {image!r}")
        if _id(image["id"]) in photos:
            raise DataError(f"{path}: `images` holds the id {image['id']!r} twice")
        place = image.get("path") if _is_name(image.get("path")) else None
        photos[_id(image["id"])] = PhotoRecord(name, image.get("width"), image.get("height"), place=place)
    return photos


def _attributes(annotation: dict, names: Sequence[str]) -> dict[str, Any]:
    """The attributes of a box, and what stands in the annotation itself under one of the names or as its mark."""
    attributes = annotation.get("attributes")
    if isinstance(attributes, list):  # of names and values, as some exporters write them
        pairs = [entry for entry in attributes if isinstance(entry, dict) and _is_name(entry.get("name"))]
        attributes = {entry["name"]: entry.get("value") for entry in pairs}
    own = {name: annotation[name] for name in (*names, OCCLUDED) if annotation.get(name) is not None}
    return (attributes if isinstance(attributes, dict) else {}) | own


def _flag(annotation: dict, key: str, where: str) -> bool:
    value = annotation.get(key)
    if value not in (None, 0, 1):
        raise DataError(f"`{key}` of {where} is {value!r}, neither 0 nor 1")
    return bool(value)


def _id(value: Any) -> int | str | None:
    """An id, which tools write as a number or as text; None where it is none.

    >>> _id("12"), _id(12.0), _id("wheel"), _id(True)
    (12, 12, 'wheel', None)
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isdecimal() and str(int(value)) == value:
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _categories(entries: Any, path: Path, used: set) -> tuple[dict[Any, str], frozenset[str]]:
    """id -> name of the parts, and which of them are groups without annotation.

    Roboflow begins the list with one that stands for the whole project, and that may be called like a part.
    """
    _names(entries, "categories", path, unique=False)  # each has an id and a name
    groups = []
    for entry in entries:
        below = [one for one in entries if one.get("supercategory") == entry["name"]]
        groups_others = any(_id(one["id"]) != _id(entry["id"]) for one in below)
        is_background = entry["name"].strip("_").lower() == "background"
        if _id(entry["id"]) not in used and (groups_others or is_background):
            groups.append(entry)
    parts = {entry["name"] for entry in entries if entry not in groups}
    kept = [entry for entry in entries if entry not in groups or entry["name"] not in parts]
    names = _names(kept, "categories", path)
    return names, frozenset(entry["name"] for entry in groups if entry["name"] not in parts)


def _names(entries: Any, key: str, path: Path, unique: bool = True) -> dict[Any, str]:
    """id -> name, in the order of the ids; an entry that stands there twice alike is one."""
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: needs a list `{key}` of ids and names")
    names: dict[Any, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or _id(entry.get("id")) is None or not _is_name(entry.get("name")):
            raise DataError(f"{path}: an entry of `{key}` lacks an `id` or a `name`: {entry!r}")
        number, name = _id(entry["id"]), entry["name"]
        if unique and names.get(number) != name and (number in names or name in names.values()):
            raise DataError(f"{path}: `{key}` holds {entry!r}, whose id or name stands there already")
        names[number] = name
    numbered = all(isinstance(number, int) for number in names)
    return dict(sorted(names.items())) if numbered else names
