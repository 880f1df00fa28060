"""What a person names on a command line or hands over, as named samples that a model takes."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from geohf.data.addresses import ParquetRows, files_at, names_many
from geohf.data.cells import file_in, image_in, resolve_inside, text_of
from geohf.data.formats import TABLES, is_parquet, load_splits, parquet_features
from geohf.data.rows import RowView
from geohf.data.samples import name_of, samples_of, without_decoding
from geohf.data.tables import FILE_COLUMNS, find_column, line_of, read_table
from geohf.errors import DataError, listed
from geohf.io import natural_key
from geohf.vision.files import image_files, warn_unread
from geohf.vision.formats import is_image_name
from geohf.vision.images import ImageError, is_address

Part = tuple[Sequence[str] | None, Sequence[Any] | Iterable[Any]]


@dataclass
class Inputs:
    """Samples and what each is called, in order; a sample is opened when it is asked for.

    Attributes:
        parts: (names, samples) of every source; the samples of a dataset stay on disk. Without names each sample is
            called as `name_of` says.
    """

    parts: list[Part] = field(default_factory=list)

    @property
    def count(self) -> int | None:
        """How many there are; None where only reading them all would tell."""
        total = 0
        for _, samples in self.parts:
            if not isinstance(samples, Sized):
                return None
            total += len(samples)
        return total

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for names, samples in self.parts:
            if names is None:
                yield from ((name_of(sample, i), sample) for i, sample in enumerate(samples))
            else:
                yield from zip(names, samples, strict=True)


def find_images(
    sources: Any, read_source: Callable[[str], Part | None] | None = None, dimensions: int = 3
) -> Inputs:
    """Images by the names of files, folders, globs, tables and datasets, or any samples themselves.

    Args:
        sources: one name or a list of names, each an image file; a folder or zip of images; a glob like
            `photos/**/*.jpg`; a folder or glob of Parquet files whose rows hold pictures; a table with a column of
            pictures, or of their files (`image`, `file_name`, `filename`, `file` or `path`, relative to it); a folder of
            `save_to_disk`; an address of fsspec, of a folder (it ends in `/`) and a glob, too; or the name of a dataset
            with a column of images. Or else what `samples_of` takes.
        read_source: what a task reads in its own way, by its name; None for the rest.
        dimensions: see `samples_of`.

    Raises:
        DataError: a source that is none of these, or that holds nothing.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    if isinstance(sources, (list, tuple)) and all(isinstance(name, (str, os.PathLike)) for name in sources):
        names = [os.fspath(name) for name in sources]
        inputs = Inputs([(read_source and read_source(name)) or _of_source(name) for name in names])
    else:
        inputs = Inputs([(None, samples_of(sources, dimensions))])
    if inputs.count == 0:
        raise DataError("there is nothing to predict")
    return inputs


def names_one(source: str | os.PathLike) -> bool:
    """Whether this is the name of one picture, and not of a folder, a table, a zip, a glob or a dataset."""
    name = os.fspath(source)
    path = Path(name)
    if is_address(name):
        return not names_many(name)
    if not path.exists():
        return is_image_name(path) and not glob.has_magic(name)  # whoever opens it says that it is missing
    return path.is_file() and path.suffix.lower() not in (*TABLES, ".zip")


def is_table_of_files(path: Path) -> bool:
    """Whether this is a table whose pictures are files beside it; Parquet may hold them itself."""
    if path.suffix.lower() not in TABLES or not path.is_file():
        return False
    return not (is_parquet(path) and _columns_of_pictures(parquet_features(path)))


