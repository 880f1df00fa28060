"""Rows of photographs with their coordinates and regions: of tables, and of a user's own datasets."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.cells import file_name, image_in, text_of
from geohf.data.classes import class_numbers, column_of
from geohf.data.columns import image_column
from geohf.data.formats import table_file
from geohf.data.rows import RowView, cell_of, heading_of, positions_of
from geohf.data.samples import without_decoding
from geohf.data.streaming import is_stream, read_stream
from geohf.data.tables import (
    FILE_COLUMNS,
    HEADING_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    bad_point_reasons,
    find_column,
    heading_cells,
    points_of,
    read_table,
    wrapped_longitude,
)
from geohf.data.tensor_dataset import TensorDictDataset
from geohf.errors import DataError
from geohf.geo.frames import impossible_points
from geohf.region.processing import split_sample
from geohf.region.selection import excluded_names, of_known_regions, region_names
from geohf.vision.checks import broken_images

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, Features

    from geohf.region.configuration import GeoRegionConfig

logger = logging.getLogger(__name__)

REGION_COLUMNS = ("region_id", "region", "regionid")
# the files of the reference implementation's folder
TRAIN_TABLE, TRAIN_IMAGES = "labels_train.csv", "images_train/images_train"
VAL_TABLE, VAL_IMAGES = "labels_val.csv", "images_val/images_val"
EXCLUDE = "exclude.txt"
NUMBERS = (*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS)


def load_region_table(
    table: str | Path,
    images: str | Path | None = None,
    frame: str = "wgs84",
    exclude: Iterable[str] = (),
    errors: RowErrors | None = None,
) -> Dataset:
    """A table with a file name, latitude, longitude and region a row, perhaps `angle` or `heading`, as a dataset with the
    columns of `region_features`.

    Args:
        table: CSV or Parquet with `filename`, `latitude`, `longitude` and `Region_ID`.
        images: folder of the files; the table's own where None.
        frame: `wgs84` or `planar`: what the coordinates are.
        exclude: file names to leave out without a word; see `excluded_names`.
        errors: collects the rows that cannot be used, for the caller to settle: a missing or broken image, a path out of
            the folder, an empty region, a coordinate that does not fit the frame, a file that stands there twice.

    Raises:
        DataError: the table cannot be read, lacks a column, or is as a whole in the other frame.
    """
    from datasets import Dataset

    errors, left_out = RowErrors() if errors is None else errors, frozenset(exclude)
    table = table_file(table)
    rows = read_table(table, numbers=NUMBERS)
    columns = usable_rows(rows, table, errors, images, frame, left_out)
    if left_out:
        count = sum(file_name(cell) in left_out for cell in rows[find_column(rows.columns, FILE_COLUMNS)])
        logger.info("%s: %d rows are excluded by name", Path(table).name, count)
    return Dataset.from_dict(columns | {"image": image_column(columns["image"])}, features=region_features())


def load_labeled(source: str | os.PathLike, config: GeoRegionConfig, on_error: str) -> Dataset:
    """The photographs to measure a model on: of a table, or of the validation table of a folder like the sample's.

    Rows that cannot be used, as those of a region that the model does not know, are settled as `on_error` says.
    """
    table, images, exclude = Path(source), None, []
    if table.is_dir():
        exclude = [str(file) for file in table.glob(EXCLUDE)]
        table, images = table / VAL_TABLE, table / VAL_IMAGES
    errors = RowErrors(on_error)
    dataset = load_region_table(table, images, config.frame, excluded_names(exclude), errors)
    dataset = of_known_regions(dataset, table, config.regions, "the model has no", errors)
    errors.settle(kept=len(dataset))
    return dataset


def usable_rows(
    rows: pd.DataFrame,
    source: str | Path,
    errors: RowErrors,
    images: str | Path | None,
    frame: str,
    exclude: frozenset[str],
) -> dict[str, list]:
    """The columns of `region_features` of the rows of a table, or of a chunk of it, that can be used."""
    name, latitude, longitude, region = (
        find_column(rows.columns, names, source)
        for names in (FILE_COLUMNS, LATITUDE_COLUMNS, LONGITUDE_COLUMNS, REGION_COLUMNS)
    )
    lines = rows.index.tolist()
    cells = rows[name].tolist()
    files = [file_name(cell) for cell in cells]
    regions, no_names = region_names(rows[region])
    points = rows[[latitude, longitude]].to_numpy(np.float64)
    headings = _headings(rows, source)
    folder = Path(source).parent if images is None else Path(images)
    wanted = [i for i, file in enumerate(files) if file not in exclude]
    errors.excluded |= exclude.intersection(files)
    reasons = {wanted[i]: reason for i, reason in bad_point_reasons(points[wanted], source, frame).items()}
    reasons |= {i: no_names.get(i, "the region is empty") for i in wanted if regions[i] is None}
    pictures = {}
    for i in wanted:
        try:
            pictures[i] = image_in(folder, cells[i])
        except DataError as error:
            reasons[i] = str(error)
    reasons |= _repeated(pictures, files, points, regions, lines)
    good = [i for i in wanted if i not in reasons]
    broken = broken_images([pictures[i] for i in good])
    reasons |= {good[i]: reason for i, reason in broken.items()}
    for i in sorted(reasons):
        errors.add(source, lines[i], reasons[i])
    kept = [i for i in wanted if i not in reasons]
    if frame == "wgs84":
        points[:, 1] = [wrapped_longitude(value) for value in points[:, 1]]
    return {
        "filename": [files[i] for i in kept],
        "image": [pictures[i] for i in kept],
        "region": [regions[i] for i in kept],
        "latitude": points[kept, 0].tolist(),
        "longitude": points[kept, 1].tolist(),
        "heading": headings[kept].tolist(),
        "row": [lines[i] for i in kept],
    }


def region_cells(table: str | Path) -> list[str | None] | None:
    """The names of regions in a table's rows, None where empty, or DataError; None for a table without such a column."""
    rows = read_table(table)
    column = find_column(rows.columns, REGION_COLUMNS)
    if column is None:
        return None
    names, reasons = region_names(rows[column])
    for number, reason in reasons.items():
        raise DataError(f"{table}, row {rows.index[number]}: {reason}")
    return names


