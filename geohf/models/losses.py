"""What the losses of several tasks share: means over the rows that count."""

from __future__ import annotations

import torch


def loss_items(known: torch.Tensor, items: torch.Tensor | None = None) -> torch.Tensor:
    """What a sum of losses is divided by: `items`, or how many are known; never 0, so that a batch with none has the loss 0."""
    return (known.sum() if items is None else items).clamp(min=1)


def mean_of_known(
    losses: torch.Tensor, known: torch.Tensor, items: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean of the losses that count.

    Args:
        losses: any shape; what does not count may be NaN.
        known: bool of that shape, which of them count.
        items: see `loss_items`.
    """
    return torch.where(known, losses, 0.0).sum() / loss_items(known, items)
