"""Columns of datasets as Arrow stores them: at real size, lists of dicts take more time and memory than all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


def stored_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column as Arrow stores it, digits and all; of rows that were selected, no other column is gathered."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def numbers_of(cells: Sequence) -> np.ndarray:
    """(n,) float64 of a column's cells, NaN for None.

    Raises:
        TypeError, ValueError: a cell is no number; true and false are none, which numpy takes for 1 and 0.

    >>> numbers_of(["48.5", None, 2])
    array([48.5,  nan,  2. ])
    """
    plain = isinstance(cells, np.ndarray) and cells.dtype.kind in "fiu"
    if not plain and any(
        isinstance(cell, bool) or str(getattr(cell, "dtype", "")).endswith("bool") for cell in cells
    ):
        raise TypeError("true and false are not numbers")
    return np.array(cells, np.float64)


def image_column(images: Sequence[str | Mapping]) -> pa.StructArray:
    """A column of `datasets.Image`, (n,) structs of bytes and path, of paths or `{"path": ..., "bytes": ...}`.

    >>> image_column(["a.jpg", {"path": None, "bytes": b"jpeg"}]).to_pylist()
    [{'bytes': None, 'path': 'a.jpg'}, {'bytes': b'jpeg', 'path': None}]
    """
    import pyarrow as pa

    content = [None if isinstance(image, str) else image.get("bytes") for image in images]
    paths = [image if isinstance(image, str) else image.get("path") for image in images]
    arrays = [pa.array(content, pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(arrays, ["bytes", "path"])


def image_lists(rows: Sequence[Sequence[str | Mapping]]) -> pa.ListArray:
    """A column of lists of images, (n,), see `image_column`.

    >>> image_lists([["a.jpg"], [], ["b.jpg", "c.jpg"]]).value_lengths().to_pylist()
    [1, 0, 2]
    """
    import pyarrow as pa

    ends = pa.array(np.cumsum([0, *map(len, rows)]), pa.int32())
    return pa.ListArray.from_arrays(ends, image_column([image for row in rows for image in row]))
