"""Annotations in COCO's layout with a `state` for each box."""

from __future__ import annotations

from pathlib import Path

from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.parts.records import JsonObject, PartRecord, PhotoRecord
from geohf.parts.vocabulary import STATES


def is_coco(content: dict) -> bool:
    """Whether this is COCO's layout."""
    return isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list)


def read_coco(
    content: JsonObject, path: Path, errors: RowErrors
) -> tuple[list[PhotoRecord], list[str], list[str]]:
    """The photos of a COCO file; an annotation that cannot be read is noted in `errors`.

    A box's state is its `state`, or `state` among its `attributes`, as a name or as an id of the file's `states`
    (a list of id and name, like `categories`); without that list the ids are those of `STATES`.

    Returns:
        (photos, names of the parts in the order of their category ids, names of the states).

    Raises:
        DataError: no categories, ids that stand there twice, or a list whose entries lack `id` or `name`.
    """
    parts = _names(content.get("categories"), "categories", path)
    states = _names(content["states"], "states", path) if content.get("states") else dict(enumerate(STATES))
    photos: dict[object, PhotoRecord] = {}
    for image in content["images"]:
        if not isinstance(image, dict) or not _is_id(image.get("id")) or not _is_name(image.get("file_name")):
            raise DataError(f"{path}: an entry of `images` lacks `id` or `file_name`: {image!r}")
        if image["id"] in photos:
            raise DataError(f"{path}: `images` holds the id {image['id']!r} twice")
        photos[image["id"]] = PhotoRecord(image["file_name"], image.get("width"), image.get("height"))
    for annotation in content["annotations"]:
        if not isinstance(annotation, dict):
            raise DataError(f"{path}: an entry of `annotations` is {annotation!r}, not an object")
        where = f"annotation {annotation.get('id')}"
        photo = photos.get(annotation.get("image_id")) if _is_id(annotation.get("image_id")) else None
        if photo is None:
            errors.add(path, where, f"`image_id` {annotation.get('image_id')!r} is no image of the file")
            continue
        category, state = annotation.get("category_id"), annotation.get("state")
        attributes = annotation.get("attributes")
        if state is None and isinstance(attributes, dict):
            state = attributes.get("state")
        part = PartRecord(
            parts.get(category, category) if _is_id(category) else category,
            states.get(state, state) if _is_id(state) else state,
            annotation.get("bbox"),
            annotation.get("trust", 1.0),
        )
        if state is None:
            part.problem = f"{where} has no `state`"
        elif not _is_id(category) or category not in parts:
            part.problem = f"unknown part: `category_id` {category!r} of {where} is no category of the file"
        photo.parts.append(part)
    return list(photos.values()), list(parts.values()), list(states.values())


def _is_id(value) -> bool:
    return isinstance(value, (int, str))


def _is_name(value) -> bool:
    return isinstance(value, str) and bool(value)


def _names(entries, key: str, path: Path) -> dict[object, str]:
    """id -> name, in the order of the ids."""
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: needs a list `{key}` of ids and names")
    names = {}
    for entry in entries:
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("id"), int)
            or not _is_name(entry.get("name"))
        ):
            raise DataError(f"{path}: an entry of `{key}` lacks a whole `id` or a `name`: {entry!r}")
        if entry["id"] in names or entry["name"] in names.values():
            raise DataError(f"{path}: `{key}` holds {entry!r}, whose id or name stands there already")
        names[entry["id"]] = entry["name"]
    return dict(sorted(names.items()))
