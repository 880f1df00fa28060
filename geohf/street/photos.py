"""Single photographs: a table beside them, or a folder with the positions in their EXIF."""

from __future__ import annotations

import ast
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.cells import file_name, image_in, is_nothing, label_of
from geohf.data.formats import table_file
from geohf.data.inputs import is_table_of_files
from geohf.data.splits import SPLIT_NAMES, by_split
from geohf.data.tables import (
    FILE_COLUMNS,
    HEADING_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    find_column,
    heading_cells,
    line_of,
    read_table,
)
from geohf.errors import DataError, listed
from geohf.street.places import (
    INDEX_COLUMN,
    NUMBERS,
    STATE_COLUMNS,
    dataset_of,
    drop_bad_points,
    drop_broken,
    place_row,
    state_of,
)
from geohf.street.processing import COMPASS, split_views
from geohf.vision.checks import check_images
from geohf.vision.exif import exif_position
from geohf.vision.files import image_files
from geohf.vision.formats import is_image_name

if TYPE_CHECKING:
    import pandas as pd
    from datasets import DatasetDict

    from geohf.data.inputs import Part

logger = logging.getLogger(__name__)


def load_photos(source: str | Path, on_error: str = "raise") -> tuple[DatasetDict, RowErrors]:
    """Load single photographs: a table beside them, or a folder with the positions in their EXIF.

    A table needs a column for the file (`image`, `file_name`, `filename`, `file` or `path`, relative to the
    table's folder; in Parquet also the picture itself), `latitude` (`lat`) and `longitude` (`lon`, `lng`);
    `state` and `heading` are optional. Instead of one file, a row may have several views of a place, in some of the
    columns `north`, `east`, `south`, `west` (or `image_north`, ...), where an empty cell is a missing view, or as a list
    in `views`, perhaps with `headings`; in CSV the list is written as JSON.

    Raises:
        DataError: as `load_competition`, and for a photograph without a position.
    """
    from datasets import DatasetDict

    source, errors = Path(source), RowErrors(on_error)
    splits = {}
    for split, path in _tables(source).items():
        rows = _rows_of_folder(path, errors) if path.is_dir() else _rows_of_table(path, errors)
        drop_broken(rows, errors)
        splits[split] = dataset_of(rows.values())
    errors.settle(kept=len(splits["train"]))
    return DatasetDict(splits), errors


def _tables(source: Path) -> dict[str, Path]:
    """Split -> its table, or the folder of its photographs: of folders called so, as imagefolder has them, else all is `train`."""
    table = table_file(source)
    if not source.is_dir() or table.parent == source:
        return {"train": table}
    inside = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    named = {path.name: path for path in inside if path.is_dir()}
    if not any(name.lower() in SPLIT_NAMES["train"] for name in named):
        return {"train": table}
    folders = by_split(named, source)
    read = {split: folders[split] for split in SPLIT_NAMES if split in folders}
    others = (path for path in inside if path not in read.values())
    beside = [path.name for path in others if path.is_dir() or is_image_name(path.name)]
    if beside:
        logger.warning(
            "%s: only %s are read, and not %s beside them", source, listed(list(read)), listed(beside)
        )
    return {split: table_file(folder) for split, folder in read.items()}


def _rows_of_folder(folder: Path, errors: RowErrors) -> dict[int, dict]:
    rows: dict[int, dict] = {}
    lacking = []
    for path in image_files(folder):
        name = str(path.relative_to(folder))
        try:
            exif = exif_position(path)
        except DataError as error:
            errors.add(folder, name, str(error))
            continue
        if exif is None:
            lacking.append(path)
            continue
        row = place_row(name, [str(path)], [exif.heading], source=folder, line=name, point=exif[:2])
        rows[len(rows)] = row
    broken = check_images(lacking)
    for path in lacking:
        reason = "carries no position in its EXIF; give a metadata.csv with latitude and longitude"
        errors.add(folder, str(path.relative_to(folder)), broken.get(path, reason))
    points = np.array([[row["latitude"], row["longitude"]] for row in rows.values()]).reshape(-1, 2)
    drop_bad_points(points, folder, errors, rows)
    return rows


def _rows_of_table(path: Path, errors: RowErrors) -> dict[int, dict]:
    table = read_table(path, numbers=NUMBERS)
    rows = rows_of_views(table, path, path.parent, errors)
    for position, row in rows.items():
        row["sample_id"] = row["sample_id"] or str(position)
    return rows


