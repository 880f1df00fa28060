"""Places from tables larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geohf.data.streaming import StreamedTable, streaming
from geohf.data.tables import RowErrors, line_of
from geohf.street.competition import TRAIN_TABLE
from geohf.street.photos import rows_of_views
from geohf.street.places import NUMBERS, drop_broken, place_features

if TYPE_CHECKING:
    import pandas as pd


def streamed_places(
    source: str | Path | Sequence[str | Path], images: str | Path | None = None, on_error: str = "raise"
) -> StreamedTable:
    """`load_places` for tables larger than memory, see `StreamedTable`; `stream_places` gives its rows.

    Args:
        source: tables with `latitude` and `longitude`, and views as `image` (or another name of a file column), as
            `views`, as `north`, `east`, `south` and `west`, or as the competition's `image_north` ...; each names a
            file or holds the image. `state`, `state_idx`, `heading` and `sample_id` are optional.
        images: folder of the files; each table's own where None.

    Raises:
        DataError: as rows are read: a column is missing, or a row cannot be used.
    """
    from datasets import Features, Image, List

    if isinstance(source, (str, Path)) and (Path(source) / TRAIN_TABLE).is_file():
        source, images = Path(source) / TRAIN_TABLE, Path(source) / "train_images"
    rows_of = partial(_usable, images=images)
    features = Features(place_features() | {"views": List(Image(decode=False))})
    return StreamedTable(source, rows_of, features, NUMBERS, on_error)


stream_places = streaming(streamed_places)


def _usable(
    table: pd.DataFrame, source: str, errors: RowErrors, images: str | Path | None
) -> dict[str, list]:
    folder = Path(source).parent if images is None else Path(images)
    rows = rows_of_views(table, source, folder, errors, whole=False)
    drop_broken(rows, errors)
    for i, row in rows.items():
        row["sample_id"] = row["sample_id"] or str(line_of(table, i))
    return {name: [row[name] for row in rows.values()] for name in place_features()}
