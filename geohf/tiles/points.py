"""Labels at points: a tile is the window around each point, in the raster whose footprint holds it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geohf.data.tables import LATITUDE_COLUMNS, LONGITUDE_COLUMNS, RowErrors, bad_point_reasons, find_column
from geohf.data.times import StepTimes, shorten, step_times, time_of
from geohf.errors import DataError
from geohf.geo.crs import gdal_errors, transformed
from geohf.tiles.dates import start_days
from geohf.tiles.ground import points_in
from geohf.tiles.images import RegionImages, dotted, find_images
from geohf.tiles.rasters import RasterInfo
from geohf.tiles.reading import Reading
from geohf.tiles.rows import check_regions, name_of
from geohf.tiles.sources import names_in, raster_folder
from geohf.tiles.table import (
    TARGET,
    TileTable,
    columns_of,
    labels_of,
    load_tiles,
    read_named,
    table_of_regions,
)

logger = logging.getLogger(__name__)
BOX = "region_coordinates"
DATE = "date"
_LENGTHS = {"years": 1.0, "quarters": 1 / 4, "months": 1 / 12}  # of what labels name, in years
_SLACK_DEG = 1e-3  # of bounds that rounding cuts
PLACES = (*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS)


def has_points(path: str | Path) -> bool:
    """A table names points and no boxes."""
    columns = columns_of(path)
    return find_column(columns, [BOX]) is None and None not in _point_columns(columns)


def _point_columns(columns: Iterable[str], source: str | None = None) -> list[str | None]:
    return [find_column(columns, known, source) for known in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]


def regions_in(image_dir: str | Path, labels: Sequence[str], extension: str) -> list[str]:
    """Names of the rasters that lie in the labels' folders.

    Raises:
        DataError: there is none.
    """
    folder = raster_folder(image_dir)
    there = [folder / label for label in labels]
    names = {name for inside in there if inside.is_dir() for name in names_in(inside, extension)}
    if not names:
        raise DataError(f"{image_dir}: holds no <label>/<region>{extension}, in which points could lie")
    return sorted(names)


def windows_of_points(
    points: np.ndarray, images: Mapping[str, RegionImages], tile_size: int, given: Sequence[str | None]
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """The raster and the window of each point.

    Of rasters that overlap the one counts in which the point lies farthest from the rim.

    Args:
        points: (n, 2) latitude and longitude in degrees; NaN is passed over.
        images: of each region.
        tile_size: side of a window in pixels; its middle is the point, to half a pixel.
        given: each point's region where the table names it.

    Returns:
        ((n,) names; (n, 4) int32 boxes; number -> why a point has none).
    """
    boxes, depth = np.zeros((len(points), 4), np.int32), np.full(len(points), -np.inf)
    names: np.ndarray = np.full(len(points), "", object)
    for name, image in images.items():
        if image.raster is None or image.raster.crs is None:
            continue
        wanted = np.array([region is None or region == name for region in given], bool)
        rim = np.full(len(points), -np.inf)
        pixels = np.full(points.shape, np.nan)
        near = _may_lie_in(image.raster, points)
        on_map = transformed("EPSG:4326", image.raster.crs, points[near][:, ::-1])
        pixels[near] = points_in(image.raster, on_map)
        rim[near] = _depth(image.raster, pixels[near])
        better = np.flatnonzero(wanted & (rim > depth))
        depth[better] = rim[better]
        corner = np.floor(pixels[better] - tile_size / 2 + 0.5).astype(np.int64)
        boxes[better] = np.concatenate([corner, corner + tile_size], 1)
        names[better] = name
    bad = {}
    for i in np.flatnonzero(np.isfinite(points).all(1)).tolist():
        raster = images[names[i]].raster if names[i] else None
        at = f"the point ({points[i, 0]:g}, {points[i, 1]:g})"
        if raster is None or depth[i] < 0:
            where = "any raster" if given[i] is None else f"the raster {given[i]}"
            bad[i] = f"{at} lies outside of {where}"
        elif boxes[i].min() < 0 or boxes[i, 2] > raster.width or boxes[i, 3] > raster.height:
            away = f"{depth[i]:.3g} pixels from the rim of {names[i]}"
            bad[i] = f"{at} lies {away}, a window of {tile_size} does not fit in"
    return names, boxes, bad


def _may_lie_in(raster: RasterInfo, points: np.ndarray) -> np.ndarray:
    """Numbers of the points within a raster's bounds on the globe: one without a place in its CRS would spoil them all."""
    from rasterio.transform import array_bounds
    from rasterio.warp import transform_bounds

    try:
        west, south, east, north = transform_bounds(
            raster.crs, "EPSG:4326", *array_bounds(raster.height, raster.width, raster.affine)
        )
    except gdal_errors():
        return np.zeros(0, np.int64)
    latitude, longitude = points.T
    within = (latitude >= south - _SLACK_DEG) & (latitude <= north + _SLACK_DEG)
    width = (east - west) % 360 or 360.0  # from 170 to -170 are 20 degrees
    within &= (longitude - west + _SLACK_DEG) % 360 <= width + 2 * _SLACK_DEG
    return np.flatnonzero(within & (np.abs(latitude) <= 90))