def region_features() -> Features:
    """The columns of a dataset of photographs with their regions; `row` is the line in the table."""
    from datasets import Features, Image, Value

    names = {"filename": Value("string"), "image": Image(decode=False), "region": Value("string")}
    numbers = dict.fromkeys(("latitude", "longitude", "heading"), Value("float64"))
    return Features(names | numbers | {"row": Value("int64")})


def as_photos(rows: Any) -> Any:
    """Rows that a user gave to a Trainer, as photographs: a dataset and a stream with their columns stay as they are.

    Args:
        rows: a dataset, stream or list of dicts with `image`, `latitude`, `longitude`, `region` (or `Region_ID`), and perhaps
            `filename` and `heading` (or `angle`), named as in tables. A region or coordinate that is None is unknown.
    """
    needed = {"filename", "image", "region", "latitude", "longitude"}
    if is_stream(rows):
        return read_stream(rows, _read_photo, needed | {"heading"})
    if not hasattr(rows, "__len__") or isinstance(rows, (RowView, TensorDictDataset)):
        return rows
    known = set(getattr(rows, "column_names", None) or ())
    elsewhere = {name.lower() for name in known} & set(HEADING_COLUMNS[1:])
    if needed <= known and not elsewhere:
        return rows
    labels = ["filename", "region", "latitude", "longitude", "heading"]
    return RowView(without_decoding(rows), _read_photo, labels)


def _read_photo(row: dict, number: int) -> dict:
    image, region = split_sample(row)
    photo = {"filename": str(row.get("filename", number)), "image": image, "region": region}
    # whether they can be depends on the model's frame, see `located`
    photo["latitude"], photo["longitude"] = positions_of([row], "planar", [number])[0].tolist()
    photo["heading"] = heading_of(cell_of(row, HEADING_COLUMNS))
    return photo


