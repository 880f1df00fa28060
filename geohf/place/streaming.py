"""Drives from tables larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geohf.data.shards import tables_of
from geohf.data.streaming import StreamedTable, streaming
from geohf.data.tables import RowErrors
from geohf.place.columns import NUMBERS
from geohf.place.drives import columns_of, drive_features, names_of_sources, rows_of_table, usable_rows

if TYPE_CHECKING:
    import pandas as pd


def streamed_drives(
    source: str | Path | Sequence[str | Path],
    camera_id: str | None = None,
    utm: str | None = None,
    on_error: str = "raise",
) -> StreamedTable:
    """`load_drives` for tables larger than memory, see `StreamedTable`; `stream_drives` gives its rows.

    Raises:
        DataError: as rows are read, see `load_drives`.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    files = [str(file) for name in sources for file in tables_of(str(name))]
    names = dict(zip(files, names_of_sources(files), strict=True))
    rows_of = partial(_usable_of_table, camera_id=camera_id, utm=utm, names=names)
    return StreamedTable(source, rows_of, drive_features(), NUMBERS, on_error)


stream_drives = streaming(streamed_drives)


def _usable_of_table(
    table: pd.DataFrame, source: str, errors: RowErrors, camera_id: str | None, utm: str | None, names: dict
) -> dict[str, list]:
    rows = rows_of_table(table, Path(source), names.get(source) or Path(source).stem, utm, errors)
    return columns_of(usable_rows([row for row in rows if camera_id in (None, row.camera)], errors))
