"""Answers for many inputs in one file, written batch by batch: a run that was killed goes on where it stopped."""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from geohf.data.inputs import Inputs
from geohf.data.tables import RowErrors
from geohf.errors import DataError, require_whole
from geohf.io import atomic_write, cache_folder, json_text, refuse_overwriting, require_writable
from geohf.models.ahead import batches_of, prepared_ahead
from geohf.models.shards import predict_to_shards, save
from geohf.models.work import Work, key_of
from geohf.report.answers import check_format, write_answers
from geohf.report.tables import write_csv
from geohf.vision.contents import digest_of
from geohf.vision.images import is_address
from geohf.vision.thumbnails import MOST

if TYPE_CHECKING:
    from accelerate.state import PartialState

    from geohf.models.answering import AnsweringModel

logger = logging.getLogger(__name__)

Line = tuple[str, int]  # the file, and where in it the line begins


class Partial:
    """The batches that a run has finished, in `.OUTPUT.partial`: a line each, known by its key. No row is kept in memory.

    Args:
        path: the output.
        run: what the answers depend on beside the inputs. Batches of another run are forgotten.
        rank: of the process; each writes a file of its own.
    """

    def __init__(self, path: Path, run: str, rank: int = 0):
        self.head, self.start = {"run": run}, path.with_name(f".{path.name}.partial")
        self.file = self.start if rank == 0 else self.start.with_name(f"{self.start.name}-{rank}")
        self.done: dict[str, Line] = {}
        whole = list(_whole_lines(self.file, self.head)) if self.file.is_file() else []
        if whole:
            with open(self.file, "r+b") as file:
                file.truncate(sum(whole[-1][:2]))  # a line that was cut off
        else:
            with atomic_write(self.file) as file:
                file.write(json_text(self.head) + "\n")

    def take_up(self) -> None:
        """Know the batches that this process and others have finished; call it when all of them have begun."""
        for file in self.files():
            lines = iter(_whole_lines(file, self.head))
            next(lines, None)
            self.done |= {entry["key"]: (str(file), at) for at, _, entry in lines}
        if self.done:
            logger.info("%d batches are finished already", len(self.done))

    def add(self, key: str, answers: dict[str, Any]) -> None:
        """Keep the answers of a batch."""
        with open(self.file, "ab") as file:
            self.done[key] = (str(self.file), file.tell())
            file.write((json_text({"key": key} | answers) + "\n").encode())

    def files(self) -> list[Path]:
        """Those of all processes."""
        return sorted(self.start.parent.glob(f"{glob.escape(self.start.name)}*"))

    def remove(self) -> None:
        for file in self.files():
            file.unlink(missing_ok=True)


@dataclass
class PartialRows:
    """The rows of finished batches in their order, read again each time they are iterated."""

    lines: list[Line]

    def __iter__(self) -> Iterator[dict]:
        for entry in self.entries():
            yield from entry["rows"]

    def entries(self) -> Iterator[dict]:
        """The batches: their `rows` and `skipped` samples."""
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(name, "rb")) for name in {name for name, _ in self.lines}}
            for name, at in self.lines:
                files[name].seek(at)
                yield json.loads(files[name].readline())


def _whole_lines(path: Path, head: dict) -> Iterator[tuple[int, int, Any]]:
    """(where it begins, its length, what it says) of each line, up to one that is cut off; none of another run."""
    at = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None or (at == 0 and entry != head):
                return
            yield at, len(line), entry
            at += len(line)


