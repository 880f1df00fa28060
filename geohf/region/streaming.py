"""Photographs with their regions from tables larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from geohf.data.streaming import StreamedTable, streaming
from geohf.region.rows import NUMBERS, region_features, usable_rows


def streamed_regions(
    source: str | Path | Sequence[str | Path],
    images: str | Path | None = None,
    frame: str = "wgs84",
    exclude: Iterable[str] = (),
    on_error: str = "raise",
) -> StreamedTable:
    """`load_region_table` for tables larger than memory, see `StreamedTable`; `stream_regions` gives its rows.

    Images may also lie in the table, as Parquet of the Hub holds them. A file that stands there twice is found only
    where both rows are of one chunk.

    Raises:
        DataError: as rows are read, see `load_region_table`.
    """
    rows_of = partial(usable_rows, images=images, frame=frame, exclude=frozenset(exclude))
    return StreamedTable(source, rows_of, region_features(), NUMBERS, on_error)


stream_regions = streaming(streamed_regions)
