"""Which rows of a batch are a process's own."""

from __future__ import annotations

import torch


class BatchWithoutRows(dict):
    """The batch of a process for which an epoch's last step has no row left: it takes part and counts nothing."""


def own_rows(batch, accelerator):
    """The batch without the rows that accelerate repeats to give every process a batch of equal size.

    Args:
        batch: a mapping; each tensor or list with as many entries as the batch has rows is cut.
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
    return rows if own else BatchWithoutRows(rows)


def _has_rows(value, size: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim > 0 and len(value) == size
    return isinstance(value, (list, tuple)) and len(value) == size
