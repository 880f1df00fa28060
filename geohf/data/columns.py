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


def image_column(images: Sequence[str | Mapping]) -> pa.StructArray:
    """A column of `datasets.Image`, (n,) structs of bytes and path, of paths or `{"path": ..., "bytes": ...}`.

    >>> image_column(["a.jpg", {"path": None, "bytes": b"jpeg"}]).to_pylist()
    [{'bytes': None, 'path': 'a.jpg'}, {'bytes': b'jpeg', 'path': None}]
    """
    import pyarrow as pa

    paths = pa.array(
        [image if isinstance(image, str) else image.get("path") for image in images], pa.string()
    )
    content = pa.array(
        [None if isinstance(image, str) else image.get("bytes") for image in images], pa.binary()
    )
    return pa.StructArray.from_arrays([content, paths], ["bytes", "path"])


def image_lists(rows: Sequence[Sequence[str | Mapping]]) -> pa.ListArray:
    """A column of lists of images, (n,), see `image_column`.

    >>> image_lists([["a.jpg"], [], ["b.jpg", "c.jpg"]]).value_lengths().to_pylist()
    [1, 0, 2]
    """
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, rows)])
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), image_column([image for row in rows for image in row])
    )