def headings_of(dataset: Any, config: GeoRegionConfig) -> np.ndarray | None:
    """(n,) degrees in [0, 360), NaN where unknown, or DataError where one is no number; None for a model without headings."""
    if not config.predict_heading:
        return None
    cells = column_of(dataset, "heading")
    headings = _degrees(cells)
    for i in np.flatnonzero(np.isnan(headings)).tolist():
        try:
            heading_of(cells[i])
        except DataError as error:
            raise DataError(f"{_row_name(dataset, i)}: {error}") from None
    return headings


def _headings(rows: pd.DataFrame, source: str | Path) -> np.ndarray:
    """(n,) `_degrees` of a table's headings; cells that are no numbers are unknown, and told of."""
    cells = heading_cells(rows, source)
    if cells is None:
        return np.full(len(rows), np.nan)
    if rows.attrs.get("decimal_comma"):
        cells = [cell.replace(",", ".") if isinstance(cell, str) else cell for cell in cells]
    headings = _degrees(cells)
    odd = [i for i in np.flatnonzero(np.isnan(headings)).tolist() if text_of(cells[i]) is not None]
    if odd:
        logger.warning(
            "%s: %d of %d headings are no numbers, so that no heading is known there, first %r in row %s",
            source, len(odd), len(rows), cells[odd[0]], rows.index[odd[0]],
        )  # fmt: skip
    return headings


def _degrees(cells: Sequence[Any]) -> np.ndarray:
    """Degrees in [0, 360) of the cells of a column; what is no number is unknown, as an empty cell is."""
    import pandas as pd

    numbers = [None if isinstance(cell, (bool, np.bool_)) else cell for cell in cells]
    degrees = pd.to_numeric(pd.Series(numbers, dtype=object), errors="coerce").to_numpy(np.float64)
    return np.where(np.isfinite(degrees), degrees, np.nan) % 360


def labels_of(dataset: Any, config: GeoRegionConfig) -> np.ndarray:
    """(n,) region numbers of photographs, negative where unknown; DataError for a region that the model does not know."""
    names = column_of(dataset, "filename")
    return class_numbers(column_of(dataset, "region"), config.label2id, "region", names)


def located(dataset: Any, frame: str) -> np.ndarray:
    """(n, 2) points of photographs, NaN where unknown; DataError for a point that cannot be in this frame."""
    points = points_of(dataset)
    reasons = impossible_points(points) if frame == "wgs84" else {}
    for number, reason in reasons.items():
        raise DataError(f"{_row_name(dataset, number)}: {reason}")
    return points


def truth_of(dataset: Any, config: GeoRegionConfig) -> tuple[np.ndarray, np.ndarray]:
    """`labels_of` and `located` of photographs that are measured; DataError for a row without a region or coordinates."""
    labels, points = labels_of(dataset, config), located(dataset, config.frame)
    lacking = np.flatnonzero((labels < 0) | ~np.isfinite(points).all(1))
    if len(lacking):
        raise DataError(
            f"{_row_name(dataset, lacking[0])}: has no region or no coordinates, like {len(lacking)} of {len(labels)} rows: "
            "it cannot be measured; leave such rows out"
        )
    return labels, points


def _row_name(dataset: Any, number: int) -> str:
    return f"row {column_of(dataset, 'filename')[number] or number}"


def _repeated(pictures: dict[int, dict], files, points, regions, lines) -> dict[int, str]:
    """Files that stand in several rows: all of them where their labels differ, else all but the first."""
    rows_of = defaultdict(list)
    for i, image in pictures.items():
        if image["bytes"] is None:
            rows_of[os.path.normpath(image["path"])].append(i)  # a.jpg and ./a.jpg are one file
    reasons: dict[int, str] = {}
    for rows in rows_of.values():
        if len(rows) == 1:
            continue
        standing = f"{files[rows[0]]!r} stands in rows {', '.join(str(lines[i]) for i in rows)}"
        if len({(regions[i], *points[i].tolist()) for i in rows}) > 1:
            reasons |= dict.fromkeys(rows, f"{standing} with different labels")
        else:
            reasons |= dict.fromkeys(rows[1:], standing)
    return reasons
