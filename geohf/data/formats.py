"""Files that hold tables, as frames: CSV as it comes out of Excel and pandas, Parquet, JSON Lines, saved datasets.

A frame's index is the line of the file on which a row begins (the header is line 1). What has no lines counts alike:
its first row is 2.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.classes import classes_of, names_in
from geohf.errors import DataError, warn_once

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

logger = logging.getLogger(__name__)

_JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".parquet", *_JSON_LINES)
_NO_TABLES = (
    ".json",
    ".geojson",
    ".gpx",
    ".kml",
    ".kmz",
    ".xlsx",
    ".xls",
    ".ods",
    ".gpkg",
    ".shp",
    ".db",
    ".sqlite",
)
FIRST_ROW = 2
_METADATA = tuple(f"metadata{suffix}" for suffix in (".csv", ".jsonl", ".parquet"))  # as imagefolder has it
_SEPARATORS = ",;\t|"
# of pyarrow: else a hole makes floats of a column's whole numbers, and cells of maps (H3, S2) lose digits
WHOLE_NUMBERS: dict[str, bool] = {"integer_object_nulls": True}


def table_file(path: str | Path) -> Path:
    """The table that a folder of photographs holds: its `metadata.csv`, `.jsonl` or `.parquet`, or that of `train`.

    Every other path stands for itself.
    """
    path = Path(path)
    if path.is_dir():
        names = [folder / name for folder in (path, path / "train") for name in _METADATA]
        return next((file for file in names if file.is_file()), path)
    return path


def is_saved_dataset(path: str | Path) -> bool:
    """Whether `datasets` wrote this folder with `save_to_disk`."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def is_table_name(path: Path) -> bool:
    """Whether a file in a folder of tables counts as one, by its ending; CSV may be compressed, as pandas reads it.

    >>> [is_table_name(Path(name)) for name in ("a.CSV", "a.tsv.gz", "a.jsonl.gz", "a.txt")]
    [True, True, False, False]
    """
    if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst", ".zip"):
        return path.with_suffix("").suffix.lower() in (".csv", ".tsv")
    return path.suffix.lower() in TABLES


def is_parquet(path: str | Path) -> bool:
    """Whether a table is read as Parquet."""
    return Path(path).suffix.lower() == ".parquet"


def read_frames(path: Path, rows: int | None = None, group: int | None = None) -> Iterator[pd.DataFrame]:
    """The rows of a table, all at once or so many at a time.

    Args:
        group: of a Parquet file, this row group only.

    Raises:
        DataError: what the file looks like, where it is none of the known kinds.
    """
    if is_saved_dataset(path):
        yield from dataset_frames(saved_dataset(path), rows)
    elif is_parquet(path):
        yield from _parquet(path, rows, group)
    elif path.suffix.lower() in _JSON_LINES:
        yield from _json_lines(path, rows)
    elif path.suffix.lower() in _NO_TABLES:
        raise DataError(
            f"{path}: {path.suffix} is not read as a table: save it as CSV, Parquet or JSON Lines (.jsonl)"
        )
    else:
        yield from _without_blank_end(_csv(path, rows))


# CSV


def _csv(path: Path, rows: int | None) -> Iterator[pd.DataFrame]:
    import pandas as pd

    encoding, separator, first = _look(path)
    # keep_default_na=False: the state "NA" or a region called "null" is a name, not a hole
    # skip_blank_lines=False: a blank line in between is a row without values
    read = partial(
        pd.read_csv,
        path,
        sep=separator,
        skiprows=first - 1,
        dtype=str,
        keep_default_na=False,
        skipinitialspace=True,
        skip_blank_lines=False,
        encoding=encoding,
    )
    header = read(header=None, nrows=1)
    require_different(header.iloc[0].str.strip().tolist(), path)  # it renames the second one
    line = first + 1 + int(_breaks(header).sum())
    with read(chunksize=rows or 1 << 62) as frames:
        for frame in frames:
            # pandas takes what the header does not name for an index
            if not isinstance(frame.index, pd.RangeIndex):
                raise DataError(f"{path}: the rows have more cells than the header has names")
            ends = line + np.arange(1, len(frame) + 1) + np.cumsum(_breaks(frame))
            frame.index = [line, *ends[:-1].tolist()][: len(frame)]
            line = int(ends[-1]) if len(frame) else line
            frame.attrs["decimal_comma"] = separator != ","
            yield frame


def _look(path: Path) -> tuple[str, str, int]:
    """Encoding, separator and the line of the header. Excel writes UTF-16 with tabs, or `;` and a line `sep=;`."""
    from pandas.io.common import get_handle

    with get_handle(str(path), "rb", compression="infer", is_text=False) as handles:
        head = handles.handle.read(1 << 16)
    encoding = "utf-8-sig"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif head[1:4:2] == b"\0\0":
        encoding = "utf-16-le"
    lines = head.decode(encoding, "ignore").splitlines()[:20]
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].rstrip(" ,;")) <= 5:
        return encoding, lines[0][4:5] or ",", 2
    return encoding, _separator(lines), 1


def _separator(lines: Sequence[str]) -> str:
    """What stands between the names of the header; where several could, the one that cuts all rows alike."""
    widths = {
        separator: [len(cells) for cells in csv.reader(lines, delimiter=separator) if cells]
        for separator in _SEPARATORS
    }
    possible = [separator for separator, width in widths.items() if width and width[0] > 1]
    alike = [separator for separator in possible if len(set(widths[separator])) == 1]
    if "," in possible and (len(alike) != 1 or "," in alike):
        return ","
    return (alike or possible or [","])[0]


