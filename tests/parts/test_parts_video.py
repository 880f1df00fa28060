"""Videos and folders of frames: an answer a frame, and numbers that parts keep."""

import csv

import numpy as np
import pytest
from helpers.parts_formats import photos
from helpers.parts_models import build_model

from geohf.errors import DataError
from geohf.parts.pipeline import PartStatePipeline
from geohf.parts.video import LOST, Tracker, VideoFrames, tracked_rows


def test_a_part_keeps_its_number_as_it_moves_and_is_hidden():
    tracker = Tracker()
    numbers = [
        tracker.add(["wheel", "wheel"], [[x, 0, x + 20, 20], [100 - x, 50, 120 - x, 70]])
        for x in range(0, 50, 5)
    ]
    assert numbers == [[1, 2]] * 10  # in whichever order they are told
    assert tracker.add(["wheel", "bell"], [[55, 50, 75, 70], [45, 0, 65, 20]]) == [2, 3]
    for _ in range(LOST - 1):
        assert tracker.add([], []) == []
    assert tracker.add(["wheel", "wheel"], [[45, 0, 65, 20], [300, 0, 310, 10]]) == [1, 4]
    for _ in range(LOST + 1):
        tracker.add([], [])
    assert tracker.add(["wheel"], [[45, 0, 65, 20]]) == [5]


def test_boxes_and_tracks_are_paired_by_the_largest_overlap():
    tracker = Tracker()
    assert tracker.add(["wheel", "wheel"], [[0, 0, 10, 10], [6, 0, 16, 10]]) == [1, 2]
    # the first box overlaps both tracks, the second overlaps track 2 fully
    assert tracker.add(["wheel", "wheel"], [[4, 0, 14, 10], [6, 0, 16, 10]]) == [1, 2]


def row(name, part, x=None):
    box = {} if x is None else {"xmin": x, "ymin": 0.0, "xmax": x + 20, "ymax": 20.0}
    return {"input": name, "part": part} | box


def test_every_video_begins_anew_and_missing_parts_have_no_track():
    rows = [
        row("a.mp4#0", "wheel", 0.0),
        row("a.mp4#0", "bell"),
        row("a.mp4#1", "wheel", 4.0),
        row("b.mp4#0", "wheel", 4.0),
    ]
    rows += [row("c/1.jpg", "wheel", 0.0), row("c/2.jpg", "bell", 0.0)]
    assert [found["track"] for found in tracked_rows(rows)] == [1, None, 1, 1, 1, 2]


def test_a_number_sign_in_the_name_of_a_photo_makes_no_video_of_it():
    rows = [row("take#1/a/1.jpg", "wheel", 0.0), row("take#1/b/1.jpg", "wheel", 4.0)]
    assert [found["track"] for found in tracked_rows(rows)] == [1, 1]  # two folders
    rows = [row("c/a#1.jpg", "wheel", 0.0), row("c/b#1.jpg", "wheel", 4.0), row("c/b#2.jpg", "wheel", 40.0)]
    assert [found["track"] for found in tracked_rows(rows)] == [1, 1, 2]


def test_two_folders_whose_frames_are_called_alike_are_not_tracked_as_one(tmp_path):
    for folder in ("one", "two"):
        photos(tmp_path / folder, "0.png", "1.png")
    model, folders = build_model(), [str(tmp_path / "one"), str(tmp_path / "two")]
    with pytest.raises(DataError, match=r"such as 0.png, do not tell the inputs apart: track one folder"):
        model.predict_to_file(folders, tmp_path / "a.csv", track=True, threshold=0.2)
    for sources in (folders[:1], [f"{folder}/*.png" for folder in folders]):
        assert model.predict_to_file(sources, tmp_path / "a.csv", track=True, threshold=0.2)


def write_video(path, frames=6):
    av = pytest.importorskip("av", reason="videos need geohf[video]")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 4_000_000
        for number in range(frames):
            picture = np.full((64, 96, 3), 200, np.uint8)
            picture[20:40, 10 + 8 * number : 30 + 8 * number] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_video_is_answered_frame_by_frame(tmp_path):
    path = write_video(tmp_path / "ride.mp4")
    model, frames = build_model(), list(VideoFrames(path))
    assert [frame.size for frame in frames] == [(96, 64)] * 6
    # the square lies where it was painted
    middle = [np.asarray(frame, int)[30].argmin(0)[1] for frame in frames]
    assert all(10 + 8 * i - 2 <= at <= 30 + 8 * i + 2 for i, at in enumerate(middle))
    expected = model.predict([frame.copy() for frame in frames], threshold=0.0)
    assert model.predict(path, threshold=0.0) == expected
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{number}.png")
    for source, names in (
        (path, [f"{path}#{i}" for i in range(6)]),
        (tmp_path / "frames", [f"{i}.png" for i in range(6)]),
    ):
        model.predict_to_file([str(source)], tmp_path / "a.csv", 4, track=True, threshold=0.2)
        with open(tmp_path / "a.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(dict.fromkeys(found["input"] for found in rows)) == names
        assert all((found["track"] != "") == (found["xmin"] != "") for found in rows)
        assert {found["track"] for found in rows} - {""}
    model.predict_to_file([str(path)], tmp_path / "b.csv", threshold=0.2)
    assert "track" not in (tmp_path / "b.csv").read_text().splitlines()[0]


def test_a_video_stands_alone_where_answers_are_told_apart_by_frames(tmp_path):
    path = write_video(tmp_path / "ride.mp4", frames=2)
    model = build_model()
    with pytest.raises(DataError, match=r"ride.mp4: is given more than once, and would be tracked as one"):
        model.predict_to_file([str(path), str(path)], tmp_path / "a.csv", track=True)
    with pytest.raises(
        DataError, match=r"ride.mp4: in a list each entry is one photo; give a video by itself"
    ):
        model.predict([path])
    answers = PartStatePipeline(model=model, image_processor=model.processor)(str(path))
    assert [(answer["width"], answer["height"]) for answer in answers] == [(96, 64)] * 2


def test_what_is_no_video(tmp_path):
    pytest.importorskip("av", reason="videos need geohf[video]")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"a.mp4: is no video that can be read"):
        build_model().predict(tmp_path / "a.mp4")
