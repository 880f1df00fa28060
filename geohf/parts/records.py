"""Photos and their parts as a file names them, and the checks between that and a dataset."""

from __future__ import annotations

import difflib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image

from geohf.data.tables import RowErrors, file_in
from geohf.errors import DataError
from geohf.parts.boxes import TURNED, upright_boxes, xywh_to_xyxy
from geohf.parts.vocabulary import part_features
from geohf.vision.checks import check_images
from geohf.vision.images import BROKEN, IMAGE_SUFFIXES

if TYPE_CHECKING:
    from datasets import Dataset

EDGE_PX = 1.0  # a box may lie this far outside its photo, where coordinates were rounded; it is cut


@dataclass
class PartRecord:
    """One part as a file describes it, nothing checked: `box` is left, top, width, height.

    `problem` says what the reader could not make sense of.
    """

    name: Any
    state: Any = None
    box: Any = None
    trust: Any = 1.0
    problem: str = ""


@dataclass
class PhotoRecord:
    """One photo as a file describes it; `width` and `height` may be None."""

    name: str
    width: Any
    height: Any
    parts: list[PartRecord] = field(default_factory=list)


@dataclass
class Source:
    """A file of annotations: its photos, the folder they lie in, and the names that it knows."""

    path: Path
    photos: list[PhotoRecord]
    parts: Sequence[str]
    states: Sequence[str]
    folder: Path
    several: bool = False  # a photo may show a part more than once


class JsonObject(dict):
    """A JSON object that remembers the keys that stood in it twice, with all their values."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.pairs = pairs if len(pairs) > len(self) else None

    def entries(self) -> Iterable[tuple[str, Any]]:
        """All keys with their values, the ones named twice too."""
        return self.items() if self.pairs is None else self.pairs


def read_json(path: str | Path) -> JsonObject:
    """The object in a JSON file.

    Raises:
        DataError: there is no such file, it is not JSON, or not an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=JsonObject)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a JSON object, but is a {type(content).__name__}")
    return content


def dataset_of(source: Source, errors: RowErrors, min_trust: float = 0.0) -> tuple[Dataset, int]:
    """The photos that can be used, with the columns of `part_features`; what is wrong is noted in `errors`.

    Args:
        min_trust: parts that are trusted less are left out, and photos without any other part.

    Returns:
        (the dataset, the number of parts left out for their trust).
    """
    from datasets import Dataset

    photos = _unrepeated(source, errors)
    paths = {}
    for photo in photos:
        try:
            paths[photo.name] = Path(file_in(source.folder, photo.name))
        except DataError as error:
            errors.add(source.path, photo.name, str(error))
    present = {path for path in paths.values() if path.is_file()}
    broken = check_images(sorted(present))
    with ThreadPoolExecutor(max_workers=8) as pool:
        whole = present - set(broken)
        headers = dict(zip(whole, pool.map(_header, whole), strict=True))
    rows, distrusted = [], 0
    for photo in photos:
        path = paths.get(photo.name)
        if path is None:
            continue
        if path not in present or path in broken or isinstance(headers[path], str):
            missing = f"the photo is not on disk, in {source.folder}"
            reason = missing if path not in present else broken.get(path) or headers[path]
            errors.add(source.path, photo.name, reason)
            continue
        try:
            frame = _Frame.of(photo, *headers[path])
        except DataError as error:
            errors.add(source.path, photo.name, str(error))
            continue
        row = {"image": {"path": str(path), "bytes": None}, "image_id": photo.name}
        row |= {"width": frame.width, "height": frame.height}
        found = _parts(source, photo, frame, errors)
        trusted = [part for part in found if part["trust"] >= min_trust]
        distrusted += len(found) - len(trusted)
        if not photo.parts:
            errors.add(source.path, photo.name, "the photo has no part; leave it out, or annotate it")
        if trusted:
            columns = {"boxes": "box", "parts": "part", "states": "state", "trust": "trust"}
            rows.append(row | {name: [part[key] for part in trusted] for name, key in columns.items()})
    features = part_features(source.parts, source.states)
    return Dataset.from_list(rows, features=features) if rows else _empty(features), distrusted


def note_unlisted(sources: Iterable[Source], errors: RowErrors) -> None:
    """Note the photos that lie beside listed ones, but that none of the files names."""
    listed = defaultdict(set)
    owner = {}
    for source in sources:
        for photo in source.photos:
            path = source.folder / photo.name
            listed[path.parent].add(path.name)
            owner.setdefault(path.parent, source.path)
    for folder, names in listed.items():
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            photo = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
            if photo and path.name not in names:
                errors.add(owner[folder], path.name, f"the photo in {folder} has no annotation here")


