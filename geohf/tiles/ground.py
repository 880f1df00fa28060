"""Where tiles lie on the ground: scenes that overlap show the same places, whatever their files are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geohf.geo import EARTH_RADIUS_M
from geohf.geo.crs import transformed
from geohf.tiles.rasters import RasterInfo

if TYPE_CHECKING:
    from geohf.tiles.table import TileTable

_SLIVER = 1e-3  # shares of a pixel that rounding makes of rims that meet
_SLACK = 1.2  # rims of large images are no straight lines on the globe
_CHUNK = 4_000_000  # pairs of tiles at once
_RIM = np.array([(x, y) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0)])


@dataclass
class _Place:
    """A ball that holds an image: on the globe, or in the plane of a CRS that has no place there.

    frame: `globe`, or the CRS ("" without one). center: (3,) or (2,). radius: in meters or units of the CRS.
    """

    frame: str
    center: np.ndarray
    radius: float


def least_gap_px(
    table: TileTable, rows: np.ndarray, held_out: np.ndarray, reach_px: float = 0.0
) -> np.ndarray:
    """How near tiles lie to the held-out tiles of other regions on the ground.

    Compared are images with a CRS, or with a transform alone among themselves, as rectangles in the pixels of the
    held-out tile's image; one that is turned against it counts as the rectangle round it.

    Args:
        rows, held_out: tiles of the table.
        reach_px: gaps up to it are looked for.

    Returns:
        (rows,) pixels between the edges to the nearest one: 0 where they meet, below 0 where they overlap, infinite
        where none is within reach.
    """
    gaps = np.full(len(rows), np.inf)
    places = [_place(raster) for raster in table.rasters]
    regions, held_regions = table.region[rows], table.region[held_out]
    members = {region: np.flatnonzero(regions == region) for region in np.unique(regions).tolist()}
    for home in np.unique(held_regions).tolist():
        held = table.boxes[held_out[held_regions == home]].astype(np.float64)
        for other in _neighbors(places, table.rasters[home], home, reach_px):
            if other in members:
                chosen = members[other]
                boxes = boxes_in(table.rasters[home], table.rasters[other], table.boxes[rows[chosen]])
                gaps[chosen] = np.minimum(gaps[chosen], _least_gaps(boxes, held, reach_px))
    return gaps


def boxes_in(home: RasterInfo, other: RasterInfo, boxes: np.ndarray) -> np.ndarray:
    """Boxes of pixels of one image as pixels of another, (n, 4) float64; NaN where that has no place for them."""
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).T
    corners = np.stack([x0, y0, x1, y0, x0, y1, x1, y1], 1).reshape(-1, 2)
    there = _on_map(other, corners)
    if other.crs != home.crs:
        there = transformed(other.crs, home.crs, there)
    there = points_in(home, there).reshape(len(boxes), 4, 2)
    return np.concatenate([there.min(1), there.max(1)], 1)


def _place(raster: RasterInfo) -> _Place | None:
    if not raster.located:
        return None
    frame, points = raster.crs or "", _on_map(raster, _RIM * (raster.width, raster.height))
    if raster.crs is not None:
        lon, lat = np.radians(transformed(raster.crs, "EPSG:4326", points)).T
        flat = np.cos(lat)
        globe = EARTH_RADIUS_M * np.stack([flat * np.cos(lon), flat * np.sin(lon), np.sin(lat)], 1)
        if np.isfinite(globe).all():
            frame, points = "globe", globe
    center = points.mean(0)
    return _Place(frame, center, float(_SLACK * np.linalg.norm(points - center, axis=1).max()))


def _neighbors(
    places: Sequence[_Place | None], raster: RasterInfo, home: int, reach_px: float
) -> Iterator[int]:
    """The regions whose images may come within reach of this one's."""
    here = places[home]
    if here is None:
        return
    reach = reach_px * 2 * here.radius / np.hypot(raster.width, raster.height)
    for number, there in enumerate(places):
        if number != home and there is not None and there.frame == here.frame:
            apart = np.linalg.norm(there.center - here.center)
            if apart <= here.radius + there.radius + reach:
                yield number


def _least_gaps(boxes: np.ndarray, held: np.ndarray, reach_px: float) -> np.ndarray:
    """(n,) gaps of n boxes to the nearest of the held ones; infinite out of reach."""
    gaps = np.full(len(boxes), np.inf)
    low, high = held[:, :2].min(0) - reach_px, held[:, 2:].max(0) + reach_px
    near = np.flatnonzero((boxes[:, :2] <= high).all(1) & (boxes[:, 2:] >= low).all(1))
    for part in np.array_split(near, max(1, len(near) * len(held) // _CHUNK)):
        one = boxes[part, None]
        # below 0: they overlap there
        apart = np.maximum(one[..., :2] - held[:, 2:], held[:, :2] - one[..., 2:])
        sliver = _SLIVER * np.minimum(1.0, boxes[part, 2:] - boxes[part, :2]).min(1)[:, None]
        deepest = apart.max(-1)
        outside = np.hypot(*np.moveaxis(apart.clip(0), -1, 0))
        gap = np.where(deepest < -sliver, deepest, outside)
        gaps[part] = gap.min(1)
    return np.where(gaps <= reach_px, gaps, np.inf)


def _on_map(raster: RasterInfo, pixels: np.ndarray) -> np.ndarray:
    a, b, c, d, e, f = raster.transform
    x, y = pixels.T
    return np.stack([a * x + b * y + c, d * x + e * y + f], 1)


def points_in(raster: RasterInfo, points: np.ndarray) -> np.ndarray:
    """Coordinates in a raster's CRS as its pixels: (n, 2) x and y, (0, 0) the upper left corner."""
    from rasterio.crs import CRS

    a, b, c, d, e, f = raster.transform
    x, y = (points - (c, f)).T
    if raster.crs is not None and CRS.from_wkt(raster.crs).is_geographic:  # 181 degrees east is 179 west
        x = x - 360.0 * np.round((x - a * raster.width / 2) / 360.0)
    area = a * e - b * d
    return np.stack([e * x - b * y, a * y - d * x], 1) / area
