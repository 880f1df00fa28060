"""Rings on the globe as polygons of a flat map: cut at the antimeridian, closed over a pole, counter-clockwise."""

from __future__ import annotations

import numpy as np

_POLE = 90.0 - 1e-9


def parts_of_ring(ring: np.ndarray) -> list[np.ndarray]:
    """The pieces of a ring within -180..180, each closed and counter-clockwise, as GeoJSON wants them (RFC 7946).

    Args:
        ring: (n, 2) latitude and longitude in degrees, closed or not, either way round. Each step goes the shorter
            way; a ring that runs round the globe holds the pole that is nearer to it.

    Returns:
        At least one (k, 2) closed ring.

    >>> for part in parts_of_ring(np.array([[0, 179], [0, -179], [1, -179], [1, 179]])): print(part.tolist())
    [[0.0, 179.0], [0.0, 180.0], [1.0, 180.0], [1.0, 179.0], [0.0, 179.0]]
    [[0.0, -180.0], [0.0, -179.0], [1.0, -179.0], [1.0, -180.0], [0.0, -180.0]]
    """
    ring = _unwrapped(_around_poles(np.asarray(ring, np.float64)))
    west, east = (np.floor((ring[:, 1].min() + 180) / 360), np.ceil((ring[:, 1].max() + 180) / 360))
    parts = []
    for turn in 360.0 * np.arange(west, max(east, west + 1)):
        part = ring - [0.0, turn]
        for edge, side in ((-180.0, 1.0), (180.0, -1.0)):
            part = _clipped(part, edge, side)
        if len(part) > 2 and _twice_the_area(part):
            part = part if _twice_the_area(part) > 0 else part[::-1]
            parts.append(np.concatenate([part, part[:1]]))
    return parts or [np.concatenate([ring, ring[:1]])]


def _around_poles(ring: np.ndarray) -> np.ndarray:
    """The ring, open; a corner on a pole, whose longitude means nothing, takes those of its neighbors."""
    if np.array_equal(ring[0], ring[-1]):
        ring = ring[:-1]
    corners: list[tuple[float, float]] = []
    for i, (latitude, longitude) in enumerate(ring):
        if abs(latitude) > _POLE:
            before, behind = ring[i - 1][1], ring[(i + 1) % len(ring)][1]
            corners += [(latitude, before), (latitude, behind)]
        else:
            corners.append((latitude, longitude))
    return np.array(corners)


def _unwrapped(ring: np.ndarray) -> np.ndarray:
    """The ring without jumps of longitude; one that ends a turn from where it began goes home over the pole."""
    steps = (np.diff(ring[:, 1], append=ring[0, 1]) + 180.0) % 360.0 - 180.0
    longitude = ring[0, 1] + np.concatenate([[0.0], np.cumsum(steps)])
    unwrapped = np.stack([ring[:, 0], longitude[:-1]], 1)
    if abs(longitude[-1] - longitude[0]) < 180.0:
        return unwrapped
    pole = float(np.copysign(90.0, ring[:, 0].mean()))
    home = [(ring[0, 0], longitude[-1]), (pole, longitude[-1]), (pole, longitude[0])]
    return np.concatenate([unwrapped, home])


def _clipped(ring: np.ndarray, edge: float, side: float) -> np.ndarray:
    """The part of an open ring east (side 1) or west (-1) of a meridian: Sutherland and Hodgman's clipping."""
    out: list[tuple[float, float]] = []
    for (lat_1, lon_1), (lat_2, lon_2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        inside_1, inside_2 = side * (lon_1 - edge) >= 0, side * (lon_2 - edge) >= 0
        if inside_1:
            out.append((lat_1, lon_1))
        if inside_1 != inside_2:
            crossing = (lat_1 + (edge - lon_1) / (lon_2 - lon_1) * (lat_2 - lat_1), edge)
            if crossing not in ((lat_1, lon_1), (lat_2, lon_2)):
                out.append(crossing)
    return np.array(out).reshape(-1, 2)


def _twice_the_area(ring: np.ndarray) -> float:
    """Twice the area in square degrees, above zero where the ring runs counter-clockwise."""
    lat, lon = ring.T
    return float(np.sum(lon * np.roll(lat, -1) - np.roll(lon, -1) * lat))
