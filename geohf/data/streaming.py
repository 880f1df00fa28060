"""Tables larger than memory: rows are read, checked and handed on chunk by chunk, shared out among processes."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geohf.data.formats import (
    FIRST_ROW,
    TABLES,
    dataset_frames,
    is_parquet,
    is_saved_dataset,
    named_classes,
    parquet_features,
    saved_dataset,
)
from geohf.data.samples import undecoded
from geohf.data.tables import RowErrors, clean_table, read_table_in_chunks
from geohf.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, Features, IterableDataset

CHUNK_ROWS = 512  # rows may hold their images: 512 photographs of 200 KB are 100 MB
RowsOf = Callable[["pd.DataFrame", str, RowErrors], Mapping[str, list]]


def stream_rows(
    source: str | Path | Sequence[str | Path],
    rows_of: RowsOf,
    features: Features,
    numbers: Sequence[str] = (),
    on_error: str = "raise",
) -> IterableDataset:
    """Rows of CSV or Parquet files, or of a dataset of the Hub, never more than a chunk of them in memory.

    Its shards are the row groups of Parquet files, whole CSV files, and the dataset's own: that many processes and
    workers read apart from each other (`datasets.distributed.split_dataset_by_node`, `DataLoader(num_workers=)`).
    Rows are held out as files of their own: `take` and `skip` count anew for each of those who share.

    Args:
        source: files; folders, of which every table counts, or that `save_to_disk` wrote; globs; or the name of a
            dataset; of datasets `train` is read.
        rows_of: `(chunk, name of the file, errors) -> columns` of the rows that can be used; the chunk's index
            counts the file's rows. Workers get it by pickle, so a lambda will not do.
        features: of the columns.
        numbers: columns of the tables that hold numbers.
        on_error: `raise` stops at a row that cannot be used when it comes, `skip` leaves it out and logs it.

    Raises:
        DataError: there is no such file or dataset; later, as rows are read: a row that cannot be used.
    """
    from datasets import IterableDataset

    RowErrors(on_error)  # now, and not when the first row is read
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    shards = [shard for name in map(str, sources) for shard in _shards_of(name)]
    settings = {"rows_of": rows_of, "numbers": tuple(numbers), "on_error": on_error}
    return IterableDataset.from_generator(_rows, features=features, gen_kwargs={"shards": shards} | settings)


def write_shards(dataset: Dataset, folder: str | Path, num_shards: int = 8) -> None:
    """Write a dataset as Parquet files that hold its images, for `stream_rows` to read anywhere.

    `Dataset.to_parquet` leaves paths in the files, which lead nowhere on another machine.
    """
    from datasets.table import embed_table_storage

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_shards):
        shard = dataset.shard(num_shards, number, contiguous=True).with_format("arrow")
        shard = shard.map(embed_table_storage, batched=True, batch_size=CHUNK_ROWS)
        shard.to_parquet(folder / f"{number:05d}-of-{num_shards:05d}.parquet", batch_size=CHUNK_ROWS)


class EndlessStream(torch.utils.data.IterableDataset):
    """A process's share of a stream, again and again; it ends only where the share has no row at all.

    Processes whose shares differ in length would otherwise wait for each other for ever at the end of the shortest.
    Each pass is a new epoch of the stream: `datasets` takes its shards in another order, and its rows where it is
    shuffled.

    Args:
        stream: a `datasets.IterableDataset`. Shuffled, it needs a seed, or no two processes and no resumed run see
            the same order. One that `split_dataset_by_node` has cut is this process's share as it is.
        rank, world: of the process. Shards are shared out where their number is a multiple of `world`. Else every
            process reads all rows and keeps each `world`-th; together they are then the batches of one process.
    """

    def __init__(self, stream: IterableDataset, rank: int = 0, world: int = 1):
        self.stream = stream
        whole, share = (0, 1), (rank, world)
        if getattr(stream, "_distributed", None) is not None:  # to cut it again would lose rows
            self.of_shards = self.of_rows = whole
        else:
            self.of_shards, self.of_rows = (whole, share) if stream.num_shards % world else (share, whole)

    def __iter__(self) -> Iterator[dict]:
        from datasets.distributed import split_dataset_by_node

        # here, in the worker that reads it: workers share the epoch of a stream that they were given
        stream = split_dataset_by_node(self.stream, *self.of_shards)
        rank, world = self.of_rows
        return islice(_passes(stream), rank, None, world)


def _passes(stream: IterableDataset) -> Iterator[dict]:
    for epoch in count():
        stream.set_epoch(epoch)
        row = None
        for row in stream:
            yield row
        if row is None:
            return


def features_of(source: str | Path | Sequence[str | Path]) -> Mapping[str, Any]:
    """What the first file, if datasets wrote it as Parquet, or the Hub says of the columns; {} where nothing.

    Args:
        source: see `stream_rows`.
    """
    first = str(source if isinstance(source, (str, Path)) else source[0])
    name = _shards_of(first)[0][0]
    if is_saved_dataset(name):
        return undecoded(saved_dataset(name)).features
    if not Path(name).is_file():
        return _hub_stream(name).features or {}
    return parquet_features(name) if is_parquet(name) else {}


def is_stream(dataset: Any) -> bool:
    """Whether this is a `datasets.IterableDataset`."""
    from datasets import IterableDataset

    return isinstance(dataset, IterableDataset)


def tables_of(source: str) -> list[Path]:
    """The files that a source of a stream stands for, see `stream_rows`; none for a dataset of the Hub.

    Raises:
        DataError: there is no such file or folder.
    """
    path = Path(source)
    if is_saved_dataset(path):
        return [path]
    if path.is_dir():
        files = sorted(p for kind in TABLES for p in path.rglob(f"*{kind}"))
        if not files:
            raise DataError(f"{source}: holds no table ({', '.join(TABLES)})")
        return files
    if path.is_file():
        return [path]
    if glob.has_magic(source):
        files = sorted(Path(file) for file in glob.glob(source, recursive=True))
        if not files:
            raise DataError(f"{source}: no file is called so")
        return files
    if path.suffix.lower() in TABLES or source.count("/") != 1:
        raise DataError(f"{source}: no such file or folder")
    return []


def _shards_of(source: str) -> list[tuple[str, int | None]]:
    """(file, row group) of each shard, or (name of a dataset, number of the shard)."""
    if is_saved_dataset(source):
        return [(source, number) for number in range(len(_row_ranges(source)))]
    files = tables_of(source)
    if not files:
        return [(source, number) for number in range(_hub_stream(source).num_shards)]
    return [(str(file), group) for file in files for group in _row_groups(file)]


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
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        splits = load_dataset(name, streaming=True)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(f"{name}: no such file, and no dataset that can be loaded ({error})") from None
    if "train" not in splits:
        raise DataError(f"{name}: has no split 'train' but {', '.join(splits)}")
    stream = splits["train"]
    if stream.features is None:  # of a folder of images: its rows tell
        stream = stream._resolve_features()
    return undecoded(stream)


def _rows(shards, rows_of: RowsOf, numbers: Sequence[str], on_error: str) -> Iterator[dict]:
    for shard in shards:
        for name, chunk in _chunks(*shard):
            table, errors = clean_table(chunk, name, numbers=numbers), RowErrors(on_error)
            if table.empty:  # blank lines at the end of a file
                continue
            columns = rows_of(table, name, errors)
            errors.settle(kept=1)  # a chunk, or a whole shard, may lose all of its rows
            for row in zip(*columns.values(), strict=True):
                yield dict(zip(columns, row, strict=True))


def _chunks(source: str, number: int | None) -> Iterator[tuple[str, pd.DataFrame]]:
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
        yield f"{source} [train, shard {number}]", named_classes(chunk, stream.features or {})
        first += size
