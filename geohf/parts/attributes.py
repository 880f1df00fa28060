"""The attribute of a box that is its state, under whatever name a tool wrote it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geohf.errors import DataError
from geohf.parts.records import PartRecord, Source, value_of
from geohf.parts.vocabulary import NO_STATES, PRESENT, STATES, require_attributes

logger = logging.getLogger(__name__)

STATE_NAMES = ("state", "condition")  # what people call it, the first one found counts
OCCLUDED = "occluded"  # a mark that annotation tools have for every box, and perhaps a state
# attributes that annotation tools write of themselves
_TOOL_ATTRIBUTES = {OCCLUDED, "outside", "keyframe", "track_id", "rotation", "z_order", "group_id"}


def state_names(state_attribute: str | None) -> Sequence[str]:
    """The names that are looked for, where a user named this one or none."""
    return STATE_NAMES if state_attribute is None or state_attribute == NO_STATES else (state_attribute,)


def state_of(attributes: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    """The state among the attributes of a box; a box that is ticked, as CVAT has it, is `true`.

    Raises:
        DataError: no attribute has one of the names, or it is empty.
    """
    value = next((attributes[name] for name in names if attributes.get(name) not in (None, "")), None)
    if value is None:
        others = [name for name in attributes if name not in _TOOL_ATTRIBUTES]
        hint = f"; its attributes are {', '.join(others)} (--state_attribute names it, or is {NO_STATES})"
        raise DataError(f"{where} has no `{names[0]}`{hint if others else ''}")
    return str(value).lower() if isinstance(value, bool) else value


def is_occluded(attributes: Mapping[str, Any], names: Sequence[str], states: Iterable[str]) -> bool:
    """Whether a box that tells no state under these names is marked as occluded, which is one of the states."""
    silent = all(value_of(attributes.get(name)) is None for name in names)
    marked = str(attributes.get(OCCLUDED)).strip().lower() in ("1", "true")
    return silent and marked and OCCLUDED in states


def say_occluded(count: int, path: Path) -> None:
    """Say how many boxes have their state from their mark."""
    if count:
        told = "have no state of their own and are marked as occluded: that is taken for their state"
        logger.warning("%s: %d boxes %s", path, count, told)


def tells_no_state(boxes: Iterable[Mapping[str, Any]], path: Path, others: Iterable[str] = ()) -> bool:
    """Whether no box has an attribute that is or might be its state, besides these others; says so."""
    known = _TOOL_ATTRIBUTES | {*others}
    if any(not set(attributes) <= known for attributes in boxes):
        return False
    logger.warning("%s: no box has a `%s`: parts are found, and no states told", path, STATE_NAMES[0])
    return True


def read_states(
    sources: Sequence[Source],
    state_attribute: str | None,
    known: Sequence[str] | None,
    declared: Mapping[str, Sequence[str]],
    others: Iterable[str] = (),
) -> None:
    """Give every box of the sources its state from its attributes, and the sources the names of their states.

    Those are in the order of `known` or of the file; else in the bicycle's where they are its states, else by the alphabet.

    Args:
        state_attribute: see `geohf.parts.data.load_parts`.
        known: the states that there are; None: those of the file.
        declared: attribute -> its values, where the file lists them.
        others: names of attributes that are no states.
    """
    parts = [part for source in sources for part in source.records if not part.problem]
    names, silent = state_names(state_attribute), state_attribute == NO_STATES
    if state_attribute is None:
        silent = tells_no_state((part.attributes for part in parts), sources[0].path, others)
    for number, part in enumerate(parts, 1):
        if not part.crowd:
            _read_state(part, names, silent, f"box {part.number or number}")
    seen = {part.state for part in parts if isinstance(part.state, str)}
    listed = next((list(declared[name]) for name in names if name in declared), None)
    if silent and seen <= {PRESENT}:
        states = [PRESENT]
    else:
        states = list(known or listed or (STATES if seen <= set(STATES) else sorted(seen)))
    marked = [part for part in parts if not part.crowd and is_occluded(part.attributes, names, states)]
    for part in marked:
        part.state, part.problem = OCCLUDED, ""
    say_occluded(len(marked), sources[0].path)
    for source in sources:
        source.states = states


def _read_state(part: PartRecord, names: Sequence[str], silent: bool, where: str) -> None:
    try:
        part.state = str(state_of(part.attributes, names, where))
    except DataError as error:
        if silent:
            part.state = PRESENT
        else:
            part.problem = str(error)


def read_attributes(
    sources: Sequence[Source],
    asked: Mapping[str, Sequence[str] | None],
    declared: Mapping[str, Sequence[str]],
) -> None:
    """Tell the sources which attributes are asked for, and their values: those asked for, or of the file, or by the alphabet.

    Args:
        asked: name -> its values, None where the files say them.
        declared: as of `read_states`.

    Raises:
        DataError: an attribute that no box has; where its values are asked for, too, that is said and no more.
    """
    boxes = [part.attributes for source in sources for part in source.records]
    for name, values in asked.items():
        told = {value_of(attributes.get(name)) for attributes in boxes} - {None}
        if not told:
            others = sorted({other for attributes in boxes for other in attributes} - {name})
            hint = f"; there are {', '.join(others[:10])}" if others else ""
            if values is None:
                raise DataError(f"{sources[0].path}: no box has the attribute {name!r}{hint}")
            told_so = "%s: no box has the attribute %r, so it is not measured%s"
            logger.warning(told_so, sources[0].path, name, hint)
        for source in sources:
            source.attributes[name] = list(values or declared.get(name) or sorted(map(str, told)))
    require_attributes({name: sources[0].attributes[name] for name in asked})
