"""Annotations in the layout of Pascal VOC: an XML a photo, whose boxes name their first and last pixels, counted from 1.

So the left edge lies at xmin - 1, and the right one at xmax.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from geohf.data.cells import file_in
from geohf.data.splits import SPLIT_NAMES
from geohf.errors import DataError
from geohf.io import add_element, write_xml
from geohf.parts.markup import add_children, attributes_of, numbers, read_xml, require_upright, text_in
from geohf.parts.records import PartRecord, PhotoRecord, Source, read_text

logger = logging.getLogger(__name__)

LABEL_MAP = "labelmap.txt"
_FLAGS = {"0": False, "false": False, "1": True, "true": True}
_BACKGROUND = "background"  # CVAT lists it, and no box has it
_INNER = "part"  # an object's own, as PASCAL's people have head, hands and feet
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
# what the layout itself says of an object; all else is an attribute
_OWN = {"name", "pose", "truncated", "difficult", "bndbox", "robndbox", "part", "attributes", "polygon"}


def voc_files(folder: Path) -> dict[str, list[Path]]:
    """The XML files of each split: of the lists in `ImageSets/Main` over `Annotations`, of folders named after splits, or all.

    A test of which no photo has an XML, as competitions keep it, is left out with a warning.

    Raises:
        DataError: a list names a photo that has no XML.
    """
    own = (folder / "Annotations", folder / "annotations")
    inside = next((path for path in own if path.is_dir()), folder)
    lists = folder / "ImageSets" / "Main"
    splits = {}
    for split, names in SPLIT_NAMES.items():
        listed = next((lists / f"{name}.txt" for name in names if (lists / f"{name}.txt").is_file()), None)
        if listed is not None:
            lines = [line.strip() for line in read_text(listed).splitlines() if line.strip()]
            named = [(line, _listed(line, inside)) for line in lines]
            if split == "test" and not any(file for _, file in named):
                logger.warning("%s: no photo has an XML in %s: there is no test split", listed, inside)
                continue
            for line, file in named:
                if file is None:
                    raise DataError(f"{listed}: names {line}, which has no XML in {inside}")
            splits[split] = [file for _, file in named if file is not None]
        else:
            places = [base / name for name in names for base in (folder, inside)]
            files = (path for each in places for path in sorted(each.glob("*.xml")))
            splits[split] = list(dict.fromkeys(files))
    splits = {split: files for split, files in splits.items() if files}
    alone = sorted(inside.glob("*.xml" if inside == folder else "**/*.xml"))
    return splits or ({"train": alone} if alone else {})


def _listed(line: str, folder: Path) -> Path | None:
    """The XML of a line: a photo's name, perhaps with a number behind it; None where there is none."""
    for name in (line, line.split()[0]):
        path = Path(file_in(folder, f"{name}.xml"))
        if path.is_file():
            return path
    return None


def read_voc(path: Path, files: dict[str, list[Path]]) -> dict[str, Source]:
    """The photos of XML files, each split's.

    An object that is `difficult` is to be ignored, like a crowd of COCO. Pixels count from 1, unless one of the boxes
    begins below. What stands in an object beside the layout's own elements, or among its `attributes`, are its attributes.

    Raises:
        DataError: a file that cannot be read, or is none of this layout.
    """
    sources, names = {}, _class_names(path / LABEL_MAP)
    for split, listed in files.items():
        photos = [_photo(read_xml(file), file) for file in listed]
        sources[split] = Source(path, photos, names, [], selects=(path / "ImageSets").is_dir())
    parts = [part for source in sources.values() for part in source.records]
    if _BACKGROUND in names and not any(part.name == _BACKGROUND for part in parts):
        for source in sources.values():
            source.groups = frozenset({_BACKGROUND})
    inner = sorted({name for part in parts for name in part.attributes.pop(_INNER, ())})
    if inner:
        logger.warning("%s: objects have parts of their own (%s), which are not read", path, ", ".join(inner))
    boxes = [part.box for part in parts if part.box is not None]
    first = 0 if any(min(box[:2]) < 1 for box in boxes) else 1
    for part in parts:
        if part.box is not None:
            left, top, right, bottom = part.box
            left, top = left - first, top - first
            part.box = [left, top, right - left, bottom - top]
    return sources


