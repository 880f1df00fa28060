"""XML of annotation tools: parsed without entities, its numbers checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from geohf.errors import DataError
from geohf.io import add_element
from geohf.parts.records import PartRecord, read_text


def parse_xml(text: str, path: str | Path) -> ElementTree.Element:
    """The root of a document.

    Raises:
        DataError: it is not XML, or declares entities, which no annotation tool writes.
    """
    if "<!ENTITY" in text:
        raise DataError(f"{path}: declares entities, which no annotation tool writes")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: is not XML ({error})") from None


def read_xml(path: str | Path) -> ElementTree.Element:
    """The root of the document in a file, see `parse_xml`."""
    return parse_xml(read_text(path), path)


def text_in(element: ElementTree.Element, name: str) -> str | None:
    """The text of the first child of this name, stripped; None where there is none."""
    return (element.findtext(name) or "").strip() or None


def add_children(parent: ElementTree.Element, name: str, texts: Mapping[str, Any]) -> ElementTree.Element:
    """A new last child with a child of its own for each of these texts."""
    child = add_element(parent, name)
    for key, text in texts.items():
        add_element(child, key, text)
    return child


def numbers(values: Mapping[str, str | None], names: tuple[str, ...]) -> list[float]:
    """The numbers of these names.

    Raises:
        DataError: one is missing or no number.
    """
    parsed = []
    for name in names:
        try:
            parsed.append(float(values.get(name) or ""))
        except ValueError:
            raise DataError(f"the box's {name} is {values.get(name)!r}, not a number") from None
    return parsed


def require_upright(rotation: Any) -> None:
    """Raise DataError where a box is turned by this many degrees."""
    try:
        turned = bool(float(rotation or 0))
    except (TypeError, ValueError):
        turned = True
    if turned:
        raise DataError(f"the box is rotated by {rotation} degrees; boxes must be upright")


def attributes_of(part: PartRecord) -> dict[str, str]:
    """What formats with attributes hold of a part beside its box: its state, attributes, and its trust where that is not 1."""
    told = {} if part.crowd else {"state": str(part.state), **part.attributes}
    return told if part.trust == 1 else told | {"trust": f"{part.trust:g}"}
