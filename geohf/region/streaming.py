"""Photographs with their regions from tables larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geohf.data.streaming import StreamedTable
from geohf.region.rows import NUMBERS, region_features, usable_rows

if TYPE_CHECKING:
    from datasets import IterableDataset


def stream_regions(
    source: str | Path | Sequence[str | Path],
    images: str | Path | None = None,
    frame: str = "wgs84",
    exclude: Iterable[str] = (),
    on_error: str = "raise",
) -> IterableDataset:
    """`load_region_table` for tables larger than memory, see `geohf.data.streaming.stream_rows`.

    Images may also lie in the table, as Parquet of the Hub holds them. A file that stands there twice is found only
    where both rows are of one chunk.

    Raises:
        DataError: as rows are read, see `load_region_table`.
    """
    return streamed_regions(source, images, frame, exclude, on_error).stream()


def streamed_regions(
    source: str | Path | Sequence[str | Path],
    images: str | Path | None = None,
    frame: str = "wgs84",
    exclude: Iterable[str] = (),
    on_error: str = "raise",
) -> StreamedTable:
    """The table of `stream_regions`."""
    rows_of = partial(usable_rows, images=images, frame=frame, exclude=frozenset(exclude))
    return StreamedTable(source, rows_of, region_features(), NUMBERS, on_error)