def _class_names(path: Path) -> list[str]:
    """The names of `labelmap.txt`, lines of `name:color:parts:actions`, as CVAT writes it; none where there is no such file."""
    lines = [line.strip() for line in read_text(path).splitlines()] if path.is_file() else []
    names = [line.split(":")[0] for line in lines if line and not line.startswith("#")]
    return list(dict.fromkeys(names))


def _photo(root: Element, file: Path) -> PhotoRecord:
    if root.tag != "annotation":
        hint = ": name it itself, if it is CVAT's" if root.tag == "annotations" else ""
        raise DataError(f"{file}: its root is {root.tag!r}, not `annotation` as in Pascal VOC{hint}")
    size = root.find("size")
    sides = (None, None) if size is None else (text_in(size, "width"), text_in(size, "height"))
    photo = PhotoRecord(text_in(root, "filename") or f"{file.stem}.jpg", *sides)
    photo.parts = [_part(element, number) for number, element in enumerate(root.iter("object"), 1)]
    return photo


def _part(element: Element, number: int) -> PartRecord:
    attributes: dict[str, Any] = {
        child.tag: (child.text or "").strip() for child in element if child.tag not in _OWN and not len(child)
    }
    for attribute in element.iter("attribute"):
        attributes[text_in(attribute, "name") or ""] = text_in(attribute, "value") or ""
    inner = {text_in(part, "name") or "" for part in element.iter("part")}
    attributes |= {_INNER: inner} if inner else {}
    trust = attributes.pop("trust", 1.0)
    part = PartRecord(text_in(element, "name"), trust=trust, number=number, attributes=attributes)
    try:
        difficult = text_in(element, "difficult") or "0"
        if difficult.lower() not in _FLAGS:
            raise DataError(f"`difficult` is {difficult!r}, neither 0 nor 1")
        part.crowd = _FLAGS[difficult.lower()]
        if element.find("robndbox") is not None:
            raise DataError("the box is rotated (`robndbox`); boxes must be upright")
        box = element.find("bndbox")
        if box is None:
            raise DataError("the object has no `bndbox`")
        require_upright(text_in(box, "angle"))
        part.box = numbers({name: text_in(box, name) for name in _CORNERS}, _CORNERS)
    except DataError as error:
        part.problem = str(error)
    return part


def write_voc(folder: Path, split: str, source: Source) -> None:
    """Write `Annotations/NAME.xml` of each photo, the list `ImageSets/Main/<split>.txt`, and the parts' names as `labelmap.txt`.

    The layout has no list of states: one that no box has is lost, which is said.

    Raises:
        DataError: two photos have one name but for its ending.
    """
    stems = unique_stems(photo.name for photo in source.photos)
    for stem, photo in zip(stems, source.photos, strict=True):
        root = Element("annotation")
        add_element(root, "folder", "JPEGImages")
        add_element(root, "filename", photo.name)
        add_children(root, "size", {"width": photo.width, "height": photo.height, "depth": 3})
        add_element(root, "segmented", 0)
        for part in photo.parts:
            own = {"name": part.name, "pose": "Unspecified", "truncated": 0, "difficult": int(part.crowd)}
            element = add_children(root, "object", own)
            left, top, width, height = part.box
            sides = zip(_CORNERS, (left + 1, top + 1, left + width, top + height), strict=True)
            add_children(
                element, "bndbox", {key: f"{side:.4f}".rstrip("0").rstrip(".") for key, side in sides}
            )
            attributes = add_element(element, "attributes")
            for key, told in attributes_of(part).items():
                add_children(attributes, "attribute", {"name": key, "value": told})
        write_xml(folder / "Annotations" / f"{stem}.xml", root)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    names = "".join(f"{name}:::\n" for name in source.parts)
    (folder / LABEL_MAP).write_text(f"# label:color_rgb:parts:actions\n{names}", encoding="utf-8")


def unique_stems(names: Iterable[str]) -> list[str]:
    """The names without their endings; raises DataError where two are then one."""
    stems: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        if stem in stems:
            raise DataError(f"{stems[stem]} and {name} would share one file of annotations")
        stems[stem] = name
    return list(stems)