def rows_of_views(
    table: pd.DataFrame, source: str | Path, folder: Path, errors: RowErrors, whole: bool = True
) -> dict[int, dict]:
    """Rows of a table of photographs or views as `place_row` makes them, by position; what cannot be used is noted.

    Args:
        folder: of the files.
        whole: no file and no `sample_id` may stand in the table twice; a part of a table cannot tell.

    Raises:
        DataError: a column is missing, see `views_reader`.
    """
    views_of = views_reader(table, source)
    axes = [find_column(table.columns, names, source) for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
    state, own = find_column(table.columns, STATE_COLUMNS), find_column(table.columns, ["sample_id"])
    points = table[axes].to_numpy(np.float64)
    labels = [label_of(cell) for cell in cells_of(table, state)]
    indices = cells_of(table, find_column(table.columns, [INDEX_COLUMN]))
    rows: dict[int, dict] = {}
    files: dict[str, int] = {}
    ids: dict[str, int] = {}
    for position in range(len(table)):
        line = line_of(table, position)
        try:
            cells, headings, sample_id = views_of(position)
            known = state_of(labels[position], indices[position])
        except DataError as error:
            errors.add(source, line, str(error))
            continue
        there = []
        for cell, heading in zip(cells, headings, strict=True):
            try:
                view = image_in(folder, cell)
                if whole and view["bytes"] is None:
                    file = os.path.normpath(view["path"])  # a.jpg and ./a.jpg are one file
                    if file in files:
                        raise DataError(f"{file_name(cell)!r} stands in row {files[file]} already")
                    files[file] = line
                there.append((view, heading))
            except DataError as error:
                errors.add(source, line, str(error))
        if not there:
            continue
        if whole and own and sample_id is not None and ids.setdefault(sample_id, line) != line:
            errors.add(source, line, f"sample_id {sample_id!r} stands in row {ids[sample_id]} already")
            continue
        views, directions = map(list, zip(*there, strict=True))
        point = points[position]
        rows[position] = place_row(
            sample_id, views, directions, source=source, line=line, point=point, state=known
        )
    drop_bad_points(points, source, errors, rows, labels if state and state.lower() != "country" else None)
    return rows


def views_reader(
    table: pd.DataFrame, source: str | Path
) -> Callable[[int], tuple[list, list[float], str | None]]:
    """A function of the position of a row: the cells of its views that are not empty, their headings, and its name.

    A row's name is its `sample_id`, else the name of its first file.

    Raises:
        DataError: no column is one of views, or columns are of two kinds; of the function: a row has no view, more than
            eight, or another number of headings.
    """
    views, headings, own = (find_column(table.columns, [name]) for name in ("views", "headings", "sample_id"))
    compass = {way: find_column(table.columns, (way, f"image_{way}")) for way in COMPASS}
    compass = {way: column for way, column in compass.items() if column is not None}
    several = list(compass.values())[:1] + [views] * (views is not None)
    single = find_column(table.columns, FILE_COLUMNS, None if several else source)
    kinds = several + [single] * (single is not None)
    if len(kinds) > 1:
        raise DataError(
            f"{source}: has {kinds[0]!r} and {kinds[1]!r}: of a row's pictures either a file each row, or 'views', or "
            f"{', '.join(COMPASS)} can be meant: leave the others out"
        )
    wanted = dict(compass) or {"image" if views is None else "views": kinds[0]}
    columns = {name: table[column].tolist() for name, column in wanted.items()}
    if headings is not None:
        columns["headings"] = table[headings].tolist()
    heading = heading_cells(table, source)  # of rows whose `headings` are empty
    if heading is not None:
        columns["heading"] = heading
    ids = cells_of(table, own)

    def read(position: int) -> tuple[list, list[float], str | None]:
        sample = {name: cells[position] for name, cells in columns.items()}
        for name in compass:
            if is_nothing(sample[name]):  # a view that is missing
                sample[name] = None
        if "views" in sample:
            sample["views"] = _list_in(sample["views"], "views")
        if not is_nothing(sample.get("headings")):
            sample["headings"] = _list_in(sample["headings"], "headings")
        cells, directions = split_views(sample)
        return cells, directions, label_of(ids[position]) or file_name(cells[0])

    return read


def cells_of(table: pd.DataFrame, column: str | None) -> list:
    """The cells of a column; None for each row where there is none."""
    return [None] * len(table) if column is None else table[column].tolist()


def _list_in(cell: Any, name: str) -> list:
    """The list in a cell, also of text, as JSON or Python writes it; what is empty in it is None."""
    values = [] if is_nothing(cell) else cell
    if isinstance(cell, str) and cell.strip():
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError):
                values = read(cell)
                break
    if not isinstance(values, (list, tuple, np.ndarray)):
        example = '["a.jpg", "b.jpg"]' if name == "views" else "[0, 90, null]"
        raise DataError(f"{name} must hold a list, such as {example}, got {cell!r}"[:200])
    return [None if is_nothing(one) else one for one in values]


def table_of_views(source: str) -> Part | None:
    """The places to be found of a table of photographs or views; see `GeoStreetModel.read_source`."""
    path = Path(source)
    if not is_table_of_files(path):
        return None
    table = read_table(path, numbers=HEADING_COLUMNS)
    views_of, names, samples = views_reader(table, path), [], []
    for position in range(len(table)):
        try:
            cells, headings, name = views_of(position)
            views = [image_in(path.parent, cell) for cell in cells]
        except DataError as error:
            raise DataError(f"{path}, row {line_of(table, position)}: {error}") from None
        names.append(name or str(position))
        samples.append({"views": views, "headings": headings})
    return names, samples
