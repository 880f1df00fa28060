"""Photos and their parts as a file names them, and the checks between that and a dataset."""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.data.cells import file_in
from geohf.data.tables import RowErrors
from geohf.errors import DataError, did_you_mean
from geohf.parts.frame import Frame, require_pixels
from geohf.parts.vocabulary import part_features
from geohf.vision.checks import check_images, header_of
from geohf.vision.files import told_apart, warn_unread
from geohf.vision.images import ImageError

if TYPE_CHECKING:
    from datasets import Dataset

UNKNOWN_STATE = -1  # of a crowd


@dataclass
class PartRecord:
    """One part as a file describes it, nothing checked: `box` is left, top, width, height.

    A `crowd` is a region with several of the part that were not told apart, in no one state.
    `problem` says what the reader could not make sense of, `number` is the part's id in the file, `attributes` are
    what a tool wrote beside the box, one of which may be its state.
    """

    name: Any
    state: Any = None
    box: Any = None
    trust: Any = 1.0
    problem: str = ""
    crowd: bool = False
    number: Any = field(default=None, compare=False)
    attributes: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class PhotoRecord:
    """One photo as a file describes it; `width` and `height` may be None.

    `place` is the path that the file gives beside the name, from the file's own folder. Where `shares`, boxes are
    shares of the upright photo's width and height.
    """

    name: str
    width: Any = None
    height: Any = None
    parts: list[PartRecord] = field(default_factory=list)
    place: str | None = None
    shares: bool = False


@dataclass
class Source:
    """Annotations of one split: their file, its photos, the names that it knows, and the folder that photos lie in."""

    path: Path
    photos: list[PhotoRecord]
    parts: Sequence[str]
    states: Sequence[str]
    folder: Path = Path()
    several: bool = True  # a photo may show a part more than once
    groups: frozenset[str] = frozenset()  # parts that only group others
    # name -> values of those that are asked for
    attributes: dict[str, list[str]] = field(default_factory=dict)
    selects: bool = False  # which photos of a folder count; others are no fault
    files: list[Path] = field(default_factory=list)  # of the photos, as they are found

    @property
    def records(self) -> list[PartRecord]:
        """The parts of all photos."""
        return [part for photo in self.photos for part in photo.parts]


