"""Photos with parts, more of them than memory holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geohf.data.cells import image_in, text_of
from geohf.data.shards import features_of
from geohf.data.streaming import StreamedTable, streaming
from geohf.data.tables import RowErrors, require_columns
from geohf.errors import DataError
from geohf.parts.hub_data import add_trusted, features_with, usable_photos
from geohf.parts.rows import REQUIRED

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Features


def streamed_parts(
    source: str | Path | Sequence[str | Path],
    on_error: str = "raise",
    min_trust: float = 0.0,
    attributes: Sequence[str] = (),
) -> StreamedTable:
    """Photos with parts that are more than memory holds, see `StreamedTable`; `stream_parts` gives its rows.

    Args:
        source: Parquet files, or a dataset of the Hub, with the columns of `part_features` or those of them that are `REQUIRED`;
            the names of parts and states are those of the first.
        min_trust, attributes: see `load_parts`.

    Raises:
        DataError: the names are not known; as rows are read: a photo whose picture, boxes or labels cannot be used.
    """
    features = features_with(features_of(source), attributes)
    rows_of = partial(_usable, features=features, min_trust=min_trust)
    return StreamedTable(source, rows_of, features, (), on_error)


stream_parts = streaming(streamed_parts)


def _usable(
    table: pd.DataFrame, source: str, errors: RowErrors, features: Features, min_trust: float
) -> dict[str, list]:
    require_columns(table.columns, REQUIRED, source)
    columns: dict[str, list] = {name: [] for name in features}
    for _, facts, listed in usable_photos(_located(table, source, errors), source, errors, features):
        add_trusted(columns, facts, listed, min_trust)
    return columns


def _located(table: pd.DataFrame, source: str, errors: RowErrors) -> Iterator[tuple[int, str | None, dict]]:
    """Position, name and cells of each row whose cell `image` names a file in the table's folder, or holds one."""
    for position, row in zip(table.index, table.to_dict("records"), strict=True):
        name = text_of(row.get("image_id"))
        try:
            yield position, name, row | {"image": image_in(Path(source).parent, row["image"])}
        except DataError as error:
            errors.add(source, f"{position}, {name}" if name else position, str(error))
