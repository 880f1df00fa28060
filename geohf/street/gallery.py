"""Galleries: the positions among which matching looks for the one of a photograph, and their embeddings on disk."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from geohf.data.tables import LATITUDE_COLUMNS, LONGITUDE_COLUMNS, find_column, line_of, read_table
from geohf.errors import DataError, did_you_mean
from geohf.geo import EARTH_RADIUS_M
from geohf.geo.angles import wrap_degrees
from geohf.geo.frames import impossible_points
from geohf.io import atomic_path, cache_folder
from geohf.vision.weights import load_tensors, weights_fingerprint

if TYPE_CHECKING:
    import pandas as pd

    from geohf.street.configuration import GeoStreetConfig

WORDS = ("train", "cells", "grid")
MOST_POINTS = 2_000_000  # of a grid
KEPT_POINTS = 4096  # a gallery with more is kept on disk: fewer are encoded in a second or two


def gallery_of(source: Any, config: GeoStreetConfig, train: np.ndarray | None = None) -> np.ndarray:
    """The positions that a word or a table stands for.

    Args:
        source: `train` (the training places), `cells` (the model's classes, or as many geocells of the training
            places as it may have), `grid:KM` (positions so far apart in the box of the training places), or what
            `gallery_points` takes.
        config: the model's: its classes and its box.
        train: (n, 2) degrees of the training places, NaN where unknown, while the model is made.

    Raises:
        DataError: see `gallery_points`; a word for what the model has not.
    """
    word, _, spacing = source.partition(":") if isinstance(source, str) else ("", "", "")
    if word not in WORDS:
        return gallery_points(source)
    if word == "train":
        if train is None:
            raise DataError(
                "gallery 'train': only training has these places; leave it out to look in the model's own"
            )
        return gallery_points(train[np.isfinite(train).all(1)])
    if word == "cells":
        if config.class_centroids is None:
            raise DataError("gallery 'cells': this model has no classes")
        return np.array(config.class_centroids, np.float64)
    if config.gps_box is None:
        raise DataError("gallery 'grid': this model does not say in which box its training places lay")
    try:
        step = float(spacing)
    except ValueError:
        step = math.nan
    if not step > 0:
        raise DataError(f"gallery {source!r}: say how many kilometers apart, such as grid:25")
    south, west, north, east = config.gps_box
    return grid_points(south, west, north, east, step)


def gallery_points(source: Any, repeats: bool = False) -> np.ndarray:
    """The positions of a gallery in order.

    Args:
        source: (n, 2) latitude and longitude in degrees, or a table, in a file or of pandas, with columns `latitude` and
            `longitude` (or `LAT` and `LON`, as GeoCLIP's has them).
        repeats: keep positions that are there twice, which count twice then.

    Returns:
        (n, 2) float64, longitudes in [-180, 180].

    Raises:
        DataError: there is none, one is NaN or lies outside -90..90 and -180..180, or the table cannot be read.

    >>> gallery_points([[48.9, 2.4], [48.9, 2.4], [52.5, 13.4]]).tolist()
    [[48.9, 2.4], [52.5, 13.4]]
    """
    if isinstance(source, (str, os.PathLike)):
        facts = os.stat(source) if os.path.isfile(source) else None
        points = _of_table(str(source), facts and (facts.st_mtime_ns, facts.st_size))
    elif hasattr(source, "columns"):
        points = _of_columns(source, "gallery", "position {}".format)
    else:
        points = _of_array(source)
    if repeats:
        return points.copy()
    _, first = np.unique(points, axis=0, return_index=True)
    return points[np.sort(first)]


def _of_array(source: Any) -> np.ndarray:
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu().numpy()
    try:
        points = np.asarray(source, np.float64)
    except (TypeError, ValueError):
        raise DataError("gallery: is no table and no (n, 2) degrees") from None
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise DataError(f"gallery: must be (n, 2) degrees with n > 0, got {points.shape}")
    return _checked(points, "gallery", "position {}".format, "a gallery holds")


@lru_cache(maxsize=4)
def _of_table(path: str, facts: tuple | None) -> np.ndarray:
    """The positions in a file; `facts` are its time and size, so that a changed one is read again."""
    if not os.path.exists(path):
        raise DataError(
            f"gallery {path!r}: is no table, and none of {', '.join(WORDS)}{did_you_mean(path, WORDS)}"
        )
    return read_positions(path)[1]


def read_positions(path: str, holds: str = "a gallery holds") -> tuple[pd.DataFrame, np.ndarray]:
    """A table in a file, and the (n, 2) degrees of its rows, which all are somewhere on earth.

    Raises:
        DataError: one is not, or the table cannot be read.
    """
    table = read_table(path, numbers=(*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS))
    return table, _of_columns(table, path, lambda row: f"row {line_of(table, row)}", holds)


def _of_columns(
    table: pd.DataFrame, source: str, name: Callable[[int], str], holds: str = "a gallery holds"
) -> np.ndarray:
    """The positions in a table of pandas: by its columns, which may stand in any order."""
    names = [find_column(table.columns, known, source) for known in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
    try:
        points = table[names].to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: {' and '.join(map(str, names))} are not numbers: {error}") from None
    return _checked(points, source, name, holds)


def _checked(points: np.ndarray, source: str, name: Callable[[int], str], holds: str) -> np.ndarray:
    """The (n, 2) degrees; DataError where one lies nowhere on earth, with its name."""
    reasons = dict.fromkeys(np.flatnonzero(~np.isfinite(points).all(1)).tolist(), "is not finite")
    for row in np.flatnonzero(np.abs(points[:, 1]) > 180).tolist():
        reasons[row] = f"longitude {points[row, 1]:g} is outside -180..180"
    reasons |= impossible_points(points)
    if reasons:
        row = min(reasons)
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise DataError(f"{source}, {name(row)}: {reasons[row]}{more}; {holds} latitude and longitude")
    return points


def grid_points(south: float, west: float, north: float, east: float, spacing_km: float) -> np.ndarray:
    """Positions in a box so that each has about the same area around it; west > east crosses the antimeridian.

    >>> grid_points(0, 170, 1, -180, 50).shape
    (66, 2)
    """
    step = np.degrees(spacing_km * 1000 / EARTH_RADIUS_M)
    width = (east - west) % 360 or 360.0
    if (north - south) * width / step**2 > MOST_POINTS:
        raise DataError(
            f"a grid of {spacing_km:g} km has more than {MOST_POINTS:,} positions there: take a coarser one"
        )
    rows = []
    for latitude in np.linspace(south, north, max(1, round((north - south) / step) + 1)):
        count = max(1, round(width * np.cos(np.radians(latitude)) / step))
        longitudes = west + (np.arange(count) + 0.5) * width / count
        rows.append(np.stack([np.full(count, latitude), wrap_degrees(longitudes)], 1))
    return np.concatenate(rows)


def kept_on_disk(
    encoder: torch.nn.Module, points: np.ndarray, encode: Callable[[np.ndarray], torch.Tensor]
) -> torch.Tensor:
    """The embeddings of (n, 2) degrees, of a large gallery from the cache where these weights have encoded it before."""
    if len(points) <= KEPT_POINTS:
        return encode(points)
    key = hashlib.blake2b(weights_fingerprint(encoder).encode() + points.tobytes(), digest_size=16)
    path = cache_folder("galleries") / f"{key.hexdigest()}.safetensors"
    with suppress(SafetensorError, KeyError, OSError):  # damaged, or not there
        return load_tensors(path)["embeddings"]
    embeddings = encode(points)
    with atomic_path(path) as temporary:
        save_file({"embeddings": embeddings.cpu()}, temporary)
    return embeddings
