"""Annotations in YOLO's layout: data.yaml, a folder of photos a split, and a text file of shares beside each photo.

Darknet's obj.data, which CVAT writes as "YOLO 1.1", says the same in lines of `key = value`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from geohf.data.cells import file_in
from geohf.data.splits import SPLIT_NAMES
from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.io import atomic_write
from geohf.parts.records import PartRecord, PhotoRecord, Source, read_text
from geohf.parts.voc import unique_stems
from geohf.parts.vocabulary import NO_STATES, PRESENT
from geohf.vision.files import image_files

DARKNET = ".data"
_YAML = (".yaml", ".yml")
_BETWEEN = "__"  # of a part's name and its state's, which the layout itself has no place for
_BEYOND = 0.01  # shares may lie this far outside the photo before they are taken for pixels


def is_yolo(path: Path) -> bool:
    """Whether a file is called as those that name the photos and classes of this layout."""
    return path.suffix.lower() in (*_YAML, DARKNET)


def read_yolo(path: Path, errors: RowErrors, state_attribute: str | None = None) -> dict[str, Source]:
    """The photos of each split that a data.yaml or obj.data names; a photo without a file of labels shows no part.

    Where every class is called `PART__STATE`, boxes have states. Of a polygon the box around it counts.

    Args:
        state_attribute: `none` leaves the names whole.

    Raises:
        DataError: no names, no photos, keypoints, or a folder outside that of the file.
    """
    content = _darknet(path) if path.suffix.lower() == DARKNET else _yaml(path)
    names = _names(content.get("names"), path)
    if content.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: `nc` is {content['nc']!r}, and `names` lists {len(names)}")
    if content.get("kpt_shape"):
        raise DataError(f"{path}: is of keypoints (`kpt_shape`), not of boxes")
    pairs = [(name, PRESENT) for name in names] if state_attribute == NO_STATES else _pairs(names)
    parts, states = (list(dict.fromkeys(each)) for each in zip(*pairs, strict=True))
    sources = {}
    for split, aliases in SPLIT_NAMES.items():
        entry = next((content[name] for name in aliases if content.get(name)), None)
        if entry is not None:
            folder, names = _photos(entry, content.get("path"), path)
            labels = [labels_of(folder / name, path.parent) for name in names]
            if names and not any(file.is_file() for file in labels):
                raise DataError(
                    f"{path} [{split}]: no photo has a file of labels; {labels[0]} would be the first"
                )
            photos = [PhotoRecord(name, shares=True) for name in names]
            for photo, file in zip(photos, labels, strict=True):
                photo.parts = _parts(file, pairs)
            sources[split] = Source(path, photos, parts, states, folder, selects=True)
            lying = {file for place in {f.parent for f in labels} for file in place.glob("*.txt")}
            for stray in sorted(lying - {*labels}):
                if stray.name != "classes.txt":
                    why = f"the labels in {stray.parent} belong to no photo of {split}"
                    errors.add(path, stray.name, why)
    if not sources:
        raise DataError(f"{path}: names no folder of photos as `train`, `val` or `test`")
    _refuse_no_polygons([part for source in sources.values() for part in source.records])
    return sources


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Part and state of each class; the name whole where not every class names both."""
    pairs = [name.rpartition(_BETWEEN)[::2] for name in names]
    told = all(part and state for part, state in pairs)
    return pairs if told else [(name, PRESENT) for name in names]


def _yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: is not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(f"{path}: has no `names` of classes, as YOLO's data.yaml does")
    return content


def _darknet(path: Path) -> dict:
    """What a data.yaml would say: the names stand in a file of their own, a line each."""
    lines = [line.partition("=") for line in read_text(path).splitlines() if "=" in line]
    content: dict[str, Any] = {key.strip(): value.strip() for key, _, value in lines if value.strip()}
    if "names" not in content:
        raise DataError(f"{path}: has no `names` of classes, as Darknet's obj.data does")
    names = read_text(_place(content["names"], None, path)).splitlines()
    return content | {"names": [name.strip() for name in names if name.strip()]}


