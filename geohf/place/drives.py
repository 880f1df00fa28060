"""Loading drives: poses.csv, plain tables, UTM columns, file names with coordinates, positions in EXIF.

Whatever the source, an image is a row with the columns of `drive_features`.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geohf.data.cells import file_name, image_in, label_of
from geohf.data.columns import image_column, stored_column
from geohf.data.formats import is_saved_dataset, table_file
from geohf.data.samples import name_of
from geohf.data.tables import (
    FILE_COLUMNS,
    RowErrors,
    bad_point_reasons,
    find_column,
    heading_cells,
    line_of,
    read_table,
    wrapped_longitude,
)
from geohf.data.times import time_ns
from geohf.errors import DataError, listed
from geohf.place.columns import (
    CAMERA_COLUMNS,
    HEADINGS,
    NUMBERS,
    SEQUENCE_COLUMNS,
    TIME_COLUMNS,
    points_of_table,
    with_files_of_keys,
    without_panoramas,
)
from geohf.place.file_names import point_of_name
from geohf.place.sequences import in_order
from geohf.vision.checks import broken_images, check_images
from geohf.vision.exif import exif_position
from geohf.vision.files import image_files

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, Features

logger = logging.getLogger(__name__)


class _Row(NamedTuple):
    image: dict  # path and bytes, one of them None
    latitude: float
    longitude: float
    heading: float
    sequence: str
    camera: str | None
    time_ns: int | None
    where: tuple[Path, str | int]  # file and line, for messages


def load_drives(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    camera_id: str | None = None,
    utm: str | None = None,
    on_error: str = "raise",
    names: Sequence[str] | None = None,
) -> tuple[Dataset, RowErrors]:
    """Load images with their positions from one source or several.

    Args:
        sources: each one a `poses.csv` (its images lie below the folder above its own), a CSV or Parquet table with
            a file column and `lat`, `lon` or UTM columns (`utm_east`, `utm_north`, perhaps `utm_zone`) and perhaps
            `heading`, `sequence`, `camera_id`, `t_nsec` (see `geohf.data.times.time_ns`; one that cannot be read is left
            out, with a warning); a table of MSLS, whose `key` names `images/KEY.jpg` and whose sequences stand in
            `seq_info.csv` beside it; or a folder of photographs whose names (`@utm_east@utm_north@...`, or GSV-Cities')
            or EXIF carry coordinates. Every source is a sequence, unless a table says otherwise.
        camera_id: take only the rows of this camera.
        utm: the zone of UTM coordinates that come without one, see `geohf.geo.utm.utm_zone`.
        on_error: `raise` stops at rows that cannot be used, `skip` leaves them out.
        names: of the sources' sequences, where there are other sources beside these; see `names_of_sources`.

    Returns:
        (a dataset with the columns of `drive_features`, in the sources' order; the rows left out).

    Raises:
        DataError: names file and row of: a missing column, a missing or broken image, one outside its folder, a position
            that is no number, out of range, swapped or not in its UTM zone; a camera_id that no row of a source has.
    """
    from datasets import Dataset

    errors, rows = RowErrors(on_error), []
    source_of: dict[str, str | os.PathLike] = {}
    several: dict[str, None] = {}
    sources = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    for source, name in zip(sources, names or names_of_sources(sources), strict=True):
        path = table_file(Path(source))
        if path.is_dir() and not is_saved_dataset(path):
            read = _rows_of_folder(path, name, utm, errors)
        else:
            read = rows_of_table(read_table(path, numbers=NUMBERS), path, name, utm, errors)
        chosen = [row for row in read if camera_id in (None, row.camera)]
        if read and not chosen:  # other sources have it, and this one must not be left out without a word
            cameras = sorted({row.camera for row in read if row.camera is not None})
            known = f"there are {', '.join(cameras)}" if cameras else "its images have no camera_id"
            raise DataError(f"{source}: no row has the camera_id {camera_id!r}; {known}")
        rows += chosen
        for drive in dict.fromkeys(drive_of(row.sequence, row.camera) for row in chosen):
            if source_of.setdefault(drive, source) != source:
                several[drive] = None
    if several:
        logger.warning(
            "drives that tables call alike count as one; call them by other names, if they are not: %s, in %s and others",
            *(listed(several), source_of[next(iter(several))]),
        )
    rows = usable_rows(rows, errors)
    errors.settle(kept=len(rows))
    columns = columns_of(rows)
    columns["image"] = image_column(columns["image"])
    return Dataset.from_dict(columns, features=drive_features()), errors


def drive_features() -> Features:
    """The columns of a dataset of drives: the image, degrees, the heading clockwise from north, drive and time."""
    from datasets import Features, Image, Value

    kinds = dict.fromkeys(("latitude", "longitude", "heading"), "float64")
    kinds |= {"sequence": "string", "camera": "string", "time_ns": "int64"}
    return Features({"image": Image(decode=False)} | {name: Value(kind) for name, kind in kinds.items()})


def headings_of(dataset: Dataset) -> np.ndarray:
    """(n,) float64 headings in degrees, NaN where unknown."""
    if not hasattr(dataset, "with_format"):  # a view of a user's own rows
        return np.array(dataset["heading"], np.float64)
    return stored_column(dataset, "heading").to_numpy().astype(np.float64)


def files_of(dataset: Dataset) -> list[str | dict]:
    """The images' paths; of one that came as bytes, these with the name that they came with."""
    return [image["path"] if image["bytes"] is None else image for image in dataset["image"][:]]


def names_of(dataset: Dataset) -> list[str]:
    """What the images are called: their paths, or their number where they came without a name."""
    images = dataset["image"][:] if hasattr(dataset, "cast_column") else (row["image"] for row in dataset)
    return [name_of(image, row) for row, image in enumerate(images)]


def drive_of(sequence: str, camera: str | None) -> str:
    """The drive whose frames are in order: two cameras of one car take two sequences of frames."""
    return sequence if camera is None else f"{sequence}, {camera}"


def drives_of(images: Dataset) -> list[str]:
    """The drive of each image of a dataset of drives, of one camera each."""
    return [drive_of(*row) for row in zip(images["sequence"][:], images["camera"][:], strict=True)]


def by_time(images: Dataset) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The images in the order of time within their drives, and the drive and part of each, see `in_order`."""
    rows, drives, parts = in_order(drives_of(images), images["time_ns"][:])
    return images.select(rows), drives, parts


def names_of_sources(sources: Sequence[str | os.PathLike]) -> list[str]:
    """A short name for each source's drive, see `told_apart`: of a poses.csv that of its folder. Give all sources of a run."""
    paths = [Path(source).resolve() for source in sources]
    names = told_apart({path: _name_parts(path) for path in paths})
    return [names[path] for path in paths]


def told_apart(known: Mapping[Any, Sequence[str]]) -> dict[Any, str]:
    """What paths of these parts are called: by as few of their last parts as tell them apart.

    >>> told_apart({1: ("a", "place"), 2: ("b", "place"), 3: ("b", "other")})
    {3: 'other', 1: 'a/place', 2: 'b/place'}
    """
    names: dict[Any, str] = {}
    length = 1
    while len(names) < len(known):
        short = {path: "/".join(parts[-length:]) for path, parts in known.items() if path not in names}
        count = Counter(short.values())
        for path, name in short.items():
            if count[name] == 1 or length >= len(known[path]):
                names[path] = name if count[name] == 1 else str(path)
        length += 1
    return names


def _name_parts(path: Path) -> tuple[str, ...]:
    if path.stem == "poses":
        return path.parent.parts
    return path.parts if path.is_dir() else path.with_suffix("").parts


def rows_of_table(
    table: pd.DataFrame, path: Path, name: str, utm: str | None, errors: RowErrors, placed: bool = True
) -> list[_Row]:
    """The images of a table, or of a chunk of it, with the positions that it gives them; bad rows are noted.

    Args:
        placed: read positions; without, those of photographs that are to be found, they are NaN.
    """
    table = without_panoramas(with_files_of_keys(table, path), path)
    if table.empty:
        return []
    file_column = find_column(table.columns, FILE_COLUMNS, path)
    points = points_of_table(table, path, utm, errors) if placed else np.full((len(table), 2), math.nan)
    folder = _image_folder(path, file_name(table[file_column].iloc[0]) or "")
    wanted = {"sequence": SEQUENCE_COLUMNS, "camera": CAMERA_COLUMNS, "time": TIME_COLUMNS}
    columns = {key: find_column(table.columns, names) for key, names in wanted.items()}
    cells: dict[str, Any] = {key: column and table[column].tolist() for key, column in columns.items()}
    headings = heading_cells(table, path, HEADINGS)
    rows, untold = [], []
    for position, cell in enumerate(table[file_column]):
        line = line_of(table, position)
        try:
            image = image_in(folder, cell)
        except DataError as error:
            errors.add(path, line, str(error))
            continue
        try:
            time = cells["time"] and time_ns(cells["time"][position])
        except DataError as error:  # only the audit and intervals ask for it
            time = None
            untold.append(f"row {line}: {error}")
        heading = headings[position] if headings else math.nan
        sequence, camera = (cells[key] and label_of(cells[key][position]) for key in ("sequence", "camera"))
        latitude, longitude = points[position].tolist()
        where = path, line
        rows.append(_Row(image, latitude, longitude, heading, sequence or name, camera, time, where))
    if untold:
        logger.warning(
            "%s: %d of %d times in the column %s cannot be read and are left out (%s): these images' drives are told "
            "by name alone",
            *(path, len(untold), len(table), columns["time"], untold[0]),
        )
    return rows


def _image_folder(path: Path, first: str) -> Path:
    """Images of a poses.csv lie below the folder above its own, those of other tables below their own."""
    above = path.absolute().parent.parent
    return above if (above / first).is_file() and not (path.parent / first).is_file() else path.parent


def _rows_of_folder(folder: Path, name: str, utm: str | None, errors: RowErrors) -> list[_Row]:
    rows, lacking = [], []
    for path in image_files(folder):
        relative = str(path.relative_to(folder))
        try:
            position = point_of_name(path.name, utm) or exif_position(path)
        except DataError as error:
            errors.add(folder, relative, str(error))
            continue
        if position is None:
            lacking.append(path)
            continue
        rows.append(_Row({"path": str(path), "bytes": None}, *position, name, None, None, (folder, relative)))
    broken = check_images(lacking)
    for path in lacking:
        reason = "its name and its EXIF carry no position; give a table with image, lat and lon"
        errors.add(folder, str(path.relative_to(folder)), broken.get(path, reason))
    return rows


def usable_rows(rows: list[_Row], errors: RowErrors) -> list[_Row]:
    """The rows whose position and image can be used; the others are noted, unless they are already."""
    noted = {(row["source"], row["row"]) for row in errors.rows}
    bad: dict[int, str] = {}
    for source in dict.fromkeys(row.where[0] for row in rows):
        positions = [i for i, row in enumerate(rows) if row.where[0] == source]
        points = np.array([(rows[i].latitude, rows[i].longitude) for i in positions])
        bad |= {positions[at]: reason for at, reason in bad_point_reasons(points, source).items()}
    good = [i for i in range(len(rows)) if i not in bad]
    bad |= {good[at]: reason for at, reason in broken_images([rows[i].image for i in good]).items()}
    for i, reason in sorted(bad.items()):
        source, line = rows[i].where
        if (str(source), line) not in noted:
            errors.add(source, line, reason)
    usable = [row for i, row in enumerate(rows) if i not in bad]
    _tell_of_several_positions(usable)
    return usable


def _tell_of_several_positions(rows: list[_Row]) -> None:
    first: dict[str, tuple[float, float]] = {}
    several: dict[str, None] = {}
    for row in rows:
        path, point = row.image["path"], (row.latitude, row.longitude)
        if row.image["bytes"] is None and first.setdefault(path, point) != point:
            several[path] = None
    if several:
        logger.warning("photographs with several positions, each of which counts: %s", listed(several))


def columns_of(rows: Sequence[_Row]) -> dict[str, list]:
    """The columns of `drive_features` of these images."""
    columns = {name: [getattr(row, name) for row in rows] for name in drive_features()}
    return columns | {"longitude": [wrapped_longitude(row.longitude) for row in rows]}
