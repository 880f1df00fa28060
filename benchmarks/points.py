"""Generated points (n, 2), degrees, of the densities that the benchmarks need."""

from __future__ import annotations

import numpy as np

from geohf.geo import EARTH_RADIUS_M


def chord(radius_m: float) -> float:
    """Meters through the Earth between points that lie `radius_m` apart on it."""
    return 2 * EARTH_RADIUS_M * np.sin(radius_m / (2 * EARTH_RADIUS_M))


def world(count: int, seed: int = 0) -> np.ndarray:
    """Points spread evenly over the sphere."""
    rng = np.random.default_rng(seed)
    return np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)], 1)


def cities(count: int, seed: int = 0) -> np.ndarray:
    """Points about twelve cities, and a twentieth anywhere between them."""
    rng = np.random.default_rng(seed)
    center = np.stack([rng.uniform(28, 47, 12), rng.uniform(-122, -72, 12)], 1)
    member = rng.choice(12, count, p=rng.dirichlet(np.full(12, 2.0)))
    points = center[member] + rng.normal(0, 1, (count, 2)) * rng.uniform(0.1, 0.4, 12)[member, None]
    stray = rng.random(count) < 0.05
    points[stray] = np.stack([rng.uniform(25, 49, count), rng.uniform(-124, -67, count)], 1)[stray]
    return points


def drives(count: int, seed: int = 0) -> np.ndarray:
    """Twenty winding drives through one town, a point every 5 m with 3 m of GPS noise."""
    rng = np.random.default_rng(seed)
    length = count // 20
    heading = np.cumsum(rng.normal(0, 0.05, (20, length)), 1)
    path = np.cumsum(5 * np.stack([np.sin(heading), np.cos(heading)], -1), 1)
    path = (path + rng.uniform(-5000, 5000, (20, 1, 2)) + rng.normal(0, 3, path.shape)).reshape(-1, 2)
    meter = np.degrees(1 / EARTH_RADIUS_M)
    return np.array([36.3, 127.4]) + path * meter / [1, np.cos(np.radians(36.3))]


def town(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of twenty regions of a town, a fiftieth anywhere about it, and their regions (n,)."""
    rng = np.random.default_rng(seed)
    region = rng.integers(0, 20, count)
    middle = np.array([36.35, 127.38]) + rng.uniform(-0.1, 0.1, (20, 2))
    points = middle[region] + rng.normal(0, 0.006, (count, 2))
    stray = rng.random(count) < 0.02
    points[stray] = np.array([36.35, 127.38]) + rng.normal(0, 0.5, (int(stray.sum()), 2))
    return points, region