class JsonObject(dict):
    """A JSON object that remembers the keys that stood in it twice, with all their values."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.pairs = pairs if len(pairs) > len(self) else None

    def entries(self) -> Iterable[tuple[str, Any]]:
        """All keys with their values, the ones named twice too."""
        return self.items() if self.pairs is None else self.pairs


def read_text(path: str | Path) -> str:
    """The text of a file, gzipped or not; raises DataError where it cannot be read."""
    try:
        data = Path(path).read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from None


def parse_json(text: str, path: str | Path) -> Any:
    """What a JSON file holds, its objects as `JsonObject`; raises DataError where it is not JSON."""
    try:
        return json.loads(text, object_pairs_hook=JsonObject)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from None


def dataset_of(source: Source, errors: RowErrors, min_trust: float = 0.0) -> tuple[Dataset, int]:
    """The photos that can be used, with the columns of `part_features`, and how many parts were left out for their trust.

    What is wrong is noted in `errors`. A photo all of whose parts are trusted less than `min_trust` is left out; one that is
    listed without any part shows that there is none, and stays.
    """
    from datasets import Dataset

    photos = _unrepeated(source, errors)
    present = {path for path in photos if path.is_file()}
    broken = check_images(sorted(present))
    with ThreadPoolExecutor(max_workers=8) as pool:
        whole = present - set(broken)
        headers = dict(zip(whole, pool.map(_header, whole), strict=True))
    _require_pixels(source, photos, headers)
    features = part_features(source.parts, source.states, source.attributes)
    rows, distrusted = [], 0
    for path, photo in photos.items():
        missing = f"the photo is not on disk, in {source.folder}"
        header = missing if path not in present else broken.get(path) or headers[path]
        if isinstance(header, str):  # why there is none
            errors.add(source.path, photo.name, header)
            continue
        try:
            frame = Frame.of(photo.width, photo.height, *header)
        except DataError as error:
            errors.add(source.path, photo.name, str(error))
            continue
        image = {"path": str(path), "bytes": None}
        row = {"image": image, "image_id": photo.name, "width": frame.width, "height": frame.height}
        parts = _parts(source, photo, frame, errors)
        trusted = [part for part in parts if part["trust"] >= min_trust]
        distrusted += len(parts) - len(trusted)
        if trusted or not photo.parts:
            rows.append(
                row | {name: [part[name] for part in trusted] for name in features if name not in row}
            )
    cells = {name: [row[name] for row in rows] for name in features}
    return Dataset.from_dict(cells, features=features), distrusted


def note_unlisted(sources: Iterable[Source], errors: RowErrors) -> None:
    """Note the photos that lie beside listed ones, but that none of the files names."""
    listed = defaultdict(set)
    owner: dict[Path, Path] = {}
    for source in sources:
        for path in source.files if not source.selects else ():
            listed[path.parent].add(path.name)
            owner.setdefault(path.parent, source.path)
    for folder, names in listed.items():
        lying = folder.iterdir() if folder.is_dir() else []
        photos, others = told_apart(p for p in lying if p.is_file() and not p.name.startswith("."))
        for path in photos:
            if path.name not in names:
                errors.add(owner[folder], path.name, f"the photo in {folder} has no annotation here")
        notes = {".json", ".csv", ".txt", ".md", ".yaml", ".xml"}  # that belong to annotations
        warn_unread(folder, [p.name for p in others if p.suffix.lower() not in notes and p.name not in names])


def _require_pixels(source: Source, photos: Mapping[Path, PhotoRecord], headers: dict) -> None:
    boxes, sizes = [], []
    for path, photo in photos.items():
        if isinstance(headers.get(path), tuple) and not photo.shares:
            boxes += [part.box for part in photo.parts]
            sizes += [headers[path][:2]] * len(photo.parts)
    require_pixels(boxes, sizes, source.path)


def _parts(source: Source, photo: PhotoRecord, frame: Frame, errors: RowErrors) -> list[dict]:
    names = {"part": source.parts, "state": source.states, **source.attributes}
    numbers = {kind: {name: i for i, name in enumerate(known)} for kind, known in names.items()}
    good = []
    for part in photo.parts:
        try:
            if part.problem:
                raise DataError(part.problem)
            # by the names of columns, which no attribute can have
            row = {"parts": _number(part.name, numbers, "part"), "iscrowd": part.crowd}
            row["states"] = UNKNOWN_STATE if part.crowd else _number(part.state, numbers, "state")
            for name in source.attributes:
                told = value_of(part.attributes.get(name))
                known = UNKNOWN_STATE if told is None else _number(told, numbers, name)
                row[name] = UNKNOWN_STATE if part.crowd else known
            box = frame.of_shares(part.box) if photo.shares else part.box
            good.append(row | {"boxes": frame.box(box), "trust": trust_of(part.trust)})
        except DataError as error:
            errors.add(source.path, f"{photo.name}, {part.name}", str(error))
    return _without_doubles(source, photo, good, errors)


def _number(name: Any, numbers: Mapping[str, Mapping[str, int]], kind: str) -> int:
    known = numbers[kind]
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(name, known) or f"; known are: {', '.join(known)}"
        raise DataError(f"unknown {kind} {name!r}{hint}")
    return known[name]


def _told(part: PartRecord, source: Source) -> list[str | None]:
    return [value_of(part.attributes.get(name)) for name in source.attributes]


def value_of(told: Any) -> str | None:
    """The value of an attribute as text, None where it is empty; what is ticked, as CVAT has it, is `true`."""
    text = "" if told is None else str(told).strip()
    return (text.lower() if isinstance(told, bool) else text) or None


def _without_doubles(source, photo, parts, errors) -> list[dict]:
    """One of each that is told twice in the same words, none of those that contradict each other."""
    groups = defaultdict(list)
    for part in parts:
        key = (part["parts"], part["iscrowd"], *(part["boxes"] if source.several else ()))
        groups[key].append(part)
    kept = []
    for (number, *_), group in groups.items():
        alike = all(part == group[0] for part in group)
        kept += group[:1] if alike else []
        if len(group) > 1:
            how = "alike" if alike else "and they differ"
            where = f"{photo.name}, {source.parts[number]}"
            errors.add(source.path, where, f"the part stands in the photo {len(group)} times, {how}")
    return kept


def trust_of(value: Any) -> float:
    """How far an annotation is trusted; raises DataError where it is no number from 0 to 1."""
    try:
        trust = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        trust = math.nan
    if not 0 <= trust <= 1:
        raise DataError(f"trust is {value!r}, not a number from 0 to 1")
    return trust


def _unrepeated(source: Source, errors: RowErrors) -> dict[Path, PhotoRecord]:
    """The photos by their files; one of those that are listed twice alike, none that are told in two ways."""
    listed = defaultdict(list)
    for photo in source.photos:
        try:
            path = _file_of(source, photo)
            source.files.append(path)
            listed[path].append(photo)
        except DataError as error:
            errors.add(source.path, photo.name, str(error))
    photos = {}
    for path, same in listed.items():
        told = [(photo.parts, [_told(part, source) for part in photo.parts]) for photo in same]
        alike = all(each == told[0] for each in told)
        if alike:
            photos[path] = same[0]
        if len(same) > 1:
            how = "; the first one counts" if alike else ", and they differ: none counts"
            errors.add(source.path, same[-1].name, f"the photo is listed more than once{how}")
    return photos


def _file_of(source: Source, photo: PhotoRecord) -> Path:
    if photo.place is not None and not os.path.isabs(photo.place):
        place = Path(file_in(source.path.parent, photo.place))
        if place.is_file():
            return place
    return Path(file_in(source.folder, photo.name))


def _header(path: Path) -> tuple[int, int, int] | str:
    try:
        return header_of(path)
    except ImageError as error:
        return str(error)
