"""The photographs of drives that are to be found: which drive each belongs to, and in what order they were taken."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.formats import TABLES, is_saved_dataset, table_file
from geohf.data.inputs import names_one
from geohf.data.samples import name_of
from geohf.data.tables import RowErrors, read_table
from geohf.data.times import time_ns
from geohf.errors import DataError, listed
from geohf.place.answers import PlacePrediction, answers_searched, predictions_of
from geohf.place.drives import drive_of, names_of_sources, rows_of_table
from geohf.place.sequences import Center, Method, drive_names, in_order
from geohf.vision.files import image_files

if TYPE_CHECKING:
    from geohf.place.index import PlaceIndex


_FIELDS = ("names", "images", "sequences", "times_ns")


@dataclass
class Frames:
    """Photographs of drives, in the order in which they were given."""

    names: list[str]  # what answers call them; no two are the same
    images: list[Any]  # as `GeoPreTrainedModel.predict` takes them
    sequences: list[str]  # the drive of each
    times_ns: list[int | None]  # nanoseconds since 1970, None where unknown

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise DataError(f"a frame is given twice, and a drive has each once: {listed(twice)}")

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: Sequence[int]) -> Frames:
        """Some of them."""
        columns: list[list[Any]] = [[getattr(self, field)[row] for row in rows] for field in _FIELDS]
        return Frames(*columns)


def find_frames(sources: Any, samples: Callable[[Any], Any], sequences: Sequence | None = None) -> Frames:
    """The photographs of drives, whatever holds them.

    Args:
        sources: one name or a list of names: of tables (`poses.csv`, MSLS, or any with a column of files and perhaps
            `sequence`, `camera_id` and a time; positions are not asked for), whose cameras are drives of their own; of
            folders, each folder of photographs a drive in the order of its names, which are times where they are
            numbers that large; of photographs. Or photographs of any kind, in the order of time.
        samples: makes a list of samples of what is no name, as `GeoPreTrainedModel.samples` does.
        sequences: the name of each photograph's drive, instead of what the sources say.

    Raises:
        DataError: rows that name no image, a frame that is given twice, sequences of another length.
    """
    named = [sources] if isinstance(sources, (str, os.PathLike)) else sources
    if isinstance(named, (list, tuple)) and named and all(isinstance(n, (str, os.PathLike)) for n in named):
        known = names_of_sources([name for name in named if not names_one(name)])
        parts = [
            Frames([os.fspath(name)], [name], [""], [None])
            if names_one(name)
            else _of_source(Path(name), known.pop(0), samples)
            for name in named
        ]
        frames = Frames(*([row for part in parts for row in getattr(part, field)] for field in _FIELDS))
    else:
        images = list(samples(sources))
        names = [name_of(image, row) for row, image in enumerate(images)]
        names = names if len(set(names)) == len(names) else list(map(str, range(len(names))))
        frames = Frames(names, images, [""] * len(images), [None] * len(images))
    if not len(frames):
        raise DataError("there is nothing to predict")
    if sequences is not None:
        if len(sequences) != len(frames):
            raise DataError(f"{len(sequences)} sequences for {len(frames)} queries")
        frames.sequences = drive_names(sequences)
    return frames


def _of_source(source: Path, name: str, samples: Callable[[Any], Any]) -> Frames:
    path = table_file(source)
    if path.is_dir() and not is_saved_dataset(path):
        files = image_files(path)
        folders = [str(file.parent) for file in files]
        return Frames(list(map(str, files)), files, folders, times_of_names(files))
    if path.suffix.lower() not in TABLES:
        images = list(samples(source))
        names = [name_of(image, i) for i, image in enumerate(images)]
        names = [f"{source}/{i}" if name == str(i) else name for i, name in enumerate(names)]
        return Frames(names, images, [name] * len(images), [None] * len(images))
    errors = RowErrors()
    rows = rows_of_table(read_table(path), path, name, None, errors, placed=False)
    errors.settle(len(rows))
    images = [row.image["path"] if row.image["bytes"] is None else row.image for row in rows]
    names = [name_of(image, i) for i, image in enumerate(images)]
    drives = [drive_of(row.sequence, row.camera) for row in rows]
    return Frames(names, images, drives, [row.time_ns for row in rows])


def times_of_names(files: Sequence[Path]) -> list[int | None]:
    """The times that file names are, where all of a folder are such numbers: `1641321200080306000.png`."""
    try:
        return [time_ns(file.stem) for file in files]
    except DataError:
        return [None] * len(files)


def answer_drives(
    index: PlaceIndex,
    descriptors: np.ndarray,
    frames: Frames,
    config: Any,
    center: Center = "online",
    method: Method | None = "filter",
    top_k: int = 5,
    near: Any = None,
) -> list[PlacePrediction]:
    """The answers to the frames of drives, each in the place where it was given.

    Args:
        descriptors: (n, d) of the frames.
        config: of the model.
        center, method: see `geohf.place.sequences`; without a method each frame answers alone.
        top_k: answers to give, at most as many as the index holds.
        near: see `PlaceIndex.search`.
    """
    rows, drives, parts = in_order(frames.sequences, frames.times_ns)
    asked, matches, k = descriptors[rows], None, answers_searched(top_k, len(index))
    if method is None:
        similarity, ranked = index.search(asked, k, center, drives, near)
    else:
        similarity, matches = index.match(asked, k, center, drives, near, parts, method=method)
        ranked = matches.rows
    fitted = center == "none" and index.axes is None
    answers = predictions_of(
        asked, similarity, ranked, index.points, index.images, config, top_k, fitted=fitted
    )
    if matches is not None:
        for i, answer in enumerate(answers):
            answer.abstains = None  # the threshold was chosen for single frames
            answer.chained = bool(matches.chained[i])
            if answer.chained:
                answer.confidence = float(matches.posterior[i, 0])
    return [answers[i] for i in np.argsort(rows)]


def answer_rows(
    index: PlaceIndex, frames: Frames, config: Any, options: dict[str, Any], rows: list[dict]
) -> list[dict]:
    """Rows of a table with the answers to drives, from rows with the descriptors of their frames.

    Args:
        options: of `answer_drives`.
        rows: `input`, the name of a frame, and `descriptor`; frames that could not be used are missing.
    """
    numbers = {name: row for row, name in enumerate(frames.names)}
    some = frames.select([numbers[row["input"]] for row in rows])
    descriptors = np.array([row["descriptor"] for row in rows], np.float32)
    answers = answer_drives(index, descriptors, some, config, **options)
    return [{"input": name} | answer.as_row() for name, answer in zip(some.names, answers, strict=True)]
