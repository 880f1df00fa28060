"""Answers for more inputs than one file should hold: a folder of Parquet files, each known by its inputs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.data.addresses import upload
from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.io import json_text, refuse_overwriting
from geohf.models.ahead import batches_of, prepared_ahead
from geohf.models.work import Work, key_of
from geohf.report.answers import write_parquet
from geohf.report.tables import write_csv
from geohf.vision.images import is_address

if TYPE_CHECKING:
    from accelerate.state import PartialState

    from geohf.models.answering import AnsweringModel

# inputs of a file, in batches: with photographs it is some minutes' work that a kill may cost
SHARD_BATCHES = 64
KEY, SKIPPED = "geohf.key", "geohf.skipped"  # in a file's metadata


def predict_to_shards(
    model: AnsweringModel,
    sources: Any,
    folder: str | os.PathLike,
    batch_size: int = 32,
    on_error: str = "raise",
    processes: PartialState | None = None,
    **options: Any,
) -> int:
    """Predict into `00000.parquet`, `00001.parquet` ... of a folder, 64 batches of inputs each, never more in memory.

    A file that answers the same inputs with the same model and options is kept: the same call goes on after a kill, on
    another number of processes, too. Files of an earlier, longer run are an error in the end. With `on_error="skip"` the
    inputs left out are listed in `FOLDER.skipped.csv`.

    Args:
        folder: a path or an address of fsspec.
        processes: each takes every nth file; they need not see one disk where `folder` is an address.

    Returns:
        The number of rows in all files; 0 in every process but the first.

    Raises:
        DataError: see `predict_to_file`.
    """
    from tqdm.auto import tqdm

    folder = str(folder).rstrip("/")
    names = sources if isinstance(sources, (list, tuple)) else [sources]
    paths = [Path(name) for name in names if isinstance(name, (str, os.PathLike))]
    refuse_overwriting(folder, [*paths, *(path.parent for path in paths if path.suffix == ".parquet")])
    inputs, errors = model.find_inputs(sources), RowErrors(on_error)
    rank, world = (processes.process_index, processes.num_processes) if processes else (0, 1)
    work = Work(model, batch_size, on_error, options)
    run, count = work.fingerprint(), 0
    with tqdm(total=inputs.count, desc="predict", disable=rank > 0) as bar:
        for number, shard in enumerate(batches_of(inputs, SHARD_BATCHES * batch_size)):
            if number % world == rank:
                _answer(work, _name(folder, number), shard, f"{run}-{key_of(shard)}")
            count = number + 1
            bar.update(len(shard))
    if not count:
        raise DataError("there is nothing to predict")
    if processes:
        processes.wait_for_everyone()
    return _settle(folder, count, errors) if rank == 0 else 0


def _name(folder: str, number: int) -> str:
    return f"{folder}/{number:05d}.parquet"


def _settle(folder: str, count: int, errors: RowErrors) -> int:
    """List what was left out; the number of rows in all files."""
    kept = 0
    for number in range(count):
        facts = _facts(_name(folder, number)) or {}
        errors.rows += json.loads(facts.get(SKIPPED, "[]"))
        kept += facts.get("rows", 0)
    errors.settle(kept=kept)
    if errors.rows:
        save(f"{folder}.skipped.csv", lambda path: write_csv(path, errors.rows))
    if _facts(_name(folder, count)) is not None:
        raise DataError(
            f"{_name(folder, count)}: is of an earlier, longer run; remove it, and those after it"
        )
    return kept


def _answer(work: Work, name: str, shard: list[tuple[str, Any]], key: str) -> None:
    """Write one file, where it is not there yet."""
    if (_facts(name) or {}).get(KEY) == key:
        return
    rows, skipped = [], []
    with closing(prepared_ahead(work.prepare, batches_of(shard, work.batch_size))) as ahead:
        for batch, tensors in ahead:
            answers = work.answers(batch, tensors.result)
            rows += answers["rows"]
            skipped += answers["skipped"]
    metadata = {KEY: key, SKIPPED: json_text(skipped)}
    save(name, lambda path: write_parquet(path, rows, metadata))


def _facts(name: str) -> Mapping[str, Any] | None:
    """The metadata of a file and the number of its rows; None where there is none that can be read."""
    import fsspec
    from pyarrow.parquet import ParquetFile

    try:
        with fsspec.open(name, "rb") as file:
            opened = ParquetFile(file)
            metadata = opened.schema_arrow.metadata or {}
            return {k.decode(): v.decode() for k, v in metadata.items()} | {"rows": opened.metadata.num_rows}
    except Exception:  # each file system has errors of its own; the file is then written anew
        return None


def save(name: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Write a file, of an address in a folder of its own, from which it is uploaded."""
    if not is_address(name):
        write(Path(name))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / str(name).rpartition("/")[2]
        write(path)
        upload(path, str(name))
