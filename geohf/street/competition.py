"""The competition's files as they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.cells import file_in, label_of
from geohf.data.tables import RowErrors, line_of, read_table
from geohf.errors import DataError
from geohf.street.places import dataset_of, drop_bad_points, drop_broken, place_row
from geohf.street.processing import COMPASS

if TYPE_CHECKING:
    from datasets import DatasetDict

TRAIN_TABLE, TEMPLATE, MAPPING = "train_ground_truth.csv", "sample_submission.csv", "state_mapping.csv"
# what tells such a folder from one of photographs
COMPETITION = (TRAIN_TABLE, TEMPLATE, MAPPING, "train_images")
VIEW_COLUMNS = tuple(f"image_{name}" for name in COMPASS)


def load_competition(folder: str | Path, on_error: str = "raise") -> tuple[DatasetDict, RowErrors]:
    """Load the competition's files as they are; see `load_places`.

    File names come from the table's columns. Rows of the test template may stand in any order. A view whose
    cell is empty is missing; a place needs at least one.

    Raises:
        DataError: names file and line of: a missing column, an image that is missing, broken, or outside its
            folder, a duplicate sample_id, a state outside the mapping or at odds with its index, a position
            that is not a number, out of range, swapped, or of a US state but not in the United States.
    """
    from datasets import DatasetDict

    folder, errors = Path(folder), RowErrors(on_error)
    path, positions = folder / TRAIN_TABLE, ["latitude", "longitude"]
    required = ["sample_id", *VIEW_COLUMNS, "state", *positions]
    table = read_table(path, required, numbers=["state_idx", *positions])
    points = table[positions].to_numpy(np.float64)
    rows = _view_rows(table, path, folder / "train_images", errors, points)
    names = [label_of(cell) or "" for cell in table["state"]]
    indices = table["state_idx"].tolist() if "state_idx" in table else [math.nan] * len(table)
    fixed = (folder / MAPPING).is_file()
    mapping = _read_mapping(folder / MAPPING) if fixed else _first_indices(names, indices)
    drop_bad_points(points, path, errors, rows, names)
    for position, row in list(rows.items()):
        name = names[position]
        if reason := _state_reason(name, indices[position], mapping, fixed):
            source, line = rows.pop(position)["where"]
            errors.add(source, line, reason)
        else:
            row |= {"state": name, "state_idx": mapping.get(name)}
    splits = {"train": dataset_of(rows.values())}
    path = folder / TEMPLATE
    if path.is_file():
        template = read_table(path, required=["sample_id", *VIEW_COLUMNS])
        rows = _view_rows(template, path, folder / "test_images", errors)
        if len(rows) < len(template) and on_error == "skip":
            lost = next(row for row in errors.rows if row["source"] == str(path))
            raise DataError(
                f"{path}: {len(template) - len(rows)} rows cannot be predicted, and a submission must answer all of "
                f"them; the first: row {lost['row']}: {lost['reason']}"
            )
        splits["test"] = dataset_of(rows.values())
    errors.settle(kept=len(splits["train"]))
    return DatasetDict(splits), errors


def _read_mapping(path: Path) -> dict[str, int]:
    table = read_table(path, required=["state_idx", "state"], numbers=["state_idx"])
    mapping: dict[str, int] = {}
    cells = zip(table["state_idx"], table["state"].str.strip(), strict=True)
    for position, (index, name) in enumerate(cells):
        where = f"{path}, row {line_of(table, position)}"
        if math.isnan(index) or index != int(index) or index < 0:
            raise DataError(f"{where}: state_idx {index:g} is no whole number from 0")
        if name in mapping or int(index) in mapping.values():
            raise DataError(f"{where}: the state {name!r} or its index {int(index)} appears twice")
        mapping[name] = int(index)
    return mapping


def _first_indices(names: list[str], indices: list[float]) -> dict[str, int]:
    """The mapping that a table without state_mapping.csv implies: each state's first index, no index twice."""
    mapping: dict[str, int] = {}
    for name, index in zip(names, indices, strict=True):
        if name not in mapping and index >= 0 and index == int(index) and index not in mapping.values():
            mapping[name] = int(index)
    return mapping


def _state_reason(name: str, index: float, mapping: dict[str, int], fixed: bool) -> str | None:
    if not name:
        return "the state is empty"
    origin = MAPPING if fixed else "an earlier row"
    if name in mapping:
        if math.isnan(index) or index == mapping[name]:
            return None
        return f"state_idx is {index:g}, but {origin} gives {mapping[name]} to {name}"
    if fixed:
        return f"the state {name!r} is not in {MAPPING}"
    if math.isnan(index):
        return None
    if index in mapping.values():
        return f"state_idx {index:g} of {name} belongs to another state in {origin}"
    return f"state_idx {index:g} is no whole number from 0"


def _view_rows(table, path: Path, images: Path, errors: RowErrors, points=None) -> dict[int, dict]:
    """Rows with their views, by position in the table; rows without any usable view are noted and left out."""
    rows: dict[int, dict] = {}
    seen: dict[str, str | int] = {}
    for position, cells in enumerate(table[["sample_id", *VIEW_COLUMNS]].itertuples(index=False)):
        sample_id, line = str(cells[0]).strip(), line_of(table, position)
        if not sample_id:
            errors.add(path, line, "sample_id is empty")
            continue
        if sample_id in seen:
            errors.add(path, line, f"sample_id {sample_id} stands in row {seen[sample_id]} already")
            continue
        seen[sample_id] = line
        views, headings = [], []
        for cell, heading in zip(cells[1:], COMPASS.values(), strict=True):
            if label_of(cell) is None:
                continue
            try:
                views.append(file_in(images, str(cell).strip()))
                headings.append(heading)
            except DataError as error:
                errors.add(path, line, str(error))
        if views:
            point = (math.nan, math.nan) if points is None else points[position]
            rows[position] = place_row(sample_id, views, headings, source=path, line=line, point=point)
        else:
            errors.add(path, line, "has no view that can be used")
    drop_broken(rows, errors)
    return rows
