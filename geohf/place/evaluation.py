"""How well a place model finds the queries of drives and of benchmark folders in their database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.io import natural_key
from geohf.place.audit import audit, judge
from geohf.place.drives import drives_of, files_of, load_drives
from geohf.place.index import PlaceIndex
from geohf.place.metrics import RECALLS, place_metrics
from geohf.place.sequences import Center, Method, check_options, in_order

if TYPE_CHECKING:
    from geohf.place.modeling import GeoPlaceModel


def evaluate_place(
    model: GeoPlaceModel,
    data: str | os.PathLike,
    batch_size: int = 32,
    on_error: str = "raise",
    center: Center = "none",
    method: Method | None = None,
) -> dict[str, float]:
    """See `GeoPlaceModel.evaluate`."""
    check_options(center, method)
    poses = sorted(Path(data).glob("*/poses.csv"), key=natural_key)
    images, _ = load_drives(poses or data, on_error=on_error)
    sequences = np.array(images["sequence"][:])
    first = sequences == sequences[0]
    if first.all():
        raise DataError(f"{data}: is the single drive {str(sequences[0])!r}; a second one has to ask")
    database, queries = np.flatnonzero(first), np.flatnonzero(~first)
    drives, times_ns = drives_of(images), images["time_ns"][:]
    database, database_drives = in_order(database, drives, times_ns)
    queries, query_drives = in_order(queries, drives, times_ns)
    files, points, radius_m = files_of(images), points_of(images), model.config.confidence_m
    none = np.arange(0)
    judge(audit(files, points, sequences, times_ns, none, database, queries, radius_m), strict=False)
    descriptors = model.encode(files, batch_size)
    index = PlaceIndex(
        descriptors[database],
        points[database],
        [str(files[row]) for row in database],
        model.fingerprint(),
        database_drives.tolist(),
    )
    ranked = rank(index, descriptors[queries], query_drives, center, method)
    return place_metrics(ranked, points[database], points[queries], [radius_m], RECALLS)


def rank(
    index: PlaceIndex, descriptors, drives, center: Center = "none", method: Method | None = None
) -> np.ndarray:
    """(q, k) rows of the index, best first, for frames in the order of time.

    Args:
        descriptors, drives: (q, d) of the frames, and q names.
        center, method: see `GeoPlaceModel.predict_sequences`; without a method each frame answers alone.
    """
    most = max(RECALLS)
    if method is None:
        return index.search(descriptors, most, center, drives)[1]
    return index.match(descriptors, most, center, drives, method=method)[1].rows


def drive_recalls(
    descriptors: Sequence[torch.Tensor],
    images: Sequence[Any],
    radius_m: float,
    center: Center = "none",
    method: Method | None = None,
) -> dict[str, float]:
    """Recall where the frames of a drive answer together.

    Args:
        descriptors: (m, d) of the database and (q, d) of the queries.
        images: the database and the queries, as datasets of drives.
        radius_m: meters within which an answer is right.
        center, method: see `rank`.

    Returns:
        `drive_r1`, `drive_r5`, ... of the queries with a database image within the radius.
    """
    ordered, drives = zip(
        *(in_order(np.arange(len(part)), drives_of(part), part["time_ns"][:]) for part in images), strict=True
    )
    database, queries = (points_of(part)[rows] for part, rows in zip(images, ordered, strict=True))
    base, asked = (part[rows] for part, rows in zip(descriptors, ordered, strict=True))
    index = PlaceIndex(base, database, [""] * len(base), "", drives[0].tolist())
    values = place_metrics(
        rank(index, asked, drives[1], center, method), database, queries, [radius_m], RECALLS
    )
    return {f"drive_r{n}": values[f"r{n}"] for n in RECALLS}
