"""One batch from the batches of all processes, for losses that compare rows with each other."""

from __future__ import annotations

import torch
from torch import distributed


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

    What every process computes from it, parameters behind it included, gets exactly the gradient of a single
    process when gradients are averaged, as DistributedDataParallel does. Alone it gives the rows as they are.

    Args:
        rows: (n, ...), n the same on every process.
    """
    return _GatherRows.apply(rows) if is_distributed() else rows


def same_everywhere(tensor: torch.Tensor) -> torch.Tensor:
    """The first process's tensor, on every process; for random numbers that all must share."""
    if is_distributed():
        tensor = tensor.contiguous()
        distributed.broadcast(tensor, 0)
    return tensor
