"""Answers of a model as annotations: the table that `geohf predict` writes, or a run's predictions.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geohf.data.cells import text_of
from geohf.data.formats import TABLES
from geohf.data.tables import find_column, line_of, read_table
from geohf.errors import DataError
from geohf.parts.answers import SIDES
from geohf.parts.records import PartRecord, PhotoRecord, Source

_PHOTO = ("input", "image_id")


def is_answer_table(path: Path) -> bool:
    """Whether the ending is that of a table."""
    return path.suffix.lower() in TABLES


def read_answer_table(path: Path, images: Path | None = None) -> Source:
    """The photos of a table with a row per part; trust is the score, and a row without a box is a part that is missing.

    Args:
        images: the folder of the photos; names that lead into it lose its part.

    Raises:
        DataError: a column is missing.
    """
    table = read_table(path, ["part", "score", "state", *SIDES], numbers=["score", *SIDES])
    column = find_column(table.columns, _PHOTO)
    if column is None:
        raise DataError(f"{path}: has no column {' or '.join(_PHOTO)} that names the photos")
    photos: dict[str, PhotoRecord] = {}
    parts = set()
    further = [name.removesuffix("_score") for name in table.columns if name.endswith("_score")]
    further = [name for name in further if name != "state" and name in table.columns]
    for position, row in enumerate(table.to_dict("records")):
        name, part, state = (text_of(row[key]) for key in (column, "part", "state"))
        if name is None or part is None:
            raise DataError(f"{path}, row {line_of(table, position)}: names no photo or no part")
        parts.add(part)
        photo = photos.setdefault(name, PhotoRecord(_inside(name, images)))
        left, top, right, bottom = (row[side] for side in SIDES)
        if left == left:  # not NaN, which a missing part has
            attributes: dict[str, Any] = {name: text_of(row[name]) for name in further} | {"state": state}
            box = [left, top, right - left, bottom - top]
            photo.parts.append(PartRecord(part, box=box, trust=row["score"], attributes=attributes))
    return Source(path, list(photos.values()), sorted(parts), [])


def _inside(name: str, folder: Path | None) -> str:
    if folder is not None and Path(name).is_relative_to(folder):
        return str(Path(name).relative_to(folder))
    return name
