import hashlib
import json
import time

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.parts import scene
from geohf.parts.bicycle import Build, damaged, shapes
from geohf.parts.sample import write_sample
from geohf.parts.vocabulary import BIKE_PARTS, STATES


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def paint(monkeypatch, seed, **states):
    """The same picture (168, 224, 3) with other states of some parts, and the boxes."""
    chosen = dict.fromkeys(BIKE_PARTS, "intact") | states

    def told(rng):
        rng.random(30)
        return dict(chosen)

    with monkeypatch.context() as patch:
        patch.setattr(scene, "_states", told)
        image, parts = scene.paint_photo(np.random.default_rng(seed), 224)
    return np.asarray(image, float), parts


def inside(box):
    x0, y0, x1, y1 = np.round(box).astype(int)
    return slice(y0, y1), slice(x0, x1)


def test_the_layout_is_that_of_delftbikes(bikes):
    annotations = json.loads((bikes / "train_annotations.json").read_text())
    assert sorted(annotations) == sorted(path.name for path in (bikes / "train").iterdir())
    for name, entry in annotations.items():
        with Image.open(bikes / "train" / name) as image:
            assert image.format == "JPEG"
            assert (entry["image"]["width"], entry["image"]["height"]) == image.size == (96, 72)
        assert sorted(entry["parts"]) == list(BIKE_PARTS)
        for part, told in entry["parts"].items():
            assert told["part_name"] == part
            assert STATES[told["object_state_class"]] == told["object_state"]
            assert 0 <= told["trust"] <= 1
            box = told["absolute_bounding_box"]
            assert box["width"] > 0
            assert box["height"] > 0
            assert 0 <= box["left"] <= box["left"] + box["width"] <= 96.01
            assert 0 <= box["top"] <= box["top"] + box["height"] <= 72.01


def test_every_part_has_every_state_and_intact_ones_lead():
    found = {part: [] for part in BIKE_PARTS}
    for number in range(150):
        for part, (_, state) in scene.paint_photo(np.random.default_rng([1, number]), 112)[1].items():
            found[part].append(state)
    for part, states in found.items():
        assert set(states) == set(STATES), part
    shares = {state: np.mean([states.count(state) / 150 for states in found.values()]) for state in STATES}
    assert 0.4 < shares["intact"] < 0.7
    assert all(share > 0.05 for share in shares.values())


def test_bytes_follow_from_the_seed(tmp_path):
    first, second = (write_sample(tmp_path / name, seed=3, size=3, width=96) for name in "ab")
    assert digests(first) == digests(second)
    other = digests(write_sample(tmp_path / "c", seed=4, size=3, width=96))
    assert not set(other.values()) & set(digests(first).values())
    smaller = write_sample(first, seed=3, size=2, width=96)
    assert len(list((smaller / "train").iterdir())) == 2


def test_only_samples_are_overwritten(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="not a sample"):
        write_sample(tmp_path, size=1)
    for arguments in ({"size": 0}, {"width": 20}):
        with pytest.raises(ValueError, match="at least"):
            write_sample(tmp_path / "new", **arguments)


def test_an_absent_part_is_not_drawn_and_nothing_else_changes(monkeypatch):
    for part in ("saddle", "back_light", "front_wheel"):
        whole, parts = paint(monkeypatch, 5)
        without, again = paint(monkeypatch, 5, **{part: "absent"})
        assert again[part][1] == "absent"
        assert np.array_equal(again[part][0], parts[part][0])  # the box says where it would be
        changed = np.abs(whole - without).max(2) > 40
        grown = parts[part][0] + [-2, -2, 2, 2]
        assert changed[inside(parts[part][0])].mean() > 0.15
        assert changed.sum() == changed[inside(grown)].sum()


def test_a_damaged_part_is_rusty_and_bent(monkeypatch):
    def rust(picture, box):
        red, _, blue = picture[inside(box)].reshape(-1, 3).T
        return (red - blue > 45).mean()

    rusty, whole = [], []
    for seed in range(6):
        for part in ("front_wheel", "front_mudguard", "gear_case", "lock"):
            picture, parts = paint(monkeypatch, seed, **{part: "damaged"})
            rusty.append(rust(picture, parts[part][0]))
            picture, parts = paint(monkeypatch, seed)
            whole.append(rust(picture, parts[part][0]))
    assert np.mean(rusty) > np.mean(whole) + 0.1
    build = Build.draw(np.random.default_rng(0))
    wheel = shapes(build)["front_wheel"]
    broken = damaged("front_wheel", wheel, np.random.default_rng(0))
    spread = [np.ptp(np.linalg.norm(s[0].points - [1, 0], axis=1)) for s in (wheel, broken)]
    assert spread[0] < 1e-9 < 0.05 < spread[1]


def test_an_occluded_part_is_hidden_and_what_hides_it_hides_others(monkeypatch):
    picture, parts = paint(monkeypatch, 8)
    covered, states = paint(monkeypatch, 8, back_wheel="occluded")
    assert states["back_wheel"][1] == "occluded"
    assert [p for p in BIKE_PARTS if states[p][1] == "occluded"] != ["back_wheel"]
    assert states["front_wheel"][1] == "intact"
    green = covered[inside(parts["back_wheel"][0])]
    assert (green[..., 1] > green[..., 0] + 10).mean() > 0.5
    assert not np.array_equal(picture, covered)


def test_pictures_differ_in_pose_and_facing():
    facing, widths = [], []
    for number in range(40):
        _, parts = scene.paint_photo(np.random.default_rng([2, number]), 112)
        middles = {part: (box[0] + box[2]) / 2 for part, (box, _) in parts.items()}
        facing.append(middles["front_wheel"] > middles["back_wheel"])
        widths.append(parts["front_wheel"][0][2] - parts["front_wheel"][0][0])
    assert 10 < sum(facing) < 30
    assert np.ptp(widths) > 4


def test_painting_is_fast():
    scene.paint_photo(np.random.default_rng(0), 224)
    times = []
    for number in range(15):
        start = time.process_time()
        scene.paint_photo(np.random.default_rng([0, number]), 224)
        times.append(time.process_time() - start)
    assert np.median(times) < 0.02  # about a quarter of that on an idle machine
