"""Growing towns, drawn over seven years in several regions, in the reference implementation's layout.

    tiles.csv                      tile_id, region_id, label_id, target, region_coordinates: a row per tile and year
    Images/<year>/<region>.tif     georeferenced RGB

Maps of land cover, as the reference implementation's: built-up land has one color, (196, 40, 27), and a tile's target is its share
of it. What will be built is visible a year ahead; how much of it is finished depends on the region alone:

| on the map                    | follows                                                                         |
|-------------------------------|---------------------------------------------------------------------------------|
| built-up land                 | parcels around the towns' centers; it grows and never shrinks                   |
| building sites, sand-colored | parcels beside built-up land; more of them in districts and years of a boom     |
| built-up land next year       | today's building sites, each with its region's chance to be finished            |
| fields, woods, water          | fields are built on most, woods seldom, water never                             |
| tint of fields and woods      | the region, by chance: on a random split it betrays the region's chance         |
| noise, clouds without data    | the year, by chance                                                             |
| a year without an image       | the first region's third year                                                   |

Numbers measured here say nothing about real towns.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter, zoom

from geohf.report.tables import write_csv
from geohf.samples import write_once

YEARS = tuple(range(2016, 2023))
BUILT, SITE, WATER = (196, 40, 27), (222, 196, 128), (60, 110, 170)
FIELD, WOOD = (160, 190, 90), (50, 110, 60)
SIDE, PARCEL, TILES = 250, 5, 8  # pixels a region, pixels a parcel, tiles across: sides of 31 and 32 pixels
METERS = 10.0  # a pixel's side
_RULES = 1  # raise it when the drawing changes: folders of an older version are written anew
_TABLE, _IMAGES = "tiles.csv", "Images"


def write_sample(folder: str | Path, seed: int = 0, size: int = 16) -> Path:
    """Write the sample, unless the folder holds the same one already.

    Args:
        seed: another one draws other towns.
        size: regions, of 64 tiles each.

    Returns:
        The folder.

    Raises:
        DataError: the folder holds data that no sample wrote.
    """
    settings = {"rules": _RULES, "task": "tiles", "seed": seed, "size": size}
    return write_once(folder, settings, (_TABLE, _IMAGES), lambda path: _write(path, seed, size))


def _write(folder: Path, seed: int, size: int) -> None:
    rows, tile_id = [], 4_879_217
    for number in range(size):
        region = 1200 + number
        rng = np.random.default_rng([seed, number])
        maps = _grow(rng)
        missing = {YEARS[2]} if number == 0 else set()
        _paint(folder, region, number, maps, missing, rng)
        for box in tile_boxes():
            x0, y0, x1, y1 = box
            for year, built in zip(YEARS, maps["built"], strict=True):
                share = round(float(_pixels(built)[y0:y1, x0:x1].mean()), 6)
                row = {"tile_id": tile_id, "region_id": region, "label_id": year, "target": share}
                rows.append(row | {"region_coordinates": str(box)})
            tile_id += 1
    write_csv(folder / _TABLE, rows)


def tile_boxes() -> list[tuple[int, int, int, int]]:
    """The boxes of a region's tiles, xmin, ymin, xmax, ymax, row by row; their sides differ by a pixel."""
    edges = [round(i * SIDE / TILES) for i in range(TILES + 1)]
    across = list(pairwise(edges))
    return [(x0, y0, x1, y1) for y0, y1 in across for x0, x1 in across]


def _pixels(parcels: np.ndarray) -> np.ndarray:
    return parcels.repeat(PARCEL, 0).repeat(PARCEL, 1)


def _grow(rng: np.random.Generator) -> dict:
    """Land cover and each year's built-up land and building sites, in parcels."""
    n = SIDE // PARCEL
    relief = gaussian_filter(rng.normal(size=(n, n)), 4)
    water = relief < np.quantile(relief, 0.06)
    wood = (gaussian_filter(rng.normal(size=(n, n)), 3) > 0.03) & ~water
    y, x = np.mgrid[:n, :n]
    centers = rng.uniform(0, n, (rng.integers(3, 6), 2))
    near = sum(np.exp(-np.hypot(y - a, x - b) / rng.uniform(3, 7)) for a, b in centers)
    built = (rng.random((n, n)) < near * 0.9) & ~water
    finished = rng.uniform(0.35, 0.95)
    ground = np.where(water, 0.0, np.where(wood, 0.25, 1.0))
    maps = {"water": water, "wood": wood, "built": [], "sites": []}
    for _ in YEARS:
        boom = zoom(rng.gamma(0.7, 1.4, (5, 5)), n / 5, order=0)
        beside = uniform_filter(built.astype(float), 7)
        chance = 0.35 * boom * np.minimum(beside * 3, 0.5) * ground
        sites = (rng.random((n, n)) < chance) & ~built
        maps["built"].append(built)
        maps["sites"].append(sites)
        built = built | (sites & (rng.random((n, n)) < finished))
    return maps


def _paint(folder: Path, region: int, number: int, maps: dict, missing: set, rng) -> None:
    import rasterio
    from rasterio.transform import from_origin

    tint = rng.normal(0, 14, (2, 3))
    transform = from_origin(500_000 + number % 4 * 3_000, 5_000_000 - number // 4 * 3_000, METERS, METERS)
    for year, built, sites in zip(YEARS, maps["built"], maps["sites"], strict=True):
        ground = np.where(_pixels(maps["wood"])[..., None], WOOD + tint[0], FIELD + tint[1])
        ground[_pixels(maps["water"])] = WATER
        ground[_pixels(sites)] = SITE
        ground = np.clip(ground + rng.normal(0, 6, ground.shape), 1, 255).astype(np.uint8)
        ground[_pixels(built)] = BUILT
        if rng.random() < 0.25:  # a cloud
            y, x = np.mgrid[:SIDE, :SIDE]
            a, b = rng.uniform(0, SIDE, 2)
            ground[np.hypot(y - a, x - b) < rng.uniform(8, 30)] = 0
        if year in missing:
            continue
        path = folder / _IMAGES / str(year) / f"{region}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = {
            "driver": "GTiff",
            "width": SIDE,
            "height": SIDE,
            "count": 3,
            "dtype": "uint8",
            "nodata": 0,
        }
        profile |= {"crs": "EPSG:32632", "transform": transform, "compress": "deflate"}
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(ground.transpose(2, 0, 1))