def predict_to_file(
    model: AnsweringModel,
    sources: Any,
    output: str | os.PathLike,
    batch_size: int = 32,
    on_error: str = "raise",
    processes: PartialState | None = None,
    finish: Callable[[list[dict]], list[dict]] | None = None,
    thumbnails: int = MOST,
    **options: Any,
) -> int:
    """Predict whatever `sources` name and write one file, see `write_answers`.

    Until it is whole, finished batches lie beside it in `.OUTPUT.partial`; the same call takes up those whose inputs
    are the same: by where a file lies, its size and time of change, or by the content of what is no file.

    Args:
        sources: what the model's `find_inputs` knows: files, folders, globs, tables, names of datasets, or samples of any
            kind that `predict` takes; or the `Inputs` themselves.
        output: a file, an address of fsspec, or a folder, which ends in `/`, see `geohf.models.shards.predict_to_shards`.
        on_error: `raise` stops at an unusable input, `skip` leaves it out and lists it in `OUTPUT.skipped.csv`.
        processes: accelerate's `PartialState`, where several processes share the work: each calls this with the same
            inputs, and they see one disk.
        finish: makes the rows to write of all rows together, where an answer needs more than its batch.
        thumbnails: of how many of the first inputs a map (`.html`) holds small photographs, without their tags.
        options: of the model's `predict`.

    Returns:
        The number of rows written; 0 in every process but the first.

    Raises:
        DataError: `output` is an input, an input that cannot be used, an ending that is no known format, or answers without
            a position where the format wants one.
    """
    from tqdm.auto import tqdm

    require_whole(1, batch_size=batch_size)
    require_whole(0, thumbnails=thumbnails)
    if str(output).endswith("/"):
        if finish is not None:
            raise DataError(
                f"{output}: answers that depend on each other go into one file, not into a folder"
            )
        return predict_to_shards(model, sources, output, batch_size, on_error, processes, **options)
    pictured = thumbnails if check_format(output) == ".html" else 0
    named = isinstance(sources, (str, os.PathLike))
    refuse_overwriting(output, [sources] if named else sources if isinstance(sources, (list, tuple)) else [])
    start = Path(output)  # what is finished lies beside it, of an address in the cache
    if is_address(output):
        start = cache_folder("predictions") / digest_of([str(output).encode()]).hex() / start.name
    require_writable(start)
    inputs = sources if isinstance(sources, Inputs) else model.find_inputs(sources)
    errors = RowErrors(on_error)
    rank, world = (processes.process_index, processes.num_processes) if processes else (0, 1)
    work = Work(model, batch_size, on_error, options)
    partial = Partial(start, work.fingerprint() + (f"-{pictured}" if pictured else ""), rank)
    if processes:
        processes.wait_for_everyone()
    partial.take_up()
    lines: list[tuple[int, Line]] = []
    batches = islice(enumerate(batches_of(inputs, batch_size)), rank, None, world)
    keyed = ((number, batch, key_of(batch)) for number, batch in batches)
    prepared = prepared_ahead(
        lambda entry: None if entry[2] in partial.done else work.prepare(entry[1]), keyed
    )
    with tqdm(total=inputs.count, desc="predict", disable=rank > 0) as bar, closing(prepared) as ahead:
        for (number, batch, key), tensors in ahead:
            if key not in partial.done:
                partial.add(key, work.answers(batch, tensors.result, max(0, pictured - number * batch_size)))
            lines.append((number, partial.done[key]))
            bar.update(len(batch) * world)
    kept = 0
    if world > 1:
        lines = gather_object(lines)
    if rank == 0:
        kept = _write(partial, [line for _, line in sorted(lines)], output, errors, finish)
    if processes:
        processes.wait_for_everyone()
    return kept


def _write(
    partial: Partial,
    lines: list[Line],
    output: str | os.PathLike,
    errors: RowErrors,
    finish: Callable[[list[dict]], list[dict]] | None,
) -> int:
    """Make the output of finished batches; the number of rows."""
    if not lines:
        partial.remove()
        raise DataError("there is nothing to predict")
    rows, kept = PartialRows(lines), 0
    for entry in rows.entries():
        errors.rows += entry["skipped"]
        kept += len(entry["rows"])
    errors.settle(kept=kept)
    save(output, lambda path: write_answers(path, rows if finish is None else finish(list(rows))))
    if errors.rows:
        save(f"{output}.skipped.csv", lambda path: write_csv(path, errors.rows))
    partial.remove()
    return kept
