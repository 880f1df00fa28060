"""A user's own rows, a torch `Dataset` or a list of dicts, in the columns that a task knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from geohf.errors import DataError
from geohf.geo.frames import impossible_points


def positions_of(rows: Sequence[dict], frame: str = "wgs84", names: Sequence | None = None) -> np.ndarray:
    """(n, 2) float64 `latitude` and `longitude` of a user's rows; NaN where they are unknown.

    Args:
        names: of the rows, for messages; by default their ids or positions.

    Raises:
        DataError: a row holds no numbers, or in `wgs84` a position that cannot be: no loader has judged these rows.

    >>> positions_of([{"latitude": "48.5", "longitude": 2}, {"latitude": None}]).tolist()
    [[48.5, 2.0], [nan, nan]]
    """
    cells = [[row.get(name) for name in ("latitude", "longitude")] for row in rows]
    try:
        points = np.array(cells, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise DataError(f"latitude and longitude must be numbers, got {cells}"[:300]) from None
    reasons = impossible_points(points) if frame == "wgs84" else {}
    if reasons:
        number, reason = next(iter(reasons.items()))
        ids = (rows[number].get(key) for key in ("sample_id", "filename", "image_id"))
        name = next((one for one in ids if one is not None), number) if names is None else names[number]
        raise DataError(f"row {name}: {reason}; leave latitude and longitude empty where they are not known")
    return points


class RowView(Dataset):
    """Rows by number and small columns by name, as `datasets.Dataset` has them; pictures are read when asked for.

    Args:
        rows: has `len()` and rows by number, which are dicts.
        read: (row, its number) -> the row in the task's columns.
        columns: names of the columns that hold labels, not pictures: they are read in one pass, when the first is
            asked for.

    >>> view = RowView([{"label": "a"}, {"label": "b"}], lambda row, i: {"state": row["label"], "id": i}, ["state"])
    >>> view["state"], view[1], len(view.select([1]))
    (['a', 'b'], {'state': 'b', 'id': 1}, 1)
    """

    def __init__(self, rows: Any, read: Callable[[dict, int], dict], columns: Sequence[str]):
        self.rows, self.read, self.column_names = rows, read, list(columns)
        self.numbers = np.arange(len(rows))
        self._columns: dict[str, list] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            if self._columns is None:
                whole = [self[i] for i in range(len(self))]
                self._columns = {name: [row[name] for row in whole] for name in self.column_names}
            return self._columns[key]
        number = int(self.numbers[key])
        return self.read(self.rows[number], number)

    def key_arrays(self) -> dict[str, list]:
        """Column -> values: what tells these rows from others."""
        return {name: self[name] for name in self.column_names}

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
        return part
