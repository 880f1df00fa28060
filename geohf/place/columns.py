"""The columns of drives' tables: their names, and the positions that they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.tables import (
    HEADING_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    find_column,
)
from geohf.errors import DataError
from geohf.geo.utm import points_from_utm, utm_zone

if TYPE_CHECKING:
    import pandas as pd

EAST_COLUMNS = ("utm_east", "easting", "east")
NORTH_COLUMNS = ("utm_north", "northing", "north")
ZONE_COLUMNS = ("utm_zone", "zone")
HEADINGS = (*HEADING_COLUMNS, "compass_angle", "ca")
SEQUENCE_COLUMNS = ("sequence", "sequence_id", "sequence_key", "drive")
CAMERA_COLUMNS = ("camera_id", "camera")
TIME_COLUMNS = ("t_nsec", "timestamp_ns", "timestamp", "captured_at", "time", "datetime")
NUMBERS = (*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS, *EAST_COLUMNS, *NORTH_COLUMNS, *HEADINGS)
_UTM_EAST_M, _UTM_NORTH_M = (100_000.0, 900_000.0), (0.0, 10_000_000.0)


def points_of_table(table: pd.DataFrame, path: Path, utm: str | None, errors: RowErrors) -> np.ndarray:
    """(n, 2) degrees from degrees or UTM coordinates; rows without are NaN.

    Args:
        utm: the zone of UTM coordinates that come without one.
        errors: takes the rows whose coordinates cannot lie in their zone.

    Raises:
        DataError: neither degrees nor UTM coordinates, or these without a zone.
    """
    columns = [find_column(table.columns, names) for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
    if all(columns):
        return table[columns].to_numpy(np.float64)
    columns = [find_column(table.columns, names) for names in (EAST_COLUMNS, NORTH_COLUMNS)]
    if not all(columns):
        raise DataError(
            f"{path}: needs the columns 'lat' and 'lon', or 'utm_east' and 'utm_north'; the columns are: "
            f"{', '.join(table.columns)}"
        )
    column = find_column(table.columns, ZONE_COLUMNS)
    if column is None and utm is None:
        raise DataError(f"{path}: UTM coordinates need a zone: a column 'utm_zone', or --utm '54 north'")
    zones = table[column].astype(str).tolist() if column else [utm] * len(table)
    lines = table.index.tolist()
    return _degrees_of_utm(table[columns].to_numpy(np.float64), zones, lines, path, errors)


def _degrees_of_utm(
    east_north: np.ndarray, zones: Sequence[str], lines: Sequence[int], path: Path, errors: RowErrors
) -> np.ndarray:
    """(n, 2) degrees of UTM coordinates with a zone each; rows that cannot lie in theirs become NaN and are noted."""
    points = np.full(east_north.shape, math.nan)
    east, north = east_north.T
    with np.errstate(invalid="ignore"):
        metres = (
            (east >= _UTM_EAST_M[0])
            & (east <= _UTM_EAST_M[1])
            & (north >= _UTM_NORTH_M[0])
            & (north <= _UTM_NORTH_M[1])
        )
    for zone in dict.fromkeys(zones):
        rows = np.array([other == zone for other in zones])
        try:
            utm_zone(zone)
        except DataError as error:
            for position in np.flatnonzero(rows):
                errors.add(path, lines[position], str(error))
            continue
        points[rows & metres] = points_from_utm(east_north[rows & metres], zone)
        for position in np.flatnonzero(rows & ~metres):
            errors.add(
                path,
                lines[position],
                f"({east[position]:.12g}, {north[position]:.12g}) is no UTM easting and northing: they lie between "
                "100,000 and 900,000 m, and 0 and 10,000,000 m",
            )
    return points
