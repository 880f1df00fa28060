"""A painted stand-in for the street-view competition, in the competition's own files.

Places are real points of the 33 states; photos are small street scenes. Their look follows the rules below plus
noise: a model can learn the place from it, and a test can tell learning from luck. Neighbouring states look alike,
and no single view settles a state. Numbers measured here say nothing about real photos.

| in the photo                    | follows                                                                      |
|---------------------------------|------------------------------------------------------------------------------|
| sky, haze over the horizon      | latitude: azure and cream in the south, steel and rose in the north          |
| sun                             | in south views only, 90° less the latitude above the horizon                 |
| shadows                         | away from the sun: ahead in north views, left in east views; longer up north |
| ground, number of plants        | longitude: lush in the east, ochre in the dry west, green at the Pacific     |
| soil beside the road, snow      | latitude: red in the south, dark in the north; snow beyond 44°               |
| mountains                       | longitude: jagged in the west, none on the plains, rolling Appalachians      |
| snow on them                    | latitude: lies lower in the north                                            |
| kinds of plants                 | palms in the south, cacti and shrubs where it is dry, conifers in the north  |
| leaves; roofs                   | latitude: green to autumn red; flat to steep                                 |
| signs, painted walls            | the state's own hues and shape, in some photos and not always                |
| weather, direction of the road  | the place, by chance                                                         |
| cars, poles, clouds, camera     | the photo, by chance                                                         |
"""

from __future__ import annotations

import colorsys
import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from geohf.errors import DataError

HEADINGS = ("north", "east", "south", "west")

# The competition's state_idx, the state, and boxes inside it: south, west, north, east in degrees.
_TABLE = """
0|Alabama|31.1 -88.2 34.9 -85.6
1|Alaska|61.5 -158 67.5 -142
3|Arkansas|33.1 -93.9 36.4 -91.2
4|California|38.8 -123 41.9 -120.1|36.2 -121.2 38.5 -119.4|33.9 -119 35.8 -117|33 -117 34.8 -115
5|Colorado|37.1 -108.9 40.9 -102.2
6|Connecticut|41.4 -73.3 42 -71.9
7|Delaware|38.5 -75.65 39.1 -75.4|39 -75.7 39.7 -75.6
8|Florida|27 -82 30.4 -81.4|30.4 -86.5 30.65 -83.5|25.6 -81 27 -80.4
9|Georgia|30.8 -84.6 33 -81.9|32.5 -85.1 34.9 -83.4
10|Hawaii|19.3 -155.8 20 -155.3|20.7 -156.4 20.9 -156.15|21.35 -158.1 21.6 -157.9|21.95 -159.6 22.15 -159.4
11|Idaho|42.1 -117 44.3 -111.8|44.5 -116.2 46.5 -114.8|46.5 -116.9 48.9 -116.2
12|Illinois|38.3 -89.9 42.4 -87.9
13|Indiana|38.9 -87.3 41.6 -84.9
14|Iowa|40.8 -95.7 43.4 -91.3
15|Kansas|37.1 -101.9 39.9 -95.2
16|Kentucky|36.8 -88 37.8 -83.5|37.8 -85.6 38.5 -83
17|Louisiana|31.1 -93.4 32.9 -91.7|29.9 -93.5 31 -91
18|Maine|44.6 -70.4 46 -68.2|43.6 -70.8 44.6 -70.4
19|Maryland|39.35 -77.4 39.7 -76.3|39.55 -79.3 39.7 -78.8|38.4 -76 39.1 -75.8
20|Massachusetts|42.1 -73.1 42.65 -71.2|41.75 -71.1 42.1 -70.7
21|Michigan|42 -86 43.6 -83|43 -86 45 -84|46.2 -89 46.4 -86
22|Minnesota|43.6 -96.3 44.5 -92|44.5 -96 47.5 -93|47 -96.3 48.5 -93
27|Nevada|38.5 -119.3 41.9 -114.2|36.6 -116.2 38.5 -114.2
40|South Dakota|43.1 -103.9 45.9 -97
41|Tennessee|35.1 -89.6 36.4 -84.4|36 -84 36.5 -82.2
42|Texas|29.5 -100 33.6 -95.2|31.2 -104.5 32 -100|34 -102.9 36.4 -100.1|26.4 -98.8 28 -97.7
43|Utah|37.1 -113.9 40.9 -109.2|41 -113.9 41.9 -111.2
44|Vermont|43 -73.1 44.9 -72.5
45|Virginia|36.7 -82 37 -80|36.7 -80 37.5 -76.7|37.5 -79.3 38.3 -77.3|38.3 -78.8 39 -77.5
46|Washington|46.1 -122.2 48.9 -117.2|46.5 -123.7 47.1 -122.5
47|West Virginia|37.8 -81.8 39 -80.2|38.8 -80.8 39.5 -79.5
48|Wisconsin|42.6 -90.3 44.5 -88|44.3 -91.5 46 -88.3
49|Wyoming|41.1 -110.9 44.9 -104.2
"""
_ROWS = [line.split("|") for line in _TABLE.split("\n") if line]
STATES = {name: int(index) for index, name, *_ in _ROWS}
_BOXES = {name: np.array([box.split() for box in boxes], float) for _, name, *boxes in _ROWS}

