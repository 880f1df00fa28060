"""Batches are prepared by threads while the model computes: decoding and resizing free the interpreter's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

MOST_THREADS = 8  # more wait for the interpreter's lock, and each holds a batch


def batches_of(samples: Iterable[Any], size: int) -> Iterator[list]:
    """Samples in lists of `size`, the last one perhaps shorter."""
    rows = iter(samples)
    while batch := list(islice(rows, size)):
        yield batch


def prepared_ahead(
    prepare: Callable[[Any], Any], batches: Iterable[Any]
) -> Generator[tuple[Any, Future], None, None]:
    """Batches in their order, each with a future of `prepare(batch)`.

    By threads, as samples may be open files or pictures; a single batch is prepared where it is asked for. What reading
    the batches raises comes at its turn, after the batches before it. Whoever may leave before the last batch closes the
    iterator (`contextlib.closing`): the threads end then, and not when the last reference to it is gone.
    """
    entries = iter(batches)
    first = list(islice(entries, 2))
    if len(first) < 2:
        yield from ((batch, _done(prepare, batch)) for batch in first)
        return
    waiting: deque[tuple[Any, Future]] = deque()
    threads = _threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="geohf-prepare")
    try:
        failed = None
        entries = chain(first, entries)
        while True:
            try:
                batch = next(entries)
            except StopIteration:
                break
            except Exception as error:
                failed = error
                break
            waiting.append((batch, pool.submit(prepare, batch)))
            if len(waiting) > threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
        if failed is not None:
            raise failed
    finally:
        pool.shutdown(cancel_futures=True)


def _done(prepare: Callable[[Any], Any], batch: Any) -> Future:
    future: Future = Future()
    try:
        future.set_result(prepare(batch))
    except Exception as error:
        future.set_exception(error)
    return future


def _threads() -> int:
    """The cores that this process may use, shared with the other processes that a launcher started on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_THREADS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