def _names(given: Any, path: Path) -> list[str]:
    names = given
    if isinstance(given, dict):
        if set(given) != set(range(len(given))):
            raise DataError(f"{path}: the numbers of `names` must be 0 to {len(given) - 1}")
        names = [given[number] for number in range(len(given))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise DataError(f"{path}: `names` must be a list of different names, but is {given!r}")
    for name in names:
        if name is None or isinstance(name, bool):  # no, off, yes and null of YAML
            raise DataError(
                f"{path}: `names` holds {name!r}; put a name that YAML reads so in quotes, as 'no'"
            )
    return list(map(str, names))


def _photos(entry: Any, base: Any, path: Path) -> tuple[Path, list[str]]:
    """The folder of the photos of a split, and their names in it."""
    entries = entry if isinstance(entry, list) else [entry]
    places = [_place(str(name), base, path) for name in entries]
    if len(places) == 1 and places[0].is_dir():
        return places[0], _names_in(places[0])
    photos = []
    for place in places:
        if place.is_dir():
            photos += [str((place / name).relative_to(path.parent)) for name in _names_in(place)]
        else:  # a list of photos
            lines = [line.strip() for line in read_text(place).splitlines() if line.strip()]
            photos += [_listed(line, path.parent) for line in lines]
    return path.parent, photos


def _listed(line: str, folder: Path) -> str:
    """The name of a photo of a list; CVAT puts `data/` before those of the folder itself."""
    name = line.removeprefix("./")
    return name if (folder / name).is_file() else name.removeprefix("data/")


def _names_in(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in image_files(folder)]


def _place(name: str, base: Any, path: Path) -> Path:
    """Where a folder or list lies; Roboflow writes `../train/images` for `train/images`, CVAT `data/train.txt` for `train.txt`."""
    relative = base and not Path(str(base)).is_absolute()
    for root in [path.parent / str(base), path.parent] if relative else [path.parent]:
        for form in (name, name.removeprefix("../"), name.removeprefix("data/")):
            try:
                place = Path(file_in(path.parent, str((root / form).relative_to(path.parent))))
            except (DataError, ValueError):
                continue
            if place.exists():
                return place
    raise DataError(f"{path}: {name!r} is no folder or list of photos in {path.parent}")


def labels_of(photo: Path, root: Path) -> Path:
    """The file of labels of a photo: `labels` takes the place of the last `images` in its path, if there is one."""
    parts = list(photo.relative_to(root).parts) if photo.is_relative_to(root) else [photo.name]
    if "images" in parts:
        parts[-1 - parts[::-1].index("images")] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _parts(labels: Path, pairs: Sequence[tuple[str, str]]) -> list[PartRecord]:
    parts = []
    for number, line in enumerate(read_text(labels).splitlines() if labels.is_file() else [], 1):
        if not line.strip():
            continue
        cell, *sides = line.split()
        part = PartRecord(cell, number=f"{labels.name}, line {number}")
        try:
            if not cell.isdecimal() or int(cell) >= len(pairs):
                raise DataError(f"unknown class {cell}; known are 0 to {len(pairs) - 1}")
            part.name, part.state = pairs[int(cell)]
            part.box, part.attributes = _box(sides)
        except DataError as error:
            part.problem = f"{part.number}: {error}"
        parts.append(part)
    return parts


def _box(cells: Sequence[str]) -> tuple[list[float], dict[str, Any]]:
    """left, top, width, height of a line's numbers as shares, and of a polygon its `corners`."""
    try:
        sides = [float(cell) for cell in cells]
    except ValueError:
        raise DataError(f"{' '.join(cells)} are no numbers") from None
    if not all(-_BEYOND <= side <= 1 + _BEYOND for side in sides):
        raise DataError(f"{' '.join(cells)}: the sides must be shares of the photo, from 0 to 1")
    if len(sides) == 4:
        x, y, width, height = sides
        return [x - width / 2, y - height / 2, width, height], {}
    if len(sides) < 6 or len(sides) % 2:
        raise DataError(f"has {len(sides)} numbers behind the class, and neither 4 nor those of a polygon")
    x_corners, y_corners = sides[::2], sides[1::2]
    left, top = min(x_corners), min(y_corners)
    upright = all(len(set(corners)) == 2 for corners in (x_corners, y_corners))
    corners = {"corners": len(x_corners), "upright": upright, "numbered": sides[-1] in (0, 1)}
    return [left, top, max(x_corners) - left, max(y_corners) - top], corners


def _refuse_no_polygons(parts: list[PartRecord]) -> None:
    """Where all polygons have four corners, they are rotated boxes, unless they stand upright.

    Three that all end in 0 or 1 are boxes with what a tracker adds; a larger number of a track is no share already.
    """
    polygons = [part for part in parts if part.attributes]
    corners = {part.attributes["corners"] for part in polygons}
    tracked = corners == {3} and all(part.attributes["numbered"] for part in polygons)
    for part in polygons:
        if tracked:
            part.problem = f"{part.number}: a box, its confidence and its track, as trackers write them; leave the last two out"
        elif corners == {4} and not part.attributes["upright"]:
            part.problem = f"{part.number}: four corners of a rotated box; boxes must be upright"
        part.attributes = {}


def write_yolo(folder: Path, splits: Mapping[str, Source]) -> None:
    """Write data.yaml and `labels/<split>/NAME.txt` beside `images/<split>`; with states a class is `PART__STATE`.

    Raises:
        DataError: a crowd, which the layout cannot say, two photos whose labels would be one file, or names that would be read as
            others.
    """
    first = next(iter(splits.values()))
    silent = list(first.states) == [PRESENT]
    pairs = [(part, state) for part in first.parts for state in first.states]
    names = [part if silent else f"{part}{_BETWEEN}{state}" for part, state in pairs]
    for name, pair, read in zip(names, pairs, _pairs(names), strict=True):
        if pair != read:
            raise DataError(
                f"{name!r} would be read as the part {read[0]!r} in the state {read[1]!r}: in YOLO {_BETWEEN!r} stands "
                "between the two"
            )
    number_of = {pair: number for number, pair in enumerate(pairs)}
    content: dict[str, Any] = {}
    for split, source in splits.items():
        name = {"validation": "val"}.get(split, split)
        content[name] = f"images/{name}"
        unique_stems(photo.name for photo in source.photos)
        for photo in source.photos:
            lines = []
            for part in photo.parts:
                if part.crowd:
                    raise DataError(
                        f"{photo.name}: shows {part.name!r} as a crowd, which this layout cannot say"
                    )
                left, top, width, height = part.box
                sides = (left + width / 2, top + height / 2, width, height)
                size = (photo.width, photo.height) * 2
                shares = (f"{side / whole:.9f}" for side, whole in zip(sides, size, strict=True))
                lines.append(f"{number_of[part.name, part.state]} {' '.join(shares)}\n")
            with atomic_write(labels_of(folder / "images" / name / photo.name, folder)) as file:
                file.writelines(lines)
    content["names"] = dict(enumerate(names))
    with atomic_write(folder / "data.yaml") as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)
