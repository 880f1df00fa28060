"""Finished batches beside an output: what a run that was stopped takes up, and what the output is written from."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from geohf.io import atomic_write, json_text

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
        if self.file.is_file():
            whole = list(_whole_lines(self.file, self.head))
            end = whole[-1][0] + whole[-1][1] if whole else 0
        else:
            end = 0
        if end:
            with open(self.file, "r+b") as file:
                file.truncate(end)  # a line that was cut off
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


class PartialRows:
    """The rows of finished batches in their order, read again each time they are iterated."""

    def __init__(self, lines: list[Line]):
        self.lines = lines

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
