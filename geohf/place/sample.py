"""Two drives along one loop, in the layout of poses.csv, painted by `street_scene`.

| in the picture                | follows                                                              |
|-------------------------------|----------------------------------------------------------------------|
| houses, gardens, bends        | the place: their widths, heights, colors, windows and doors         |
| sky, light, lit windows, haze | the drive: `noon` or `dusk`                                          |
| lane, yaw, height of the eye  | the drive; a little of each by chance                                |
| cars, exposure, noise         | the picture, by chance                                               |

Houses recur in kind, so a place is known by what stands beside what. A model can learn which of all this says where
it is, and a test can tell that from luck. Numbers measured here say nothing about photographs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geohf.errors import DataError
from geohf.geo import EARTH_RADIUS_M
from geohf.io import atomic_write
from geohf.place.street_scene import DUSK, NOON, Light, Loop, photograph
from geohf.samples import write_once

CAMERA = "front_left_center"
ORIGIN = (36.2748, -115.0130)  # latitude and longitude of the loop's middle
IMAGE_SIZE = (128, 96)
STEP_M = 5.0
HEADER = "camera_id,img_relpath,t_nsec,lat,lon,alt"

_RULES = 1  # raise it when scenes change: folders of an older version are written anew
_GPS_NOISE_M = 1.5
# light, meters right of the road's middle, degrees of yaw, height of the eye in m, first timestamp in ns
_DRIVES: dict[str, tuple[Light, float, float, float, int]] = {
    "noon": (NOON, -1.8, 0.0, 1.6, 1641321200080306000),
    "dusk": (DUSK, 1.8, 4.0, 2.1, 1641345900450117000),
}


def write_sample(folder: str | Path, seed: int = 0, size: int = 800) -> Path:
    """Write the two drives, and give the folder: `noon/poses.csv`, `dusk/poses.csv` and `images/<camera>/<t_nsec>.png`.

    The same arguments give the same bytes. A folder that holds the whole sample is left as it is.

    Args:
        folder: made where it does not exist.
        seed: of the town, the drives and the noise.
        size: pictures of each drive, one every 5 m of the loop, those of dusk between those of noon.

    Raises:
        DataError: fewer than 40 pictures, or the folder holds files that no sample wrote; nothing in it is touched.
    """
    if size < 40:
        raise DataError(f"a sample needs at least 40 pictures a drive, got {size}")

    def write(folder: Path) -> None:
        loop = Loop(seed, STEP_M * size)
        for number, (name, drive) in enumerate(_DRIVES.items()):
            _write_drive(folder, name, loop, drive, size, number, np.random.default_rng([seed, 1, number]))

    return write_once(folder, {"rules": _RULES, "seed": seed, "size": size}, ("images", *_DRIVES), write)


def _write_drive(folder: Path, name: str, loop: Loop, drive, size: int, number: int, rng) -> None:
    light, offset, yaw, eye_m, start = drive
    rows = [HEADER]
    for i in range(size):
        meters = STEP_M * (i + 0.5 * number + rng.normal(0, 0.1))
        aside, turned = offset + rng.normal(0, 0.3), yaw + rng.normal(0, 1.5)
        picture = photograph(loop, meters, aside, turned, eye_m, light, IMAGE_SIZE, rng)
        time = start + round(i * STEP_M / 8 * 1e9)  # at 8 m/s
        path = f"images/{CAMERA}/{time}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / path, "PNG", compress_level=1)
        east, north = loop.at(meters, aside) + rng.normal(0, _GPS_NOISE_M, 2)
        latitude = ORIGIN[0] + np.degrees(north / EARTH_RADIUS_M)
        longitude = ORIGIN[1] + np.degrees(east / EARTH_RADIUS_M / np.cos(np.radians(ORIGIN[0])))
        rows.append(f"{CAMERA},{path},{time},{latitude:.9f},{longitude:.9f},{597 + rng.normal(0, 0.5):.3f}")
    with atomic_write(folder / name / "poses.csv") as file:
        file.write("\n".join(rows) + "\n")
