"""Tables of rows that name files and places: reading them, checking them, and saying which row is wrong."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.errors import DataError
from geohf.geo import bad_points

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

logger = logging.getLogger(__name__)

# names that people give these columns, the first one found counts
FILE_COLUMNS = ("image", "file_name", "filename", "file", "path", "img_relpath")
LATITUDE_COLUMNS, LONGITUDE_COLUMNS = ("latitude", "lat"), ("longitude", "lon", "lng", "long")
HEADING_COLUMNS = ("heading", "angle", "compass")


def read_table(path: str | Path, required: Sequence[str] = (), numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV or Parquet table, every cell as text but for the columns named in `numbers`.

    Args:
        path: a `.parquet` file, or anything else as CSV (comma, UTF-8, a header line).
        required: columns that must be there.
        numbers: columns, where present, that become float64 (empty cells become NaN, infinity is refused).

    Raises:
        DataError: the file is missing, empty or not a table; a required column is missing; a cell of
            `numbers` is not a number. The message names the file and the line.
    """
    path = Path(path)
    with _naming(path):
        table = _parquet(path) if is_parquet(path) else _csv(path)
    table = clean_table(table, path, required, numbers)
    if table.empty:
        raise DataError(f"{path}: the table has a header but no rows")
    return table


def read_table_in_chunks(path: str | Path, rows: int, group: int | None = None) -> Iterator[pd.DataFrame]:
    """Read a table as `read_table` does, so many rows at a time, in memory for these alone.

    A chunk's index counts the rows of the file: `line_of` of it is the line. Columns are as the file has them until
    `clean_table` sees them.

    Args:
        group: of a Parquet file, this row group only.
    """
    path = Path(path)
    with _naming(path):
        if not is_parquet(path):
            yield from _csv(path, chunksize=rows)
            return
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            groups = range(file.num_row_groups) if group is None else [group]
            first = sum(file.metadata.row_group(i).num_rows for i in range(groups[0])) if len(groups) else 0
            for batch in file.iter_batches(batch_size=rows, row_groups=list(groups)):
                yield batch.to_pandas().set_axis(range(first, first + len(batch)))
                first += len(batch)


