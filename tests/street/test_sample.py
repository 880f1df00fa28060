import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.geo import area_from_geojson
from geohf.samples import MARKER
from geohf.street import sample, scenery
from geohf.street.sample import HEADINGS, STATES, write_sample

KEYS = ["sample_id", "image_north", "image_east", "image_south", "image_west"]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample") / "new", seed=3, size=1, image_size=32)


def paint(seed, heading, size=32, **changes):
    """A photo (size, size, 3) of the seed's place, with attributes of the place changed."""
    rng = np.random.default_rng(seed)
    values = {
        "sample_id": 0, "split": "train", "state": "Kansas", "state_idx": 15, "latitude": 38.0, "longitude": -98.0, "wet": 0.5,
        "relief": 0.2, "overcast": 0.1, "tint": np.zeros(3), "road_runs_north": bool(seed % 2),
    }  # fmt: skip
    place = sample.Place(**{**values, **changes})
    return np.asarray(sample.paint_photo(place, heading, size, rng), float)


# --- files ---


def test_the_layout_is_the_competitions(folder):
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        "train_images", "test_images", "train_ground_truth.csv", "sample_submission.csv", "state_mapping.csv"
    }  # fmt: skip
    truth, submission = read(folder / "train_ground_truth.csv"), read(folder / "sample_submission.csv")
    assert list(truth[0]) == [*KEYS, "state", "state_idx", "latitude", "longitude"]
    answers = [f"predicted_state_idx_{k}" for k in range(1, 6)] + [
        "predicted_latitude",
        "predicted_longitude",
    ]
    assert list(submission[0]) == [*KEYS, *answers]
    for split, rows in (("train", truth), ("test", submission)):
        listed = [row[f"image_{heading}"] for row in rows for heading in HEADINGS]
        assert listed == [f"img_{int(row['sample_id']):06d}_{h}.jpg" for row in rows for h in HEADINGS]
        assert sorted(listed) == sorted(path.name for path in (folder / f"{split}_images").iterdir())
    with Image.open(folder / "train_images" / truth[0]["image_west"]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))


def test_the_mapping_has_the_33_states_and_the_gaps(folder):
    mapping = {row["state"]: int(row["state_idx"]) for row in read(folder / "state_mapping.csv")}
    assert len(mapping) == len(set(mapping.values())) == 33
    assert mapping == STATES
    some = {"Alabama": 0, "Arkansas": 3, "Maine": 18, "Nevada": 27, "South Dakota": 40, "Wyoming": 49}
    assert some.items() <= mapping.items()
    for row in read(folder / "train_ground_truth.csv"):
        assert int(row["state_idx"]) == mapping[row["state"]]


def test_size_is_places_a_state_and_test_has_two_at_least(folder):
    truth, submission = read(folder / "train_ground_truth.csv"), read(folder / "sample_submission.csv")
    assert sorted(row["state"] for row in truth) == sorted(STATES)
    assert len(submission) == 2 * 33
    assert not {row["sample_id"] for row in truth} & {row["sample_id"] for row in submission}
    assert [place.split for place in sample._places(0, 40)].count("test") == 5 * 33


def test_nothing_in_the_layout_tells_the_truth_of_test(folder):
    submission = read(folder / "sample_submission.csv")
    assert all(row[key] == "" for row in submission for key in row if key.startswith("predicted"))
    ids = [int(row["sample_id"]) for row in submission]
    assert ids != sorted(ids)  # nobody may rely on the order
    places = {place.sample_id: place for place in sample._places(3, 1)}
    states = [STATES[places[number].state] for number in ids]
    for order in (ids, range(len(ids))):  # neither the number nor the row follows the state
        assert abs(np.corrcoef(order, states)[0, 1]) < 0.4
    with Image.open(folder / "test_images" / submission[0]["image_north"]) as image:
        assert not image.getexif()
    assert "latitude" not in (folder / MARKER).read_text()


# --- writing again: of four states, which is quick ---


@pytest.fixture
def few_states(monkeypatch):
    monkeypatch.setattr(
        sample, "STATES", {state: STATES[state] for state in ("Alaska", "Iowa", "Maine", "Texas")}
    )


def test_the_seed_settles_every_byte(few_states, tmp_path):
    folder, again = (write_sample(tmp_path / name, seed=3, size=1, image_size=32) for name in ("one", "two"))
    assert digests(again) == digests(folder)
    other = write_sample(tmp_path / "other", seed=4, size=1, image_size=32)
    assert not set(digests(other).values()) & set(digests(folder).values()) - {
        digests(folder)["state_mapping.csv"]
    }


