"""Files by addresses of fsspec (`s3://`, `hf://`, `memory://`): listed, read as Parquet row by row, written."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.errors import DataError
from geohf.io import natural_key

if TYPE_CHECKING:
    from pyarrow import Schema

READ_ROWS = 64  # at once: they may hold their pictures


def names_many(address: str) -> bool:
    """Whether an address names a folder, a glob or a Parquet file, and no single picture.

    >>> [names_many(a) for a in ("s3://b/photos/", "s3://b/*.jpg", "s3://b/0.parquet", "zip://a.jpg::b.zip")]
    [True, True, True, False]
    """
    return "::" not in address and (address.endswith(("/", ".parquet")) or glob.has_magic(address))


def files_at(address: str) -> list[str]:
    """The files of a folder or a glob by their addresses, in natural order (2 before 10); hidden ones are left out.

    Raises:
        DataError: there is none, or the file system cannot be asked.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
        names = system.glob(path) if glob.has_magic(address) else system.find(path)
        names = [name for name in names if not _is_hidden(name, path)]
        files = [system.unstrip_protocol(name) for name in sorted(names, key=lambda n: natural_key(Path(n)))]
    except Exception as error:  # each file system has errors of its own
        raise DataError(f"{address}: cannot be listed ({error})") from None
    if not files:
        raise DataError(f"{address}: no such file or folder, or an empty one")
    return files


def _is_hidden(name: str, asked: str) -> bool:
    """Whether a file, or a folder that it lies in, begins with a dot and was not asked for by that name."""
    return any(part.startswith(".") for part in set(name.split("/")) - set(asked.split("/")))


def upload(file: str | os.PathLike, address: str) -> None:
    """Copy a local file to an address.

    Raises:
        DataError: it cannot be written there.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.put_file(os.fspath(file), path)
    except Exception as error:
        raise DataError(f"{address}: cannot be written ({error})") from None


class ParquetRows:
    """The rows of Parquet files as dicts, one file after the other, never more than a few in memory.

    Args:
        files: paths or addresses.
        read: (row, its file) -> the row to give.

    Raises:
        DataError: a file that cannot be read as Parquet.
    """

    def __init__(self, files: Sequence[str | Path], read: Callable[[dict, str], dict]):
        self.files, self.read = [os.fspath(file) for file in files], read
        facts = [_facts(file) for file in self.files]
        self.schema, self.count = facts[0][1], sum(rows for rows, _ in facts)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import fsspec
        from pyarrow.parquet import ParquetFile

        for name in self.files:
            try:
                with fsspec.open(name, "rb") as file:
                    for batch in ParquetFile(file).iter_batches(READ_ROWS):
                        for row in batch.to_pylist():
                            yield self.read(row, name)
            except (OSError, ValueError) as error:
                if isinstance(error, DataError):  # of whoever uses a row
                    raise
                raise DataError(f"{name}: cannot be read as a table ({error})") from None


def _facts(name: str) -> tuple[int, Schema]:
    import fsspec
    from pyarrow.parquet import ParquetFile

    try:
        with fsspec.open(name, "rb") as file:
            opened = ParquetFile(file)
            return opened.metadata.num_rows, opened.schema_arrow
    except Exception as error:
        raise DataError(f"{name}: cannot be read as a table ({error})") from None
