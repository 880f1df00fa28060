"""Single photographs: a table beside them, or a folder with the positions in their EXIF."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.formats import table_file
from geohf.data.tables import (
    FILE_COLUMNS,
    HEADING_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    file_name,
    find_column,
    image_in,
    label_of,
    line_of,
    read_table,
)
from geohf.errors import DataError
from geohf.street.places import (
    STATE_COLUMNS,
    dataset_of,
    drop_bad_points,
    drop_broken,
    place_row,
    point_reasons,
)
from geohf.street.processing import COMPASS
from geohf.vision.checks import check_images
from geohf.vision.exif import exif_position
from geohf.vision.files import image_files

if TYPE_CHECKING:
    from datasets import DatasetDict


def load_photos(source: str | Path, on_error: str = "raise") -> tuple[DatasetDict, RowErrors]:
    """Load single photographs: a table beside them, or a folder with the positions in their EXIF.

    A table needs a column for the file (`image`, `file_name`, `filename`, `file` or `path`, relative to the
    table's folder; in Parquet also the picture itself), `latitude` (`lat`) and `longitude` (`lon`, `lng`);
    `state` and `heading` are optional. Instead of one file a row may have several views of a place, in some of the
    columns `north`, `east`, `south`, `west` (or `image_north`, ...); an empty cell is a missing view.

    Raises:
        DataError: as `load_competition`, and for a photograph without a position.
    """
    from datasets import DatasetDict

    source, errors = Path(source), RowErrors(on_error)
    table = table_file(source)
    tables = {"train": table}
    if table.parent.name == "train" and table.parent.parent == source:  # as imagefolder has splits
        tables |= {folder.name: table_file(folder) for folder in sorted(source.iterdir()) if folder.is_dir()}
    splits = {}
    for split, path in tables.items():
        rows = _rows_of_folder(path, errors) if path.is_dir() else _rows_of_table(path, errors)
        drop_broken(rows, errors)
        splits[split] = dataset_of(rows.values())
    errors.settle(kept=len(splits["train"]))
    return DatasetDict(splits), errors


def _rows_of_folder(folder: Path, errors: RowErrors) -> dict[int, dict]:
    rows, lacking = {}, []
    for position, path in enumerate(image_files(folder)):
        name = str(path.relative_to(folder))
        found = exif_position(path)
        if found is not None:
            rows[position] = place_row(
                name, [str(path)], [found.heading], source=folder, line=name, point=found[:2]
            )
        else:
            lacking.append(path)
    broken = check_images(lacking)
    for path in lacking:
        reason = "carries no position in its EXIF; give a metadata.csv with latitude and longitude"
        errors.add(folder, str(path.relative_to(folder)), broken.get(path, reason))
    points = np.array([[row["latitude"], row["longitude"]] for row in rows.values()]).reshape(-1, 2)
    for position, reason in point_reasons(points, str(folder)).items():
        row = list(rows.values())[position]
        errors.add(folder, row["sample_id"], reason)
        row["views"] = []
    return {position: row for position, row in rows.items() if row["views"]}


def _rows_of_table(path: Path, errors: RowErrors) -> dict[int, dict]:
    numbers = [*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS, *HEADING_COLUMNS]
    table = read_table(path, numbers=numbers)
    views = _view_columns(table, path)
    axes = [find_column(table.columns, names, path) for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
    state, heading = find_column(table.columns, STATE_COLUMNS), find_column(table.columns, HEADING_COLUMNS)
    points = table[axes].to_numpy(np.float64)
    labels = [label_of(cell) for cell in table[state]] if state else None
    rows: dict[int, dict] = {}
    seen: dict[str, str | int] = {}
    for position, cells in enumerate(table[list(views)].itertuples(index=False)):
        line, found, names = line_of(table, position), [], []
        for (column, direction), cell in zip(views.items(), cells, strict=True):
            if len(views) > 1 and _is_empty(cell):
                continue
            name = file_name(cell) or str(position)
            held = isinstance(cell, bytes) or (isinstance(cell, dict) and cell.get("bytes") is not None)
            if not held and name in seen:
                errors.add(path, line, f"{column} {name!r} stands in row {seen[name]} already")
                continue
            seen[name] = line
            try:
                found.append((image_in(path.parent, cell), direction))
                names.append(name)
            except DataError as error:
                errors.add(path, line, str(error))
        if not found:
            if len(views) > 1 and all(map(_is_empty, cells)):
                errors.add(path, line, "has no view")
            continue
        if heading and len(views) == 1:
            found = [(found[0][0], table[heading].iloc[position])]
        rows[position] = place_row(
            names[0],
            [view for view, _ in found],
            [float(direction) for _, direction in found],
            source=path,
            line=line,
            point=points[position],
            state=labels[position] if labels else None,
        )
    drop_bad_points(points, path, errors, rows, labels if state and state.lower() != "country" else None)
    return rows


def _view_columns(table, path: Path) -> dict[str, float]:
    """The columns that hold images, and which way each looks; NaN where it does not say.

    Raises:
        DataError: there is none.
    """
    columns = {find_column(table.columns, (name, f"image_{name}")): way for name, way in COMPASS.items()}
    views = {column: way for column, way in columns.items() if column is not None}
    single = find_column(table.columns, FILE_COLUMNS, None if views else path)
    return views if single is None else {single: math.nan}


def _is_empty(cell) -> bool:
    return cell is None or (isinstance(cell, (str, float)) and str(cell).strip() in ("", "nan", "None"))