def test_a_whole_folder_is_left_alone_and_a_broken_one_is_written_anew(few_states, tmp_path, monkeypatch):
    folder = write_sample(tmp_path, seed=3, size=1, image_size=32)
    whole = digests(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_sample(str(folder), seed=3, size=1, image_size=32) == folder
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def interrupt(*_):
        raise KeyboardInterrupt

    for name in ("train_ground_truth.csv", sorted(whole)[-5]):
        (folder / name).unlink()
        with monkeypatch.context() as patch:
            patch.setattr(sample, "_write_tables", interrupt)
            with pytest.raises(KeyboardInterrupt):
                write_sample(folder, seed=3, size=1, image_size=32)
        next((folder / "train_images").iterdir()).write_bytes(b"half")  # what a crash may leave
        assert digests(write_sample(folder, seed=3, size=1, image_size=32)) == whole


def test_other_arguments_replace_a_sample(few_states, tmp_path):
    write_sample(tmp_path, seed=0, size=2, image_size=16)
    small = digests(write_sample(tmp_path, seed=1, size=1, image_size=16))
    assert small == digests(write_sample(tmp_path / "fresh", seed=1, size=1, image_size=16))


def test_photographs_beside_a_sample_stay(few_states, tmp_path):
    write_sample(tmp_path, size=1, image_size=16)
    own = tmp_path / "my_images" / "a.jpg"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    write_sample(tmp_path, seed=1, size=1, image_size=16)
    assert own.read_bytes() == b"mine"


def test_real_data_is_not_overwritten(tmp_path):
    (tmp_path / "train_images").mkdir()
    (tmp_path / "train_images" / "img_000000_north.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="not a sample; choose another folder"):
        write_sample(tmp_path, size=1)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["img_000000_north.jpg"]


@pytest.mark.parametrize("arguments", [{"size": 0}, {"image_size": 8}])
def test_senseless_sizes_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="at least"):
        write_sample(tmp_path / "new", **arguments)


# --- places ---


@pytest.mark.parametrize(
    ("state", "south", "west", "north", "east"),
    [
        ("Alaska", 58, -166, 71, -141),
        ("Maine", 43, -71.1, 47.5, -66.9),
        ("Hawaii", 18.9, -160.3, 22.3, -154.8),
    ],
)
def test_points_lie_in_their_state(folder, state, south, west, north, east):
    for row in read(folder / "train_ground_truth.csv"):
        if row["state"] == state:
            assert south < float(row["latitude"]) < north
            assert west < float(row["longitude"]) < east


def test_nearly_all_points_lie_within_real_outlines(shared_data):
    places = sample._places(0, 24)
    for state in STATES:
        points = np.array([(place.latitude, place.longitude) for place in places if place.state == state])
        area = area_from_geojson(shared_data("us_states") / "us_states.json", names=[state])
        assert area.contains(points).mean() >= 0.92, state


# --- looks ---


def test_the_sky_is_bluer_in_the_south():
    latitudes = np.linspace(20, 65, 40)
    skies = [paint(k, k % 4, latitude=latitude)[:5].mean((0, 1)) for k, latitude in enumerate(latitudes)]
    blueness = [sky[2] - sky[0] for sky in skies]
    assert np.corrcoef(latitudes, blueness)[0, 1] < -0.6


def sun_height(photo):
    """Rows above the bottom of the photo's warm bright pixels in the sky, or None; clouds are not warm."""
    sky = photo[: len(photo) // 2]
    rows = np.nonzero((sky[..., 0] - sky[..., 2] > 25) & (sky[..., 0] > 190))[0]
    return len(photo) - rows.mean() if len(rows) >= 4 else None


def test_the_sun_stands_in_the_south_only_and_higher_near_the_equator():
    clear = {"overcast": 0.0, "wet": 0.0, "relief": 0.0, "state": "Kansas"}
    heights = {}
    for heading in range(4):
        for latitude in (27, 45):
            photos = [paint(k, heading, 64, latitude=latitude, **clear)[:30] for k in range(8)]
            heights[heading, latitude] = [sun_height(np.pad(p, ((0, 34), (0, 0), (0, 0)))) for p in photos]
    seen = {key: sum(height is not None for height in found) for key, found in heights.items()}
    for latitude in (27, 45):
        assert seen[2, latitude] >= 6
        assert max(seen[heading, latitude] for heading in (0, 1, 3)) <= 2
    mean = {lat: np.mean([h for h in heights[2, lat] if h is not None]) for lat in (27, 45)}
    assert mean[27] > mean[45] + 3


def test_the_ground_is_greener_where_it_is_wet():
    photos = {wet: np.mean([paint(k, 0, wet=wet)[-3:] for k in range(12)], (0, 1, 2)) for wet in (0.0, 1.0)}
    assert photos[1.0][1] - photos[1.0][0] > photos[0.0][1] - photos[0.0][0] + 15


def test_the_climate_of_a_place_follows_its_longitude():
    places = {place.state: place for place in sample._places(0, 1)}
    assert places["Nevada"].wet < 0.4 < 0.7 < places["Maine"].wet
    assert places["Colorado"].relief > places["Kansas"].relief + 0.05
    assert places["Alaska"].relief > 0.5 > places["Illinois"].relief


def test_a_states_own_hue_shows_in_its_signs_more_often_than_not():
    scene = scenery._Scene(sample._places(0, 1)[0], 0, 16, np.random.default_rng(0))
    hues = np.array([scene._hue(0.3, 0.75, 1.0, 1.0) for _ in range(200)])
    usual = (np.abs(hues - hues[0]).max(1) < 1).mean()
    assert 0.6 < usual < 0.9
