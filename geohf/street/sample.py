"""A painted stand-in for the street-view competition, in the competition's own files.

Places are real points of the 33 states; photos are small street scenes. Their look follows the rules below plus
noise: a model can learn the place from it, and a test can tell learning from luck. Neighboring states look alike,
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

import csv
from pathlib import Path

import numpy as np

from geohf.io import atomic_path, atomic_write
from geohf.samples import MARKER, write_once
from geohf.street.scenery import Place, paint_photo

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
_IMAGES = ("train_images", "test_images")
_TABLES = _TRUTH, _SUBMISSION, _MAPPING = (
    "train_ground_truth.csv",
    "sample_submission.csv",
    "state_mapping.csv",
)
_KEYS = ["sample_id", *(f"image_{heading}" for heading in HEADINGS)]
_ANSWERS = [*(f"predicted_state_idx_{k}" for k in range(1, 6)), "predicted_latitude", "predicted_longitude"]


def write_sample(folder: str | Path, seed: int = 0, size: int = 16, image_size: int = 128) -> Path:
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
    places = _places(seed, size)
    photos = {
        folder / f"{place.split}_images" / name: (place, heading)
        for place in places
        for heading, name in enumerate(_photo_names(place.sample_id))
    }

    def write(folder: Path) -> None:
        for images in _IMAGES:
            (folder / images).mkdir(exist_ok=True)
        for other in _photos_in(folder) - {*photos}:  # of another sample
            other.unlink(missing_ok=True)
        for path, (place, heading) in photos.items():
            rng = np.random.default_rng([seed, 2, place.sample_id, heading])
            photo = paint_photo(place, heading, image_size, rng)
            with atomic_path(path) as temporary:
                photo.save(temporary, "JPEG", quality=88)
        _write_tables(folder, places, np.random.default_rng([seed, 3]))

    marker = folder / MARKER
    whole = all((folder / name).is_file() for name in _TABLES) and _photos_in(folder) == {*photos}
    if marker.is_file() and not whole:
        marker.write_text("{}")
    settings = {"rules": _RULES, "seed": seed, "size": size, "image_size": image_size}
    return write_once(folder, settings, (*_IMAGES, _TRUTH), write)


def _photos_in(folder: Path) -> set[Path]:
    """The photographs in the sample's own folders; what lies beside these is the user's."""
    return {path for images in _IMAGES for path in (folder / images).glob("*.jpg")}


def _write_tables(folder: Path, places: list[Place], rng: np.random.Generator) -> None:
    train, test = ([place for place in places if place.split == split] for split in ("train", "test"))
    truth = [
        [*_keys(place), place.state, place.state_idx, f"{place.latitude:.6f}", f"{place.longitude:.6f}"]
        for place in sorted(train, key=lambda place: place.sample_id)
    ]
    # The order of a submission means nothing: rows are joined on sample_id.
    empty = [[*_keys(test[row]), *[""] * len(_ANSWERS)] for row in rng.permutation(len(test))]
    for name, header, rows in (
        (_TRUTH, [*_KEYS, "state", "state_idx", "latitude", "longitude"], truth),
        (_SUBMISSION, [*_KEYS, *_ANSWERS], empty),
        (_MAPPING, ["state_idx", "state"], [[index, state] for state, index in STATES.items()]),
    ):
        with atomic_write(folder / name) as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _photo_names(sample_id: int) -> list[str]:
    return [f"img_{sample_id:06d}_{heading}.jpg" for heading in HEADINGS]


def _keys(place: Place) -> list:
    return [place.sample_id, *_photo_names(place.sample_id)]


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
        STATES[state],
        latitude,
        longitude,
        wet=np.clip(wet / 100 + rng.normal(0, 0.07), 0, 1),
        relief=relief / 100 * rng.uniform(0.75, 1.25),
        overcast=rng.beta(1.2, 2.5),
        tint=rng.normal(0, 7, 3),
        road_runs_north=bool(rng.integers(2)),
    )
