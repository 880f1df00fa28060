"""Rows of places: their columns, and the checks that every source shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.cells import is_nothing, label_of, text_of
from geohf.data.columns import image_lists, numbers_of
from geohf.data.rows import RowView, positions_of
from geohf.data.samples import without_decoding
from geohf.data.streaming import is_stream, read_stream
from geohf.data.tables import (
    HEADING_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    bad_point_reasons,
    find_column,
    wrapped_longitude,
)
from geohf.data.tensor_dataset import TensorDictDataset
from geohf.errors import DataError
from geohf.geo.frames import impossible_points
from geohf.street.classes import US_STATES
from geohf.street.processing import split_views
from geohf.vision.checks import broken_images

if TYPE_CHECKING:
    from datasets import Dataset, Features


STATE_COLUMNS = ("state", "label", "region", "country")
INDEX_COLUMN = "state_idx"
NUMBERS = (*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS, *HEADING_COLUMNS, INDEX_COLUMN)


def place_features() -> Features:
    """The columns of a dataset of places."""
    from datasets import Features, Image, List, Value

    return Features(
        {
            "sample_id": Value("string"),
            "views": List(Image()),
            "headings": List(Value("float64")),
            "state": Value("string"),
            "state_idx": Value("int64"),
            "latitude": Value("float64"),
            "longitude": Value("float64"),
        }
    )


def as_places(rows):
    """Rows that a user gave to a Trainer, as places: a dataset as the loaders leave it and a stream with its columns stay as they are.

    Args:
        rows: a dataset, stream or list of dicts with `views`, `image` or `north`, `east`, `south`, `west`, and perhaps
            `latitude`, `longitude`, `state` and `sample_id`, or as tables call these. A `state` is a name, or the number of its class;
            the competition's index is its `state_idx`.
    """
    if is_stream(rows):
        return read_stream(rows, _read_place, {*place_features()} - {INDEX_COLUMN})
    if not hasattr(rows, "__len__") or isinstance(rows, (RowView, TensorDictDataset)) or _are_loaded(rows):
        return rows
    labels = [name for name in place_features() if name != "views"]
    return RowView(without_decoding(rows), _read_place, labels)


def _are_loaded(rows) -> bool:
    """Whether these are places as the loaders leave them; what else has their columns is checked row by row."""
    from datasets import List
    from pyarrow.compute import list_value_length, min_max
    from pyarrow.types import is_integer, is_null

    if not {*place_features()} - {INDEX_COLUMN} <= {*(getattr(rows, "column_names", None) or ())}:
        return False
    lists = ("views", "headings")
    stored = rows.data  # of all rows, where these are some of them: nothing is gathered
    if not all(isinstance(rows.features[name], List) for name in lists):
        return False
    if INDEX_COLUMN in rows.column_names:
        index = stored.column(INDEX_COLUMN)
        if not is_null(index.type):
            least = min_max(index)["min"].as_py() if is_integer(index.type) else -1
            if least is not None and least < 0:  # -1 is unknown, and 1.5 none
                return False
    try:
        axes = [numbers_of(stored.column(name).to_numpy()) for name in ("latitude", "longitude")]
    except (TypeError, ValueError):  # text, such as 48.5 N
        return False
    points = np.stack(axes, 1)
    if impossible_points(points) or np.isinf(points).any() or (np.isnan(points).sum(1) == 1).any():
        return False
    views, headings = (list_value_length(stored.column(name)) for name in lists)
    return not headings.null_count and headings.equals(views)


def _read_place(row: dict, number: int) -> dict:
    name = text_of(row.get("sample_id")) or str(number)
    column = find_column((key for key in row if isinstance(key, str)), STATE_COLUMNS)
    try:
        views, headings = split_views(row)
        state, index = state_of(row.get(column), row.get(INDEX_COLUMN))
    except DataError as error:
        raise DataError(f"row {name}: {error}") from None
    latitude, longitude = positions_of([row], names=[number])[0].tolist()
    labels = {"state": state, INDEX_COLUMN: index, "latitude": latitude, "longitude": longitude}
    return {"sample_id": name, "views": views, "headings": headings} | labels


def state_of(state: Any, index: Any) -> tuple[Any, int | None]:
    """A row's state and the competition's index of it, None where unknown; an index alone is the state's name, too.

    Raises:
        DataError: an index that is no whole number; -1 and an empty one are unknown.

    >>> state_of("Maine", 18.0), state_of(None, 18), state_of("nan", -1)
    (('Maine', 18), ('18', 18), (None, None))
    """
    known = label_of(index)
    if known is not None and not known.removeprefix("-").isdecimal():
        raise DataError(f"state_idx is {index!r}, which is no whole number")
    number = None if known is None or int(known) < 0 else int(known)
    if is_nothing(state) or isinstance(state, str):
        state = label_of(state)
    return (str(number) if state is None and number is not None else state), number


def headings_of(dataset: Dataset, width: int) -> np.ndarray:
    """(places, width) degrees in [0, 360) of the views of each place, NaN where unknown or where there is no view."""
    padded = np.full((len(dataset), width), np.nan)
    for row, headings in zip(padded, dataset["headings"][:], strict=True):
        row[: len(headings)] = headings
    return padded % 360


def dataset_of(rows: Iterable[dict]) -> Dataset:
    """A dataset with `place_features` of rows made by `place_row`."""
    from datasets import Dataset

    features = place_features()
    rows = list(rows)
    columns = {name: [row[name] for row in rows] for name in features}
    columns["views"] = image_lists(columns["views"])
    return Dataset.from_dict(columns, features=features)


def place_row(
    sample_id, views, headings, *, source, line, point=(math.nan, math.nan), state=(None, None)
) -> dict:
    """A row of `place_features`, and under `where` the file and line that an error shall name.

    Args:
        state: with its index, see `state_of`.
    """
    return {
        "sample_id": sample_id,
        "views": views,
        "headings": headings,
        "state": state[0],
        "state_idx": state[1],
        "latitude": float(point[0]),
        "longitude": wrapped_longitude(point[1]),
        "where": (source, line),
    }


def drop_broken(rows: dict[int, dict], errors: RowErrors) -> None:
    """Leave out views that cannot be decoded, and rows that then have none; each is noted."""
    flat = [(position, k) for position, row in rows.items() for k in range(len(row["views"]))]
    reasons = broken_images([rows[position]["views"][k] for position, k in flat])
    for number in sorted(reasons, reverse=True):  # from the last, so that what comes before keeps its place
        position, k = flat[number]
        del rows[position]["views"][k], rows[position]["headings"][k]
    for number, reason in sorted(reasons.items()):
        source, line = rows[flat[number][0]]["where"]
        errors.add(source, line, reason)
    for position in {flat[number][0] for number in reasons}:
        if not rows[position]["views"]:
            del rows[position]


def drop_bad_points(points, source: str | Path, errors: RowErrors, rows: dict[int, dict], names=None) -> None:
    """Note and drop rows whose position cannot be right."""
    for position, reason in point_reasons(points, str(source), names).items():
        if position in rows:
            source, line = rows.pop(position)["where"]
            errors.add(source, line, reason)


def point_reasons(
    points: np.ndarray, source: str, names: Sequence[str | None] | None = None
) -> dict[int, str]:
    """Position -> why this row's point cannot be right."""
    reasons = bad_point_reasons(points, source)
    stated = {name for name in names or () if name}
    if 2 * len(stated & US_STATES) < max(1, len(stated)):  # Georgia among countries is no state
        return reasons
    for position, name in enumerate(names or ()):
        latitude, longitude = points[position]
        if position in reasons or name not in US_STATES or math.isnan(latitude) or math.isnan(longitude):
            continue
        # The 50 states reach from 18.9 to 71.4 north and, over the antimeridian, from 172.4 east to 66.9 west.
        if not (18 <= latitude <= 72 and (longitude <= -66 or longitude >= 172)):
            swapped = 18 <= longitude <= 72 and (latitude <= -66 or latitude >= 172)
            hint = "; latitude and longitude look swapped" if swapped else ""
            reasons[position] = (
                f"({latitude:g}, {longitude:g}) is not in the United States, but the state is {name}{hint}"
            )
    return dict(sorted(reasons.items()))