def _of_source(source: str) -> Part:
    if not source:  # as of a variable that is not set; as a path it would be the working folder
        raise DataError("an empty name is no image, folder or table")
    path = Path(source)
    if is_address(source):
        return _of_files(source, files_at(source)) if names_many(source) else ([source], [source])
    if path.suffix.lower() in TABLES and path.is_file():
        return _of_table(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        return _of_zip(path)
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            return _rows_of(load_splits(str(path)), str(path))
        shards = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
        if shards and not any(is_image_name(file) for file in path.iterdir()):
            return _of_shards(source, shards)
        files = image_files(path)
        return [str(file.relative_to(path)) for file in files], files
    if path.exists():
        return [source], [path]
    if glob.has_magic(source):
        found = filter(os.path.isfile, glob.glob(source, recursive=True))
        matches = sorted(found, key=lambda file: natural_key(Path(file)))
        if not matches:
            raise DataError(f"{source}: no file has such a name")
        return _of_shards(source, matches) if all(map(is_parquet, matches)) else (matches, matches)
    # a dataset of the Hub is org/name; a folder's name with a slip is sent nowhere
    is_path = source.count("/") != 1 or source[0] in "./~"
    if is_path or path.suffix.lower() in TABLES or is_image_name(path):
        raise ImageError(f"{source}: no such file or folder")
    return _rows_of(load_splits(source), source)


def _of_files(source: str, files: list[str]) -> Part:
    """What lies at an address: pictures, or shards of Parquet where all of it is Parquet."""
    if all(map(is_parquet, files)):
        return _of_shards(source, files)
    images = [name for name in files if is_image_name(name)]
    if not images:
        raise DataError(f"{source}: holds no image and not only Parquet files, but: {', '.join(files[:10])}")
    warn_unread(source, [name for name in files if not is_image_name(name)])
    return images, images


def _of_shards(source: str, files: Sequence[str | Path]) -> Part:
    """Parquet files whose rows hold pictures, read one after the other."""
    from datasets import Features

    rows = ParquetRows(files, lambda row, file: _beside(os.path.dirname(file), columns, row))
    columns = _columns_of_pictures(Features.from_arrow_schema(rows.schema))
    if not columns:
        raise DataError(f"{source}: has no column of images; the columns are: {', '.join(rows.schema.names)}")
    return None, rows


def _of_zip(path: Path) -> Part:
    try:
        with ZipFile(path) as archive:
            members = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a zip ({error})") from None
    members = [name for name in members if not re.search(r"(^|/)(\.|__MACOSX/)", name)]
    if twice := [name for name, count in Counter(members).items() if count > 1]:
        raise DataError(
            f"{path}: holds several files of one name, of which the last alone can be read: {listed(twice)}"
        )
    images = sorted(filter(is_image_name, members), key=lambda name: natural_key(Path(name)))
    others = sorted(set(members) - set(images))
    if not images:
        raise DataError(f"{path}: holds no image, but: {', '.join(others[:10]) or 'nothing'}")
    warn_unread(path, others)
    return images, [f"zip://{name}::{path}" for name in images]


def _of_table(path: Path) -> Part:
    if not is_table_of_files(path):
        splits = load_splits(path.suffix[1:].lower(), path, data_files=str(path))
        return _rows_of(splits, str(path), path.parent)
    table = read_table(path)
    column = find_column(table.columns, FILE_COLUMNS, path)
    names, files = [], []
    for position, cell in enumerate(table[column]):
        try:
            name = text_of(cell) or ""
            files.append(file_in(path.parent, name))
        except DataError as error:
            raise DataError(f"{path}, row {line_of(table, position)}: {error}") from None
        names.append(name)
    return names, files


def _rows_of(splits: Mapping, source: str, folder: Path | None = None) -> Part:
    from datasets import concatenate_datasets

    names = [f"{split}/{row}" for split, rows in splits.items() for row in range(len(rows))]
    rows = without_decoding(concatenate_datasets(list(splits.values())))
    columns = _columns_of_pictures(rows.features)
    if not columns:  # text could name any file of this machine
        raise DataError(f"{source}: has no column of images; the columns are: {', '.join(rows.column_names)}")
    samples: Any = rows  # what has rows by number is iterated, too
    if folder is not None:
        samples = RowView(rows, lambda row, _: _beside(folder, columns, row), ())
    return names, samples


def _columns_of_pictures(features: Mapping[str, Any]) -> list[str]:
    """Columns that hold pictures: datasets' own, or bytes, or structs of bytes and path, as pandas writes them."""
    from datasets import Image, Value

    def holds(kind) -> bool:
        kind = getattr(kind, "feature", kind)
        if isinstance(kind, Mapping):
            return {"bytes"} <= kind.keys() <= {"bytes", "path"}
        return isinstance(kind, Image) or (isinstance(kind, Value) and kind.dtype.endswith("binary"))

    return [name for name, kind in features.items() if holds(kind)]


def _beside(folder: str | Path, columns: Sequence[str], row: Mapping) -> dict:
    """A row of a Parquet file in this folder: pictures that are names alone lie there, too."""

    def placed(cell: Any) -> Any:
        if isinstance(cell, list):
            return [placed(one) for one in cell]
        name = cell.get("path") if isinstance(cell, Mapping) and cell.get("bytes") is None else None
        if not name or os.path.isabs(name) or is_address(name):
            return cell
        if is_address(folder):
            return {"path": f"{folder}/{resolve_inside('.', name).as_posix()}", "bytes": None}
        return image_in(folder, cell)

    return {**row, **{name: placed(row.get(name)) for name in columns if name in row}}
