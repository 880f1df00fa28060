"""Tables of rows that name files and places: reading them, checking them, and saying which row is wrong."""

from __future__ import annotations

import logging
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.cells import WRITTEN_EMPTY, text_of
from geohf.data.columns import numbers_of, stored_column
from geohf.data.formats import is_saved_dataset, read_frames, require_different, table_file
from geohf.errors import ON_ERROR, DataError, did_you_mean, require_choice, warn_once
from geohf.geo import bad_points
from geohf.geo.angles import degrees_of, wrap_degrees

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

logger = logging.getLogger(__name__)

BROKEN_ARCHIVE = (EOFError, zlib.error, zipfile.BadZipFile, lzma.LZMAError)
# names that people give these columns, the first one found counts
FILE_COLUMNS = (
    *("image", "file_name", "filename", "file", "path", "img_relpath"),
    *("image_path", "img_path", "file_path", "filepath", "sourcefile", "img_file", "img_id"),
)
LATITUDE_COLUMNS = ("latitude", "lat", "gpslatitude", "gps_latitude")
LONGITUDE_COLUMNS = ("longitude", "lon", "lng", "long", "gpslongitude", "gps_longitude")
HEADING_COLUMNS = ("heading", "angle", "compass", "gpsimgdirection", "northdeg")
# what people call the parts of their data
SPLIT_NAMES = {
    "train": ("train", "training", "trainingset"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "testset"),
}
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
_FIRST_CELLS = 1000
_FEWEST = 5  # so many headings may tell their unit