def clean_table(
    table: pd.DataFrame, path: str | Path, required: Sequence[str] = (), numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """A table as it was read, or a chunk of it, with clean names and numbers, or why it cannot be used."""
    import pandas as pd

    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what the header does not name for an index
        raise DataError(f"{path}: the rows have more cells than the header has names")
    table.columns = [str(name).strip() for name in table.columns]
    _require_different(list(table.columns), path)
    require_columns(table.columns, required, path)
    if not is_parquet(path):
        table = _without_blank_end(table)
    for name in numbers:
        if name in table:
            table[name] = _to_float64(table[name], path)
    return table


def is_parquet(path: str | Path) -> bool:
    """Whether a table is read as Parquet, and not as CSV."""
    return Path(path).suffix.lower() == ".parquet"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever goes wrong in reading, by the file's name."""
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        yield
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the table is empty, it has not even a header line") from None
    except DataError:
        raise
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from None


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(path)


def _csv(path: Path, **options):
    import pandas as pd

    # keep_default_na=False: the state "NA" or a region called "null" is a name, not a hole
    # skip_blank_lines=False: a blank line in between is a row without values, and later rows keep their line
    read = partial(
        pd.read_csv,
        path,
        dtype=str,
        keep_default_na=False,
        skipinitialspace=True,
        skip_blank_lines=False,
        encoding="utf-8-sig",
    )
    _require_different(
        read(header=None, nrows=1).iloc[0].str.strip().tolist(), path
    )  # it renames the second one
    return read(**options)


def require_columns(columns: Iterable[str], required: Sequence[str], source: str | Path) -> None:
    """Raise DataError where a required column is missing, with the nearest name that is there.

    >>> require_columns(["latitud", "longitude"], ["latitude"], "a.csv")
    Traceback (most recent call last):
    geohf.errors.DataError: a.csv: column 'latitude' is missing (did you mean 'latitud'?); the columns are: latitud, longitude
    """
    columns = [str(name) for name in columns]
    for name in required:
        if name not in columns:
            close = difflib.get_close_matches(name, columns, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise DataError(
                f"{source}: column {name!r} is missing{hint}; the columns are: {', '.join(columns)}"
            )


def find_column(columns: Iterable[str], names: Iterable[str], source: str | Path | None = None) -> str | None:
    """The first of these names that is a column, in any case of letters, as the table writes it.

    Raises:
        DataError: there is none, and `source` says which table needs one.

    >>> find_column(["Image", "Lat"], LATITUDE_COLUMNS)
    'Lat'
    """
    lower = {column.lower(): column for column in columns}
    found = next((lower[name] for name in names if name in lower), None)
    if found is None and source is not None:
        wanted = " or ".join(map(repr, names))
        raise DataError(f"{source}: needs a column {wanted}; the columns are: {', '.join(lower.values())}")
    return found


def any_case(names: Iterable[str]) -> list[str]:
    """The names as they stand, capitalised, and in capitals, for `read_table`'s `numbers`."""
    return [form(name) for name in names for form in (str, str.title, str.upper)]


def bad_point_reasons(points: np.ndarray, source: str | Path, frame: str = "wgs84") -> dict[int, str]:
    """Position -> why this row's latitude and longitude cannot be right; see `geohf.geo.bad_points`."""
    return {i: reason.partition(": ")[2] for i, reason in bad_points(points, frame, source=str(source))}


def points_of(dataset: Dataset) -> np.ndarray:
    """(n, 2) float64 `latitude` and `longitude`, NaN where unknown, without touching the images."""
    names = ["latitude", "longitude"]
    columns = dataset.with_format("arrow", columns=names)[:]  # the numpy format rounds floats to float32
    return np.stack([columns[name].to_numpy().astype(np.float64) for name in names], 1)


def wrap_degrees(longitude: float) -> float:
    """190 east is 170 west; what lies in -180..180 already keeps every digit."""
    longitude = float(longitude)
    return longitude if -180 <= longitude <= 180 else (longitude + 180) % 360 - 180


def file_in(folder: str | Path, name: str) -> str:
    """`resolve_inside` as text, also for a table that was written on Windows."""
    path = resolve_inside(folder, name)
    if "\\" in name and not path.exists():
        path = resolve_inside(folder, name.replace("\\", "/"))
    return str(path)


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
        if isinstance(cell, str) and cell.rpartition("::")[2].startswith(
            "hf://"
        ):  # as a stream of the Hub has it
            return {"path": cell, "bytes": None}
    return {"path": file_in(folder, text_of(cell) or ""), "bytes": None}


def file_name(cell) -> str | None:
    """The file that a cell names, also where the image itself lies in the cell."""
    if isinstance(cell, dict):
        cell = cell.get("path")
    return None if isinstance(cell, (bytes, bytearray)) else text_of(cell)


def text_of(cell) -> str | None:
    """A cell's text; None for an empty one, which is empty text in CSV, and None, NaN or NA in Parquet."""
    if isinstance(cell, str):  # nearly all, and there may be a million
        return cell.strip() or None
    import pandas as pd

    return None if pd.api.types.is_scalar(cell) and pd.isna(cell) else (str(cell).strip() or None)


def line_of(position: int) -> int:
    """The line of a CSV file on which the row at this position stands (the header is line 1)."""
    return int(position) + 2


def resolve_inside(folder: str | Path, name: str) -> Path:
    """The path of `name` inside `folder`; a table must not reach files outside its image folder.

    Raises:
        DataError: `name` is empty, absolute, or climbs out of the folder (also through a symbolic link).
    """
    if not name or "\0" in name:
        raise DataError("the file name is empty" if not name else "the file name holds a NUL character")
    folder = Path(folder)
    path = folder / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"the path {name!r} leads out of the folder {folder}")
    return path


@dataclass
class RowErrors:
    """What is wrong with the rows of a table, and the policy: stop, or leave the rows out and count them.

    Args:
        on_error: `"raise"` or `"skip"`.
    """

    on_error: str = "raise"
    rows: list[dict] = field(default_factory=list)

    def __post_init__(self):
        if self.on_error not in ("raise", "skip"):
            raise DataError(f"on_error must be 'raise' or 'skip', got {self.on_error!r}")

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
        rows = "1 row" if len(self.rows) == 1 else f"{len(self.rows)} rows"
        if self.on_error == "raise":
            raise DataError(f"{rows} cannot be used (--on_error skip leaves such rows out):\n{listed}{more}")
        if not kept:
            raise DataError(f"no row is left, all were skipped:\n{listed}{more}")
        logger.warning("left out %s:\n%s%s", rows, listed, more)


def _require_different(names: Sequence[str], path: Path) -> None:
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{path}: the header names the column {twice!r} twice")


def _without_blank_end(table):
    filled = (table != "").any(axis=1).to_numpy().nonzero()[0]
    return table.iloc[: filled[-1] + 1 if len(filled) else 0]


def _to_float64(column, path):
    import pandas as pd

    text = column.astype(str).str.strip() if column.dtype.kind not in "fiu" else column
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    empty = text.isin(["", "nan", "NaN", "None", "<NA>"]) | column.isna()
    wrong = ~np.isfinite(numbers) & ~empty
    if wrong.any():
        position = int(wrong.to_numpy().argmax())
        cell = column.iloc[position]
        line = line_of(column.index[position])
        raise DataError(f"{path}, row {line}: {column.name} is {cell!r}, which is not a number")
    return numbers
