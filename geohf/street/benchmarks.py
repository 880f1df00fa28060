"""Benchmarks of geolocation, as their tables are published."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.cells import resolve_inside, text_of
from geohf.data.tables import (
    FILE_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    find_column,
    line_of,
    read_table,
)
from geohf.errors import DataError, require_choice
from geohf.street.places import dataset_of, drop_bad_points, drop_broken, place_row
from geohf.vision.files import image_files

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# photographs of each: Im2GPS (Hays and Efros 2008), Im2GPS3k and YFCC4k (Vo et al. 2017), GWS15k (Clark et al. 2023), the
# test split of OpenStreetView-5M (Astruc et al. 2024)
BENCHMARKS = {"im2gps": 237, "im2gps3k": 2997, "yfcc4k": 4536, "gws15k": 14_955, "osv5m": 210_122}


def load_benchmark(source: str | Path, name: str, on_error: str = "raise") -> Dataset:
    """The places of a benchmark, without states: they are measured by distance.

    Args:
        source: its table: `IMG_ID` or `IMG_FILE`, `LAT`, `LON`, or OpenStreetView-5M's `id`, `latitude`, `longitude`; or
            the folder that holds this table alone, or as `test.csv`. The photographs lie anywhere below the table's
            folder, and are called as it says, or so with an ending; of two of one name none is taken.
        name: one of `BENCHMARKS`. A warning says where there are more or fewer photographs than it has.
        on_error: `raise` stops at rows that cannot be used, `skip` leaves them out.

    Raises:
        DataError: another name, no such table, a column that it lacks, and see `on_error`.
    """
    require_choice(tuple(BENCHMARKS), benchmark=name)
    path, errors = _table(Path(source)), RowErrors(on_error)
    table = read_table(path, numbers=(*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS))
    column = find_column(table.columns, (*FILE_COLUMNS, "id"), path)
    axes = [find_column(table.columns, known, path) for known in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
    points = table[axes].to_numpy(np.float64)
    named: dict[str, list[Path]] = {}
    stems: dict[str, list[Path]] = {}
    for photo in image_files(path.parent):
        named.setdefault(photo.name, []).append(photo)
        stems.setdefault(photo.stem, []).append(photo)
    rows: dict[int, dict] = {}
    for position, cell in enumerate(table[column]):
        line, called = line_of(table, position), text_of(cell) or ""
        try:
            own = resolve_inside(path.parent, called)
        except DataError as error:
            errors.add(path, line, str(error))
            continue
        files = [own] if own.is_file() else named.get(own.name) or stems.get(own.name, [])
        if len(files) != 1:
            found = f"there are {len(files)} photographs" if files else "there is no photograph"
            errors.add(path, line, f"{found} {called!r} below {path.parent}")
            continue
        rows[position] = place_row(
            called, [str(files[0])], [math.nan], source=path, line=line, point=points[position]
        )
    drop_bad_points(points, path, errors, rows)
    drop_broken(rows, errors)
    errors.settle(kept=len(rows))
    if len(rows) != BENCHMARKS[name]:
        logger.warning(
            "%s has %d photographs, and here are %d: the numbers do not compare with published ones",
            *(name, BENCHMARKS[name], len(rows)),
        )
    return dataset_of(rows.values())


def _table(source: Path) -> Path:
    if not source.is_dir():
        return source
    tables = sorted(source.glob("*.csv"))
    if (source / "test.csv") in tables:
        return source / "test.csv"
    if len(tables) != 1:
        found = f"holds {len(tables)} tables (.csv) and no test.csv"
        raise DataError(f"{source}: {found}: name the benchmark's table itself")
    return tables[0]
