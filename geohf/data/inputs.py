"""What a person names on a command line, as samples that a model takes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geohf.data.tables import FILE_COLUMNS, file_in, find_column, line_of, read_table, text_of
from geohf.errors import DataError
from geohf.vision.images import IMAGE_SUFFIXES, image_files, undecoded

TABLES = (".csv", ".parquet")


@dataclass
class Inputs:
    """Samples and what each is called, in order; a sample is opened when it is asked for.

    Attributes:
        parts: (names, samples) of every source; the samples of a dataset stay on disk.
    """

    parts: list[tuple[Sequence[str], Sequence[Any]]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(names) for names, _ in self.parts)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for names, samples in self.parts:
            yield from zip(names, samples, strict=True)

    @property
    def names(self) -> list[str]:
        return [name for names, _ in self.parts for name in names]


def find_images(sources: Sequence[str | os.PathLike]) -> Inputs:
    """Images by the names of files, folders, globs, tables and datasets.

    Args:
        sources: each an image file; a folder, of which every image below it counts; a glob like
            `photos/**/*.jpg`; a CSV or Parquet table with a column of file names (`image`, `file_name`,
            `filename`, `file` or `path`, relative to the table); or the name of a dataset with a column `image`.

    Raises:
        DataError: a source that is none of these, or that holds nothing.
    """
    inputs = Inputs()
    for source in map(str, sources):
        path = Path(source)
        if path.suffix.lower() in TABLES and path.is_file():
            inputs.parts.append(_of_table(path))
        elif path.is_dir():
            files = image_files(path)
            inputs.parts.append(([str(file.relative_to(path)) for file in files], files))
        elif path.exists():
            inputs.parts.append(([source], [path]))
        elif glob.has_magic(source):
            files = sorted(file for file in glob.glob(source, recursive=True) if os.path.isfile(file))
            if not files:
                raise DataError(f"{source}: no file is called so")
            inputs.parts.append((files, files))
        else:
            inputs.parts.append(_of_dataset(source))
    if not len(inputs):
        raise DataError("there is nothing to predict")
    return inputs


def _of_table(path: Path) -> tuple[list[str], list[str]]:
    table = read_table(path)
    column = find_column(table.columns, FILE_COLUMNS, path)
    if any(isinstance(cell, (bytes, dict)) for cell in table[column].head(1)):
        return _rows_of(_load(path.suffix[1:].lower(), path, data_files=str(path)), str(path))
    names, files = [], []
    for position, cell in enumerate(table[column]):
        try:
            name = text_of(cell) or ""
            files.append(file_in(path.parent, name))
        except DataError as error:
            raise DataError(f"{path}, row {line_of(position)}: {error}") from None
        names.append(name)
    return names, files


def _of_dataset(name: str) -> tuple[list[str], Sequence[Any]]:
    if name.count("/") > 1 or name[0] in "./~" or Path(name).suffix.lower() in (*TABLES, *IMAGE_SUFFIXES):
        raise DataError(f"{name}: no such file or folder")
    return _rows_of(_load(name, name), name)


def _load(builder: str, source, **options):
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(builder, **options)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"{source}: no such file or folder, and no dataset that can be loaded ({error})"
        ) from None


def _rows_of(splits, source: str) -> tuple[list[str], Sequence[Any]]:
    from datasets import Image, concatenate_datasets

    names = [f"{split}/{row}" for split, rows in splits.items() for row in range(len(rows))]
    rows = concatenate_datasets(list(splits.values()))
    for column in rows.column_names:
        kind = rows.features[column]
        if isinstance(getattr(kind, "feature", kind), Image):
            if column not in ("image", "views"):
                rows = rows.rename_column(column, "image")
            return names, undecoded(rows)
    # text could name any file of this machine
    raise DataError(f"{source}: has no column of images; the columns are: {', '.join(rows.column_names)}")
