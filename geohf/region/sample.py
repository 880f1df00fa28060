"""Photographs of three regions of a town, in the reference implementation's own files, painted by `scene`.

Every picture looks north. A model can learn from it where it was taken, and a test can tell that from luck.
Numbers measured here say nothing about photographs.

| in the picture                       | follows                                                              |
|--------------------------------------|----------------------------------------------------------------------|
| colors of sky and haze              | latitude within the region: blue in the south to rose in the north   |
| height of the hills                  | latitude within the region: they rise towards the north              |
| ground, number of trees              | longitude within the region: sand in the west to green in the east   |
| landmark: its height and its place   | distance and bearing to it: it stands north of the region            |
| landmark: its colors and shape      | the region                                                           |
| tint of the hills                    | the region, with much noise                                          |
| mist before the landmark             | the picture, by chance: it hides 3 % of them                         |
| light, clouds, cars, heading, noise  | the picture, by chance                                               |

Some training rows have a wrong position, and `planted.csv` says which of them which filter must find: `mad` rows
lie tens of kilometers away, `dbscan` rows lie by themselves between the regions. `exclude.txt` names seven
validation photographs that show nothing.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from geohf.geo import EARTH_RADIUS_M, check_frame
from geohf.io import atomic_write
from geohf.region.rows import EXCLUDE, TRAIN_IMAGES, TRAIN_TABLE, VAL_IMAGES, VAL_TABLE
from geohf.region.scene import LANDMARKS, paint_view
from geohf.samples import write_once

PLANTED = "planted.csv"
REGIONS = tuple(LANDMARKS)

_RULES = 1  # raise it when pictures or places change
_IMAGE_SIZE = 72
_ORIGIN = (36.3665, 127.3605)  # of `wgs84`: latitude and longitude of the middle of the town
_FALSE_ORIGIN = (221_400.0, 186_300.0)  # the same place in a local frame in meters, north and east
_METERS_A_PHOTO = 375.0  # side of a region is the root of this times its photographs
_MIDDLES = {"1": (-600.0, 0.0), "3": (0.0, 600.0), "5": (600.0, -600.0)}  # meters north and east
_FAR, _LONELY, _BLACK = 6, 6, 7


def write_sample(folder: str | Path, seed: int = 0, size: int = 240, frame: str = "wgs84") -> Path:
    """Write `labels_train.csv`, `labels_val.csv` and their images, `exclude.txt` and `planted.csv`.

    The same arguments give the same bytes. A folder that holds the whole sample is left as it is.

    Args:
        folder: made where it does not exist.
        seed: of places and pictures.
        size: training photographs a region, of 3 regions that grow with it so that the density stays;
            validation has a quarter of it.
        frame: `wgs84` (degrees) or `planar` (meters north and east of a local frame, above 180000).

    Returns:
        The folder.

    Raises:
        DataError: the folder holds such files that no sample wrote, or an unknown frame.
    """
    if size < 4:
        raise ValueError(f"a sample needs at least 4 photographs a region, got {size}")
    check_frame(frame)
    settings = {"rules": _RULES, "seed": seed, "size": size, "frame": frame}
    owned = (TRAIN_TABLE, VAL_TABLE, "images_train", "images_val")
    return write_once(folder, settings, owned, lambda path: _write(path, seed, size, frame))


def _write(folder: Path, seed: int, size: int, frame: str) -> None:
    rng = np.random.default_rng([seed, 1])
    side_m = (_METERS_A_PHOTO * size) ** 0.5
    numbers = iter(rng.permutation(10_000 + 10 * size).tolist())
    for table, images, count in ((TRAIN_TABLE, TRAIN_IMAGES, size), (VAL_TABLE, VAL_IMAGES, size // 4)):
        (folder / images).mkdir(parents=True, exist_ok=True)
        rows = [_photo(folder / images, next(numbers), region, side_m, rng) for region in REGIONS * count]
        planted = []
        if table == TRAIN_TABLE:
            planted = _plant(rows, rng)
        else:
            for row in rows[: min(_BLACK, len(rows) // 2)]:
                Image.new("RGB", (_IMAGE_SIZE, _IMAGE_SIZE)).save(folder / images / row["filename"])
                planted.append({"filename": row["filename"]})
        columns = ("filename", "timestamp", "angle", "latitude", "longitude", "Region_ID")
        _write_rows(folder / table, columns, [row | _coordinates(row, frame) for row in rows])
        if table == TRAIN_TABLE:
            _write_rows(folder / PLANTED, ("filename", "filter"), planted)
        else:
            with atomic_write(folder / EXCLUDE) as file:
                file.writelines(row["filename"] + "\n" for row in planted)


def _photo(folder: Path, number: int, region: str, side_m: float, rng: np.random.Generator) -> dict:
    north, east = rng.random(2)
    name = f"img_{number:05d}.jpg"
    paint_view(region, east, north, _IMAGE_SIZE, rng).save(folder / name, quality=90)
    middle = _MIDDLES[region]
    return {
        "filename": name,
        "timestamp": f"2024-05-{rng.integers(1, 29):02d} {rng.integers(8, 19):02d}:{rng.integers(60):02d}:00",
        "angle": int(rng.integers(360)),
        "north_m": middle[0] + (north - 0.5) * side_m,
        "east_m": middle[1] + (east - 0.5) * side_m,
        "Region_ID": region,
    }


def _plant(rows: list[dict], rng: np.random.Generator) -> list[dict]:
    """Give some rows a wrong position; in place. Far ones go anywhere, lonely ones to places of their own."""
    chosen = rng.choice(len(rows), _FAR + _LONELY, replace=False).tolist()
    planted = []
    turn: float
    for i, row in enumerate(chosen):
        if i < _FAR:
            turn, away_m = rng.uniform(0.3, 1.2) + np.pi / 2 * rng.integers(4), rng.uniform(30e3, 60e3)
        else:  # on a ring around everything, far from each other
            turn, away_m = 2 * np.pi * (i + 0.5) / _LONELY, 1150.0
        rows[row] |= {"north_m": away_m * np.cos(turn), "east_m": away_m * np.sin(turn)}
        planted.append({"filename": rows[row]["filename"], "filter": "mad" if i < _FAR else "dbscan"})
    return planted


def _coordinates(row: dict, frame: str) -> dict:
    north, east = row["north_m"], row["east_m"]
    if frame == "planar":
        return {
            "latitude": f"{_FALSE_ORIGIN[0] + north:.2f}",
            "longitude": f"{_FALSE_ORIGIN[1] + east:.2f}",
        }
    latitude = _ORIGIN[0] + np.degrees(north / EARTH_RADIUS_M)
    longitude = _ORIGIN[1] + np.degrees(east / EARTH_RADIUS_M / np.cos(np.radians(_ORIGIN[0])))
    return {"latitude": f"{latitude:.7f}", "longitude": f"{longitude:.7f}"}


def _write_rows(path: Path, columns, rows) -> None:
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
