"""A user's own rows, a torch `Dataset` or a list of dicts, in the columns that a task knows."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from geohf.data.cells import WRITTEN_EMPTY, is_nothing, text_of
from geohf.data.classes import class_names, with_names
from geohf.data.columns import numbers_of
from geohf.data.tables import LATITUDE_COLUMNS, LONGITUDE_COLUMNS, axis_of, find_column, side_column
from geohf.errors import DataError
from geohf.geo.angles import degrees_of
from geohf.geo.frames import impossible_points
from geohf.vision.contents import content_key


def cell_of(row: Mapping, names: Sequence[str]) -> Any:
    """The first cell of these names, in any case of letters, that a row has and that is not empty; else one that is.

    >>> cell_of({"heading": None, "Angle": 90.0}, ["heading", "angle"])
    90.0
    """
    return _named_cell(row, names)[1]


def _named_cell(row: Mapping, names: Sequence[str]) -> tuple[str, Any]:
    """`cell_of`, behind the name of its column."""
    first = "", None
    for name in names:
        column = name if name in row else find_column((key for key in row if isinstance(key, str)), [name])
        if column is None:
            continue
        cell = row[column]
        if not is_nothing(cell):
            return column, cell
        first = (column, cell) if first[1] is None else first
    return first


def heading_of(cell: Any) -> float:
    """A heading in [0, 360) degrees, so that -90 and 270 are one; NaN of an empty cell.

    Raises:
        DataError: the cell holds no number.

    >>> heading_of(-90), heading_of(None)
    (270.0, nan)
    """
    try:
        degrees = math.nan if is_nothing(cell) else numbers_of([cell]).item()
    except (TypeError, ValueError):
        degrees = math.inf
    if math.isinf(degrees):
        raise DataError(f"a heading is degrees clockwise from north, got {cell!r}"[:200])
    return degrees % 360


def _degrees_in(row: Mapping, names: Sequence[str]) -> float:
    """The latitude or longitude of a row in degrees, as tables may write it; NaN of an empty cell."""
    column, cell = _named_cell(row, names)
    if is_nothing(cell) or (isinstance(cell, str) and cell.strip() in WRITTEN_EMPTY):
        return math.nan
    beside, own = side_column(column, tuple(row))
    side = "" if beside is None else text_of(row[beside]) or ""
    if not side and not own:
        if isinstance(cell, float):
            return cell
        with suppress(TypeError, ValueError):
            return numbers_of([cell]).item()
    value = degrees_of(str(cell), axis_of(column), side)
    if value is None:
        told = "" if beside is None else f" and {beside} {side!r}"
        raise DataError(f"latitude and longitude must be numbers, got {cell!r}{told} as {column}"[:200])
    return value


def positions_of(rows: Sequence[dict], frame: str = "wgs84", names: Sequence | None = None) -> np.ndarray:
    """(n, 2) float64 `latitude` and `longitude` of a user's rows; NaN where they are unknown.

    Columns may have the names that tables' have, as `lat` and `lon`.

    Args:
        names: of the rows, for messages; by default their ids or positions.

    Raises:
        DataError: a row holds no numbers or half of a position, or in `wgs84` one that cannot be: no loader has judged these rows.

    >>> positions_of([{"latitude": "48.5", "longitude": 2}, {"latitude": None}]).tolist()
    [[48.5, 2.0], [nan, nan]]
    >>> positions_of([{"Lat": 48.5, "lng": 2}, {"GPSLatitude": 33.5, "GPSLatitudeRef": "S", "lon": "151.2 E"}]).tolist()
    [[48.5, 2.0], [-33.5, 151.2]]
    """
    points = np.full((len(rows), 2), math.nan)
    reasons: dict[int, str] = {}
    for number, row in enumerate(rows):
        try:
            points[number] = [_degrees_in(row, columns) for columns in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
        except DataError as error:
            reasons[number] = str(error)
    half, infinite = np.isnan(points).sum(1) == 1, np.isinf(points).any(1)
    reasons |= dict.fromkeys(np.flatnonzero(half).tolist(), "has only one of latitude and longitude")
    reasons |= dict.fromkeys(np.flatnonzero(infinite).tolist(), "is infinitely far")
    if frame == "wgs84":
        reasons |= impossible_points(points)
    if reasons:
        number = min(reasons)
        ids = (rows[number].get(key) for key in ("sample_id", "filename", "image_id"))
        name = next((one for one in ids if one is not None), number) if names is None else names[number]
        raise DataError(
            f"row {name}: {reasons[number]}; leave latitude and longitude empty where they are not known"
        )
    return points


def mark_of(value: Any, in_memory: bool) -> Any:
    """What tells a value from others at little cost: of files and bytes their length, as folders move and copies age.

    Args:
        in_memory: its content counts, too, as it is the same at every call; a user's dataset may draw it anew.
    """
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (list, tuple)):
        return [mark_of(entry, in_memory) for entry in value]
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    name = getattr(value, "filename", None) or value
    if isinstance(name, (str, os.PathLike)):
        try:
            return os.stat(name).st_size
        except (OSError, ValueError):
            return str(name)
    return content_key(value) if in_memory else None


def require_rows(rows: Any, what: str = "rows") -> None:
    """Raise DataError for what has no rows by number: columns, several splits, a DataFrame, a path, a generator."""
    if isinstance(rows, IterableDataset):
        raise DataError(
            f"{what} of torch's IterableDataset cannot be divided among workers and processes: give a stream of datasets, "
            "as `datasets.IterableDataset.from_generator(rows.__iter__)`"
        )
    by_number = hasattr(rows, "__getitem__") and hasattr(rows, "__len__")
    if not by_number or isinstance(rows, (str, bytes, Mapping)) or hasattr(rows, "iloc"):
        raise DataError(
            f"{what} must be a dataset, a stream or a list of dicts, as `frame.to_dict('records')` of pandas, and of "
            f"several splits one; got {type(rows).__name__}"
        )


class RowView(Dataset):
    """Rows by number and small columns by name, as `datasets.Dataset` has them; pictures are read when asked for.

    Args:
        rows: has `len()` and rows by number, which are dicts; `read` gets the names of classes in place of a `ClassLabel`'s numbers.
        read: (row, its number) -> the row in the task's columns.
        columns: those that hold labels, not pictures: all are read in one pass, when the first is asked for.

    Raises:
        DataError: the rows are columns or splits, or datasets that torch joined number their classes differently.

    >>> view = RowView([{"label": "a"}, {"label": "b"}], lambda row, i: {"state": row["label"], "id": i}, ["state"])
    >>> view["state"], view[1], len(view.select([1]))
    (['a', 'b'], {'state': 'b', 'id': 1}, 1)
    """

    def __init__(self, rows: Any, read: Callable[[dict, int], dict], columns: Sequence[str]):
        require_rows(rows)
        self.rows, self.read, self.column_names = rows, read, list(columns)
        names = class_names(rows)
        self._named = with_names(rows, names) if names else rows
        self.numbers: np.ndarray = np.arange(len(rows))
        self._columns: Any = None  # column -> values, once they were read
        self._marks: Any = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            self._read_once()
            return self._columns[key]
        number = int(self.numbers[key])
        return self.read(self._named[number], number)

    def key_arrays(self) -> dict[str, list]:
        """Column -> values, and the `mark_of` each picture: what tells these rows from others."""
        self._read_once()
        return {**self._columns, "pictures": self._marks}

    def _read_once(self) -> None:
        """One pass over the rows, of which no picture is kept: there may be more than memory holds."""
        if self._columns is not None and self._marks is not None:
            return
        columns: dict[str, list] = {name: [] for name in self.column_names}
        marks: list[list] = []
        in_memory = isinstance(self.rows, (list, tuple))
        for i in range(len(self)):
            row = self[i]
            for name, values in columns.items():
                values.append(row[name])
            marks.append([mark_of(row[name], in_memory) for name in sorted(row) if name not in columns])
        self._columns, self._marks = columns, marks

    def with_column(self, name: str, values: Sequence) -> RowView:
        """The view with other values in one of its columns of labels."""
        read, numbers = self.read, {int(number): i for i, number in enumerate(self.numbers)}

        def changed(row: dict, number: int) -> dict:
            return read(row, number) | {name: values[numbers[number]]}

        view = RowView(self.rows, changed, self.column_names)
        view.numbers = self.numbers
        return view

    def select(self, indices: Iterable[int]) -> RowView:
        """The view of some of the rows."""
        part = RowView(self.rows, self.read, self.column_names)
        chosen = np.fromiter(indices, np.int64)
        part.numbers = self.numbers[chosen]
        if self._columns is not None:
            part._columns = {name: [values[i] for i in chosen] for name, values in self._columns.items()}
            part._marks = [self._marks[i] for i in chosen]
        return part


class RowImages(Sequence):
    """The images of rows that come one by one, each read when it is asked for."""

    def __init__(self, dataset: Any, rows: range | None = None):
        self.dataset, self.rows = dataset, range(len(dataset)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return RowImages(self.dataset, self.rows[index])
        return self.dataset[self.rows[index]]["image"]
