"""Annotations in any of the layouts that are read, told apart by their content."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.parts.answer_table import is_answer_table, read_answer_table
from geohf.parts.attributes import read_attributes, read_states
from geohf.parts.coco import attribute_values, is_coco, read_coco
from geohf.parts.cvat import read_cvat
from geohf.parts.delftbikes import read_delftbikes
from geohf.parts.folders import annotation_files, holds, image_folder
from geohf.parts.label_studio import (
    LABEL_CONFIG,
    is_label_studio,
    read_label_config,
    read_label_studio,
    uploaded_names,
)
from geohf.parts.markup import parse_xml
from geohf.parts.records import JsonObject, Source, parse_json, read_text
from geohf.parts.state_file import without_states
from geohf.parts.voc import read_voc, voc_files
from geohf.parts.vocabulary import BIKE_PARTS, NO_STATES, PRESENT, STATES
from geohf.parts.yolo import is_yolo, read_yolo

logger = logging.getLogger(__name__)


@dataclass
class Reader:
    """Reads the files of a source, whatever their layout.

    Args:
        errors: notes what cannot be read of a file that can.
        parts, states, state_attribute: see `geohf.parts.data.load_parts`.
        attributes: name -> values of what is asked for beside the state; None: the values of the files.
    """

    errors: RowErrors
    parts: Sequence[str] | None = None
    states: Sequence[str] | None = None
    state_attribute: str | None = None
    attributes: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    _values: dict[str, list[str]] = field(
        default_factory=dict, init=False
    )  # of attributes, as files list them
    _open: list[Source] = field(default_factory=list, init=False)  # whose states still lie among attributes

    def read(self, path: Path, images: Path | None = None) -> dict[str, Source]:
        """split -> the photos of its annotations, with the folder that they lie in, and the names of all splits.

        Args:
            images: the folder of the photos, where it is not to be looked for.

        Raises:
            DataError: a file that cannot be read, or in no layout that is known.
        """
        sources: dict[str, Source] = {}
        files = annotation_files(path) if path.is_dir() else {"train": path}
        for split, file in files.items():
            layout, own = self._of_file(file, split, images)
            logger.info("%s: is in the layout of %s", file, layout)
            if sources.keys() & own.keys():
                raise DataError(f"{file}: tells of photos for {', '.join(own)}, as another file does")
            sources |= own
        if self._open:
            self._name_parts_and_states(path)
        if self.attributes:
            read_attributes(list(sources.values()), self.attributes, self._values)
        for split, source in sources.items():
            self._finish(source, split, images)
        return sources

    def _name_parts_and_states(self, path: Path) -> None:
        """The names where no file lists them all: those of every split together."""
        read_states(self._open, self.state_attribute, self.states, self._values, self.attributes)
        parts = [part for source in self._open for part in source.records]
        listed = dict.fromkeys(name for source in self._open for name in source.parts)
        found = {part.name for part in parts if isinstance(part.name, str)}
        names = list(self.parts or listed or sorted(found))
        if not names:
            self.errors.settle(kept=0)
            reason = next((f": {part.problem}" for part in parts if part.problem), "")
            raise DataError(f"{path}: no photo has a part{reason}")
        for source in self._open:
            source.parts = names

    def _of_file(self, path: Path, split: str, images: Path | None) -> tuple[str, dict[str, Source]]:
        if path.is_dir():
            return "Pascal VOC", self._with_attributes(read_voc(path, voc_files(path)))
        if is_yolo(path):
            return "YOLO", read_yolo(path, self.errors, self.state_attribute)
        if is_answer_table(path):
            return "a table of answers", self._with_attributes({split: read_answer_table(path, images)})
        text = read_text(path)
        if text.lstrip().startswith("<"):
            return self._of_xml(text, path, split)
        content = parse_json(text, path)
        if is_label_studio(content):
            source = read_label_studio(content, path, self.errors)
            config = path.parent / LABEL_CONFIG
            if config.is_file():
                source.parts, values = read_label_config(config)
                self._declare(values)
            return "Label Studio", self._with_attributes({split: source})
        if not isinstance(content, JsonObject):
            raise DataError(f"{path}: must be a JSON object, but is a {type(content).__name__}")
        if is_coco(content):
            self._declare(attribute_values(content))
            further = tuple(self.attributes)
            source = read_coco(content, path, self.errors, self.states, self.state_attribute, further)
            return "COCO", {split: source}
        states = list(self.states or STATES)
        photos = read_delftbikes(content, path, self.errors, states)
        source = Source(path, photos, list(self.parts or BIKE_PARTS), states, several=False)
        return "DelftBikes", {split: source}

    def _of_xml(self, text: str, path: Path, split: str) -> tuple[str, dict[str, Source]]:
        root = parse_xml(text, path)
        if root.tag == "annotations":
            sources, values = read_cvat(root, path, split)
            self._declare(values)
            return "CVAT", self._with_attributes(sources)
        if root.tag == "annotation":
            return "Pascal VOC", self._with_attributes(read_voc(path, {split: [path]}))
        raise DataError(f"{path}: is neither CVAT's XML of images nor Pascal VOC's; its root is {root.tag!r}")

    def _declare(self, values: Mapping[str, Sequence[str]]) -> None:
        for name, listed in values.items():
            known = self._values.setdefault(name, [])
            known += [value for value in listed if value not in known]

    def _with_attributes(self, sources: dict[str, Source]) -> dict[str, Source]:
        self._open += sources.values()
        return sources

    def _finish(self, source: Source, split: str, images: Path | None) -> None:
        if self.state_attribute == NO_STATES:
            without_states(source.photos)
            source.states = [PRESENT]
        if images is not None:  # the user knows better than the file
            source.folder = images
            for photo in source.photos:
                photo.place = None
        elif source.folder == Path():
            source.folder = _folder_of(source, split)


def _folder_of(source: Source, split: str) -> Path:
    """The folder of the photos; names that Label Studio gave to uploaded files are undone where that finds them."""
    names = [photo.name for photo in source.photos]
    path = source.path / "Annotations" if source.path.is_dir() else source.path
    folder = image_folder(path, split, names)
    before = uploaded_names(names)
    if before != names and not any(holds(folder, name) for name in names):
        other = image_folder(path, split, before)
        if any(holds(other, name) for name in before):
            for photo, name in zip(source.photos, before, strict=True):
                photo.name = name
            return other
    return folder
