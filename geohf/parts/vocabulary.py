"""Names of parts and of their states: the bicycle's by default, any others from the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geohf.data.classes import class_names, names_in
from geohf.data.rows import RowView
from geohf.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset, DatasetDict, Features

# as the annotations of DelftBikes spell them, alphabetical
BIKE_PARTS = (
    "back_hand_break", "back_handle", "back_light", "back_mudguard", "back_pedal", "back_reflector", "back_wheel",
    "bell", "chain", "dress_guard", "dynamo", "front_handbreak", "front_handle", "front_light", "front_mudguard",
    "front_pedal", "front_wheel", "gear_case", "kickstand", "lock", "saddle", "steer",
)  # fmt: skip
STATES = ("intact", "damaged", "absent", "occluded")  # their order is `object_state_class`
ABSENT = "absent"
PRESENT = "present"  # the only state where nothing tells states: of every part that is there
# columns, by which no attribute can be called
_OF_DATASETS = ("image", "image_id", "width", "height", "boxes", "parts", "states", "trust", "iscrowd")
_OF_ANSWERS = ("input", "id", "part", "present", "state", "score", "state_score", "detections", "track")
_COLUMNS = frozenset((*_OF_DATASETS, *_OF_ANSWERS, "true_state", "xmin", "ymin", "xmax", "ymax"))
NO_STATES = "none"  # as `state_attribute`: states are not to be read


def names_of(
    source: Dataset | DatasetDict | Features | Mapping | RowView,
) -> tuple[dict[int, str], dict[int, str]]:
    """`id2label` of the parts and `id2state` of the states of a dataset with the columns of `part_features`.

    Args:
        source: the dataset, its splits, or its features; or a user's rows, see `as_photos`, whose names are taken in
            their order. Without a column `states` the only state is `PRESENT`.

    Raises:
        DataError: the columns `parts` and `states` are not lists of class labels, or rows tell numbers and no names.
    """
    source = source.get("train", source) if isinstance(source, dict) else source
    columns = ("parts", "states")
    if isinstance(source, RowView):
        known = class_names(source.rows, columns)
        listed = [known.get(column) or _names_in_rows(source, column) for column in columns]
    else:
        listed = [_names_in_features(getattr(source, "features", source), column) for column in columns]
    parts, states = (dict(enumerate(names)) for names in listed)
    return parts, states


def _names_in_features(features: Any, column: str) -> list[str]:
    if column == "states" and column not in features:
        return [PRESENT]
    names = getattr(getattr(features.get(column), "feature", None), "names", None)
    if not names:
        raise DataError(f"the dataset's column {column!r} must be a list of class labels")
    return names


def _names_in_rows(photos: RowView, column: str) -> list[str]:
    values = {value for cell in photos[column] for value in cell if value is not None}
    numbers = [value for value in values if not isinstance(value, str)]
    if numbers:
        raise DataError(f"{column} of the rows are numbers, such as {numbers[0]}: give their names")
    if not values:
        raise DataError(f"no row names any of its {column}")
    return sorted(values)


def attributes_of(
    source: Dataset | DatasetDict | Features | Mapping | RowView, names: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """The values of each attribute of a dataset, of which each is a column beside `states`.

    Args:
        source: as `names_of` takes it.
        names: the attributes; None: every column of `part_features` that is one.

    Raises:
        DataError: there is no such column, or it tells numbers and no names.
    """
    source = source.get("train", source) if isinstance(source, dict) else source
    if isinstance(source, RowView):
        columns: Any = source.column_names
        known = class_names(source.rows, names)
    else:
        columns = getattr(source, "features", source)
        known = names_in(columns)
    if names is None:
        return {name: values for name, values in known.items() if name not in _COLUMNS}
    for name in (name for name in names if name not in known):
        if name not in columns:
            raise DataError(f"there is no column {name!r}, which --attributes names")
        column: Any = source[name]
        cells = [value for cell in column[:] for value in cell or () if value not in (None, "")]
        if any(not isinstance(value, str) for value in cells) or not cells:
            raise DataError(
                f"the column {name!r} must hold names" if cells else f"the column {name!r} is empty"
            )
        known[name] = sorted(set(cells))
    return {name: known[name] for name in names}


def require_attributes(attributes: Mapping[str, Sequence[str]], state_attribute: str | None = None) -> None:
    """Raise DataError where an attribute has a name that is taken, no value, or one twice."""
    for name, values in attributes.items():
        if name in _COLUMNS or name == state_attribute:
            raise DataError(f"attributes: {name!r} cannot be one: it is the state, or the name of a column")
        if name.endswith("_score") and name.removesuffix("_score") in attributes:
            raise DataError(f"attributes: {name!r} is the column of another attribute's score")
        if not values or len(set(values)) < len(values):
            raise DataError(
                f"attributes: the values of {name!r} must be a list of different names, got {values}"
            )


def part_features(
    parts: Sequence[str] = BIKE_PARTS,
    states: Sequence[str] = STATES,
    attributes: Mapping[str, Sequence[str]] | None = None,
) -> Features:
    """The columns of a dataset of photos with their parts.

    `boxes` are xmin, ymin, xmax, ymax in pixels of the upright photo, whose `width` and `height` stand beside them. Where
    `iscrowd`, the box is a region with several of the part that were not told apart, and its state is -1. A photo without any
    part has empty lists. Each attribute, name -> values, is a column of its own, -1 where nobody told it.
    """
    from datasets import ClassLabel, Features, Image, List, Value

    return Features(
        {
            "image": Image(decode=False),
            "image_id": Value("string"),
            "width": Value("int32"),
            "height": Value("int32"),
            "boxes": List(List(Value("float32"), length=4)),
            "parts": List(ClassLabel(names=list(parts))),
            "states": List(ClassLabel(names=list(states))),
            "trust": List(Value("float32")),
            "iscrowd": List(Value("bool")),
        }
        | {name: List(ClassLabel(names=list(values))) for name, values in (attributes or {}).items()}
    )
