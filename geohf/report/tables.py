"""Numbers as text: Markdown for cards, CSV for spreadsheets."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from geohf.io import atomic_write, plain


def format_number(value: Any, digits: int = 4) -> str:
    """A value for a table: `digits` significant digits, whole part never cut, no exponent if avoidable.

    >>> [format_number(v) for v in (0.123456, 12345.678, 7, 1e-9, float("nan"), None, True)]
    ['0.1235', '12346', '7', '1e-09', '–', '–', 'yes']
    """
    value = plain(value)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def column_names(rows: Iterable[Mapping]) -> list[str]:
    """All keys of rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def markdown_table(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, digits: int = 4
) -> str:
    """Rows as an aligned Markdown table, numbers to the right.

    Args:
        rows: one dict per row; a missing entry is a dash.
        columns: which keys, in which order; by default all, in order of first appearance.
        digits: significant digits of floats.

    >>> print(markdown_table([{"set": "eval", "km": 12.3456}, {"set": "a|b", "km": 7}]))
    | set  |    km |
    | :--- | ----: |
    | eval | 12.35 |
    | a\\|b |     7 |
    """
    rows = list(rows)
    names = column_names(rows) if columns is None else columns
    if not names:
        return ""

    def cell(value) -> str:
        # A line end would end the row, a bar would start a cell, a bracket would start an HTML tag.
        text = " ".join(format_number(value, digits).split())
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

    lines = []
    for name in names:
        values = [plain(row.get(name)) for row in rows]
        cells = [cell(name), *map(cell, values)]
        numeric = any(v is not None for v in values) and all(
            v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in values
        )
        width = max(4, *map(len, cells))
        rule = "-" * (width - 1) + ":" if numeric else ":" + "-" * (width - 1)
        padded = [text.rjust(width) if numeric else text.ljust(width) for text in cells]
        lines.append([padded[0], rule, *padded[1:]])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*lines, strict=True))


def write_csv(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write dicts as CSV with a header of all their keys, in order of first appearance.

    A missing entry, None and NaN are empty cells; lists and dicts are written as JSON; floats keep every
    digit. The old file is replaced only when all of the new one is written. No rows make an empty file.
    What can be iterated twice is, and is not kept in memory.
    """
    rows = list(rows) if iter(rows) is rows else rows
    names = column_names(rows)
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        if names:
            writer.writerow(names)
        for row in rows:
            values = [plain(row.get(name)) for name in names]
            writer.writerow(
                [json.dumps(v, ensure_ascii=False) if isinstance(v, (list, dict)) else v for v in values]
            )
