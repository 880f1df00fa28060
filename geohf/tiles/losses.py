"""The losses of the tile task, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from geohf.models.losses import mean_of_known

MOST_LOG_VARIANCE = 10.0  # of standardized targets
TEMPERATURE = 0.1  # of the softmax over a frame's differences, as published


def regression_loss(
    kind: str,
    predicted: torch.Tensor,
    truth: torch.Tensor,
    quantiles: Sequence[float] | None = None,
    items: torch.Tensor | None = None,
) -> torch.Tensor:
    """How far predictions lie from the truth, averaged over the entries whose truth is known.

    Args:
        kind: `mse`, `mae`, `huber` (delta 1), `quantile` (Koenker and Bassett 1978), or `gaussian`: the negative
            log-likelihood without its constant (Nix and Weigend 1994).
        predicted: the shape of `truth`, with one more dimension for `quantile`, the quantiles, and for `gaussian`,
            mean and logarithm of the variance.
        truth: any shape; NaN entries do not count. Standardized.
        quantiles: shares in (0, 1) for `quantile`, whose losses are averaged.
        items: number to divide by; None: the entries that count.

    >>> regression_loss("quantile", torch.tensor([[0.0]]), torch.tensor([2.0]), [0.9])
    tensor(1.8000)
    >>> regression_loss("gaussian", torch.tensor([[1.0, 0.0]]), torch.tensor([3.0]))
    tensor(2.)
    """
    counts = truth.isfinite()
    # NaN times zero is NaN, so unknown entries are replaced, not multiplied
    known = torch.where(counts, truth, 0).to(predicted.dtype)
    if kind == "quantile":
        shares = predicted.new_tensor(quantiles)
        short = known[..., None] - predicted
        rows = torch.maximum(shares * short, (shares - 1) * short).mean(-1)
    elif kind == "gaussian":
        mean, log_variance = predicted[..., 0], predicted[..., 1].clamp(-MOST_LOG_VARIANCE, MOST_LOG_VARIANCE)
        rows = 0.5 * (log_variance + (known - mean).square() * (-log_variance).exp())
    else:
        losses: dict[str, Callable[..., torch.Tensor]]
        losses = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
        rows = losses[kind](predicted, known, reduction="none")
    return mean_of_known(rows, counts, items)


def difference_divergence(
    predicted: torch.Tensor, truth: torch.Tensor, items: torch.Tensor | None = None
) -> torch.Tensor:
    """How differently two sequences change from frame to frame (Tan et al., Temporal Attention Unit, CVPR 2023).

    The differences of a frame to the one before become shares over all its entries by a softmax (`TEMPERATURE`); told is the
    Kullback-Leibler divergence of the predicted shares from the true ones, an entry.

    Args:
        predicted, truth: (batch, frames, ...) of at least two frames; entries whose true difference is not known (NaN) do not
            count.
        items: number to divide by; None: the entries that count.

    >>> same = torch.tensor([[[0.0, 0.0], [0.0, 0.1]]])
    >>> bool(difference_divergence(same + 3, same).abs() < 1e-6)
    True
    """
    change, true = predicted.float().diff(dim=1).flatten(2), truth.float().diff(dim=1).flatten(2)
    counts = true.isfinite()

    def shares(values: torch.Tensor) -> torch.Tensor:
        known = torch.where(counts, values, 0) / TEMPERATURE
        return known.masked_fill(~counts, torch.finfo(known.dtype).min / 2).log_softmax(-1)

    ours = shares(change)
    return mean_of_known(ours.exp() * (ours - shares(true)), counts, items)
