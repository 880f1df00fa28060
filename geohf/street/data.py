"""Loading places: the competition's layout, folders and tables of photographs, datasets of the Hub.

Whatever the source, a place is a row with the columns of `place_features`: an id, one to eight views (kept
undecoded) with their headings, the state's name and index where known, latitude and longitude.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.formats import is_saved_dataset
from geohf.data.splits import split_dataset
from geohf.data.tables import (
    RowErrors,
    points_of,
)
from geohf.geo.cells import geo_cells
from geohf.street.competition import COMPETITION, load_competition
from geohf.street.hub_data import load_hub_dataset
from geohf.street.photos import load_photos

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def load_places(source: str | Path, on_error: str = "raise") -> tuple[DatasetDict, RowErrors]:
    """Load places from a folder, a table, or a dataset's name on the Hub.

    Args:
        source: a folder in the competition's layout (`train_ground_truth.csv` in it); a folder of photographs
            with positions in their EXIF, or with a `metadata.csv`, `.jsonl` or `.parquet` in it or in its `train`; a
            table of photographs with latitude and longitude; a folder that `save_to_disk` wrote; or the name of a
            dataset.
        on_error: `raise` stops at rows that cannot be used, `skip` leaves them out.

    Returns:
        (a DatasetDict with `train`, and `test` where the source has one; the rows left out).

    Raises:
        DataError: see `load_competition` and `load_photos`.
    """
    path = Path(source)
    if any((path / name).exists() for name in COMPETITION):
        return load_competition(path, on_error)
    if path.exists() and not is_saved_dataset(path):
        return load_photos(path, on_error)
    return load_hub_dataset(str(source), on_error)


def split_places(
    places: Dataset,
    how: str = "stratified",
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 42,
    block_km: float = 50.0,
    buffer_km: float = 10.0,
) -> tuple[DatasetDict, int]:
    """Divide places into train, validation and test.

    Args:
        how: `stratified` by state (by geocell where there are no states), `random`, or `blocks`: whole
            squares of the map are held out, and training places within `buffer_km` of them are left out, so
            that no held-out place has a neighbour in training.
        validation, test: shares of all places; a share of 0 gives no such split.

    Returns:
        (the splits, the number of places left out for the buffer).

    Raises:
        DataError: too few places for the split.
    """
    points, names = points_of(places), places["state"][:]
    groups = np.unique([name or "" for name in names], return_inverse=True)[1]
    if how == "stratified" and groups.max() == 0 and np.isfinite(points).all():
        groups = geo_cells(points)[0]
    return split_dataset(
        places,
        {"test": test, "validation": validation},
        how,
        points=points,
        groups=groups,
        seed=seed,
        block_m=block_km * 1000,
        buffer_m=buffer_km * 1000,
        flags={"block_m": "--block_km", "buffer_m": "--buffer_km"},
    )
