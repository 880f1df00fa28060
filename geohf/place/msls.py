"""Tables of Mapillary's street-level sequences (MSLS): images named by a key, and their sequences in a table of its own."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.tables import FILE_COLUMNS, find_column, read_table
from geohf.errors import listed
from geohf.place.columns import SEQUENCE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

PANORAMA_COLUMN = "pano"
KEY_COLUMN, KEY_FILE, SEQUENCES_OF_KEYS = "key", "images/{}.jpg", "seq_info.csv"
FRAME_COLUMN = "frame_number"


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
    return (
        read_table(info, required=(KEY_COLUMN, "sequence_key"))
        .drop_duplicates(KEY_COLUMN)
        .set_index(KEY_COLUMN)
    )
