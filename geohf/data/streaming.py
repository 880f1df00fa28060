"""Tables larger than memory: rows are read, checked and handed on chunk by chunk, shared out among processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial, wraps
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import torch
from torch.utils.data._utils import worker

from geohf.data.classes import class_names, named
from geohf.data.columns import image_column, image_lists
from geohf.data.samples import without_decoding
from geohf.data.shards import CHUNK_ROWS, Shard, chunks_of, shards_of
from geohf.data.tables import RowErrors, clean_table
from geohf.data.task_data import facts_of, with_facts
from geohf.errors import DataError
from geohf.vision.contents import content_digest

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, Features, IterableDataset

P = ParamSpec("P")
RowsOf = Callable[["pd.DataFrame", str, RowErrors], Mapping[str, list]]
ROW = "stream_row"  # the column that counts the rows of `StreamedTable.read_labels`


class StreamedTable:
    """CSV or Parquet files, or a dataset of the Hub, of which never more than a chunk is in memory.

    It gives a stream of its rows, and its labels, by which rows are chosen. Its shards, row groups of Parquet, whole
    CSV files, or the dataset's own, are shared out among processes (`datasets.distributed.split_dataset_by_node`) and
    workers. Hold rows out as files, or by `read_labels`: `take` and `skip` of a stream count anew in each of them.

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

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        rows_of: RowsOf,
        features: Features,
        numbers: Sequence[str] = (),
        on_error: str = "raise",
    ):
        sources = [source] if isinstance(source, (str, Path)) else list(source)
        of_sources = [shards_of(str(name)) for name in sources]
        self.shards = [shard for shards in of_sources for shard in shards]
        self._ends = np.cumsum([len(shards) for shards in of_sources])  # of each source, counted in shards
        self.features = features
        self.errors = RowErrors(on_error)  # what `read_labels` left out
        self._reading: dict[str, Any] = {"rows_of": rows_of, "numbers": tuple(numbers), "on_error": on_error}
        self._lengths: list[int] = []

    def read_labels(self) -> Dataset:
        """Read the table once: what its rows say, with a digest of 16 bytes in place of each picture.

        `stream` and `take` choose rows by the column `stream_row` of what this gives.

        Raises:
            DataError: a row that cannot be used, or none that can.
        """
        from datasets import Dataset, Features, Value, concatenate_datasets
        from tqdm.auto import tqdm

        features, parts, first = Features(self.features | {ROW: Value("int64")}), [], 0
        self.errors, self._lengths = RowErrors(self.errors.on_error), []
        for shard in tqdm(self.shards, desc="reading labels", unit="shard"):
            begin = first
            for columns in _columns(shard, self._reading["rows_of"], self._reading["numbers"], self.errors):
                rows = len(next(iter(columns.values())))
                marked = {name: _marked(values, features[name]) for name, values in columns.items()}
                marked[ROW] = list(range(first, first + rows))
                parts.append(Dataset.from_dict(marked, features=features))
                first += rows
            self._lengths.append(first - begin)
        self.errors.settle(kept=first)
        if not first:
            raise DataError(f"{self.shards[0][0]}: holds no row")
        return concatenate_datasets(parts)

    def rows_of_sources(self) -> list[np.ndarray]:
        """Which of the rows that `read_labels` gave each source holds."""
        first = np.cumsum([0, *self._lengths])
        begins = [0, *self._ends[:-1]]
        return [np.arange(first[a], first[b]) for a, b in zip(begins, self._ends, strict=True)]

    def stream(self, rows: Dataset | None = None) -> IterableDataset:
        """The rows as a stream, in the table's order.

        Args:
            rows: some of those that `read_labels` gave; all where None.
        """
        from datasets import IterableDataset

        return IterableDataset.from_generator(
            _rows, features=self.features, gen_kwargs={"shards": self._chosen(rows)} | self._reading
        )

    def take(self, rows: Dataset) -> Dataset:
        """Some of the rows, with their pictures, on the disk in the cache of `datasets`.

        Args:
            rows: of those that `read_labels` gave.
        """
        from datasets import Dataset

        taken = Dataset.from_generator(
            _rows,
            features=self.features,
            gen_kwargs={"shards": self._chosen(rows)} | self._reading,
            fingerprint=_fingerprint(rows),  # another one as soon as a picture is
        )
        return taken.select(np.argsort(np.argsort(rows[ROW][:], kind="stable"), kind="stable"))

    def divide(
        self, splits: Mapping[str, Dataset | None], buffer_size: int = 0, seed: int = 42
    ) -> dict[str, Any]:
        """A stream of the split `train`, and the others as datasets on the disk; each has the facts of its labels.

        Args:
            splits: of the rows that `read_labels` gave; None stays None.
            buffer_size: the stream is shuffled by a buffer of so many rows; 0: it is not.
            seed: of the order.
        """
        parts: dict[str, Any] = {}
        for name, rows in splits.items():
            if rows is None:
                parts[name] = None
                continue
            part = self.stream(rows) if name == "train" else self.take(rows)
            if name == "train" and buffer_size:
                part = part.shuffle(seed=seed, buffer_size=buffer_size)
            parts[name] = with_facts(part, **facts_of(rows))
        return parts

    def _chosen(self, rows: Dataset | None) -> list[tuple[Shard, np.ndarray | None]]:
        if rows is None:
            return [(shard, None) for shard in self.shards]
        kept = np.zeros(sum(self._lengths), bool)
        kept[rows[ROW][:]] = True
        masks = np.split(kept, np.cumsum(self._lengths)[:-1])
        return [(shard, mask) for shard, mask in zip(self.shards, masks, strict=True) if mask.any()]


