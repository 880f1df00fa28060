"""Annotations in the layout of DelftBikes (arXiv 2106.02523): photo -> parts -> state, trust and box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.parts.records import JsonObject, PartRecord, PhotoRecord
from geohf.parts.vocabulary import STATES

_BOX = ("left", "top", "width", "height")
_OTHERS = {"regions": "VIA", "_via_settings": "VIA", "shapes": "labelme"}  # keys of tools that are not read


def read_delftbikes(
    content: JsonObject, path: Path, errors: RowErrors, states: Sequence[str] = STATES
) -> list[PhotoRecord]:
    """The photos of a file in that layout; a photo that has no such form is noted in `errors`.

    Args:
        states: in the order of `object_state_class`.

    Raises:
        DataError: nothing in it looks like a photo with parts.
    """
    photos = []
    if not any(isinstance(entry, dict) and "parts" in entry for entry in content.values()):
        keys = {key for entry in (content, *content.values()) if isinstance(entry, dict) for key in entry}
        tool = next((name for key, name in _OTHERS.items() if key in keys), None)
        hint = f": it seems to be {tool}'s, to be made COCO first" if tool else ""
        raise DataError(
            f"{path}: has neither COCO's `images` and `annotations`, nor photos with `parts`{hint}"
        )
    for name, entry in content.entries():
        entry = entry if isinstance(entry, dict) else {}
        parts, image = entry.get("parts"), entry.get("image") or {}
        if isinstance(parts, list):  # the names then stand in the parts alone
            named = [part.get("part_name") if isinstance(part, dict) else part for part in parts]
            parts = JsonObject(list(zip(named, parts, strict=True)))
        if not isinstance(parts, JsonObject) or not isinstance(image, dict):
            errors.add(path, name, "the photo's entry has no `parts`")
            continue
        file = image.get("filename") or name
        if not isinstance(file, str):
            errors.add(path, name, f"`filename` is {file!r}, not text")
            continue
        photo = PhotoRecord(file, image.get("width"), image.get("height"))
        for key, part in parts.entries():
            try:
                photo.parts.append(_part(key, part, states))
            except DataError as error:
                photo.parts.append(PartRecord(key, problem=str(error)))
        photos.append(photo)
    return photos


def _part(key: str, part: Any, states) -> PartRecord:
    if not isinstance(part, dict):
        raise DataError(f"the part is {part!r}, not an object")
    box = part.get("absolute_bounding_box")
    if not isinstance(box, dict) or any(side not in box for side in _BOX):
        raise DataError(f"`absolute_bounding_box` is {box!r}, without one of {', '.join(_BOX)}")
    state, number = part.get("object_state"), part.get("object_state_class")
    if number is not None:
        if not isinstance(number, int) or number not in range(len(states)):
            raise DataError(
                f"unknown state {number!r} in `object_state_class`; known are 0 to {len(states) - 1}"
            )
        if state is not None and state in states and states[number] != state:
            raise DataError(
                f"`object_state` is {state!r} but `object_state_class` {number} is {states[number]!r}"
            )
        state = states[number] if state is None else state
    trust = part.get("trust")
    name = part.get("part_name") or key
    return PartRecord(name, state, [box[side] for side in _BOX], 1.0 if trust is None else trust)
