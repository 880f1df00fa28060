"""Annotations as CVAT exports them: XML 1.1 of images, with attributes of boxes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from xml.etree.ElementTree import Element

from geohf.data.splits import SPLIT_NAMES
from geohf.errors import DataError
from geohf.io import add_element, write_xml
from geohf.parts.attributes import OCCLUDED
from geohf.parts.markup import add_children, attributes_of, numbers, require_upright
from geohf.parts.records import PartRecord, PhotoRecord, Source

_SUBSETS = {name: split for split, names in SPLIT_NAMES.items() for name in names}
UNDEFINED = "__undefined__"  # what CVAT calls the value of an attribute that nobody chose
_NO_SUBSET = ("", "default")


def read_cvat(root: Element, path: Path, split: str) -> tuple[dict[str, Source], dict[str, list[str]]]:
    """The photos of each split, and the values of the attributes that the file lists.

    Boxes count, and what surrounds polygons and masks. An image's `subset` says its split; without one it is `split`.
    Photos of a project lie in `images/SUBSET`, and those of two subsets may have one name.

    Raises:
        DataError: the file is empty, that of a video, or has a subset that is no split.
    """
    if root.find("track") is not None:
        raise DataError(f"{path}: holds tracks of a video; export it as 'CVAT for images 1.1'")
    photos: dict[str, list[PhotoRecord]] = defaultdict(list)
    for image in root.iter("image"):
        if not image.get("name"):
            raise DataError(f"{path}: image {image.get('id')} has no name")
        name, subset = image.attrib["name"], image.get("subset", "")
        if subset.lower() not in (*_SUBSETS, *_NO_SUBSET):
            splits = ", ".join(SPLIT_NAMES)
            raise DataError(f"{path}: {name} is of the subset {subset!r}, and not of {splits}")
        place = f"images/{subset}/{name}" if subset else None
        photo = PhotoRecord(name, image.get("width"), image.get("height"), place=place)
        photo.parts = [_part(shape) for shape in image if shape.tag != "tag"]
        photos[_SUBSETS.get(subset.lower(), split)].append(photo)
    if not photos:
        raise DataError(f"{path}: holds no image")
    labels = [label for label in root.iter("label") if label.find("name") is not None]
    parts = [(label.findtext("name") or "").strip() for label in labels]
    values: dict[str, list[str]] = defaultdict(list)
    for attribute in (child for label in labels for child in label.iter("attribute")):
        kind = attribute.findtext("input_type") or "select"
        if kind in ("number", "text"):  # which list their range, or their default
            continue
        listed = [value.strip() for value in (attribute.findtext("values") or "").splitlines()]
        listed = ["false", "true"] if kind == "checkbox" else listed  # which lists its default
        known = values[(attribute.findtext("name") or "").strip()]
        known += [value for value in listed if value not in ("", UNDEFINED, *known)]
    sources = {name: Source(path, own, list(dict.fromkeys(parts)), []) for name, own in photos.items()}
    return sources, {name: own for name, own in values.items() if own}


def _part(shape: Element) -> PartRecord:
    told = ((child.get("name", ""), (child.text or "").strip()) for child in shape.iter("attribute"))
    attributes = {name: value for name, value in told if value != UNDEFINED}
    if shape.get(OCCLUDED) is not None:  # its own mark, unless an attribute is called so
        attributes.setdefault(OCCLUDED, "true" if shape.get(OCCLUDED) == "1" else "false")
    part = PartRecord(shape.get("label"), trust=attributes.pop("trust", 1.0), attributes=attributes)
    part.crowd = attributes.pop("iscrowd", "false") == "true"
    try:
        part.box = _box(shape)
        require_upright(shape.get("rotation"))
    except DataError as error:
        part.problem = str(error)
    return part


def _box(shape: Element) -> list[float]:
    if shape.tag == "mask":
        return numbers(shape.attrib, ("left", "top", "width", "height"))
    if shape.tag == "box":
        left, top, right, bottom = numbers(shape.attrib, ("xtl", "ytl", "xbr", "ybr"))
        return [left, top, right - left, bottom - top]
    if shape.tag == "polygon":
        points = [point.split(",") for point in shape.get("points", "").split(";")]
        try:
            x, y = (list(map(float, sides)) for sides in zip(*points, strict=True))
        except ValueError:
            raise DataError(f"the polygon's points are {shape.get('points')!r}") from None
        return [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    raise DataError(f"a {shape.tag} is no box, polygon or mask")


def write_cvat(path: str | Path, source: Source) -> None:
    """Write one split as XML 1.1 of images; the state is an attribute, and so are trust and the mark of a crowd."""
    root = Element("annotations")
    add_element(root, "version", "1.1")
    labels = add_element(add_element(add_element(root, "meta"), "task"), "labels")
    kinds = [("state", "select", source.states), ("trust", "text", []), ("iscrowd", "checkbox", ["false"])]
    kinds += [(name, "select", [UNDEFINED, *values]) for name, values in source.attributes.items()]
    for name in source.parts:
        label = add_children(labels, "label", {"name": name})
        attributes = add_element(label, "attributes")
        for key, kind, values in kinds:
            default = values[0] if values else "1"
            texts = {"name": key, "mutable": "False", "input_type": kind, "default_value": default}
            texts["values"] = "\n".join(values)
            add_children(attributes, "attribute", texts)
    for number, photo in enumerate(source.photos):
        image = add_element(root, "image", id=number, name=photo.name, width=photo.width, height=photo.height)
        for part in photo.parts:
            left, top, width, height = part.box
            corners = {"xtl": left, "ytl": top, "xbr": left + width, "ybr": top + height}
            sides = {key: f"{side:.4f}" for key, side in corners.items()}
            box = add_element(image, "box", label=part.name, source="manual", occluded=0, **sides, z_order=0)
            for key, value in (attributes_of(part) | ({"iscrowd": "true"} if part.crowd else {})).items():
                add_element(box, "attribute", value, name=key)
    write_xml(path, root)
