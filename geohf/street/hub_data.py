"""Places from a dataset of the Hub."""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.cells import label_of, text_of
from geohf.data.classes import column_of
from geohf.data.columns import numbers_of
from geohf.data.formats import load_splits
from geohf.data.rows import positions_of
from geohf.data.samples import without_decoding
from geohf.data.splits import by_split
from geohf.data.tables import LATITUDE_COLUMNS, LONGITUDE_COLUMNS, RowErrors, find_column, side_column
from geohf.errors import DataError
from geohf.street.places import (
    INDEX_COLUMN,
    STATE_COLUMNS,
    dataset_of,
    place_features,
    place_row,
    point_reasons,
    state_of,
)
from geohf.street.processing import COMPASS, split_views
from geohf.vision.checks import checked_rows

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features


def load_hub_dataset(name: str, on_error: str) -> tuple[DatasetDict, RowErrors]:
    """A dataset, or a folder that `save_to_disk` wrote, with `views` or `image` (or north, east, south, west), `latitude`, `longitude`, perhaps `state`."""
    from datasets import DatasetDict

    errors, loaded = RowErrors(on_error), by_split(load_splits(name), name)
    if "train" not in loaded:
        raise DataError(f"{name}: has no split 'train' but {', '.join(loaded)}")
    splits = {key: _places_of(without_decoding(split), name, key, errors) for key, split in loaded.items()}
    errors.settle(kept=len(splits["train"]))
    return DatasetDict(splits), errors


def _places_of(dataset: Dataset, name: str, split: str, errors: RowErrors) -> Dataset:
    source, features = f"{name} [{split}]", dataset.features
    if not len(dataset):
        raise DataError(f"{source}: the dataset is empty")
    _check_view_columns(features, source)
    state = find_column(features, STATE_COLUMNS)
    labels = [label_of(name) for name in column_of(dataset, state or STATE_COLUMNS[0])]
    points: np.ndarray = np.full((len(dataset), 2), math.nan)
    reasons = {}
    if any(find_column(features, names) for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)):
        points, odd = _positions_of(dataset, source)
        reasons = point_reasons(points, source, labels if state and state.lower() != "country" else None)
        if split != "train":  # places to be found
            reasons = {i: reason for i, reason in reasons.items() if not np.isnan(points[i]).all()}
        reasons |= odd
    rows: dict[int, dict] = {}
    candidates = _candidates(dataset, labels, reasons, source, errors)
    for (position, sample_id, named, _, headings), broken in checked_rows(candidates, itemgetter(3)):
        for reason in filter(None, broken):
            errors.add(source, position, reason)
        usable = [k for k, reason in enumerate(broken) if reason is None]
        if usable:
            where = {"source": source, "line": position, "point": points[position], "state": named}
            rows[position] = place_row(sample_id, usable, [headings[k] for k in usable], **where)
    if not rows:
        return dataset_of([])
    wanted = place_features()
    places = [{name: row[name] for name in wanted} for row in rows.values()]

    def place_of(row, i):  # written to disk batch by batch: the images need not fit into memory
        views, _ = split_views({key: value for key, value in row.items() if key != "headings"})
        return places[i] | {"views": [views[k] for k in places[i]["views"]]}

    return dataset.select(list(rows)).map(
        place_of, with_indices=True, features=wanted, remove_columns=dataset.column_names
    )


def _positions_of(dataset: Dataset, source: str) -> tuple[np.ndarray, dict[int, str]]:
    """(n, 2) degrees, and why a row's cannot be read: NaN stands for these."""
    columns = tuple(dataset.features)
    axes = [find_column(columns, names, source) for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
    sides = [side for axis in axes if axis and (side := side_column(axis, columns)[0])]
    if not sides:
        try:
            return np.stack([numbers_of(dataset[axis][:]) for axis in axes], 1), {}
        except (TypeError, ValueError) as error:
            raise DataError(f"{source}: columns {axes} must hold numbers ({error})") from None
    points, odd = np.full((len(dataset), 2), math.nan), {}
    for i, row in enumerate(dataset.select_columns([*axes, *sides])):
        try:
            points[i] = positions_of([row], names=[i])[0]
        except DataError as error:
            odd[i] = str(error).partition(": ")[2]
    return points, odd


def _check_view_columns(features: Features, source: str) -> None:
    from datasets import Image

    columns = [name for name in ("views", "image", *COMPASS) if name in features]
    if not columns:
        raise DataError(
            f"{source}: needs a column 'views', 'image' or one of {', '.join(COMPASS)}; "
            f"the columns are: {', '.join(features)}"
        )
    for name in columns:
        if not isinstance(getattr(features[name], "feature", features[name]), Image):
            # text could name any file of this machine
            raise DataError(f"{source}: column {name!r} must hold images, but holds {features[name]}")


def _candidates(dataset, labels, reasons, source, errors) -> Iterator[tuple[int, str, tuple, list, list]]:
    """Position, id, state with its index, views and headings of the rows that nothing speaks against yet."""
    seen: dict[str, int] = {}
    for position, row in enumerate(dataset):
        if position in reasons:
            errors.add(source, position, reasons[position])
            continue
        sample_id = text_of(row.get("sample_id")) or str(position)
        if sample_id in seen:
            errors.add(source, position, f"sample_id {sample_id} stands in row {seen[sample_id]} already")
            continue
        seen[sample_id] = position
        try:
            views, headings = split_views(row)
            named = state_of(labels[position], row.get(INDEX_COLUMN))
        except DataError as error:
            errors.add(source, position, str(error))
            continue
        yield position, sample_id, named, views, headings
