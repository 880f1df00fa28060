"""The shards of tables that are read chunk by chunk: row groups of Parquet, whole CSV files, a dataset's own."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.data.formats import (
    FIRST_ROW,
    TABLES,
    dataset_frames,
    is_parquet,
    is_saved_dataset,
    is_table_name,
    load_splits,
    named_classes,
    parquet_features,
    saved_dataset,
    tell_of_other_splits,
)
from geohf.data.samples import without_decoding
from geohf.data.tables import read_table_in_chunks
from geohf.errors import DataError
from geohf.vision.files import files_below

if TYPE_CHECKING:
    import pandas as pd
    from datasets import IterableDataset

Shard = tuple[str, int | None]  # a file and its row group, or a dataset and the number of its shard
CHUNK_ROWS = 512  # rows may hold their images: 512 photographs of 200 KB are 100 MB


def features_of(source: str | Path | Sequence[str | Path]) -> Mapping[str, Any]:
    """What the first file, if datasets wrote it as Parquet, or the Hub says of the columns; {} where nothing.

    Args:
        source: see `StreamedTable`.
    """
    first = str(source if isinstance(source, (str, Path)) else source[0])
    name = shards_of(first)[0][0]
    if is_saved_dataset(name):
        return without_decoding(saved_dataset(name)).features
    if not Path(name).is_file():
        return _hub_stream(name).features or {}
    return parquet_features(name) if is_parquet(name) else {}


def tables_of(source: str) -> list[Path]:
    """The files that a source of a stream stands for, see `StreamedTable`; none for a dataset of the Hub.

    Raises:
        DataError: there is no such file or folder.
    """
    path = Path(source)
    if is_saved_dataset(path):
        return [path]
    if path.is_dir():
        files = sorted(filter(is_table_name, files_below(path)))
        if not files:
            raise DataError(f"{source}: holds no table ({', '.join(TABLES)})")
        return files
    if path.is_file():
        return [path]
    if glob.has_magic(source):
        files = sorted(map(Path, glob.glob(source, recursive=True)))
        if not files:
            raise DataError(f"{source}: no file has such a name")
        return files
    if path.suffix.lower() in TABLES or source.count("/") != 1:
        raise DataError(f"{source}: no such file or folder")
    return []


def shards_of(source: str) -> list[Shard]:
    """The shards of one source of a stream."""
    if is_saved_dataset(source):
        return [(source, number) for number in range(len(_row_ranges(source)))]
    files = tables_of(source)
    if not files:
        return [(source, number) for number in range(_hub_stream(source).num_shards)]
    return [(str(file), group) for file in files for group in _row_groups(file)]


def chunks_of(source: str, number: int | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """A shard chunk by chunk: (its name in messages, at most `CHUNK_ROWS` rows, whose index counts those of the file)."""
    if Path(source).is_file():
        for chunk in read_table_in_chunks(source, CHUNK_ROWS, number):
            yield source, chunk
        return
    if is_saved_dataset(source):
        rows = _row_ranges(source)[number or 0]
        for chunk in dataset_frames(saved_dataset(source).select(rows), CHUNK_ROWS):
            yield source, chunk.set_axis(chunk.index + rows.start)
        return
    import pandas as pd

    stream, first = _hub_stream(source), 0
    shard = stream.shard(num_shards=stream.num_shards, index=number)
    for batch in shard.iter(batch_size=CHUNK_ROWS):
        size = len(next(iter(batch.values())))
        chunk = pd.DataFrame(batch, index=range(first + FIRST_ROW, first + FIRST_ROW + size))
        for name, cells in batch.items():
            if chunk[name].dtype.kind == "f" and any(isinstance(cell, int) for cell in cells):
                chunk[name] = pd.Series(cells, chunk.index, dtype=object)  # as `WHOLE_NUMBERS`
        yield f"{source} [train, shard {number}]", named_classes(chunk, stream.features or {})
        first += size


def _row_ranges(source: str) -> list[range]:
    """The rows of each shard of a saved dataset."""
    dataset = saved_dataset(source)
    rows, count = len(dataset), max(len(dataset.cache_files), 1)
    return [range(rows * i // count, rows * (i + 1) // count) for i in range(count)]


def _row_groups(file: Path) -> Sequence[int | None]:
    if not is_parquet(file):
        return [None]
    import pyarrow.parquet

    try:
        return range(pyarrow.parquet.ParquetFile(file).num_row_groups)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a table ({error})") from None


@lru_cache(maxsize=2)  # every shard of every pass asks for it
def _hub_stream(name: str) -> IterableDataset:
    splits = load_splits(name, streaming=True)
    if "train" not in splits:
        raise DataError(f"{name}: has no split 'train' but {', '.join(splits)}")
    tell_of_other_splits(name, *splits)
    stream = splits["train"]
    if stream.features is None:  # of a folder of images: its rows tell
        stream = stream._resolve_features()
    return without_decoding(stream)
