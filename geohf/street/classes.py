"""What a model must know of its training places: the classes, where each lies, and the box around all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.cells import label_of
from geohf.data.classes import UNLABELED, class_number, class_numbers, column_of, warn_of_spellings
from geohf.data.rows import RowView
from geohf.data.tables import RowErrors, points_of
from geohf.errors import DataError
from geohf.geo import class_centroids, spherical_mean
from geohf.geo.angles import wrap_degrees
from geohf.street.cells import cell_numbers, describe_cells

if TYPE_CHECKING:
    from datasets import Dataset

    from geohf.street.configuration import GeoStreetConfig

logger = logging.getLogger(__name__)

# An offset may reach a little beyond the farthest training place of its class.
MARGIN, SMALLEST_DEGREES = 1.2, 0.02

_US_STATES = """
    AL Alabama, AK Alaska, AZ Arizona, AR Arkansas, CA California, CO Colorado, CT Connecticut, DE Delaware,
    FL Florida, GA Georgia, HI Hawaii, ID Idaho, IL Illinois, IN Indiana, IA Iowa, KS Kansas, KY Kentucky,
    LA Louisiana, ME Maine, MD Maryland, MA Massachusetts, MI Michigan, MN Minnesota, MS Mississippi,
    MO Missouri, MT Montana, NE Nebraska, NV Nevada, NH New Hampshire, NJ New Jersey, NM New Mexico,
    NY New York, NC North Carolina, ND North Dakota, OH Ohio, OK Oklahoma, OR Oregon, PA Pennsylvania,
    RI Rhode Island, SC South Carolina, SD South Dakota, TN Tennessee, TX Texas, UT Utah, VT Vermont,
    VA Virginia, WA Washington, WV West Virginia, WI Wisconsin, WY Wyoming
"""
_CODES = dict(entry.split(maxsplit=1) for entry in " ".join(_US_STATES.split()).split(", "))
US_STATES = frozenset(_CODES.values())
US_CODES = {code.lower(): name.lower() for code, name in _CODES.items()}


def describe_classes(
    train: Dataset,
    max_cells: int = 64,
    cells: str | None = None,
    cell_points: int = 50,
    polygons: str | Path | None = None,
) -> dict:
    """The config fields that come from the training places, and from these alone.

    States become classes where the rows name them; else the points form geocells, and with `max_cells=0`
    there are no classes.

    Args:
        cells: make geocells of this kind, of places that name states, too; see `describe_cells`.
        max_cells, cell_points, polygons: see `describe_cells`.

    Raises:
        DataError: no row has a position, only some rows name a state, a state has no row with a position, the rows
            disagree about its index, or cells that cannot be made.
    """
    points = points_of(train)
    located = np.isfinite(points).all(1)
    if not located.any():
        raise DataError("no training place has a position")
    fields: dict = {"gps_box": _box(points[located])}
    names = [label_of(name) for name in column_of(train, "state")]
    named = np.array([name is not None for name in names])
    if named.all() and cells is None:
        labels, described = _states(train, names, located)
        centroids = class_centroids(points[located], labels[located], len(described["id2label"]))
    elif named.any() and cells is None:
        row = int(np.argmin(named))
        first = column_of(train, "sample_id")[row] or f"row {row}"
        raise DataError(f"{(~named).sum()} places name no state, among them {first!r}; others do")
    elif max_cells or cells is not None:
        own, centroids, described = describe_cells(
            points[located], cells or "kmeans", max_cells, cell_points, polygons
        )
        labels = np.full(len(points), -1)
        labels[located] = own
    else:
        return fields | {"gps_head": "bounded"}
    extents = _extents(points, labels, centroids, located)
    return fields | described | {"class_centroids": centroids.tolist(), "class_extents": extents}


def labels_of(dataset: Dataset, config: GeoStreetConfig) -> np.ndarray:
    """(n,) class numbers of a dataset's places, see `state_numbers`."""
    rows = column_of(dataset, "sample_id")
    return state_numbers(column_of(dataset, "state"), points_of(dataset), config, rows)


def state_numbers(
    states: Sequence, points: np.ndarray, config: GeoStreetConfig, rows: Sequence | None = None
) -> np.ndarray:
    """(n,) class numbers of places by their states and, for geocells, their (n, 2) degrees; UNLABELED where none.

    Raises:
        DataError: a state that the model does not know, see `class_number`.
    """
    if config.num_classes and not config.cells:
        return class_numbers(_indices_told(states, config), config.class_numbers, "state", rows)
    labels, located = np.full(len(points), UNLABELED), np.isfinite(points).all(1)
    if config.cells and located.any():
        labels[located] = cell_numbers(points[located], config)
    return labels


