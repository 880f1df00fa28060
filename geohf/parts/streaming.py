"""Photos with parts, more of them than memory holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geohf.data.streaming import features_of, stream_rows
from geohf.data.tables import RowErrors, image_in, require_columns
from geohf.errors import DataError
from geohf.parts.hub_data import row_reason, trusted_parts
from geohf.parts.vocabulary import names_of, part_features
from geohf.vision.images import open_image

if TYPE_CHECKING:
    import pandas as pd
    from datasets import IterableDataset


def stream_parts(
    source: str | Path | Sequence[str | Path], on_error: str = "raise", min_trust: float = 0.0
) -> IterableDataset:
    """Photos with parts that are more than memory holds, see `geohf.data.streaming.stream_rows`.

    Args:
        source: Parquet files, or a dataset of the Hub, with the columns of `part_features`, as `push_to_hub` and
            `Dataset.to_parquet` write what `load_parts` gives. The names of parts and states are those of the first.
        min_trust: see `load_parts`.

    Raises:
        DataError: the names are not known; as rows are read: a photo whose picture, boxes or labels cannot be used.
    """
    names = names_of(features_of(source))
    features = part_features(*(list(column.values()) for column in names))
    return stream_rows(source, partial(_usable, names=names, min_trust=min_trust), features, (), on_error)


def _usable(table: pd.DataFrame, source: str, errors: RowErrors, names, min_trust: float) -> dict[str, list]:
    require_columns(table.columns, list(part_features()), source)
    numbers = [{name: number for number, name in column.items()} for column in names]
    columns: dict[str, list] = {name: [] for name in part_features()}
    for position, row in zip(table.index, table.to_dict("records"), strict=True):
        where = f"{position}, {row['image_id']}"
        try:
            row["image"] = image_in(Path(source).parent, row["image"])
            for column, number in zip(("parts", "states"), numbers, strict=True):
                row[column] = [number[name] for name in row[column]]
            row["boxes"] = [list(box) for box in row["boxes"]]
            reason = row_reason(row, open_image(row["image"]).size)
        except KeyError as error:
            reason = f"{error.args[0]!r} is none of {', '.join(number)}"
        except DataError as error:
            reason = str(error)
        if reason:
            errors.add(source, where, reason)
            continue
        row = row | trusted_parts(row, min_trust)
        for name, values in columns.items() if row["parts"] else ():
            values.append(row[name])
    return columns