def streaming(table_of: Callable[P, StreamedTable]) -> Callable[P, IterableDataset]:
    """The function that gives the rows of a table, as `table_of` makes it, as a stream."""

    @wraps(table_of)
    def stream(*args: P.args, **kwargs: P.kwargs) -> IterableDataset:
        return table_of(*args, **kwargs).stream()

    # it is no longer the function that it wraps: pickle looks it up by its name
    stream.__name__ = stream.__qualname__ = table_of.__name__.replace("streamed", "stream", 1)
    stream.__annotations__ = table_of.__annotations__ | {"return": "IterableDataset"}
    del stream.__wrapped__
    return stream


def write_shards(dataset: Dataset, folder: str | Path, num_shards: int = 8) -> None:
    """Write a dataset as Parquet files that hold its images, for `StreamedTable` to read anywhere.

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

    Else processes would wait for ever at the end of the shortest share. Each pass is a new epoch of the stream:
    `datasets` takes its shards in another order, and its rows where it is shuffled.

    Args:
        stream: a `datasets.IterableDataset`, with a seed where it is shuffled: all processes and a resumed run must see
            one order. One that `split_dataset_by_node` has cut is this process's share as it is.
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


def is_stream(dataset: Any) -> bool:
    """Whether this is a `datasets.IterableDataset`."""
    from datasets import IterableDataset

    return isinstance(dataset, IterableDataset)


def as_stream(rows: Any) -> Any:
    """A torch `IterableDataset` as one of datasets, which resumes and is divided between processes; all else as it is."""
    from datasets import IterableDataset

    if isinstance(rows, torch.utils.data.IterableDataset) and not is_stream(rows):
        return IterableDataset.from_generator(partial(_all_of, rows))
    return rows


def _all_of(rows: torch.utils.data.IterableDataset) -> Iterator[Any]:
    """All rows of a stream, whichever worker reads it.

    It is one shard, which one worker reads; the others get none. A stream that shares itself out among workers, as
    torch wants it, would give that worker its own share alone: so it is told that there are no workers.
    """
    told = worker._worker_info
    worker._worker_info = None
    try:
        yield from rows
    finally:
        worker._worker_info = told


def read_stream(rows: Any, read: Callable[[dict, int], dict], columns: Collection[str]) -> Any:
    """A user's `datasets.IterableDataset` in the columns that a task knows, as `RowView` has rows by number.

    Args:
        read: (row, its number) -> the row in the task's columns; it gets the names of classes in place of numbers.
        columns: a stream that has all of these stays as it is.
    """
    known = rows.column_names or [*next(iter(rows), {})]
    if set(columns) <= set(known):
        return rows
    read = partial(_read, read=read, names=class_names(rows))
    return without_decoding(rows).map(read, with_indices=True, remove_columns=known)


def _read(row: dict, number: int, read: Callable, names: Mapping[str, Sequence[str]]) -> dict:
    return read(named(row, names), number)


def _rows(
    shards: Sequence[tuple[Shard, np.ndarray | None]], rows_of: RowsOf, numbers: Sequence[str], on_error: str
) -> Iterator[dict]:
    """The rows of shards, of each those of its mask."""
    for shard, kept in shards:
        number = count()
        errors = RowErrors(on_error)
        for columns in _columns(shard, rows_of, numbers, errors):
            errors.settle(kept=1)  # a chunk, or a whole shard, may lose all of its rows
            errors.rows.clear()
            for row in zip(*columns.values(), strict=True):
                if kept is None or kept[next(number)]:
                    yield dict(zip(columns, row, strict=True))


def _columns(
    shard: Shard, rows_of: RowsOf, numbers: Sequence[str], errors: RowErrors
) -> Iterator[Mapping[str, list]]:
    for name, chunk in chunks_of(*shard):
        table = clean_table(chunk, name, numbers=numbers)
        if not table.empty:  # blank lines at the end of a file
            yield rows_of(table, name, errors)


def _marked(values: list, feature: Any) -> Any:
    """A column whose pictures are a digest and a name each; others as they are."""
    from datasets import Image, List

    def mark(picture: Mapping[str, Any]) -> dict[str, Any]:
        return {"bytes": content_digest(picture), "path": picture["path"]}

    if isinstance(feature, Image):
        return image_column([mark(picture) for picture in values])
    if isinstance(feature, List) and isinstance(feature.feature, Image):
        return image_lists([[mark(picture) for picture in pictures] for pictures in values])
    return values


def _fingerprint(rows: Dataset) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for table in rows.with_format("arrow").iter(batch_size=CHUNK_ROWS):
        digest.update(repr(table.to_pylist()).encode())
    return digest.hexdigest()
