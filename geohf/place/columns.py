"""The columns of drives' tables: their names, and the positions that they hold.

Those of Mapillary's street-level sequences (MSLS) name images by a key, and have their sequences in a table of its own.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.cells import text_of
from geohf.data.tables import (
    FILE_COLUMNS,
    HEADING_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    find_column,
    read_table,
)
from geohf.errors import DataError, listed
from geohf.geo.utm import side_of, zone_with
from geohf.place.file_names import PLANAR, points_in

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

EAST_COLUMNS = ("utm_east", "easting", "east", "utm1")
NORTH_COLUMNS = ("utm_north", "northing", "north", "utm2")
ZONE_COLUMNS = ("utm_zone", "zone", "utmzone", "zone_number")
LETTER_COLUMNS = ("utm_band", "zone_letter", "utm_letter", "utm_zone_letter", "band", "hemisphere")
HEADINGS = (*HEADING_COLUMNS, "compass_angle", "ca")
SEQUENCE_COLUMNS = ("sequence", "sequence_id", "sequence_key", "drive")
CAMERA_COLUMNS = ("camera_id", "camera")
TIME_COLUMNS = ("t_nsec", "timestamp_ns", "timestamp", "captured_at", "time", "datetime")
PANORAMA_COLUMN, FRAME_COLUMN, KEY_COLUMN = "pano", "frame_number", "key"
KEY_FILE, SEQUENCES_OF_KEYS = "images/{}.jpg", "seq_info.csv"
NUMBERS = (*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS, *EAST_COLUMNS, *NORTH_COLUMNS, *HEADINGS)


def points_of_table(table: pd.DataFrame, path: Path, utm: str | None, errors: RowErrors) -> np.ndarray:
    """(n, 2) degrees from degrees or UTM coordinates; rows without are NaN.

    Args:
        utm: the zone of UTM coordinates that come without one, or the hemisphere of zones that are numbers alone; `planar`
            for meters that are none of UTM, see `geohf.place.file_names`.
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
    east_north, lines = table[columns].to_numpy(np.float64), table.index.tolist()
    zones = _zones(table, utm, path)
    points, each = np.full(east_north.shape, math.nan), np.array(zones)
    for zone in dict.fromkeys(zones):
        rows = np.flatnonzero(each == zone)
        try:
            points[rows], reasons = points_in(zone, east_north[rows])
        except DataError as error:
            reasons = dict.fromkeys(range(len(rows)), str(error))
        for position, reason in reasons.items():
            errors.add(path, lines[rows[position]], reason)
    return points


def _zones(table: pd.DataFrame, utm: str | None, path: Path) -> list[str]:
    """Each row's zone: its own, with the letter or the hemisphere of a column beside it or of `utm`; or `utm`."""
    column = find_column(table.columns, ZONE_COLUMNS)
    if column is None:
        if utm is None:
            raise DataError(f"{path}: UTM coordinates need a zone: a column 'utm_zone', or --utm '54 north'")
        return [utm] * len(table)
    letter = find_column(table.columns, LETTER_COLUMNS)
    if letter is None:
        sides = [side_of(None if utm == PLANAR else utm)] * len(table)
    else:
        sides = [text_of(cell) or "" for cell in table[letter]]
        if letter.lower() == "hemisphere":  # S is south there, and no band
            sides = [{"N": "north", "S": "south"}.get(side[:1].upper(), side) for side in sides]
    return [zone_with(text_of(cell) or "", side) for cell, side in zip(table[column], sides, strict=True)]


def without_panoramas(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table without the rows that MSLS marks as panoramas, as its benchmark leaves them out."""
    if PANORAMA_COLUMN not in table:
        return table
    panorama = table[PANORAMA_COLUMN].astype(str).str.strip().str.lower().isin(["true", "1", "1.0"])
    if panorama.any():
        logger.warning("%s: left out %d panoramas (pano is True), as MSLS does", path, int(panorama.sum()))
    return table[~panorama]


def with_files_of_keys(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with file names and sequences, in their order, where it names images by keys as MSLS does."""
    if KEY_COLUMN not in table or find_column(table.columns, FILE_COLUMNS):
        return table
    table = table.assign(image=[KEY_FILE.format(key) for key in table[KEY_COLUMN]])
    info = path.with_name(SEQUENCES_OF_KEYS)
    if find_column(table.columns, SEQUENCE_COLUMNS) or not info.is_file():
        return table
    known = _sequences_of_keys(info, info.stat().st_mtime_ns)
    drives = table[KEY_COLUMN].map(known["sequence_key"])
    lacking = table.loc[drives.isna(), KEY_COLUMN].astype(str).tolist()
    if lacking:
        logger.warning(
            "%s: %d of %d images have no sequence in %s and count as one drive: %s",
            *(path, len(lacking), len(table), SEQUENCES_OF_KEYS, listed(lacking)),
        )
    table = table.assign(sequence=drives)
    if FRAME_COLUMN not in known:
        return table
    number = table[KEY_COLUMN].map(known[FRAME_COLUMN]).astype(float)
    return table.iloc[np.lexsort((number, drives.fillna("").astype(str)))]


@lru_cache(maxsize=1)  # chunk after chunk of one table asks for it
def _sequences_of_keys(info: Path, changed_ns: int) -> pd.DataFrame:
    table = read_table(info, required=(KEY_COLUMN, "sequence_key"))
    return table.drop_duplicates(KEY_COLUMN).set_index(KEY_COLUMN)
