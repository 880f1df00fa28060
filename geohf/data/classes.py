"""Classes as people's rows hold them: names, numbers of a `ClassLabel`, scalars of numpy and torch, or nothing."""

from __future__ import annotations

import difflib
import logging
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from geohf.errors import DataError, listed

logger = logging.getLogger(__name__)

UNLABELED = -100  # what torch's cross entropy leaves out


def class_number(value: Any, label2id: Mapping[str, int], what: str = "class") -> int:
    """The number of a class by its name or its number; UNLABELED for None, NaN, an empty name, -1 and -100.

    Where names are numbers ("3", of a region), a number is a name.

    Raises:
        DataError: there is no such class; the message names the nearest.

    >>> class_number("Maine", {"Maine": 0, "Texas": 1}), class_number(1, {"Maine": 0, "Texas": 1})
    (0, 1)
    >>> class_number(3.0, {"1": 0, "3": 1}), class_number(None, {"1": 0})
    (1, -100)
    """
    if isinstance(value, str) and value in label2id:
        return int(label2id[value])
    value = value.item() if hasattr(value, "item") and getattr(value, "size", None) != 0 else value
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return UNLABELED
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        text = str(value).strip()
        whole, _, rest = text.partition(".")  # 3.0 is 3: pandas writes so where a column has holes
        for name in (text, whole if not rest.strip("0") else text):
            if name in label2id:
                return int(label2id[name])
        if not isinstance(value, str) and math.isfinite(value) and value == int(value):
            if value in (-1, UNLABELED):
                return UNLABELED
            if 0 <= value < len(label2id) and not any(_is_number(name) for name in label2id):
                return int(value)
    raise DataError(f"the model knows no {what} {value!r}{_hint(value, label2id)}")


def class_numbers(
    values: Iterable, label2id: Mapping[str, int], what: str = "class", rows: Sequence | None = None
) -> np.ndarray:
    """(n,) int64 `class_number` of each value.

    Args:
        rows: what an error calls the rows; their positions where None.
    """
    numbers = []
    for i, value in enumerate(values):
        try:
            numbers.append(class_number(value, label2id, what))
        except DataError as error:
            row = i if rows is None or rows[i] is None else rows[i]
            raise DataError(f"row {row}: {error}") from None
    return np.array(numbers, np.int64)


def classes_of(names: Sequence[str], cell: Any) -> Any:
    """`class_of` of a cell, or of each entry of a cell that is a list.

    A list's numbers that do not exist stay: whoever reads the row can name it and the entry.

    >>> classes_of(["wheel", "bell"], [1, 0, -1, 7])
    ['bell', 'wheel', None, 7]
    """
    cell = cell.tolist() if getattr(cell, "ndim", 0) else cell
    if not isinstance(cell, (list, tuple)):
        return class_of(names, cell)
    named = []
    for entry in cell:
        try:
            named.append(class_of(names, entry))
        except DataError:
            named.append(entry)
    return named


def class_of(names: Sequence[str], number: Any) -> str | None:
    """The name of a number of a `ClassLabel`; -1 and None have none, and a name is its own.

    >>> class_of(["Maine", "Texas"], 1)
    'Texas'
    """
    if isinstance(number, str):  # a transform wrote it there
        return number
    if number is None or number == -1 or number != number:
        return None
    if not 0 <= number < len(names):
        raise DataError(
            f"class {number} does not exist: there are {len(names)} from 0 ({', '.join(names[:5])})"
        )
    return names[int(number)]


def warn_of_spellings(names: Iterable[str], what: str, short: Mapping[str, str] | None = None) -> None:
    """Tell of classes whose names differ only in leading zeros, spaces around, the case of letters or how Unicode writes them.

    Args:
        what: they are called, in the plural.
        short: abbreviations -> names that they stand for, in small letters.
    """
    spellings = defaultdict(list)
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold().strip()
        plain = (short or {}).get(plain, plain)
        spellings[str(int(plain)) if plain.removeprefix("-").isdecimal() else plain].append(name)
    alike = [" and ".join(map(ascii, same)) for same in spellings.values() if len(same) > 1]
    if alike:
        logger.warning("%s that may be one, written differently: %s", what, listed(alike))


def class_names(dataset: Any, columns: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Column -> names of its classes, of each column of a dataset that is a `ClassLabel`, or a list of such.

    Args:
        dataset: of datasets, or what torch wraps around one (`Subset`, `ConcatDataset`); others know no classes.
        columns: only these.

    Raises:
        DataError: datasets that torch joined number their classes differently.
    """
    if not hasattr(dataset, "features"):
        if hasattr(dataset, "dataset"):
            return class_names(dataset.dataset, columns)
        joined = [class_names(part, columns) for part in getattr(dataset, "datasets", None) or ()]
        if any(names != joined[0] for names in joined):
            raise DataError(
                "the datasets that are joined number their classes differently: give them the same features (`cast`)"
            )
        return joined[0] if joined else {}
    return names_in(dataset.features if isinstance(dataset.features, Mapping) else {}, columns)


def names_in(features: Mapping[str, Any], columns: Iterable[str] | None = None) -> dict[str, list[str]]:
    """As `class_names`, of the features of a dataset."""
    names_of = {}
    for column in features if columns is None else columns:
        feature = features.get(column)
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            names_of[column] = list(names)
    return names_of


def column_of(dataset: Any, column: str) -> list:
    """A column's values, classes by their names; None for each row where there is no such column."""
    if column not in dataset.column_names:
        return [None] * len(dataset)
    names = class_names(dataset, [column]).get(column)
    values = dataset[column][:]
    return list(values) if names is None else [class_of(names, value) for value in values]


class NamedClasses:
    """A collator whose rows come with the names of their classes, which numbers alone do not tell.

    Args:
        collator: called with a list of rows.
        names: see `class_names`.
    """

    def __init__(self, collator: Callable, names: Mapping[str, Sequence[str]]):
        self.collator, self.names = collator, dict(names)

    def __call__(self, rows: list[Mapping]) -> Any:
        return self.collator([named(row, self.names) for row in rows])


def with_names(rows: Any, names: Mapping[str, Sequence[str]]) -> Any:
    """Rows that give the names of their classes in place of the numbers.

    Args:
        rows: dicts, by number or one after the other.
        names: see `class_names`.

    >>> [*with_names([{"region": 1}], {"region": ["Maine", "Texas"]})]
    [{'region': 'Texas'}]
    """
    return _NamedRows(rows, names) if hasattr(rows, "__len__") else _NamedStream(rows, names)


class _NamedStream:
    def __init__(self, rows: Any, names: Mapping[str, Sequence[str]]):
        self.rows, self.names = rows, names

    def __iter__(self) -> Iterator[dict]:
        return (named(row, self.names) for row in self.rows)


class _NamedRows(_NamedStream, Sequence):
    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return named(self.rows[index], self.names)


def named(row: Mapping, names: Mapping[str, Sequence[str]]) -> dict:
    """A row with the names of its classes in place of the numbers, see `class_names`."""
    told = {column: classes_of(known, row[column]) for column, known in names.items() if column in row}
    return {**row, **told}


@lru_cache(maxsize=4096)  # asked of every name for every number
def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _hint(value: Any, label2id: Mapping[str, int]) -> str:
    text, lower = str(value).strip(), {name.lower(): name for name in reversed([*label2id])}
    close = difflib.get_close_matches(text.lower(), lower, n=1)
    known = ", ".join(list(label2id)[:20])
    meant = f" (did you mean {lower[close[0]]!r}?)" if close else ""
    return f"{meant}; it knows: {known}{', ...' if len(label2id) > 20 else ''}"
