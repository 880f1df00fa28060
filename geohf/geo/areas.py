"""Areas that restrict points: boxes and GeoJSON polygons, and the closest point of an area."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from geohf.geo._arrays import as_rows, wrap_longitude
from geohf.geo.distance import great_circle_m

_CHUNK = 1 << 15  # point-edge pairs tested at a time: temporaries stay in cache, twice as fast as 2^18
_FINALISTS = 8


class Area:
    """A union of polygons in degrees; boundaries belong to it. `a | b` is the union.

    Edges are straight in longitude and latitude, as in GeoJSON, not arcs of great circles. See `box` and
    `area_from_geojson`.

    Args:
        polygons: each a list of rings, the outer one first, then holes. A ring is an (n, 2) array of (latitude,
            longitude) in any orientation, closed or not; longitudes run on without a jump (181 after 180).

    Raises:
        ValueError: no polygons, a ring of fewer than 3 points, coordinates that are not finite or no latitudes.
    """

    def __init__(self, polygons: Iterable[list[np.ndarray]]):
        self.polygons = [[_closed_ring(ring) for ring in rings] for rings in polygons]
        if not self.polygons or not all(self.polygons):
            raise ValueError("an area needs at least one polygon, and a polygon at least one ring")
        # (n_edges, 4): latitude and longitude of both ends.
        self._edges = [
            np.concatenate([np.concatenate([ring[:-1], ring[1:]], 1) for ring in rings])
            for rings in self.polygons
        ]

    def __or__(self, other: Area) -> Area:
        """The union of two areas."""
        if not isinstance(other, Area):
            return NotImplemented
        return Area([*self.polygons, *other.polygons])

    def __repr__(self) -> str:
        return f"Area({len(self.polygons)} polygons, {sum(map(len, self._edges))} edges)"

    def contains(self, points) -> np.ndarray:
        """(n,) bool, False for NaN: which points lie in the area, boundary included, by the even-odd rule in any polygon.

        Args:
            points: (n, 2) latitude and longitude in degrees, longitudes in any turn.

        >>> box(-20, 170, 10, -170).contains([[0, 175], [0, -175], [0, 0], [10, 170]])
        array([ True,  True, False,  True])
        """
        points = as_rows(points)
        lat, lon = points[:, 0], wrap_longitude(np, points[:, 1])
        inside = np.zeros(len(points), bool)
        for edges in self._edges:
            low, high = edges.min(0), edges.max(0)
            in_band = ~inside & (lat >= low[0]) & (lat <= high[0])
            # Rings run on past ±180, so a point is looked for in every turn that the ring reaches.
            first, last = np.floor((low[1] + 180.0) / 360.0), np.floor((high[1] + 180.0) / 360.0)
            for turn in 360.0 * np.arange(first, last + 1):
                near = np.flatnonzero(in_band & (lon + turn >= low[1]) & (lon + turn <= high[1]))
                for chunk in _chunks(near, len(edges)):
                    inside[chunk] |= _in_rings(lat[chunk], lon[chunk] + turn, edges)
        return inside

    def nearest(self, points) -> np.ndarray:
        """The closest point of the area: points inside come back as they are, others on the boundary.

        The closest point of each edge is found in a local map scaled by the cosine of the latitude, the edge by
        great-circle distance: exact to well below 1 % of the distance up to a few hundred kilometers away.

        Args:
            points: (n, 2) latitude and longitude in degrees.

        Returns:
            (n, 2) float64 degrees, longitudes of moved points in [-180, 180).

        Raises:
            ValueError: coordinates that are not finite, or a latitude outside -90..90.

        >>> box(0, 0, 10, 10).nearest([[5, 5], [5, 12], [-3, -4]])
        array([[ 5.,  5.],
               [ 5., 10.],
               [ 0.,  0.]])
        """
        points = as_rows(points)
        if not np.isfinite(points).all() or (np.abs(points[:, 0]) > 90.0).any():
            raise ValueError("points must be finite, with latitudes in -90..90")
        edges = np.concatenate(self._edges)
        out = points.copy()
        for chunk in _chunks(np.flatnonzero(~self.contains(points)), len(edges)):
            out[chunk] = _closest_on_edges(points[chunk], edges)
        return out


def box(south: float, west: float, north: float, east: float) -> Area:
    """The area between two parallels and two meridians; `west > east` crosses the antimeridian.

    Args:
        south, west, north, east: degrees; latitudes in -90..90, longitudes in -180..180.

    Raises:
        ValueError: south above north, or values outside these ranges.

    >>> box(24, -125, 50, -66)
    Area(1 polygons, 4 edges)
    """
    if not -90.0 <= south < north <= 90.0:
        raise ValueError(f"a box needs -90 <= south < north <= 90, got south={south}, north={north}")
    if not (-180.0 <= west <= 180.0 and -180.0 <= east <= 180.0) or west == east:
        raise ValueError(f"a box needs two different longitudes in -180..180, got west={west}, east={east}")
    if west > east:
        east += 360.0
    return Area([[np.array([(south, west), (south, east), (north, east), (north, west)], float)]])


def _closed_ring(ring) -> np.ndarray:
    """An (n, 2) ring as float64 whose last point is the first."""
    ring = np.asarray(ring, np.float64)
    if ring.ndim != 2 or ring.shape[1] != 2:
        raise ValueError(f"a ring must have shape (n, 2), got {ring.shape}")
    if not np.isfinite(ring).all() or (np.abs(ring[:, 0]) > 90.0).any():
        raise ValueError("a ring has coordinates that are not finite or a latitude outside -90..90")
    if not np.array_equal(ring[0], ring[-1]):
        ring = np.concatenate([ring, ring[:1]])
    if len(ring) < 4:
        raise ValueError("a ring needs at least 3 different points")
    return ring


def _chunks(index: np.ndarray, width: int):
    """Split an index so that a chunk times `width` stays near `_CHUNK`."""
    step = max(1, _CHUNK // width)
    return (index[start : start + step] for start in range(0, len(index), step))


def _in_rings(lat: np.ndarray, lon: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n,) points inside or on the rings whose edges are (m, 4): crossings of a ray towards the east are odd."""
    lat, lon = lat[:, None], lon[:, None]
    lat_1, lon_1, lat_2, lon_2 = edges.T
    # Twice the area of edge start, edge end and point: its sign is the side of the edge, zero lies on its line.
    side = (lon_2 - lon_1) * (lat - lat_1) - (lat_2 - lat_1) * (lon - lon_1)
    upward = lat_2 > lat_1
    crosses = ((lat_1 > lat) != (lat_2 > lat)) & ((side > 0) == upward) & (side != 0)
    on_edge = (side == 0) & (lat >= np.minimum(lat_1, lat_2)) & (lat <= np.maximum(lat_1, lat_2))
    on_edge &= (lon >= np.minimum(lon_1, lon_2)) & (lon <= np.maximum(lon_1, lon_2))
    return (np.count_nonzero(crosses, axis=1) % 2 == 1) | on_edge.any(1)