def _depth(raster: RasterInfo, pixels: np.ndarray) -> np.ndarray:
    """(n,) pixels from each place to the nearest rim, below 0 outside."""
    inside = np.concatenate([pixels, (raster.width, raster.height) - pixels], 1).min(1)
    return np.where(np.isfinite(inside), inside, -np.inf)


def steps_of_dates(dates: Sequence, labels: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """The step that each date falls in: the newest label that begins no later; a warning where its year or month is over by then.

    Returns:
        ((n,) steps, number -> why a date has none).

    Raises:
        DataError: the labels tell no dates.
    """
    times = step_times(labels)
    starts = start_days(times)
    if starts is None:
        raise DataError(f"the column {DATE} needs dates, months or years as labels, not {shorten(labels)}")
    longest = np.diff(starts).max()
    own = _LENGTHS.get(times.unit)  # the time of a single day lasts until the next label
    ends = None if own is None else start_days(StepTimes(times.times + own, times.unit))
    steps, bad, between = np.zeros(len(dates), np.int64), {}, []
    for i, cell in enumerate(dates):
        try:
            day = start_days(time_of(cell))
        except DataError as error:
            bad[i] = f"{DATE}: {error}"
            continue
        if day is None:
            bad[i] = f"{DATE}: {cell!r} is no date; write 2019-07-31"
        elif day[0] < starts[0]:
            bad[i] = f"{DATE}: {cell} is before the first label, {labels[0]}"
        elif day[0] - starts[-1] >= longest:
            bad[i] = f"{DATE}: {cell} is after the last label, {labels[-1]}"
        else:
            steps[i] = np.searchsorted(starts, day[0], side="right") - 1
            if ends is not None and day[0] >= ends[steps[i]]:
                between.append(i)
    if between:
        i = between[0]
        logger.warning(
            "%d dates are of no label's own time, such as %s: each counts as of the label before it, there %s, whose image may not "
            "show what is told of it; leave them out, or add images of their time",
            len(between),
            dates[i],
            labels[steps[i]],
        )
    return steps, bad


def load_points(
    path: str | Path,
    image_dir: str | Path,
    labels: Sequence[str | int],
    tile_size: int,
    extension: str = ".tif",
    targets: Sequence[str] = (TARGET,),
    max_missing: float = 0.5,
    nodata: float | None = None,
    errors: RowErrors | None = None,
    reading: Reading | None = None,
) -> TileTable:
    """Tiles around the points of a table, in the rasters `image_dir/<label>/<region><extension>`.

    Its columns are `latitude, longitude`, the targets, and perhaps `date` (the label that it falls in is the row's;
    without dates it is the last one), `region_id` (else the raster whose footprint holds the point) and `tile_id`.
    Rows of one window are one tile.

    Args:
        path: CSV or Parquet file.
        tile_size: side of a window in pixels.
        The others: see `load_tiles`.

    Raises:
        DataError: the table or an image cannot be used; points outside of all rasters, or nearer than half a window to
            the rim, and dates that cannot be read are rows that cannot be used.
    """
    errors, reading = errors or RowErrors(), reading or Reading()
    labels, extension, source = labels_of(labels), dotted(extension), str(path)
    frame = read_named(path, targets, [*targets, *PLACES], [DATE, "region_id", "tile_id"])
    there = regions_in(image_dir, labels, extension)
    images = find_images(there, image_dir, labels, extension, errors.on_error, reading)
    points = frame[_point_columns(frame.columns, source)].to_numpy(np.float64)
    cells = frame["region_id"] if "region_id" in frame else [None] * len(frame)
    given = [name_of(cell) or None for cell in cells]
    regions, boxes, bad = windows_of_points(points, images, tile_size, given)
    bad |= bad_point_reasons(points, source)
    bad |= dict.fromkeys(np.flatnonzero(np.isnan(points).any(1)).tolist(), "latitude or longitude is empty")
    steps = np.full(len(frame), len(labels) - 1)
    if DATE in frame:
        steps, undated = steps_of_dates(frame[DATE].tolist(), labels)
        bad |= undated
    values = frame[list(targets)].to_numpy(np.float64) if targets else np.empty((len(frame), 0))
    unknown = np.flatnonzero(~np.isfinite(values).all(1)).tolist()
    bad |= dict.fromkeys(unknown, "its target is empty or not a finite number")
    for row, reason in sorted(bad.items()):
        errors.add(source, int(frame.index[row]), reason)
    kept = np.array([row for row in range(len(frame)) if row not in bad], np.int64)
    kept = check_regions(kept, regions, boxes, images, extension, max_missing, frame.index, source, errors)
    rows, history = _by_window(kept, steps, regions, boxes, values, labels, frame.index, source, errors)
    errors.settle(len(rows))
    names = frame.index.astype(str).to_numpy(object)[rows]
    if "tile_id" in frame:
        given_names = frame["tile_id"].map(name_of).to_numpy(object)[rows]
        names = given_names if len(set(given_names)) == len(rows) else names
    fields: dict[str, Any] = {
        "labels": labels,
        "steps": step_times(labels),
        "targets": list(targets),
        "values": history,
    }
    fields |= {"source": source, "reading": reading, "window": tile_size}
    return table_of_regions(regions[rows], images, nodata, tile_ids=names, boxes=boxes[rows], **fields)


def load_table(
    path: Path, image_dir: Path, labels: Sequence[str | int], tile_size: int, **settings: Any
) -> TileTable:
    """`load_points` of a table that names points, else `load_tiles`; their settings."""
    if has_points(path):
        return load_points(path, image_dir, labels, tile_size, **settings)
    return load_tiles(path, image_dir, labels, **settings)


def _by_window(
    kept, steps, regions, boxes, values, labels, lines, source, errors
) -> tuple[np.ndarray, np.ndarray]:
    """The first row of every window, and (windows, steps, targets) what all of its rows tell."""
    place: dict[tuple, int] = {}
    rows: list[int] = []
    history = np.full((len(kept), len(labels), values.shape[1]), np.nan)
    for row in kept.tolist():
        key = (regions[row], *boxes[row].tolist())
        number = place.setdefault(key, len(rows))
        if number == len(rows):
            rows.append(row)
        old = history[number, steps[row]]
        if (np.isfinite(old) & (old != values[row])).any():
            first = lines[rows[number]]
            reason = f"lies in the window of row {first}, with other values for {labels[steps[row]]}"
            errors.add(source, int(lines[row]), reason)
        else:
            history[number, steps[row]] = values[row]
    return np.array(rows, np.int64), history[: len(rows)]