def suggest(name: Any, known: Sequence[str]) -> str:
    """The end of a message about an unknown name."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f"; known are: {', '.join(known)}"


@dataclass
class _Frame:
    """The upright photo's size, and how boxes get there from the pixels that they are given in.

    Boxes are given in the upright photo, as annotation tools show it, unless the file's width and height
    fit the stored pixels alone.
    """

    width: int
    height: int
    orientation: int = 1

    @classmethod
    def of(cls, photo: PhotoRecord, width: int, height: int, orientation: int) -> _Frame:
        turned = orientation in TURNED
        upright = (height, width) if turned else (width, height)
        if photo.width is None and photo.height is None:
            return cls(*upright)
        try:
            given = tuple(int(value) for value in (photo.width, photo.height))
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"width and height are {photo.width!r} and {photo.height!r}") from None
        if given == upright:
            return cls(*upright)
        if given == (width, height):
            return cls(*upright, orientation)
        raise DataError(
            f"is listed as {given[0]} x {given[1]} pixels but has {upright[0]} x {upright[1]}: "
            "its boxes belong to another version of the photo"
        )

    def box(self, given: Any) -> list[float]:
        """The upright xyxy box of left, top, width, height; raises DataError where it cannot be one."""
        try:
            box = [float(value) for value in given]
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"the box is {given!r}, not four numbers") from None
        if len(box) != 4 or not all(map(math.isfinite, box)):
            raise DataError(f"the box is {given!r}, not four finite numbers")
        name = "left {:g}, top {:g}, width {:g}, height {:g}".format(*box)
        if box[2] <= 0 or box[3] <= 0:
            raise DataError(f"the box has no area: {name}")
        stored = (self.height, self.width) if self.orientation in TURNED else (self.width, self.height)
        upright = upright_boxes(xywh_to_xyxy([box]), self.orientation, *stored)[0]
        inside = upright.clip(0, [self.width, self.height, self.width, self.height])
        if np.abs(inside - upright).max() > EDGE_PX:
            size = "{} x {}".format(*stored)
            raise DataError(f"the box lies outside the photo of {size} pixels: {name}")
        inside = inside.astype(np.float32)
        if (inside[2:] <= inside[:2]).any():
            raise DataError(f"the box has no area within the photo: {name}")
        return inside.tolist()


def _parts(source: Source, photo: PhotoRecord, frame: _Frame, errors: RowErrors) -> list[dict]:
    numbers = ({name: i for i, name in enumerate(names)} for names in (source.parts, source.states))
    part_number, state_number = numbers
    good = []
    for part in photo.parts:
        try:
            if part.problem:
                raise DataError(part.problem)
            if not isinstance(part.name, str) or part.name not in part_number:
                raise DataError(f"unknown part {part.name!r}{suggest(part.name, source.parts)}")
            if not isinstance(part.state, str) or part.state not in state_number:
                raise DataError(f"unknown state {part.state!r}{suggest(part.state, source.states)}")
            row = {"part": part_number[part.name], "state": state_number[part.state]}
            good.append(row | {"box": frame.box(part.box), "trust": _trust(part.trust)})
        except DataError as error:
            errors.add(source.path, f"{photo.name}, {part.name}", str(error))
    return _without_doubles(source, photo, good, errors)


def _without_doubles(source, photo, parts, errors) -> list[dict]:
    """One of each that is told twice in the same words, none of those that contradict each other."""
    groups = defaultdict(list)
    for part in parts:
        groups[(part["part"], *(part["box"] if source.several else ()))].append(part)
    kept = []
    for (number, *_), group in groups.items():
        alike = all(part == group[0] for part in group)
        kept += group[:1] if alike else []
        if len(group) > 1:
            how = "alike" if alike else "and they differ"
            where = f"{photo.name}, {source.parts[number]}"
            errors.add(source.path, where, f"the part stands in the photo {len(group)} times, {how}")
    return kept


def _trust(value: Any) -> float:
    try:
        trust = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        trust = math.nan
    if not 0 <= trust <= 1:
        raise DataError(f"trust is {value!r}, not a number from 0 to 1")
    return trust


def _unrepeated(source: Source, errors: RowErrors) -> list[PhotoRecord]:
    first = {}
    for photo in source.photos:
        if photo.name in first:
            errors.add(source.path, photo.name, "the photo is listed more than once; the first one counts")
        else:
            first[photo.name] = photo
    return list(first.values())


def _header(path: Path) -> tuple[int, int, int] | str:
    """Stored width and height, and EXIF orientation, without decoding; or what is wrong."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return *image.size, orientation if orientation in range(1, 9) else 1
    except BROKEN as error:
        return f"{path}: is broken ({error})"


def _empty(features) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict({name: [] for name in features}, features=features)