def _breaks(frame: pd.DataFrame) -> np.ndarray:
    """(rows,) line breaks in the cells of each row."""
    breaks = np.zeros(len(frame), np.int64)
    for position in range(frame.shape[1]):
        cells = list(map(str, frame.iloc[:, position]))
        joined = "\0".join(cells)
        if "\n" in joined or "\r" in joined:
            breaks += [cell.count("\n") + cell.count("\r") - cell.count("\r\n") for cell in cells]
    return breaks


def _without_blank_end(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Frames without the blank rows at the end of the file; those in between stay, in the frame that follows."""
    import pandas as pd

    blank = None
    for frame in frames:
        attributes = frame.attrs
        frame = frame if blank is None or blank.empty else pd.concat([blank, frame])
        filled = (frame != "").any(axis=1).to_numpy().nonzero()[0]
        end = filled[-1] + 1 if len(filled) else 0
        blank, frame = frame.iloc[end:], frame.iloc[:end]
        frame.attrs = attributes
        yield frame


def require_different(names: Sequence[str], path: str | Path) -> None:
    """Raise DataError where two columns have one name."""
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{path}: the header names the column {twice!r} twice")


# Parquet, JSON Lines, datasets


def _parquet(path: Path, rows: int | None, group: int | None) -> Iterator[pd.DataFrame]:
    import pyarrow.parquet

    features = parquet_features(path)
    with pyarrow.parquet.ParquetFile(path) as file:
        groups = list(range(file.num_row_groups)) if group is None else [group]
        first = FIRST_ROW + sum(file.metadata.row_group(i).num_rows for i in range(group or 0))
        for part in [file.read()] if rows is None else file.iter_batches(rows, groups):
            frame = part.to_pandas(**WHOLE_NUMBERS)
            # an index that has a name is a column, another one is dropped
            frame = frame.reset_index([name for name in frame.index.names if name is not None])
            yield named_classes(frame.set_axis(range(first, first + len(part))), features)
            first += len(part)


def _json_lines(path: Path, rows: int | None) -> Iterator[pd.DataFrame]:
    import pandas as pd

    names: dict[str, None] = {}  # a name that a chunk lacks is a column without values, as in the whole table
    held: dict[int, dict] = {}  # line -> its row

    def frame() -> pd.DataFrame:
        columns = {
            name: pd.Series([row.get(name) for row in held.values()], [*held], object) for name in names
        }
        return pd.DataFrame(columns, index=[*held])

    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text, object_pairs_hook=_of_different_names)
            except ValueError as error:
                raise DataError(f"{path}, row {line}: is no JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {line}: is no JSON object of column names and values")
            names |= dict.fromkeys(row)
            held[line] = row
            if len(held) == rows:
                yield frame()
                held.clear()
    if held or rows is None:
        yield frame()


def _of_different_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name that stands there twice json would take the second value."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"it names {twice!r} twice")
    return row


def load_splits(builder: str, source: str | Path | None = None, **options: Any) -> Mapping[str, Any]:
    """The splits of a dataset of the Hub, of a folder that `save_to_disk` wrote, or of files.

    Args:
        builder: the dataset's name, or that of a kind of files.
        source: what a message calls it; the builder's name where None.

    Raises:
        DataError: it cannot be loaded.
    """
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    try:
        saved = not options and is_saved_dataset(builder)
        loaded = load_from_disk(builder) if saved else load_dataset(builder, **options)
        return loaded if isinstance(loaded, dict) else {"train": loaded}
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"{source or builder}: no such file or folder, and no dataset that can be loaded ({error})"
        ) from None


def saved_dataset(path: str | Path) -> Dataset:
    """The dataset that `save_to_disk` wrote, of several splits `train`, with a word of the others.

    Raises:
        DataError: it cannot be read, or has several splits and none is `train`.
    """
    loaded = load_splits(str(path))
    if "train" not in loaded and len(loaded) != 1:
        raise DataError(f"{path}: has no split 'train'; name the folder of one: {', '.join(loaded)}")
    tell_of_other_splits(str(path), *loaded)
    return loaded["train"] if "train" in loaded else next(iter(loaded.values()))


def tell_of_other_splits(source: str, *splits: str) -> None:
    """A word where `train` alone is read of data that come in several splits."""
    if len(splits) > 1:
        others = ", ".join(split for split in splits if split != "train")
        warn_once(logger, "%s: of its splits train alone is read here, and not %s", source, others)


def dataset_frames(dataset: Dataset, rows: int | None = None) -> Iterator[pd.DataFrame]:
    """The rows of a dataset as they are stored: images are paths and bytes."""
    stored = dataset.with_format("arrow")
    step = rows or max(len(dataset), 1)
    for first in range(0, len(dataset), step):
        frame = stored[first : first + step].to_pandas(**WHOLE_NUMBERS)
        index = range(first + FIRST_ROW, first + FIRST_ROW + len(frame))
        yield named_classes(frame.set_axis(index), dataset.features)


def parquet_features(path: str | Path) -> Mapping[str, Any]:
    """What `datasets` says of the columns of a Parquet file that it wrote; {} of any other.

    Raises:
        DataError: the file is broken.
    """
    import pyarrow.parquet
    from datasets import Features

    try:
        return Features.from_arrow_schema(pyarrow.parquet.read_schema(path))
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from None


def named_classes(frame: pd.DataFrame, features: Mapping[str, Any]) -> pd.DataFrame:
    """Classes as their names, which numbers in a file do not tell; -1 is an empty cell."""
    for column, names in names_in(features).items():
        if column in frame:
            frame[column] = [classes_of(names, cell) for cell in frame[column]]
    return frame
