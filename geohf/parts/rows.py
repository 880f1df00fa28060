"""The truths of a photo as a row holds them, whoever made the row: read, checked, typed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torchvision.transforms.v2.functional import convert_bounding_box_format
from torchvision.tv_tensors import BoundingBoxes

from geohf.data.classes import UNLABELED, class_names, class_number, classes_of
from geohf.data.rows import RowView
from geohf.data.samples import without_decoding
from geohf.errors import DataError
from geohf.io import plain
from geohf.parts.boxes import TURNED
from geohf.parts.frame import cut_box, four_numbers
from geohf.parts.records import UNKNOWN_STATE, trust_of
from geohf.parts.vocabulary import PRESENT
from geohf.vision.checks import header_of
from geohf.vision.images import ImageError

REQUIRED = ("image", "boxes", "parts")  # the other columns of `part_features` may be missing
LABELS = ("boxes", "parts", "states", "trust", "iscrowd")  # lists with one entry per part


def as_photos(rows: Any) -> Any:
    """What a user gave to a Trainer, as photos: a dataset with all columns of `part_features` and a stream are as they should be.

    Args:
        rows: a dataset or list of dicts with the columns `REQUIRED`; what else is there is taken, the rest is filled in.
    """
    if isinstance(rows, dict):
        return {name: as_photos(part) for name, part in rows.items()}
    if not hasattr(rows, "__len__") or isinstance(rows, RowView):
        return rows
    columns = ["image_id", "width", "height", *LABELS]
    if {"image", *columns} <= set(getattr(rows, "column_names", None) or ()):
        return rows
    held = without_decoding(rows)
    shown = held if isinstance(held, (list, tuple)) else [held[0]] if len(rows) else []
    further = list(dict.fromkeys(name for row in shown for name in _further_columns(row, columns)))
    names = class_names(rows, ("parts", "states", *further))
    return RowView(held, partial(_read_photo, names=names, further=further), [*columns, *further])


def _further_columns(row: Any, known: Sequence[str]) -> list[str]:
    """The columns of a row that have an entry per part, as attributes do."""
    if not isinstance(row, Mapping) or not isinstance(plain(row.get("boxes")), list):
        return []
    n = len(row["boxes"])
    cells = {name: plain(cell) for name, cell in row.items() if name not in known and name != "image"}
    return [name for name, cell in cells.items() if isinstance(cell, list) and len(cell) == n]


def _read_photo(
    row: Mapping[str, Any], number: int, names: Mapping[str, Sequence[str]], further: Sequence[str]
) -> dict[str, Any]:
    try:
        require_columns(row)
        width, height = upright_size(row["image"])
        listed = label_lists(row)
    except (DataError, ImageError) as error:
        raise DataError(f"photo {photo_name(row, number)}, {error}") from None
    listed |= {name: plain(row.get(name)) for name in further}
    listed |= {column: classes_of(known, listed[column]) for column, known in names.items()}
    name = photo_name({**row, "image": None}, number) if row.get("image_id") else str(number)
    return {"image": row["image"], "image_id": name, "width": width, "height": height} | listed


def require_attributes_in(rows: Any, attributes: Sequence[str]) -> None:
    """Raise DataError where rows have no column of an attribute that a model shall learn."""
    columns = getattr(rows, "column_names", None)
    for name in attributes:
        if columns is not None and name not in columns:
            raise DataError(f"the training rows have no column {name!r}, an attribute that the model tells")


def upright_size(image: Any) -> tuple[int, int]:
    """Width and height of a photo as it is shown."""
    width, height, orientation = header_of(image)
    return (height, width) if orientation in TURNED else (width, height)


def photo_name(row: Mapping[str, Any], number: int) -> str:
    """What a message calls the photo of a row: its `image_id`, its file, or its number."""
    image = row.get("image")
    file = image.get("path") if isinstance(image, Mapping) else getattr(image, "filename", None)
    file = image if isinstance(image, (str, os.PathLike)) else file
    name = next((name for name in (row.get("image_id"), file) if name not in (None, "")), None)
    return f"number {number}" if name is None else str(plain(name))


def require_columns(row: Mapping[str, Any], names: Sequence[str] = REQUIRED) -> None:
    """Raise DataError where a row lacks one of these columns."""
    missing = [name for name in names if name not in row]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}; it has {', '.join(map(str, row))}")


def truths_of(
    row: Mapping[str, Any],
    parts: Mapping[str, int],
    states: Mapping[str, int],
    size: Sequence[int],
    attributes: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, np.ndarray]:
    """The columns of a row as arrays; a photo without any part gives empty ones.

    Args:
        row: `boxes` (n, 4) xyxy in pixels, `parts` and `states` (n,) names or numbers, of Python, numpy or torch;
            `trust` (1 where it is missing) and `iscrowd` (0). A crowd needs no state, and no part does where
            `PRESENT` is the only one.
        parts, states: their numbers by their names.
        size: width and height of the upright photo.
        attributes: name -> values of further columns, (n,) names or numbers; one that is missing, or an empty entry, is unlabeled.

    Returns:
        `boxes` (n, 4) and `trust` (n,) float32, `parts` and `states` (n,) int64, -1 where the state is that of a
        crowd, `iscrowd` (n,) bool; each attribute (n,) int64, -1 where it is unlabeled.

    Raises:
        DataError: a column is of another length, a name or number is not known, a box is not in the
            photo's pixels, or a part stands in one box twice; the message names the part.
    """
    if set(states) != {PRESENT}:
        require_columns(row, ["states"])
    columns = label_lists(row)
    n = len(columns["boxes"])
    rows = []
    seen: dict[tuple, int] = {}
    for number, (box, part, state, trust, crowd) in enumerate(zip(*columns.values(), strict=True), 1):
        try:
            if crowd not in (0, 1, None):
                raise DataError(f"iscrowd is {crowd!r}, neither 0 nor 1")
            state = UNKNOWN_STATE if crowd else _number(state, states, "state")
            rows.append((_box(box, size), _number(part, parts, "part"), state, trust_of(trust), bool(crowd)))
            first = seen.setdefault((rows[-1][1], rows[-1][4], *rows[-1][0]), number)
            if first < number:
                raise DataError(f"is the part number {first} in the same box again")
        except DataError as error:
            raise DataError(f"part {number} of {n}: {error}") from None
    boxes, numbers, state_numbers, trusts, crowds = zip(*rows, strict=True) if rows else [()] * 5
    if n and np.max(boxes) <= 1 < min(size):
        raise DataError(
            "all boxes lie within the first pixel; boxes must be in pixels: if these are shares, multiply them by the "
            "photo's width and height"
        )
    told = {name: _values(row.get(name), name, values, n) for name, values in (attributes or {}).items()}
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "parts": np.array(numbers, np.int64),
        "states": np.array(state_numbers, np.int64),
        "trust": np.array(trusts, np.float32),
        "iscrowd": np.array(crowds, bool),
        **told,
    }


def _values(cell: Any, name: str, values: Sequence[str], n: int) -> np.ndarray:
    """(n,) numbers of the values of an attribute."""
    given = plain(cell)
    given = [None] * n if given is None else given
    if not isinstance(given, list) or len(given) != n:
        raise DataError(f"{name} must be a list with one entry per part, and there are {n}")
    numbers = {value: number for number, value in enumerate(values)}
    known = np.array([class_number(value, numbers, name) for value in given], np.int64)
    return np.where(known == UNLABELED, UNKNOWN_STATE, known)


def label_lists(row: Mapping[str, Any]) -> dict[str, list]:
    """The `LABELS` of a row as plain lists of one length; raises DataError where they are not.

    Torchvision's `BoundingBoxes` say themselves what their four numbers are.
    """
    columns = {name: plain(row.get(name)) for name in LABELS}
    if isinstance(row.get("boxes"), BoundingBoxes):
        columns["boxes"] = convert_bounding_box_format(row["boxes"], new_format="xyxy").tolist()
    columns = {name: [] if value is None and name in row else value for name, value in columns.items()}
    n = len(columns["boxes"])
    for name, default in (("trust", 1.0), ("iscrowd", 0), ("states", PRESENT)):
        if name != "states" or name not in row:
            columns[name] = columns[name] or [default] * n
    if any(not isinstance(column, list) or len(column) != n for column in columns.values()):
        raise DataError(f"{', '.join(columns)} must be lists of one length, one entry per part")
    return columns


def _box(given: Any, size: Sequence[int]) -> list[float]:
    left, top, right, bottom = box = four_numbers(given)
    name = f"left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}"
    if right <= left or bottom <= top:
        raise DataError(f"the box has no area: {name}")
    if left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]:
        return box
    return cut_box(np.array(box), size, name)


def _number(value: Any, numbers: Mapping[str, int], what: str) -> int:
    try:
        number = class_number(value, numbers, what)
    except DataError as error:
        hint = f"; a {what}'s number goes from 0 to {len(numbers) - 1}"
        if value == len(numbers):
            hint += ": where 0 is the background, as in torchvision, subtract 1"
        raise DataError(f"{error}{hint}" if not isinstance(value, (str, bool)) else str(error)) from None
    if number == UNLABELED:
        raise DataError(f"the {what} is {value!r}")
    return number


def shows_one_of_each(photos: Any) -> bool:
    """No photo shows two of one part, or a crowd."""
    rows = zip(photos["parts"][:], photos["iscrowd"][:], strict=True)
    return all(len(set(parts)) == len(parts) and not any(crowds) for parts, crowds in rows)


def numbers_of(names: Mapping[int, str]) -> dict[str, int]:
    """name -> number of `id2label` or `id2state`."""
    return {name: int(number) for number, name in names.items()}
