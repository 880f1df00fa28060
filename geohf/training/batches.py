"""Batches of streams, which rows of a batch are a process's own, and one batch from those of all processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from geohf.training.checkpoints import cpu_random_state, set_random_state


class StreamBatches(IterableDataset):
    """Batches of a stream's rows, each drawn from a seed of its own number.

    So a batch depends on its rows and its number alone, and a run that goes on passes over the rows of the batches before
    without opening a picture.

    Args:
        rows: an `EndlessStream`.
        size: rows of a batch.
        collate: makes a batch of a list of rows.
        seed: of the process; workers share it.

    Attributes:
        passed_over: batches that the run has trained on already: they come as None, or whole, and the loader drops them.
    """

    def __init__(self, rows: IterableDataset, size: int, collate: Callable[[list], Any], seed: int):
        self.rows, self.size, self.collate, self.seed = rows, size, collate, seed
        self.passed_over = 0

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # workers without a row leave more of the batches to the others, and so at least this many to each
        passed_over, rows = self.passed_over // step, iter(self.rows)
        for own in count():
            batch = list(islice(rows, self.size))
            if not batch:
                return
            if own < passed_over:
                yield None
                continue
            with _drawing_from(self.seed, first + own * step):
                collated = self.collate(batch)
            yield collated


@contextmanager
def _drawing_from(*seed: int) -> Iterator[None]:
    """Random numbers of torch on the CPU, numpy and Python are those of a seed; afterwards they go on as they were."""
    before = cpu_random_state()
    of_python, of_numpy, of_torch = np.random.SeedSequence(seed).generate_state(3).tolist()
    random.seed(of_python)
    np.random.seed(of_numpy)  # noqa: NPY002  collators that users have may draw from it
    torch.default_generator.manual_seed(of_torch)  # and not those of GPUs, which draw dropout
    try:
        yield
    finally:
        set_random_state(before)


@dataclass
class BatchesAhead:
    """A collator that knows what its last batch was drawn from: a resumed run draws that batch again.

    The loader is a batch ahead of training, so a checkpoint is saved when the batch of the next step has been drawn.

    Attributes:
        collate: makes a batch of a list of rows, in this process.
        drawn_from: the random state before the last batch; None before the first.
        resumed: (the random state of the first batch, that of all that follows) of a run that goes on within an epoch.
    """

    collate: Callable[[list], Any]
    drawn_from: dict | None = None
    resumed: tuple[dict, dict] | None = None

    def __call__(self, rows: list) -> Any:
        resumed = self.resumed if self.drawn_from is None else None
        if resumed:
            set_random_state(resumed[0])
        self.drawn_from = cpu_random_state()
        batch = self.collate(rows)
        if resumed:
            set_random_state(resumed[1])
        return batch


class EmptyBatch(dict):
    """The batch of a process for which an epoch's last step has no row left: it takes part and counts nothing."""


def drop_padding_rows(batch, accelerator):
    """The batch without the rows that accelerate repeats to give every process a batch of equal size.

    Args:
        batch: a mapping; each tensor or list with an entry per row is cut.
        accelerator: whose loader has just given this batch.
    """
    state, processes = accelerator.gradient_state, accelerator.num_processes
    if processes == 1 or accelerator.split_batches or not state.end_of_dataloader:
        return batch
    batches = getattr(state.active_dataloader, "batch_sampler", None)
    while hasattr(batches, "batch_sampler"):  # accelerate's wrappers
        batches = batches.batch_sampler
    if not hasattr(getattr(batches, "sampler", None), "__len__") or batches.drop_last:
        return batch
    size = batches.batch_size
    remainder = len(batches.sampler) % (size * processes)
    own = min(max(remainder - accelerator.process_index * size, 0), size)
    if not remainder or own == size:
        return batch
    # a process without any row keeps one, so that its forward and backward take part
    kept = max(own, 1)
    rows = {name: value[:kept] if _has_rows(value, size) else value for name, value in batch.items()}
    return rows if own else EmptyBatch(rows)


def _has_rows(value, size: int) -> bool:
    rows = isinstance(value, (list, tuple)) or (isinstance(value, torch.Tensor) and value.ndim > 0)
    return rows and len(value) == size


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        ctx.rows = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        start = distributed.get_rank() * ctx.rows
        # every process has the whole gradient: N times the own part is what their sum would bring here, and
        # the mean that DistributedDataParallel takes then is the gradient of one process with one large batch
        return gradient[start : start + ctx.rows] * distributed.get_world_size()


def is_distributed() -> bool:
    """Several processes share this run."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in their order, on each of them; the gradient flows to the own rows.

    When gradients are averaged, as DistributedDataParallel does, they are exactly those of a single process, of parameters
    behind it, too. Alone it gives the rows as they are.

    Args:
        rows: (n, ...), n the same on every process.
    """
    return _GatherRows.apply(rows) if is_distributed() else rows


def broadcast_from_first(tensor: torch.Tensor) -> torch.Tensor:
    """The first process's tensor, on every process; for random numbers that all must share."""
    if is_distributed():
        tensor = tensor.contiguous()
        distributed.broadcast(tensor, 0)
    return tensor
