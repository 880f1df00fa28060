"""Frames of a video as samples of `predict`, and numbers that parts keep from frame to frame."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou

from geohf.errors import DataError, optional_package
from geohf.parts.answers import SIDES

if TYPE_CHECKING:
    from geohf.data.inputs import Inputs

VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
MOVED, LOST = 0.3, 5  # a box overlaps its last one by this IoU; a part unseen for more frames is another one
_FRAME = "#"  # between the video's name and the frame's number


def is_video(source: Any) -> bool:
    """Whether this is the name of a file that ends like a video."""
    named = isinstance(source, (str, os.PathLike))
    return named and Path(source).suffix.lower() in VIDEOS and Path(source).is_file()


def require_no_video(inputs: Any) -> None:
    """Raise DataError where a list names a video, which has an answer a frame, among samples, which have one each."""
    for video in filter(is_video, inputs if isinstance(inputs, (list, tuple)) else ()):
        raise DataError(f"{video}: in a list each entry is one photo; give a video by itself")


class VideoFrames(Iterable):
    """The frames of a video in order, upright, each with the `filename` `ride.mp4#12`; they are decoded as they are asked for.

    Raises:
        DataError: the package av is missing; as frames are read: the file is no video, or broken.
    """

    def __init__(self, path: str | os.PathLike):
        # when it is named, and not at its first frame
        optional_package("av", "video", f"{path}: reading a video needs")
        self.path = path

    def __iter__(self) -> Iterator[Image.Image]:
        import av

        try:
            with av.open(os.fspath(self.path)) as container:
                for number, frame in enumerate(container.decode(video=0)):
                    image = frame.to_image()
                    turn = getattr(frame, "rotation", 0)  # counterclockwise degrees
                    image = image.rotate(turn, expand=True) if turn else image
                    image.filename = f"{self.path}{_FRAME}{number}"
                    yield image
        except (av.FFmpegError, IndexError) as error:  # it has no stream of pictures
            raise DataError(f"{self.path}: is no video that can be read ({error})") from None


@dataclass
class _Track:
    number: int
    box: Sequence[float]
    frame: int  # when it was seen last


class Tracker:
    """Numbers the boxes of frame after frame: a box continues the track of its part that it overlaps most.

    Boxes and tracks are paired by falling IoU, at least `MOVED`; a track that was not seen for `LOST` frames has ended.
    """

    def __init__(self) -> None:
        self._tracks: dict[str, list[_Track]] = {}
        self._frame = self._count = 0

    def add(self, parts: Sequence[str], boxes: Sequence[Sequence[float]]) -> list[int]:
        """The track's number, from 1, of each box of the next frame.

        Args:
            parts: the name of each box.
            boxes: left, top, right, bottom.
        """
        self._frame += 1
        numbers = [0] * len(parts)
        for part in dict.fromkeys(parts):
            rows = [i for i, name in enumerate(parts) if name == part]
            tracks = [t for t in self._tracks.get(part, []) if self._frame - t.frame <= LOST + 1]
            self._tracks[part] = tracks
            old = torch.tensor([track.box for track in tracks]).reshape(-1, 4)
            overlap = box_iou(torch.tensor([boxes[i] for i in rows]), old).numpy()
            while overlap.size and overlap.max() >= MOVED:
                row, column = np.unravel_index(overlap.argmax(), overlap.shape)
                numbers[rows[row]] = tracks[column].number
                tracks[column].box, tracks[column].frame = boxes[rows[row]], self._frame
                overlap[row], overlap[:, column] = -1, -1
            for i in rows:
                if not numbers[i]:
                    self._count += 1
                    numbers[i] = self._count
                    tracks.append(_Track(self._count, boxes[i], self._frame))
        return numbers


def source_of(name: str) -> str:
    """The video that a frame is of, or its folder."""
    video, _, number = name.rpartition(_FRAME)
    return video if number.isdecimal() and Path(video).suffix.lower() in VIDEOS else os.path.dirname(name)


def require_apart(inputs: Inputs) -> None:
    """Raise DataError where a video is given twice, or frames of two folders have names of one, told without their folder."""
    seen: set[str] = set()
    videos = [os.fspath(samples.path) for _, samples in inputs.parts if isinstance(samples, VideoFrames)]
    for video in videos:
        if videos.count(video) > 1:
            raise DataError(f"{video}: is given more than once, and would be tracked as one: give it once")
    for names, _ in inputs.parts:
        if names is None or len(names) == 1:
            continue
        sources = {source_of(name) for name in names}
        if sources & seen:
            raise DataError(
                f"the names of frames, such as {names[0]}, do not tell the inputs apart: track one folder at a time"
            )
        seen |= sources


def tracked_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `predict_to_file` in the order of their frames, each box with its `track`; every video, and every folder, begins anew."""
    frames: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        frames.setdefault(row["input"], []).append(row)
    trackers: dict[str, Tracker] = {}
    tracked = []
    for name, own in frames.items():
        boxes = [row for row in own if row.get(SIDES[0]) is not None]
        places = [[row[side] for side in SIDES] for row in boxes]
        tracker = trackers.setdefault(source_of(name), Tracker())
        numbers = tracker.add([row["part"] for row in boxes], places)
        number_of = {id(row): number for row, number in zip(boxes, numbers, strict=True)}
        tracked += [row | {"track": number_of.get(id(row))} for row in own]
    return tracked
