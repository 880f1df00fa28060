"""What one cell of a table says: a text, a class, a file in a folder, or a picture."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from geohf.errors import DataError

# how Python, pandas and JavaScript write a value that is missing, where they make text of a whole table
WRITTEN_EMPTY = ("nan", "NaN", "None", "<NA>")
# folders and a file, none of which begins with a dot
_PLAIN_NAME = re.compile(r"[a-zA-Z0-9_-][a-zA-Z0-9_ .-]*(/[a-zA-Z0-9_-][a-zA-Z0-9_ .-]*)*")


def text_of(cell) -> str | None:
    """A cell's text; None for an empty one, which is empty text in CSV, and None, NaN or NA in Parquet."""
    if isinstance(cell, str):  # nearly all, and there may be a million
        return cell.strip() or None
    import pandas as pd

    return None if pd.api.types.is_scalar(cell) and pd.isna(cell) else (str(cell).strip() or None)


def is_nothing(cell) -> bool:
    """Whether a cell is empty, of a column of pictures and lists, too."""
    if isinstance(cell, (int, float)):
        return cell != cell
    return not isinstance(cell, (Mapping, bytes, list, np.ndarray)) and text_of(cell) is None


def label_of(cell) -> str | None:
    """What a cell calls a class, a region or a drive; `3.0` is `3`, which pandas writes so where a column has holes, and
    `nan` and `None` are empty cells that were made text; `NA` and `null` are names.

    Raises:
        DataError: the cell holds a list, a dict, bytes or the like, which is no name.

    >>> label_of(3.0), label_of("3.0"), label_of("03"), label_of("v3.0"), label_of("")
    ('3', '3', '03', 'v3.0', None)
    >>> label_of("nan"), label_of("None"), label_of("NA")
    (None, None, 'NA')
    """
    if isinstance(cell, (Mapping, list, tuple, set, bytes)) or getattr(cell, "ndim", False):
        raise DataError(f"a name was expected, got {cell!r}"[:200])
    text = text_of(cell)
    if text in WRITTEN_EMPTY:
        return None
    whole, dot, rest = (text or "").partition(".")
    return whole if dot and whole.removeprefix("-").isdecimal() and not rest.strip("0") else text


def file_in(folder: str | Path, name: str) -> str:
    """`resolve_inside` as text."""
    if _PLAIN_NAME.fullmatch(name):  # nearly all, and there may be a million
        return os.path.join(Path(folder), name)
    return str(resolve_inside(folder, name))


def image_in(folder: str | Path, cell) -> dict:
    """`{"path": ..., "bytes": ...}` of a cell that names a file in the folder, or holds an image as Parquet can.

    Raises:
        DataError: the name is empty or leads out of the folder.
    """
    if isinstance(cell, (bytes, bytearray)):
        return {"path": None, "bytes": bytes(cell)}
    if hasattr(cell, "getexif"):  # a PIL image, as datasets decode it
        from datasets import Image

        return Image().encode_example(cell)
    if isinstance(cell, dict):
        if cell.get("bytes") is not None:
            return {"path": cell.get("path"), "bytes": bytes(cell["bytes"])}
        cell = cell.get("path")
        if isinstance(cell, str) and cell.rpartition("::")[2].startswith("hf://"):  # of a stream of the Hub
            return {"path": cell, "bytes": None}
    return {"path": file_in(folder, text_of(cell) or ""), "bytes": None}


def file_name(cell) -> str | None:
    """The file that a cell names, also where the image itself lies in the cell."""
    if isinstance(cell, dict):
        cell = cell.get("path")
    return None if isinstance(cell, (bytes, bytearray)) else text_of(cell)


def resolve_inside(folder: str | Path, name: str) -> Path:
    """The path of `name` inside `folder`, also where Windows or macOS wrote the name, or it was escaped for a URL.

    A table must not name files outside its image folder. It is the name that counts: a link inside the folder leads
    wherever its owner, who is no table, made it lead. Of the forms of a name the first that exists is taken: as it
    stands, with `\\` as a separator, with `%20` as a space and the like, with composed and with decomposed accents.

    Raises:
        DataError: `name` is empty, or climbs out of the folder; an absolute one may lie in it.
    """
    if not name or "\0" in name:
        raise DataError("the file name is empty" if not name else "the file name holds a NUL character")
    forms = [name, name.replace("\\", "/")]
    if "%" in name:
        forms += [text for text in map(unquote, forms) if "\0" not in text]
    if not all(text.isascii() for text in forms):
        forms += [unicodedata.normalize(form, text) for text in forms for form in ("NFC", "NFD")]
    paths = [_inside(Path(folder), form) for form in dict.fromkeys(forms)]
    return next((path for path in paths if len(paths) > 1 and path.exists()), paths[0])


def _inside(folder: Path, name: str) -> Path:
    parts = os.path.normpath(name)
    if os.path.isabs(name):
        bases = (os.path.abspath(folder), os.path.realpath(folder))
        above = next((base for base in bases if Path(parts).is_relative_to(base)), None)
        parts = os.path.relpath(parts, above) if above else os.pardir
    if parts.split(os.sep)[0] == os.pardir:
        raise DataError(f"the path {name!r} leads out of the folder {folder}")
    return folder / parts
