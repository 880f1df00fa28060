"""States that come beside the annotations, and annotations whose states are not wanted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from geohf.data.cells import text_of
from geohf.data.tables import RowErrors, find_column, line_of, read_table
from geohf.errors import DataError
from geohf.parts.records import PhotoRecord, Source
from geohf.parts.vocabulary import ABSENT, PRESENT, STATES

_PHOTO = ("image_id", "file_name", "filename", "image", "photo")
_NUMBER = ("annotation_id", "annotation")


class StateFile:
    """A table (CSV, Parquet, JSON Lines) that tells the states of boxes that stand in a file of annotations.

    A row has the `state`, and either the `annotation_id` of COCO's file, or the photo's `image_id` (its file's name) and
    the `part`, where that photo shows no more than one.

    Raises:
        DataError: columns are missing, or a box stands there twice with two states.
    """

    def __init__(self, path: str | Path):
        self.path = path
        table = read_table(path, ["state"])
        number = find_column(table.columns, _NUMBER)
        photo = find_column(table.columns, _PHOTO)
        if number is None and (photo is None or "part" not in table.columns):
            raise DataError(
                f"{path}: needs a column annotation_id, or image_id and part, beside state; "
                f"it has {', '.join(map(str, table.columns))}"
            )
        columns = [number] if number is not None else [photo, "part"]
        self._by_number = number is not None
        self._states: dict[tuple, str] = {}
        self._lines: dict[tuple, int] = {}
        for position, cells in enumerate(table[[*columns, "state"]].itertuples(index=False)):
            texts, state = [_text(cell) for cell in cells[:-1]], text_of(cells[-1])
            key = tuple(text for text in texts if text is not None)
            if state is None or len(key) < len(texts):
                raise DataError(f"{path}, row {line_of(table, position)}: a cell is empty")
            if self._states.setdefault(key, state) != state:
                raise DataError(f"{path}, row {line_of(table, position)}: {', '.join(key)} has two states")
            self._lines[key] = line_of(table, position)

    @property
    def names(self) -> list[str]:
        """The states: in the bicycle's order where they are its states, else by the alphabet."""
        states = set(self._states.values())
        return [s for s in STATES if s in states] if states <= set(STATES) else sorted(states)

    def apply(self, sources: list[Source], errors: RowErrors) -> None:
        """Give every box of the sources its state; a box without one, or a row without a box, is noted in `errors`."""
        left = dict(self._lines)
        for source in sources:
            source.states = self.names
            for photo in source.photos:
                shown = Counter(part.name for part in photo.parts)
                for part in photo.parts:
                    if part.crowd or part.problem:
                        continue
                    key = (_text(part.number),) if self._by_number else (photo.name, part.name)
                    if not self._by_number and shown[part.name] > 1:
                        part.problem = f"{photo.name} shows {shown[part.name]} of the part: {self.path} needs annotation_id"
                        continue
                    part.state = self._states.get(key)
                    left.pop(key, None)
                    if part.state is None:
                        part.problem = f"{self.path} has no state for {', '.join(map(str, key))}"
        for key, line in left.items():
            errors.add(self.path, line, f"no box is {', '.join(key)}")


def without_states(photos: list[PhotoRecord]) -> None:
    """Leave out the parts that are absent, and make all others `PRESENT`."""
    for photo in photos:
        photo.parts = [part for part in photo.parts if part.problem or part.crowd or part.state != ABSENT]
        for part in photo.parts:
            if not part.crowd:
                part.state = PRESENT


def _text(value: Any) -> str | None:
    """A key as text, whether a table holds it as a whole number, as 12.0 or as text."""
    return text_of(int(value) if isinstance(value, float) and value.is_integer() else value)
