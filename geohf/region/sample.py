"""Photographs of three regions of a town, in the reference implementation's own files, painted by `paint_view`.

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

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from geohf.geo import EARTH_RADIUS_M, check_frame
from geohf.io import atomic_write
from geohf.region.rows import EXCLUDE, TRAIN_IMAGES, TRAIN_TABLE, VAL_IMAGES, VAL_TABLE
from geohf.report.tables import write_csv
from geohf.samples import write_once

_Color = tuple[int, int, int]
_SKY = np.array([[70, 150, 225], [120, 130, 215], [205, 120, 170]])  # south, middle, north
_HAZE = np.array([[215, 238, 245], [232, 226, 238], [250, 214, 196]])
_GROUND = np.array([[214, 176, 112], [158, 166, 92], [64, 138, 72]])  # west, middle, east
_HILLS = {"1": (138, 118, 112), "3": (112, 120, 140), "5": (120, 134, 112)}
HIDDEN = 0.03  # share of pictures in which mist hides the landmark
# the landmark of each region: color of its shaft, of its head, and the head's outline around (0, 0)
LANDMARKS: dict[str, tuple[_Color, _Color, list[tuple[float, float]]]] = {
    "1": ((120, 60, 50), (232, 80, 60), [(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "3": ((60, 80, 120), (70, 120, 235), [(-1.2, -0.8), (1.2, -0.8), (0, 1.4)]),
    "5": ((90, 90, 60), (245, 205, 60), [(0, -1.3), (1.2, 0), (0, 1.3), (-1.2, 0)]),
}

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
    """Write `labels_train.csv`, `labels_val.csv` and their images, `exclude.txt` and `planted.csv`; the folder is returned.

    The same arguments give the same bytes. A folder that holds the whole sample is left as it is.

    Args:
        folder: made where it does not exist.
        seed: of places and pictures.
        size: training photographs a region, of 3 regions that grow with it so that the density stays; validation
            has a quarter of it.
        frame: `wgs84` (degrees) or `planar` (meters north and east of a local frame, above 180000).

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
        if table == TRAIN_TABLE:
            write_csv(folder / PLANTED, _plant(rows, rng))
        else:
            black = [row["filename"] for row in rows[: min(_BLACK, len(rows) // 2)]]
            for name in black:
                Image.new("RGB", (_IMAGE_SIZE, _IMAGE_SIZE)).save(folder / images / name)
            with atomic_write(folder / EXCLUDE) as file:
                file.writelines(f"{name}\n" for name in black)
        write_csv(folder / table, [_table_row(row, frame) for row in rows])


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


def _table_row(row: dict, frame: str) -> dict:
    north, east, digits = row["north_m"], row["east_m"], 7
    if frame == "planar":
        latitude, longitude, digits = _FALSE_ORIGIN[0] + north, _FALSE_ORIGIN[1] + east, 2
    else:
        latitude = _ORIGIN[0] + np.degrees(north / EARTH_RADIUS_M)
        longitude = _ORIGIN[1] + np.degrees(east / EARTH_RADIUS_M / np.cos(np.radians(_ORIGIN[0])))
    place = {"latitude": f"{latitude:.{digits}f}", "longitude": f"{longitude:.{digits}f}"}
    told = {name: row[name] for name in ("filename", "timestamp", "angle")}
    return told | place | {"Region_ID": row["Region_ID"]}


def paint_view(region: str, east: float, north: float, side: int, rng: np.random.Generator) -> Image.Image:
    """Paint what a camera sees that looks north, a square of `side` pixels; `rng` is everything that is by chance.

    Args:
        region: a key of `LANDMARKS`.
        east, north: where it stands in its region, 0 (west, south) to 1 (east, north).
    """
    turned = rng.normal(0, 0.04)  # the camera's heading, in widths of the picture
    light = rng.uniform(0.8, 1.1)
    horizon = 0.52 + rng.normal(0, 0.015)
    sky = _between(_SKY, north) + rng.normal(0, 8, 3)
    haze = _between(_HAZE, north) + rng.normal(0, 6, 3)
    ground = _between(_GROUND, east) + rng.normal(0, 8, 3)
    rows = np.linspace(0, 1, side)[:, None]
    above = sky + (haze - sky) * np.clip(rows / horizon, 0, 1)
    below = ground * (0.75 + 0.35 * rows)
    pixels = np.where(rows < horizon, above, below)[:, None].repeat(side, 1)
    image = Image.fromarray(np.clip(pixels * light, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)

    def fill(outline, color):
        points = [(float((x + turned) * side), float(y * side)) for x, y in outline]
        draw.polygon(points, tuple(int(c) for c in np.clip(np.multiply(color, light), 0, 255)))

    for _ in range(rng.integers(0, 4)):
        x, y, w = rng.uniform(0, 1), rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.14)
        fill(_oval(x, y, w, 0.3 * w), (250, 250, 250))
    # hills stand in the north: they rise as one walks towards them
    along = np.linspace(-0.3, 1.3, 9)
    top = (
        horizon
        - (0.05 + 0.17 * north) * (0.75 + 0.25 * np.sin(5 * along + 4 * east))
        + rng.normal(0, 0.006, 9)
    )
    fill(
        [*zip(along, top, strict=True), (1.3, horizon), (-0.3, horizon)], _HILLS[region] + rng.normal(0, 9, 3)
    )
    if rng.random() > HIDDEN:
        _stand_landmark(fill, region, east, north, horizon)
    for _ in range(rng.poisson(1 + 9 * east)):
        x, y = rng.uniform(-0.1, 1.1), rng.uniform(horizon + 0.02, 0.98)
        size = 0.25 * (y - horizon) + 0.02
        fill([(x - 0.1 * size, y), (x + 0.1 * size, y), (x, y - size)], (80, 60, 45))
        fill(_oval(x, y - size, 0.5 * size, 0.6 * size), (40 + rng.uniform(0, 30), 110, 60))
    for _ in range(rng.poisson(0.7)):
        x, y, w = rng.uniform(0, 1), rng.uniform(0.7, 0.9), rng.uniform(0.06, 0.12)
        fill([(x, y), (x + w, y), (x + w, y - 0.05), (x, y - 0.05)], rng.uniform(40, 240, 3))
    noisy = np.asarray(image.filter(ImageFilter.GaussianBlur(side / 200)), float)
    noisy = noisy + rng.normal(0, 4, noisy.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _stand_landmark(fill, region: str, east: float, north: float, horizon: float) -> None:
    """The landmark stands half a region north of its middle: bearing and height tell where one is."""
    shaft, head, outline = LANDMARKS[region]
    ahead = 1.5 - north  # in sides of the region
    x, foot = 0.5 + 0.35 * (0.5 - east) / ahead, horizon + 0.03 / ahead
    height, width = 0.25 / ahead, 0.025 / ahead
    fill(
        [(x - width, foot), (x + width, foot), (x + width, foot - height), (x - width, foot - height)], shaft
    )
    fill([(x + 2 * width * dx, foot - height - 2 * width * dy) for dx, dy in outline], head)


def _between(colors: np.ndarray, share: float) -> np.ndarray:
    return np.array([np.interp(share, (0, 0.5, 1), channel) for channel in colors.T])


def _oval(x: float, y: float, rx: float, ry: float) -> list[tuple[float, float]]:
    turn = np.linspace(0, 2 * np.pi, 16)
    return list(zip(x + rx * np.cos(turn), y + ry * np.sin(turn), strict=True))
