"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np

from geohf.errors import DataError


def cache_folder(kind: str) -> Path:
    """The folder of one kind of cache in `$GEOHF_CACHE`, or in `geohf` where Hugging Face keeps its caches."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("GEOHF_CACHE") or Path(HF_HOME) / "geohf") / kind


def require_writable(path: str | os.PathLike) -> None:
    """Raise DataError where no file can be written under a name: before the work, and not after it."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise DataError(f"{path}: {above.name} is a file, not a folder; give the output another name")
    if not os.access(above, os.W_OK):
        raise DataError(f"{path}: {above} may not be written to; give the output another place")


def refuse_overwriting(path: str | os.PathLike, inputs: Iterable[Any]) -> None:
    """Raise DataError where an output is one of the files that are read, by whatever name; what is no name is passed over."""
    for file in inputs:
        there = isinstance(file, (str, os.PathLike)) and os.path.exists(path) and os.path.exists(file)
        if there and os.path.samefile(path, file):
            raise DataError(
                f"{path}: is an input, {file}, and would be overwritten; give the output another name"
            )


@contextmanager
def atomic_write(path: str | os.PathLike, binary: bool = False) -> Iterator[IO]:
    """Open a file for writing that appears under its name only when the block ends without an error.

    See `atomic_path`; text is UTF-8, with `\\n` line ends on every system.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a" / "note.txt"
    >>> with atomic_write(target) as file:
    ...     _ = file.write("done")
    >>> target.read_text()
    'done'
    """
    # Mode "x" keeps the umask's permissions, which tempfile would narrow to the owner alone.
    mode, encoding, newline = ("xb", None, None) if binary else ("x", "utf-8", "\n")
    with atomic_path(path) as temporary, open(temporary, mode, encoding=encoding, newline=newline) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden name in the same folder, made if it is missing, which replaces `path` when the block ends well.

    If the block raises, the old file stays as it was and the hidden one is removed.
    """
    path = Path(path)
    require_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random bytes rather than the process id: two threads, or two hosts on one disk, may write at once.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def natural_key(name: str | PurePath) -> list:
    """A sort key under which the numbers in names count as numbers: frame 2 comes before frame 10.

    >>> sorted(["10.jpg", "1.jpg", "2.jpg"], key=natural_key)
    ['1.jpg', '2.jpg', '10.jpg']
    """
    parts = name.parts if isinstance(name, PurePath) else [str(name)]
    split = [re.split("([0-9]+)", part) for part in parts]  # words and numbers take turns
    return [([int(word) if i % 2 else word for i, word in enumerate(words)], words) for words in split]


def plain(value: Any) -> Any:
    """A value as JSON knows it: numpy types unpacked, NaN, NaT and infinities as None, paths and dates as text.

    >>> plain({"n": np.int64(3), "km": np.float32("nan"), "top": np.array([1, 2])})
    {'n': 3, 'km': None, 'top': [1, 2]}
    >>> plain(np.array(["2020-05-01T12:30", "NaT"], "datetime64[ns]"))
    ['2020-05-01T12:30:00.000000000', None]
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "M":  # `tolist` would count nanoseconds
        value = list(value) if value.ndim else value[()]
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    if hasattr(value, "tolist"):  # numpy arrays and numbers, pandas columns, tensors
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' missing values, which equal nothing
        return None
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def json_text(value: Any) -> str:
    """`value` as compact JSON without NaN, numpy types allowed."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def add_element(
    parent: ElementTree.Element, name: str, text: Any = None, /, **attributes: Any
) -> ElementTree.Element:
    """A new last child with this text and these attributes."""
    child = ElementTree.SubElement(parent, name, {key: str(value) for key, value in attributes.items()})
    child.text = None if text is None else str(text)
    return child


def write_xml(path: str | os.PathLike, root: ElementTree.Element, declaration: bool = False) -> None:
    """Write a document as UTF-8, indented; with a declaration in a first line, where its readers want one.

    Raises:
        DataError: a text has a control character, which no reader of XML would take.
    """
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    if unfit := NOT_XML.search(text):
        around = text[max(0, unfit.start() - 20) : unfit.end() + 20]
        raise DataError(
            f"{path}: XML cannot hold the character {unfit.group()!r} of {around!r}; rename what has it"
        )
    with atomic_write(path) as file:
        file.write(f"<?xml version='1.0' encoding='utf-8'?>\n{text}" if declaration else f"{text}\n")


def columns(table: Mapping | Iterable[Mapping] | None, n: int, what: str) -> dict[str, list]:
    """A table as `{name: n plain values}`, from columns (a dict, a DataFrame) or from row dicts.

    Raises:
        DataError: where a column, or the list of rows, does not have `n` entries.
    """
    if table is None:
        return {}
    if not hasattr(table, "items"):
        rows = list(table)
        if len(rows) != n:
            raise DataError(f"{what} has {len(rows)} rows for {n} points; give one row per point")
        names = dict.fromkeys(name for row in rows for name in row)
        table = {name: [row.get(name) for row in rows] for name in names}
    result = {str(name): [plain(value) for value in column] for name, column in table.items()}
    for name, column in result.items():
        if len(column) != n:
            raise DataError(f"{what} column '{name}' has {len(column)} values for {n} points")
    return result