def _closest_on_edges(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n, 2) points and (m, 4) edges -> (n, 2) closest points of the edges."""
    part, distance = _part_of_edges(points[:, :1], points[:, 1:], *edges.T)
    # The local map ranks far edges only roughly: its best few are compared along great circles.
    best = np.argpartition(distance, min(_FINALISTS, len(edges)) - 1, axis=1)[:, :_FINALISTS]
    part = np.take_along_axis(part, best, axis=1)
    lat_1, lon_1, lat_2, lon_2 = np.moveaxis(edges[best], -1, 0)
    # Interpolated in degrees, and from the far end when that is nearer, so that ends come out exactly.
    far = part > 0.5
    lat = np.where(far, lat_2 - (1 - part) * (lat_2 - lat_1), lat_1 + part * (lat_2 - lat_1))
    lon = np.where(far, lon_2 - (1 - part) * (lon_2 - lon_1), lon_1 + part * (lon_2 - lon_1))
    closest = np.stack([lat, wrap_longitude(np, lon)], -1)
    nearest = great_circle_m(closest, points[:, None]).argmin(1)
    return closest[np.arange(len(points)), nearest]


def _part_of_edges(lat, lon, lat_1, lon_1, lat_2, lon_2) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1) points and (m,) edges -> (n, m) parts of the edge (0..1) and squared distances in a local map."""
    # Longitudes relative to the point, by the shorter way round to the middle of the edge.
    middle = 0.5 * (lon_1 + lon_2)
    to_middle = middle - lon
    to_middle -= 360.0 * np.round(to_middle / 360.0)
    scale = np.cos(np.deg2rad(0.5 * lat + 0.25 * (lat_1 + lat_2)))
    start_x, start_y = scale * (to_middle + (lon_1 - middle)), lat_1 - lat
    step_x, step_y = scale * (lon_2 - lon_1), lat_2 - lat_1
    length = step_x * step_x + step_y * step_y
    part = -(start_x * step_x + start_y * step_y) / np.where(length > 0, length, 1.0)
    np.clip(part, 0.0, 1.0, out=part)
    start_x += part * step_x
    start_y += part * step_y
    return part, start_x * start_x + start_y * start_y