def read_table(path: str | Path, required: Sequence[str] = (), numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table, every cell of CSV as text but for the columns named in `numbers`.

    Args:
        path: a `.parquet`, `.jsonl` or `.ndjson` file, a folder that `save_to_disk` wrote (of several splits `train`), a folder
            with a `metadata.csv`, `.jsonl` or `.parquet`, or anything else as CSV: a header line, UTF-8 or UTF-16,
            cells between commas, semicolons or tabs.
        required: columns that must be there.
        numbers: columns, where present (in any case of letters where named in small ones), that become float64:
            empty cells become NaN, infinity is refused, latitudes and longitudes may be written as
            `48 deg 51' 24.00" N`. Between semicolons and tabs `48,85` is a number.

    Returns:
        The table; its index is the line of the file on which a row begins, see `line_of`.

    Raises:
        DataError: the file is missing, empty or not a table; a required column is missing; a cell of
            `numbers` is not a number. The message names the file and the line.
    """
    path = table_file(path)
    with _naming(path):
        frames = list(read_frames(path))
    table = clean_table(frames[0], path, required, numbers) if frames else None
    if table is None or table.empty:
        raise DataError(f"{path}: the table has a header but no rows")
    return table


def read_table_in_chunks(path: str | Path, rows: int, group: int | None = None) -> Iterator[pd.DataFrame]:
    """Read a table as `read_table` does, so many rows at a time, in memory for these alone.

    Columns are as the file has them until `clean_table` sees them.

    Args:
        group: of a Parquet file, this row group only.
    """
    path = Path(path)
    with _naming(path):
        yield from read_frames(path, rows, group)


def clean_table(
    table: pd.DataFrame, path: str | Path, required: Sequence[str] = (), numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """A table as it was read, or a chunk of it, with clean names and numbers, or why it cannot be used."""
    table.columns = [str(name).strip() for name in table.columns]
    require_different(list(table.columns), path)
    require_columns(table.columns, required, path)
    for name in table.columns:
        if name in numbers or name.lower() in numbers:
            table[name] = _to_float64(table, name, path)
    _warn_of_splits(table, path)
    return table


def _warn_of_splits(table: pd.DataFrame, path: str | Path) -> None:
    """Tell that rows of a table are read alike, where one of its columns says that they are of several splits."""
    split_of = {alias: split for split, aliases in SPLIT_NAMES.items() for alias in aliases}
    for name in table.columns:
        if name.lower() in SPLIT_COLUMNS:
            cells = table[name].dropna().map(str).unique()  # as text: a column called set may hold lists
            called = {cell.strip().lower() for cell in cells} - {""}
            # of one split alone it is that split's own table, which is what should be given
            if len({split_of.get(cell) for cell in called}) > 1 and called <= split_of.keys():
                warn_once(
                    logger,
                    "%s: its column %r is not read: rows of all splits count alike; give each split as a table of its own",
                    path,
                    name,
                )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever goes wrong in reading, by the file's name."""
    import pandas as pd

    if not path.is_file() and not is_saved_dataset(path):
        folder = "a folder, where a table is asked for: name the table, or put it there as metadata.csv"
        raise DataError(f"{path}: {folder if path.is_dir() else 'no such file'}")
    try:
        yield
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the table is empty, it has not even a header line") from None
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: cannot be read as a table: it is no {error.encoding.upper()} text ({error.reason}, byte "
            f"{error.object[error.start]:#04x}); save it as 'CSV UTF-8'"
        ) from None
    except (pd.errors.ParserError, UnicodeError, OSError, ValueError, *BROKEN_ARCHIVE) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from None


def require_columns(columns: Iterable[str], required: Sequence[str], source: str | Path) -> None:
    """Raise DataError where a required column is missing, with the nearest name that is there.

    >>> require_columns(["latitud", "longitude"], ["latitude"], "a.csv")
    Traceback (most recent call last):
    geohf.errors.DataError: a.csv: column 'latitude' is missing (did you mean 'latitud'?); the columns are: latitud, longitude
    """
    columns = [str(name) for name in columns]
    for name in required:
        if name not in columns:
            hint = did_you_mean(name, columns)
            raise DataError(
                f"{source}: column {name!r} is missing{hint}; the columns are: {', '.join(columns)}"
            )


def find_column(columns: Iterable[str], names: Iterable[str], source: str | Path | None = None) -> str | None:
    """The first of these names that is a column, in any case of letters, as the table writes it.

    Raises:
        DataError: there is none, and `source` says which table needs one; or two differ in case alone, and none is in
            the case asked for.

    >>> find_column(["Image", "Lat"], LATITUDE_COLUMNS)
    'Lat'
    """
    columns, names = list(columns), list(names)
    for name in names:
        alike = [column for column in columns if column.lower() == name]
        if len(alike) > 1 and name not in alike:
            where = "" if source is None else f"{source}: "
            raise DataError(
                f"{where}the columns {' and '.join(map(repr, alike))} differ in case alone: rename one"
            )
        if alike:
            return name if name in alike else alike[0]
    if source is not None:
        wanted = " or ".join(map(repr, names[:2]))
        raise DataError(f"{source}: needs a column {wanted}; the columns are: {', '.join(columns)}")
    return None


def heading_cells(
    table: pd.DataFrame, source: str | Path, names: Sequence[str] = HEADING_COLUMNS
) -> list | None:
    """The headings of a table's rows, each from the first of these columns that tells it; None without such a column.

    A column that may be meant and is not read, such as `heading_rad`, gets a word, and so do numbers that look like radians.
    """
    columns = [column for name in names if (column := find_column(table.columns, [name]))]
    if not columns:
        if odd := [name for name in table.columns if re.match("(heading|angle|compass)_", name.lower())]:
            logger.warning(
                "%s: the column %s is not read: headings are degrees clockwise from north, in a column %r",
                source, odd[0], names[0],
            )  # fmt: skip
        return None
    cells, *others = (table[column].tolist() for column in columns)
    for more in others:
        cells = [other if text_of(cell) is None else cell for cell, other in zip(cells, more, strict=True)]
    _tell_of_radians(cells, columns[0], source)
    return cells


def _tell_of_radians(cells: Sequence, column: str, source: str | Path) -> None:
    """A word where headings turn more than half around, if they are radians, and hardly at all, if they are degrees."""
    # the first few tell of nearly all tables that they hold degrees
    for some in (cells[:_FIRST_CELLS], cells):
        try:
            numbers = numbers_of([cell for cell in some if text_of(cell) is not None])
        except (TypeError, ValueError):  # told of where they are used
            return
        numbers = numbers[np.isfinite(numbers)]
        if len(numbers) and np.abs(numbers).max() > 2 * np.pi:
            return
    if len(numbers) >= _FEWEST and np.ptp(numbers) > np.pi and (numbers != numbers.round()).any():
        warn_once(
            logger,
            "%s: the numbers in the column %s lie within two pi: they look like radians, and are read as degrees clockwise "
            "from north", str(source), column,
        )  # fmt: skip


def bad_point_reasons(points: np.ndarray, source: str | Path, frame: str = "wgs84") -> dict[int, str]:
    """Position -> why this row's latitude and longitude cannot be right; see `geohf.geo.bad_points`."""
    return {i: reason.partition(": ")[2] for i, reason in bad_points(points, frame, source=str(source))}


def points_of(dataset: Dataset) -> np.ndarray:
    """(n, 2) float64 `latitude` and `longitude`, NaN where unknown, without touching the images."""
    columns = []
    for name in ("latitude", "longitude"):
        # the numpy format would round floats to float32; a view of a user's own rows has no formats
        cells = stored_column(dataset, name).to_numpy() if hasattr(dataset, "with_format") else dataset[name]
        try:
            columns.append(numbers_of(cells))
        except (TypeError, ValueError) as error:
            raise DataError(f"column {name} must hold numbers: {error}") from None
    return np.stack(columns, 1)


def wrapped_longitude(longitude: float) -> float:
    """190 east is 170 west; what lies in -180..180 already keeps every digit."""
    longitude = float(longitude)
    return longitude if -180 <= longitude <= 180 else wrap_degrees(longitude)


def line_of(table: pd.DataFrame, position: int) -> int:
    """The line of the file on which the row at this position begins (the header is line 1)."""
    return int(table.index[position])


@dataclass
class RowErrors:
    """What is wrong with the rows of a table, and the policy: stop, or leave the rows out and count them.

    Args:
        on_error: `"raise"` or `"skip"`.
        excluded: names of rows that were left out because the user named them.
    """

    on_error: str = "raise"
    rows: list[dict] = field(default_factory=list)
    excluded: set[str] = field(default_factory=set)

    def __post_init__(self):
        require_choice(ON_ERROR, on_error=self.on_error)

    def add(self, source: str | Path, row: str | int, reason: str) -> None:
        """Note one bad row: its file, its line (or another name) and the reason."""
        self.rows.append({"source": str(source), "row": row, "reason": reason})

    def settle(self, kept: int) -> None:
        """Raise for the rows noted so far, or say how many are left out; `kept` rows remain.

        Raises:
            DataError: there are bad rows and the policy is to stop, or no row remains.
        """
        if not self.rows:
            return
        listed = "\n".join(f"  {r['source']}, row {r['row']}: {r['reason']}" for r in self.rows[:5])
        more = f"\n  and {len(self.rows) - 5} more" if len(self.rows) > 5 else ""
        count = len({(r["source"], r["row"]) for r in self.rows})  # a row may have several faults
        rows = "1 row" if count == 1 else f"{count} rows"
        if self.on_error == "raise":
            raise DataError(f"{rows} cannot be used (--on_error skip leaves such rows out):\n{listed}{more}")
        if not kept:
            raise DataError(f"no row is left, all were skipped:\n{listed}{more}")
        logger.warning("left out %s:\n%s%s", rows, listed, more)


def axis_of(column: str) -> str:
    """The letters of the sides of a column of latitudes or longitudes, see `degrees_of`; empty of any other."""
    return "NS" if column.lower() in LATITUDE_COLUMNS else "EW" if column.lower() in LONGITUDE_COLUMNS else ""


@lru_cache(maxsize=64)  # asked for each of a user's own rows
def side_column(column: str, columns: tuple) -> tuple[str | None, bool]:
    """The one of the columns that says on which side of the equator, or of Greenwich, the angles of another lie.

    Behind it whether it is called after that column: an empty cell then leaves the side open.
    """
    axis = axis_of(column)
    names: Sequence[str] = LATITUDE_COLUMNS if axis == "NS" else LONGITUDE_COLUMNS if axis else ()
    for own, called in ((True, [column]), (False, names)):
        sides = {_letters(name) + end for name in called for end in ("ref", "dir", "direction", "hemisphere")}
        for one in columns:
            if isinstance(one, str) and _letters(one) in sides:
                return one, own
    return None, False


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _to_float64(table, name, path):
    import pandas as pd

    column = table[name]
    text = column.astype(str).str.strip() if column.dtype.kind not in "fiu" else column
    if table.attrs.get("decimal_comma"):
        text = text.str.replace(r"^([+-]?\d*),(\d+)(?![\d.,])", r"\1.\2", regex=True)
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    empty = text.isin(["", *WRITTEN_EMPTY]) | column.isna()
    axis = axis_of(name)
    beside, own = side_column(name, tuple(table.columns)) if axis else (None, False)
    sides = [text_of(cell) or "" for cell in table[beside]] if beside else [""] * len(table)
    if beside:
        numbers[~empty & np.array([own or bool(side) for side in sides], bool)] = np.nan
    wrong = ~np.isfinite(numbers) & ~empty
    for position in np.flatnonzero(wrong):
        value = degrees_of(text.iloc[position], axis, sides[position]) if axis else None
        if value is None:
            told = f" and {beside} {sides[position]!r}" if beside else ""
            raise DataError(
                f"{path}, row {line_of(table, position)}: {name} is {column.iloc[position]!r}{told}, which is not a number"
            )
        numbers.iloc[position] = value
    return numbers
