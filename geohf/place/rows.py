"""The images of drives that a Trainer is given: rows of a user's own, their pictures and names."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from geohf.data.cells import is_nothing, label_of
from geohf.data.rows import RowImages, RowView, cell_of, heading_of, positions_of
from geohf.data.samples import without_decoding
from geohf.data.tables import LATITUDE_COLUMNS, LONGITUDE_COLUMNS
from geohf.data.times import time_ns
from geohf.errors import DataError
from geohf.place.columns import CAMERA_COLUMNS, HEADINGS, SEQUENCE_COLUMNS, TIME_COLUMNS
from geohf.place.drives import drive_features, files_of, names_of

LABELS = ("latitude", "longitude", "heading", "sequence", "camera", "time_ns")


def as_drives(rows):
    """Rows that a user gave to a Trainer, as images of drives: a dataset of drives and a stream are as they should be.

    Args:
        rows: a dataset or list of dicts with `image`, `latitude` and `longitude` in degrees, and perhaps `heading` in
            degrees clockwise from north, `sequence` (the drive), `camera` and `time_ns`, or as columns of tables are called.
    """
    if not hasattr(rows, "__len__") or isinstance(rows, (RowView, dict)):
        return rows
    known, own = drive_features(), getattr(rows, "features", None) or {}
    if "image" in own and all(own.get(name) == known[name] for name in LABELS):
        return rows
    return RowView(without_decoding(rows), _read_image, LABELS)


def _read_image(row: dict, number: int) -> dict:
    wanted = {"image": ("image",), "latitude": LATITUDE_COLUMNS, "longitude": LONGITUDE_COLUMNS}
    lacking = [name for name, names in wanted.items() if is_nothing(cell_of(row, names))]
    latitude, longitude = [math.nan] * 2 if lacking else positions_of([row], names=[number])[0].tolist()
    if lacking or math.isnan(latitude):
        lacks = " and no ".join(lacking or ["latitude", "longitude"])
        raise DataError(f"row {number} has no {lacks}; its columns are {', '.join(row)}")
    try:
        heading = heading_of(cell_of(row, HEADINGS))
        sequence = label_of(cell_of(row, SEQUENCE_COLUMNS)) or ""
        camera = label_of(cell_of(row, CAMERA_COLUMNS))
        taken = row.get("time_ns")
        if not isinstance(taken, (int, np.integer)):  # the unit of a whole number is else told by its digits
            taken = time_ns(cell_of(row, ("time_ns", *TIME_COLUMNS)))
    except (DataError, TypeError, ValueError) as error:
        raise DataError(f"row {number}, heading, sequence, camera and time: {error}") from None
    labels = latitude, longitude, heading, sequence, camera, taken
    return {"image": row["image"], **dict(zip(LABELS, labels, strict=True))}


def images_of(rows) -> Sequence:
    """The images of drives: paths, paths with bytes, or whatever a user's own rows hold."""
    return files_of(without_decoding(rows)) if hasattr(rows, "cast_column") else RowImages(rows)


def join_rows(first, second):
    """Two datasets of drives, one after the other."""
    from datasets import concatenate_datasets
    from torch.utils.data import ConcatDataset

    parts = [without_decoding(part) for part in (first, second)]
    if all(hasattr(part, "cast_column") for part in parts) and parts[0].features == parts[1].features:
        return concatenate_datasets(parts)
    return ConcatDataset(parts)  # also where the images of one are paths, and of the other pictures


def short_names(*parts) -> list[list[str]]:
    """What images of drives are called: paths without the folder that holds them all; see `names_of` for those in memory."""
    named = [
        [(name, isinstance(image, str)) for name, image in zip(names_of(part), images_of(part), strict=True)]
        for part in parts
    ]
    folders = {os.path.dirname(os.path.abspath(name)) for part in named for name, is_file in part if is_file}
    root = os.path.commonpath(folders) if folders else ""
    return [[os.path.relpath(name, root) if is_file else name for name, is_file in part] for part in named]
