"""Drives through every door: predict, evaluate, the pipeline and a Trainer's numbers, in the order of time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, unit, write_csv, write_pictures
from PIL import Image
from transformers import pipeline

from geohf import DataError
from geohf.place import PlaceIndex
from geohf.place.evaluation import drive_recalls
from geohf.place.frames import Frames, answer_drives, find_frames
from geohf.place.index import PlaceIndex as Index

NAMES = [f"{i}.png" for i in range(12)]
POSES = "camera_id,img_relpath,t_nsec"  # where they were taken is what is asked
SHUFFLED = [3, 0, 7, 1, 11, 2, 10, 4, 9, 5, 8, 6]


def times(i: int) -> int:
    return 1_641_321_200_080_306_000 + i * 10**9


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def world(tmp_path_factory, model):
    """Twelve pictures of a street, and an index of them."""
    folder = tmp_path_factory.mktemp("world")
    write_pictures(folder / "images", NAMES)
    index = PlaceIndex.build(model, [folder / "images" / name for name in NAMES], along(30.0 * np.arange(12)))
    return folder, index


def written(kind: str, folder: Path, world: Path) -> Path:
    """One drive past the pictures, as a user has it, its rows or files not in the order of time."""
    images = folder / "images"
    if kind == "folder":
        images.mkdir(parents=True)
        for i, name in enumerate(NAMES):
            (images / f"{times(i)}.png").write_bytes((world / "images" / name).read_bytes())
        return images
    images.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        copy = f"{i}.jpg" if kind == "msls" else name
        (images / copy).write_bytes((world / "images" / name).read_bytes())
    if kind == "msls":
        write_csv(
            folder / "seq_info.csv", "key,sequence_key,frame_number", *(f"{i},s,{i}" for i in range(12))
        )
        return write_csv(folder / "raw.csv", "key,pano", *(f"{i},False" for i in SHUFFLED))
    rows = [f"front,images/{NAMES[i]},{times(i)}" for i in SHUFFLED]
    return write_csv(folder / "drive" / "poses.csv", POSES, *rows)


@pytest.mark.parametrize("kind", ["poses", "msls", "folder"])
def test_predict_hears_the_order_of_time(kind, model, world, tmp_path):
    source = written(kind, tmp_path / "asked", world[0])
    out = tmp_path / "answers.jsonl"
    options = {"center": "online", "method": "smooth", "index": world[1], "top_k": 2}
    assert model.predict_to_file([source], out, 5, **options) == 12
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["chained"] for row in rows)
    # against the frames themselves, in order
    descriptors = model.encode([world[0] / "images" / name for name in NAMES])
    _, expected = world[1].match(descriptors, 2, "online", method="smooth")
    order = range(12) if kind != "poses" else SHUFFLED  # answers stand as the frames were given
    for row, i in zip(rows, order, strict=True):
        assert row["answers"].keys() == {world[1].images[j] for j in expected.rows[i]}
        assert row["confidence"] == pytest.approx(expected.posterior[i, 0], rel=1e-4)
    same = model.predict_sequences(source, world[1], method="smooth", top_k=2)
    assert [answer.latitude for answer in same] == [row["latitude"] for row in rows]


def test_cameras_and_gaps_are_drives_of_their_own(world, tmp_path):
    rows = [f"{camera},images/{i}.png,{times(i + 60 * (i > 6))}" for camera in "ab" for i in range(12)]
    table = write_csv(world[0] / "two" / "poses.csv", POSES, *rows)
    with pytest.raises(DataError, match="a frame is given twice"):
        find_frames(table, list)
    rows = [f"{'ab'[i % 2]},images/{i}.png,{times(i + 60 * (i > 6))}" for i in range(12)]
    frames = find_frames(write_csv(table, POSES, *rows), list)
    assert frames.sequences == ["two, a", "two, b"] * 6
    from geohf.place.sequences import in_order

    _, drives, parts = in_order(frames.sequences, frames.times_ns)
    assert drives.tolist() == ["two, a"] * 6 + ["two, b"] * 6  # one camera, one mean
    assert dict.fromkeys(parts.tolist()).keys() == {"two, a", "two, a, part 2", "two, b", "two, b, part 2"}


def test_an_index_of_a_drive_with_a_gap_has_two_parts(model, world):
    """Frames before and after it would have been neighbors."""
    rows = [f"a,images/{i}.png,{times(i + 60 * (i > 6))},{i / 100},2" for i in range(12)]
    table = write_csv(world[0] / "gap" / "poses.csv", f"{POSES},lat,lon", *rows)
    index = PlaceIndex.from_drives(model, table)
    assert index.sequences == ["gap, a"] * 7 + ["gap, a, part 2"] * 5


def test_names_that_are_no_times_keep_their_natural_order(world):
    frames = find_frames(world[0] / "images", list)
    assert [Path(name).name for name in frames.names] == NAMES
    assert frames.times_ns == [None] * 12
    assert set(frames.sequences) == {str(world[0] / "images")}


def test_a_drive_that_falls_back_says_so(model, world, tmp_path, caplog):
    photos = [world[0] / "images" / NAMES[i] for i in (5, 1, 3)]  # too few to have an order
    answers = model.predict_sequences(photos, world[1], center="none")
    alone = model.predict(photos, index=world[1])
    assert [answer.chained for answer in answers] == [False] * 3
    assert [a.answers for a in answers] == [a.answers for a in alone]
    assert "1 of 1 drives answer frame by frame" in caplog.text


def test_a_picture_that_cannot_be_read_is_left_out_of_its_drive(model, world, tmp_path):
    folder = written("folder", tmp_path / "asked", world[0])
    sorted(folder.iterdir())[4].write_bytes(b"broken")
    options = {"method": "filter", "index": world[1]}
    with pytest.raises(DataError):
        model.predict_to_file(folder, tmp_path / "a.csv", **options)
    assert model.predict_to_file(folder, tmp_path / "a.csv", on_error="skip", **options) == 11
    assert (tmp_path / "a.csv.skipped.csv").is_file()
    with pytest.raises(DataError, match="drives are searched for in an index"):
        model.predict_to_file(folder, tmp_path / "a.csv", method="filter")


def test_the_pipeline_answers_a_drive(model, world, tmp_path):
    model.save_pretrained(tmp_path)
    photos = [str(world[0] / "images" / name) for name in NAMES]
    recognize = pipeline("place-recognition", model=str(tmp_path), index=world[1], center="online")
    found = recognize(photos, method="smooth", top_k=2)
    expected = model.predict_sequences(photos, world[1], method="smooth", top_k=2)
    assert [row["confidence"] for row in found] == pytest.approx([a.confidence for a in expected], rel=1e-4)
    assert [row["chained"] for row in found] == [True] * 12
    assert recognize(photos[0], center="none")["chained"] is None
    assert len(recognize(photos)) == 12  # centered alone
    with pytest.raises(DataError, match="method must be one of"):
        recognize(photos, method="viterbi")


def test_the_commands_have_the_options(model, world, tmp_path, monkeypatch, capsys):
    from geohf.recipes import evaluate, predict

    model.save_pretrained(tmp_path / "model")
    world[1].save(tmp_path / "index.safetensors")
    source = written("poses", tmp_path / "asked", world[0])
    command = ["x", str(tmp_path / "model"), str(source), "--method", "smooth", "--device", "cpu"]
    index = ["--index", str(tmp_path / "index.safetensors"), "--output", str(tmp_path / "a.csv")]
    monkeypatch.setattr(sys, "argv", [*command, *index])
    predict.main()
    assert (tmp_path / "a.csv").read_text().count("True") == 12
    header = f"{POSES},lat,lon"
    for name in ("first", "second"):
        write_pictures(tmp_path / "both" / name, NAMES, seed=3)
        shift = 1 + (name == "second")
        for path in (tmp_path / "both" / name).glob("*.png"):
            Image.open(path).point(lambda value, by=shift: min(value + by, 255)).save(path)
        rows = [f"front,{name}/{i}.png,{times(i + 1000 * shift)},36.{i:02},127" for i in range(12)]
        write_csv(tmp_path / "both" / name / "poses.csv", header, *rows)
    monkeypatch.setattr(sys, "argv", [*command[:2], str(tmp_path / "both"), *command[3:]])
    evaluate.main()
    assert "r1" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", command[:2])
    with pytest.raises(SystemExit):
        evaluate.main()


def test_recall_of_drives_is_that_of_the_index():
    """Rows that are not in the order of time, against frames that are."""
    rng = np.random.default_rng(0)
    base = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(30, 16))), dim=1)
    asked = torch.nn.functional.normalize(
        base[5:20] + 0.15 * torch.from_numpy(rng.normal(size=(15, 16))), dim=1
    )

    class Rows(dict):
        def __len__(self):
            return len(self["latitude"])

    def rows(order, first, seconds=1):
        points = along(100.0 * (first + np.asarray(order)))
        return Rows(
            latitude=points[:, 0],
            longitude=points[:, 1],
            sequence=["a"] * len(points),
            camera=[None] * len(points),
            time_ns=[i * seconds * 10**9 for i in order],
        )

    shuffled = np.random.default_rng(1).permutation(15)
    images = rows(range(30), 0), rows(shuffled.tolist(), 5)
    found = drive_recalls((base, asked[shuffled]), images, 25.0, "online", "smooth")
    _, expected = Index(base, along(100.0 * np.arange(30)), [""] * 30, "").match(
        asked, 10, "online", method="smooth"
    )
    assert expected.chained.all()
    assert found["drive_r1"] == (expected.rows[:, 0] == 5 + np.arange(15)).mean()
    slow = rows(range(30), 0, 30), rows(shuffled.tolist(), 5, 30)  # a picture every half minute
    assert drive_recalls((base, asked[shuffled]), slow, 25.0, "online", "smooth") == found


def test_a_break_in_a_drive_leaves_it_one_camera_in_one_weather():
    """Its mean is that of all its frames, whatever the chain is told of the break."""
    index = Index(unit(30, 16), along(100.0 * np.arange(30)), list(map(str, range(30))), "m")
    asked = unit(12, 16, seed=1)
    images = [np.full((8, 8, 3), i, np.uint8) for i in range(12)]
    times = [(i + 100 * (i > 8)) * 10**9 for i in range(12)]
    frames = Frames(list(map(str, range(12))), images, ["a"] * 12, times)
    config = build_model().config
    found = answer_drives(index, asked.numpy(), frames, config, "sequence", None, 1)
    whole = index.search(asked, 1, "sequence")[1][:, 0]
    assert [int(answer.answers[0].image) for answer in found] == whole.tolist()
    _, matches = index.match(asked, 1, "sequence", ["a"] * 12, parts=["a"] * 9 + ["b"] * 3)
    assert list(matches.evidence) == ["a", "b"]