def _indices_told(states: Sequence, config: GeoStreetConfig) -> list:
    """States, where the competition's index as text, of rows with a `state_idx` alone, became the number of its class."""
    names = config.class_numbers
    numbers = {str(index): number for number, index in enumerate(config.class_indices or ())}
    return [
        numbers.get(state, state) if isinstance(state, str) and state not in names else state
        for state in states
    ]


def of_known_states(dataset: Dataset, source: str | Path, config: GeoStreetConfig, on_error: str) -> Dataset:
    """The places whose state the model knows, or that name none; the others are an error, or left out and said.

    Raises:
        DataError: there are others and `on_error` is `raise`, or no place is left.
    """
    errors, strange = RowErrors(on_error), _strange(dataset, config)
    for row, state in zip(dataset["sample_id"][:], strange, strict=True):
        if state is not None:
            errors.add(source, row, f"the model has no state {state!r}")
    known = [i for i, state in enumerate(strange) if state is None]
    errors.settle(kept=len(known))
    return dataset.select(known) if errors.rows else dataset


def without_strange_states(dataset: Dataset, config: GeoStreetConfig, name: str) -> Dataset:
    """The places as they are, but for states of no training place, which are taken off with a word.

    Such places, of whole blocks held out, are still measured by their distance.
    """
    strange = _strange(dataset, config)
    told = [str(state) for state in strange if state is not None]
    if not told:
        return dataset
    logger.warning(
        "%d %s places lie in states without a training place, and count for the distance alone: %s",
        len(told), name, ", ".join(sorted({*told})),
    )  # fmt: skip
    states = [s if odd is None else None for s, odd in zip(dataset["state"][:], strange, strict=True)]
    if isinstance(dataset, RowView):
        return dataset.with_column("state", states)
    features = dataset.features
    return dataset.remove_columns("state").add_column("state", states, feature=features["state"])


def _strange(dataset: Dataset, config: GeoStreetConfig) -> list[str | None]:
    """The state of each place whose state the model does not know, else None."""
    states = column_of(dataset, "state")
    if config.cells or not config.num_classes:
        return [None] * len(states)
    known = config.class_numbers

    @lru_cache(maxsize=1 << 16)
    def strange(state):
        try:
            class_number(_indices_told([state], config)[0], known)
        except DataError:
            return state
        return None

    return [strange(state) for state in states]


def _states(train, names, located) -> tuple[np.ndarray, dict]:
    """(n,) the number of each place's state, and the config's fields."""
    indices: dict[str, int | None] = {}
    for name, index in zip(names, column_of(train, "state_idx"), strict=True):
        known = indices.get(name)
        if known is not None and index is not None and index != known:
            raise DataError(f"state {name!r} has state_idx {known} in one row and {index} in another")
        indices[name] = index if known is None else known
    taken = [index for index in indices.values() if index is not None]
    if len(set(taken)) < len(taken):
        twice = max(taken, key=taken.count)
        raise DataError(f"state_idx {twice} stands for {[n for n, i in indices.items() if i == twice]}")
    lost = set(names) - {name for name, known in zip(names, located, strict=True) if known}
    if lost:
        raise DataError(f"no training place of the states {sorted(lost)} has a position")
    ordered = sorted(indices, key=lambda name: (indices[name] is None, indices[name], name))
    warn_of_spellings(ordered, "states", US_CODES)
    number = {name: i for i, name in enumerate(ordered)}
    fields: dict = {"id2label": dict(enumerate(ordered))}
    if len(taken) == len(indices):
        fields["class_indices"] = sorted(map(int, taken))  # by which the states are ordered
    return np.array([number[name] for name in names]), fields


def _extents(points, labels, centroids, located) -> list[list[float]]:
    away = np.abs(_from(points, centroids[np.maximum(labels, 0)]))
    extents = np.full((len(centroids), 2), SMALLEST_DEGREES)
    np.maximum.at(extents, labels[located], away[located] * MARGIN)
    return extents.round(6).tolist()


def _box(points) -> list[float]:
    """South, west, north, east, a tenth wider than the points; west > east crosses the antimeridian."""
    middle = spherical_mean(points)
    away = _from(points, middle)
    low, high = away.min(0), away.max(0)
    edge = np.maximum(0.05 * (high - low), SMALLEST_DEGREES)
    (south, west), (north, east) = middle + low - edge, middle + high + edge
    if east - west >= 360:
        west, east = -180.0, 180.0
    else:
        west, east = wrap_degrees(west), wrap_degrees(east)
    return [round(float(v), 6) for v in (max(south, -90), west, min(north, 90), east)]


def _from(points, origin):
    """Differences in degrees from an origin, longitudes the short way round."""
    difference = points - origin
    difference[:, 1] -= 360 * np.round(difference[:, 1] / 360)
    return difference
