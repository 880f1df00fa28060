"""Places from tables larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.cells import image_in, label_of
from geohf.data.streaming import StreamedTable, streaming
from geohf.data.tables import (
    HEADING_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    find_column,
    line_of,
    wrap_degrees,
)
from geohf.errors import DataError
from geohf.street.competition import TRAIN_TABLE
from geohf.street.photos import views_reader
from geohf.street.places import STATE_COLUMNS, place_features, point_reasons
from geohf.vision.checks import broken_images

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = (*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS, *HEADING_COLUMNS, "state_idx")


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
    if isinstance(source, (str, Path)) and (Path(source) / TRAIN_TABLE).is_file():
        source, images = Path(source) / TRAIN_TABLE, Path(source) / "train_images"
    rows_of = partial(_usable, images=images)
    return StreamedTable(source, rows_of, _features(), NUMBERS, on_error)


stream_places = streaming(streamed_places)


def _features():
    from datasets import Features, Image, List

    return Features(place_features() | {"views": List(Image(decode=False))})


def _usable(
    table: pd.DataFrame, source: str, errors: RowErrors, images: str | Path | None
) -> dict[str, list]:
    axes = [find_column(table.columns, names, source) for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
    state = find_column(table.columns, STATE_COLUMNS)
    points = table[axes].to_numpy(np.float64)
    labels = [label_of(cell) for cell in table[state]] if state else [None] * len(table)
    reasons = point_reasons(points, source, labels if state and state.lower() != "country" else None)
    views_of, folder = views_reader(table, source), Path(source).parent if images is None else Path(images)
    columns: dict[str, list] = {name: [] for name in place_features()}
    found = {}
    for i in range(len(table)):
        try:
            if i in reasons:
                raise DataError(reasons[i])
            cells, headings, name = views_of(i)
            found[i] = name or str(line_of(table, i)), [image_in(folder, cell) for cell in cells], headings
        except DataError as error:
            errors.add(source, line_of(table, i), str(error))
    flat = [(i, k) for i, (_, views, _) in found.items() for k in range(len(views))]
    broken = {flat[at]: why for at, why in broken_images([found[i][1][k] for i, k in flat]).items()}
    for (i, _), reason in broken.items():
        errors.add(source, line_of(table, i), reason)
    for i, (sample_id, views, headings) in found.items():
        kept = [k for k in range(len(views)) if (i, k) not in broken]
        if not kept:
            continue
        index = table["state_idx"].iat[i] if "state_idx" in table else np.nan
        values = {
            "sample_id": sample_id,
            "views": [views[k] for k in kept],
            "headings": [headings[k] for k in kept],
            "state": labels[i],
            "state_idx": int(index) if np.isfinite(index) else None,
            "latitude": points[i, 0],
            "longitude": wrap_degrees(points[i, 1]),
        }
        for name, value in values.items():
            columns[name].append(value)
    return columns