_RULES = 1  # raise it when scenes change: folders of an older version are written anew
_MARKER = ".geohf_sample.json"
_TRUTH, _SUBMISSION, _MAPPING = "train_ground_truth.csv", "sample_submission.csv", "state_mapping.csv"
_KEYS = ["sample_id", *(f"image_{heading}" for heading in HEADINGS)]
_ANSWERS = [*(f"predicted_state_idx_{k}" for k in range(1, 6)), "predicted_latitude", "predicted_longitude"]


def write_sample(folder, seed: int = 0, size: int = 16, image_size: int = 128) -> Path:
    """Write a sample in the competition's layout: photos, truth of train, empty submission, state mapping.

    The same arguments give the same bytes. A folder that holds the whole sample is left as it is; one that was
    interrupted, or holds the sample of other arguments, is written anew. Every file appears in one step, so
    processes that write the same sample at once do no harm.

    Args:
        folder: made where it does not exist.
        seed: of places and photos.
        size: places a state in train, of 33 states; test has an eighth of it, at least 2 a state.
        image_size: side of the square photos in pixels.

    Returns:
        The folder.

    Raises:
        DataError: the folder holds street data that is not a sample; nothing in it is touched.
    """
    if size < 1 or image_size < 16:
        raise ValueError(f"size must be at least 1 and image_size at least 16, not {size} and {image_size}")
    folder = Path(folder)
    marker = {"rules": _RULES, "seed": seed, "size": size, "image_size": image_size, "complete": True}
    places = _places(seed, size)
    photos = {
        folder / f"{place.split}_images" / name: (place, heading)
        for place in places
        for heading, name in enumerate(_photo_names(place.sample_id))
    }
    if _is_whole(folder, marker, photos):
        return folder
    _clear(folder, photos)
    _write(folder / _MARKER, json.dumps({**marker, "complete": False}))
    for path, (place, heading) in photos.items():
        buffer = io.BytesIO()
        rng = np.random.default_rng([seed, 2, place.sample_id, heading])
        paint_photo(place, heading, image_size, rng).save(buffer, "JPEG", quality=88)
        _write(path, buffer.getvalue())
    _write_tables(folder, places, np.random.default_rng([seed, 3]))
    _write(folder / _MARKER, json.dumps(marker))  # last: it says that all the others are there
    return folder


def _is_whole(folder: Path, marker: dict, photos: dict) -> bool:
    try:
        found = json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return False
    tables = all((folder / name).is_file() for name in (_TRUTH, _SUBMISSION, _MAPPING))
    return found == marker and tables and set(folder.glob("*_images/*.jpg")) == set(photos)


def _clear(folder: Path, photos: dict) -> None:
    """Remove photos of another sample; refuse a folder of data that no sample wrote."""
    images = [folder / "train_images", folder / "test_images"]
    if not (folder / _MARKER).exists() and any(path.exists() for path in (*images, folder / _TRUTH)):
        raise DataError(f"{folder}: holds street data that is not a sample; choose another folder")
    for path in images:
        path.mkdir(parents=True, exist_ok=True)
        for other in set(path.glob("*.jpg")) - set(photos):
            other.unlink(missing_ok=True)


def _write(path: Path, content: bytes | str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def _write_tables(folder: Path, places: list[Place], rng: np.random.Generator) -> None:
    train, test = ([place for place in places if place.split == split] for split in ("train", "test"))
    truth = [
        [*_keys(place), place.state, STATES[place.state], f"{place.latitude:.6f}", f"{place.longitude:.6f}"]
        for place in sorted(train, key=lambda place: place.sample_id)
    ]
    # The order of a submission means nothing: rows are joined on sample_id.
    empty = [[*_keys(test[row]), *[""] * len(_ANSWERS)] for row in rng.permutation(len(test))]
    for name, header, rows in (
        (_TRUTH, [*_KEYS, "state", "state_idx", "latitude", "longitude"], truth),
        (_SUBMISSION, [*_KEYS, *_ANSWERS], empty),
        (_MAPPING, ["state_idx", "state"], [[index, state] for state, index in STATES.items()]),
    ):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        _write(folder / name, text.getvalue())


def _photo_names(sample_id: int) -> list[str]:
    return [f"img_{sample_id:06d}_{heading}.jpg" for heading in HEADINGS]


def _keys(place: Place) -> list:
    return [place.sample_id, *_photo_names(place.sample_id)]


@dataclass
class Place:
    """A place and what its four photos share; latitude and longitude in degrees."""

    sample_id: int
    split: str
    state: str
    latitude: float
    longitude: float
    wet: float  # 0 desert to 1 lush
    relief: float  # 0 plain to 1 high mountains
    overcast: float  # 0 clear to 1 grey
    tint: np.ndarray  # (3,) added to the colour of its ground
    road_runs_north: bool  # else it runs east


def _places(seed: int, size: int) -> list[Place]:
    """All places; the ids of both splits are shuffled together, so an id gives no state away."""
    rng = np.random.default_rng([seed, 1])
    counts = {"train": size, "test": max(2, size // 8)}
    ids = iter(rng.permutation(len(STATES) * sum(counts.values())).tolist())
    return [
        _place(rng, next(ids), split, state)
        for split, count in counts.items()
        for state in STATES
        for _ in range(count)
    ]


def _place(rng: np.random.Generator, sample_id: int, split: str, state: str) -> Place:
    boxes = _BOXES[state]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    south, west, north, east = rng.choice(boxes, p=areas / areas.sum())
    latitude, longitude = rng.uniform(south, north), rng.uniform(west, east)
    wet = np.interp(
        longitude, (-158, -125, -121, -117, -112, -96, -88, -70), (90, 80, 60, 15, 0, 50, 80, 100)
    )
    relief = np.interp(
        longitude,
        (-158, -150, -125, -119, -110, -105, -102, -90, -86, -82, -79, -76, -73, -69),
        (50, 100, 60, 75, 95, 90, 15, 0, 5, 30, 40, 10, 22, 15),
    )
    return Place(
        sample_id,
        split,
        state,
        latitude,
        longitude,
        wet=np.clip(wet / 100 + rng.normal(0, 0.07), 0, 1),
        relief=relief / 100 * rng.uniform(0.75, 1.25),
        overcast=rng.beta(1.2, 2.5),
        tint=rng.normal(0, 7, 3),
        road_runs_north=bool(rng.integers(2)),
    )


# Colours at these latitudes, and between them.
_LATITUDES = (20, 30, 38, 45, 52, 66)
_ZENITH = ((30, 120, 225), (55, 135, 220), (85, 150, 215), (120, 165, 205), (140, 165, 195), (150, 150, 195))
_HAZE = ((215, 240, 235), (250, 238, 205), (238, 236, 222), (225, 232, 236), (232, 225, 228), (250, 205, 200))
_LEAVES = ((40, 125, 50), (70, 135, 50), (115, 140, 45), (205, 120, 40), (190, 75, 40), (150, 110, 60))
_SOIL = ((165, 80, 50), (180, 105, 70), (150, 115, 85), (115, 95, 80), (105, 100, 95), (120, 115, 115))
_DRY, _LUSH, _SNOW = (214, 172, 108), (108, 152, 70), (242, 245, 250)
_BARK, _ASPHALT, _YELLOW, _LINE = (95, 70, 50), (98, 98, 104), (235, 190, 60), (235, 235, 230)
_EYE_M, _FOCAL = 2.6, 0.8  # height of the camera; focal length in widths of the photo


def _at(latitude: float, table) -> np.ndarray:
    return np.array([np.interp(latitude, _LATITUDES, channel) for channel in zip(*table, strict=True)])


def _mix(a, b, share: float) -> np.ndarray:
    return np.multiply(a, 1.0 - share) + np.multiply(b, share)


def _disc(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 20)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1)


def _box(left: float, low: float, right: float, high: float) -> np.ndarray:
    return np.array([(left, low), (right, low), (right, high), (left, high)])


def _stencil(*parts) -> tuple:
    """A thing that stands at (0, 0), x to the right and y up, of parts (share of own colour, colour, outline)."""
    own = np.array([[share] for share, _, _ in parts], float)
    colours = np.array([np.broadcast_to(colour, 3) for _, colour, _ in parts], float)
    outlines = [np.asarray(outline, float) for _, _, outline in parts]
    return (
        own,
        colours,
        np.concatenate(outlines),
        np.cumsum([2 * len(outline) for outline in outlines]).tolist(),
    )


def _frond(angle: float) -> tuple:
    x, y = 0.3 * np.cos(angle), 0.2 * np.sin(angle)
    leaf = [(0, 0.03), (0.6 * x, y + 0.03), (x, y - 0.15), (0.5 * x, 0.8 * y - 0.06)]
    return 0, (42, 115 + 140 * y, 52), np.add(leaf, (0.11, 1))


def _house(pitch: float) -> tuple:
    panes = [(0, c, _box(x - g, 0.38 - g, x + 0.26 + g, 0.72 + g)) for x in (-0.72, 0.46) for c, g in _PANE]
    roof = [(-1.1, 0.98), (1.1, 0.98), (0.15, 1 + pitch), (-0.15, 1 + pitch)]
    door = (0, (95, 75, 65), _box(-0.12, 0, 0.12, 0.6))
    return _stencil((1, 0, _box(-1, 0, 1, 1)), (0.25, (68, 45, 42), roof), door, *panes)


def _sign(plate) -> tuple:
    post = (0, 120, _box(-0.05, 0, 0.05, 2.7))
    return _stencil(
        post, *((own, white, np.add(np.multiply(plate, grow), (0, 2.7))) for own, white, grow in _PLATE)
    )


_PANE = ((248, 0.04), ((95, 125, 150), 0))
_PLATE = ((0, 246, 1.15), (1, 0, 1))
_SIGNS = [
    _sign(_box(-0.7, -0.5, 0.7, 0.5)),
    _sign([(0, -0.8), (0.8, 0), (0, 0.8), (-0.8, 0)]),
    _sign([(-0.65, 0.6), (0.65, 0.6), (0.65, -0.1), (0, -0.8), (-0.65, -0.1)]),
]
_PALM = _stencil(
    (0, (135, 105, 75), [(-0.02, 0), (0.02, 0), (0.06, 0.6), (0.13, 1), (0.1, 1), (0.03, 0.6)]),
    *map(_frond, np.linspace(-0.25, np.pi + 0.25, 8)),
)
_CACTUS = _stencil(
    (0, (85, 125, 75), [(-0.08, 0), (0.08, 0), (0.08, 0.92), (0.04, 1), (-0.04, 1), (-0.08, 0.92)]),
    (0, (85, 125, 75), [(0, 0.4), (0.28, 0.4), (0.28, 0.75), (0.18, 0.75), (0.18, 0.5), (0, 0.5)]),
    (0, (85, 125, 75), [(0, 0.3), (-0.25, 0.3), (-0.25, 0.6), (-0.15, 0.6), (-0.15, 0.4), (0, 0.4)]),
)
_CONIFER = _stencil(
    (0, _BARK, _box(-0.025, 0, 0.025, 0.2)),
    (0, (34, 74, 56), [(-0.24, 0.12), (0.24, 0.12), (0, 0.55)]),
    (0, (42, 86, 58), [(-0.19, 0.36), (0.19, 0.36), (0, 0.78)]),
    (0, (50, 98, 62), [(-0.13, 0.6), (0.13, 0.6), (0, 1)]),
)
_BROADLEAF = _stencil(
    (0, _BARK, _box(-0.03, 0, 0.03, 0.6)),
    (1, -14, _disc(-0.2, 0.55, 0.22, 0.2)),
    (1, -6, _disc(0.2, 0.58, 0.23, 0.2)),
    (1, 4, _disc(0, 0.75, 0.27, 0.24)),
    (1, 20, _disc(-0.07, 0.82, 0.14, 0.12)),
)
_SHRUB = _stencil(
    (0, (130, 136, 92), _disc(0, 0.45, 0.9, 0.5)), (0, (155, 160, 112), _disc(-0.1, 0.6, 0.5, 0.3))
)
_CAR = _stencil(
    (1, 0, [(-1, 0.2), (1, 0.2), (1, 0.6), (-1, 0.65)]),
    (0.3, (42, 50, 62), [(-0.8, 0.64), (0.75, 0.6), (0.5, 1), (-0.6, 1)]),
    (0, 42, _disc(-0.62, 0.2, 0.18, 0.22)),
    (0, 42, _disc(0.62, 0.2, 0.18, 0.22)),
)
_POLE = _stencil((0, _BARK, _box(-0.014, 0, 0.014, 1)), (0, _BARK, _box(-0.13, 0.89, 0.13, 0.91)))


def paint_photo(place: Place, heading: int, size: int, rng: np.random.Generator) -> Image.Image:
    """One photo (size, size) of a place; heading counts quarter turns clockwise from north."""
    scene = _Scene(place, heading, size, rng)
    scene.sky()
    scene.mountains()
    scene.road()
    for thing in sorted(scene.things(), key=lambda thing: -thing[0]):  # far things first
        scene.stand(*thing)
    pixels = np.asarray(scene.image.reduce(2), np.float32)
    gain = (rng.normal(1, 0.06) * rng.normal(1, 0.025, 3)).astype(np.float32)  # exposure, white balance
    noise = rng.standard_normal((size, size, 1), np.float32) * rng.uniform(1.5, 5)
    return Image.fromarray(np.clip(pixels * gain + noise, 0, 255).astype(np.uint8))


class _Scene:
    """A photo in the making, at twice its size; ground positions in metres across and ahead of the camera."""

    def __init__(self, place: Place, heading: int, size: int, rng: np.random.Generator):
        self.place, self.heading, self.rng, self.side = place, heading, rng, 2 * size
        self.along = place.road_runs_north == (heading % 2 == 0)  # the road runs ahead, not across
        self.horizon = 0.55 + rng.normal(0, 0.012)
        grey = 0.75 * place.overcast
        self.zenith = _mix(_at(place.latitude, _ZENITH), rng.uniform(150, 220), grey)
        self.haze = _mix(_at(place.latitude, _HAZE), 226, grey)
        self.leaves = _at(place.latitude, _LEAVES)
        grass = _mix(_DRY, _LUSH, np.clip(place.wet + rng.normal(0, 0.08), 0, 1)) + place.tint
        snow = (place.latitude - 44) / 22 + rng.normal(0, 0.06) if place.latitude > 44 else 0
        self.image = self._sky_and_ground(_mix(grass, _SNOW, np.clip(snow, 0, 0.8)))
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def _sky_and_ground(self, grass: np.ndarray) -> Image.Image:
        y = (np.arange(self.side)[:, None] + 0.5) / self.side - self.horizon
        up, down = np.clip(-y / self.horizon, 0, 1) ** 0.8, np.clip(y / (1 - self.horizon), 0, 1)
        ground = _mix(grass * (0.92 - 0.16 * down), self.haze, 0.7 * np.exp(-9 * down))
        rows = np.where(y < 0, _mix(self.haze, self.zenith, up), ground)
        column = Image.fromarray(np.clip(rows, 0, 255).astype(np.uint8)[:, None])
        return column.resize((self.side, self.side), Image.Resampling.NEAREST)

    def fill(self, outline, colour, alpha: float = 1.0) -> None:
        """Fill an outline, (n, 2) in photo widths from the top left."""
        ink = [min(max(int(channel), 0), 255) for channel in colour]
        self.draw.polygon((np.asarray(outline) * self.side).ravel().tolist(), (*ink, int(255 * alpha)))

    def hazy(self, colour, ahead: float) -> np.ndarray:
        """A colour as it is seen from so many metres."""
        return _mix(colour, self.haze, 1 - np.exp(-ahead / 160))

    def project(self, across, ahead, up=0.0) -> np.ndarray:
        """Metres to photo widths from the top left, (n, 2)."""
        scale = _FOCAL / np.maximum(ahead, 1.5)
        return np.stack([0.5 + across * scale, self.horizon + (_EYE_M - up) * scale], 1)

    def sky(self) -> None:
        """The sun, in a south view, and clouds."""
        rng, overcast = self.rng, self.place.overcast
        if self.heading == 2:
            x, y = 0.5 + rng.normal(0, 0.12), self.horizon - (90 - self.place.latitude) / 140
            for radius, light in ((0.15, 0.1), (0.1, 0.16), (0.07, 0.27), (0.045, 1)):
                self.fill(_disc(x, y, radius, radius), (255, 244, 190), light * (1 - 0.8 * overcast))
        white = _mix(255, self.zenith, 0.2 + 0.3 * overcast)
        for _ in range(rng.poisson(1 + 4 * overcast)):
            x, y, width = rng.random(), rng.uniform(0.04, 0.42), rng.uniform(0.04, 0.11)
            for dx, part in ((-0.8, 0.6), (0.75, 0.7), (0, 1)):
                puff = _disc(x + dx * width, y, width * part, 0.5 * width * part)
                self.fill(np.minimum(puff, (2, y)), white + 12 * (part == 1))  # flat below

    def mountains(self) -> None:
        """Rocks with snow far away, woods before them."""
        rng, relief, x = self.rng, self.place.relief, np.linspace(0, 1, 49)
        snow_line = np.interp(self.place.latitude, (30, 45, 64), (0.32, 0.17, 0.04))
        woods = _mix((135, 118, 108), 0.8 * self.leaves, 0.8 * self.place.wet)
        for high, colour in ((0.24, self.hazy((110, 120, 150), 110)), (0.1, self.hazy(woods, 80))):
            waves = (1, 2, 4, 7, 11) if relief > 0.5 else (1, 2, 3)
            shape = sum(np.sin(2 * np.pi * (k * x + rng.random())) / k**0.8 for k in waves)
            ridge = (high * relief * rng.uniform(0.75, 1.2) + 0.008) * np.clip(0.6 + 0.3 * shape, 0.1, 1.3)
            self.fill(
                [(0, self.horizon), *zip(x, self.horizon - ridge, strict=True), (1, self.horizon)], colour
            )
            snow = 0.6 * np.maximum(ridge - snow_line, 0)
            if high > 0.2 and snow.any():
                cap = np.concatenate([self.horizon - ridge, (self.horizon - ridge + snow)[::-1]])
                self.fill(np.stack([np.concatenate([x, x[::-1]]), cap], 1), self.hazy(_SNOW, 30))

    def road(self) -> None:
        """Boxes on the ground, metres across the road and along it, as this view sees them."""
        end = 400 if self.along else 120
        strips = [(-5.2, 5.2, _at(self.place.latitude, _SOIL) + self.place.tint), (-3.8, 3.8, _ASPHALT)]
        strips += [(-3.5, -3.3, _LINE), (3.3, 3.5, _LINE)]
        boxes = [(_box(left, 2, right, end), colour) for left, right, colour in strips]
        boxes += [(_box(-0.1, start, 0.1, start + 5), _YELLOW) for start in range(2, 120, 9)]
        for box, colour in boxes:
            x, z = box.T
            self.fill(self.project(x - 1.8, z) if self.along else self.project(z - 60, 11 - x), colour)

    def things(self) -> list[tuple]:
        """What stands on the ground: arguments of `stand`."""
        rng, wet, index = self.rng, self.place.wet, STATES[self.place.state]
        found = [self._plant() for _ in range(rng.poisson(3 + 13 * wet))]
        if rng.random() < 0.6:
            pitch = np.interp(self.place.latitude, (28, 48), (0.12, 1.1)) * rng.uniform(0.85, 1.15)
            paint = self._hue(index * 0.7549, 0.65, 0.42, 0.92)
            found.append(
                (*self._spot(17, 32), _house(pitch), rng.uniform(3.5, 5), rng.uniform(3, 4.2), paint)
            )
        if rng.random() < 0.5:
            across = rng.choice((-1, 1)) * rng.uniform(1.8, 3.5) + 0.5
            paint = self._hue(index * 0.6180, 0.75, 0.85, 0.8)
            found.append((rng.uniform(6.5, 9), across, _SIGNS[index % 3], 1, 1, paint))
        if rng.random() < 0.35:
            paint = self._hue(0, 0, rng.uniform(0, 0.8), rng.uniform(0.35, 0.95))
            where = (rng.uniform(9, 40), -3.6) if self.along else (12.5, rng.uniform(-6, 6))
            found.append((*where, _CAR, 0.95 if self.along else 2.1, 1.5, paint))
        if rng.random() < 0.4:
            row = ((12, 5.5), (26, 5.5), (50, 5.5)) if self.along else ((18, -4), (26, 4))
            found += [(ahead, across, _POLE, 8, 8, 0) for ahead, across in row]
        return found

    def _plant(self) -> tuple:
        rng, wet, relief, latitude = self.rng, self.place.wet, self.place.relief, self.place.latitude

        def south_of(limit: float, width: float) -> float:
            return 1 / (1 + np.exp((latitude - limit) / width))

        kinds = (
            (2 * wet * south_of(29.5, 1), _PALM, 6, 10),
            (2 * (1 - wet) ** 3 * south_of(38, 1.5), _CACTUS, 2.5, 5),
            ((0.3 + relief) * (1 - south_of(42 - 6 * relief, 2)), _CONIFER, 6, 12),
            (wet * south_of(50, 2), _BROADLEAF, 5, 9),
            (1.2 * (1 - wet), _SHRUB, 0.6, 1.2),
        )
        chances = np.cumsum([kind[0] for kind in kinds])
        _, stencil, low, high = kinds[np.searchsorted(chances, rng.random() * chances[-1])]
        height = rng.uniform(low, high)
        return (*self._spot(11, rng.uniform(20, 90)), stencil, height, height, self.leaves + rng.normal(0, 8))

    def _spot(self, near: float, far: float) -> tuple[float, float]:
        """Metres ahead and across: beside a road that runs ahead, behind one that crosses the view."""
        ahead = self.rng.uniform(near, far)
        if self.along:
            return ahead, self.rng.choice((-1, 1)) * self.rng.uniform(6.5, 6.5 + 0.6 * ahead) - 1.8
        return max(ahead, 18.0), self.rng.uniform(-0.6, 0.6) * ahead

    def _hue(self, typical: float, chance: float, saturation: float, value: float) -> np.ndarray:
        # Multiples of an irrational number modulo 1 spread the states' own hues.
        hue = typical % 1 if self.rng.random() < chance else self.rng.random()
        return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))

    def stand(self, ahead: float, across: float, stencil, width: float, height: float, own) -> None:
        """Paint a thing and, before it, its shadow; width and height are metres of the stencil's units."""
        shares, colours, outlines, ends = stencil
        points = outlines * (self.rng.choice((-1, 1)) * width, height)
        half, tall = 0.3 * np.ptp(points[:, 0]), points[:, 1].max()
        long = min(tall * np.tan(np.radians(self.place.latitude)), 14.0)
        x, z = ((0, 1), (-1, 0), (0, -1), (1, 0))[self.heading]  # away from the sun in the south
        side, tip = np.array([-half, half, half, -half]), np.array([0, 0, long, long])
        corners = np.maximum(ahead + side * abs(x) + tip * z, 3.0)
        shade = self.project(across + side * abs(z) + tip * x, corners)
        self.fill(shade, (25, 30, 50), 0.37 * (1 - 0.8 * self.place.overcast))
        inks = np.clip(self.hazy(shares * own + colours, ahead), 0, 255).astype(int).tolist()
        flat = (self.project(across + points[:, 0], ahead, points[:, 1]) * self.side).ravel().tolist()
        for ink, start, end in zip(inks, [0, *ends], ends, strict=False):
            self.draw.polygon(flat[start:end], tuple(ink))
