"""The losses of the street task, as pure functions of tensors.

Each returns a sum over the rows that count divided by `items`, so that the caller decides over what the mean
goes: by default the rows that count in this batch.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from geohf.geo import great_circle_m
from geohf.street.hierarchy import Levels, sums_of_levels


def soft_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor, items: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy against soft targets.

    With targets from `geohf.geo.cell_soft_targets` or `point_soft_targets` this is the haversine-smoothed
    loss of PIGEON (Haas et al., CVPR 2024, arXiv 2307.05845).

    Args:
        logits: (batch, classes).
        targets: (batch, classes), non-negative; rows need not sum to one.
        counts: (batch,) bool, the rows with a known target.
        items: number to divide by; None: the rows that count.
    """
    # rows that do not count may hold NaN targets: 0 * NaN is NaN, so they are replaced, not multiplied
    targets = torch.where(counts[:, None], targets, 0.0)
    total = -(targets * logits.float().log_softmax(-1)).sum()
    return total / _items(counts, items)


def hierarchical_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    counts: torch.Tensor,
    levels: Levels,
    items: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean over all levels of the cross-entropy of probabilities summed over the cells of a part.

    Source: Astruc et al., OpenStreetView-5M, arXiv 2404.18873; here the targets of parts are sums, too.

    Args:
        logits, targets, counts, items: see `soft_cross_entropy`, of the cells.
        levels: see `level_tensors`; none: `soft_cross_entropy`.
    """
    total = soft_cross_entropy(logits, targets, counts, items)
    if not levels:
        return total
    targets = torch.where(counts[:, None], targets, 0.0)
    known = sums_of_levels(targets, levels)
    for wanted, found in zip(known, sums_of_levels(logits.float().softmax(-1), levels), strict=True):
        # a part whose probability underflows is still told of by its cells' own logits
        logarithm = found.clamp(min=torch.finfo(found.dtype).tiny).log()
        total = total - (wanted * logarithm).sum() / _items(counts, items)
    return total / (1 + len(levels))


def gps_loss(
    kind: str,
    predicted: torch.Tensor,
    truth: torch.Tensor,
    scale: torch.Tensor,
    items: torch.Tensor | None = None,
    scale_km: float = 5000.0,
) -> torch.Tensor:
    """How far predicted points lie from the truth.

    Args:
        kind: `mse`, `mae` or `smooth_l1` on latitude and longitude differences over `scale` (the longitude
            difference taken the short way round), averaged over both, or `haversine`: great-circle km over
            `scale_km`.
        predicted: (batch, 2) degrees.
        truth: (batch, 2) degrees; rows with NaN do not count.
        scale: (2,) or (batch, 2) degrees.
        items: number to divide by; None: the rows that count.
    """
    counts = truth.isfinite().all(-1)
    truth = torch.where(counts[:, None], truth, predicted.detach().to(truth.dtype))
    if kind == "haversine":
        rows = great_circle_m(predicted, truth.to(predicted.dtype)) / 1000 / scale_km
    else:
        difference = predicted - truth.to(predicted.dtype)
        longitude = difference[:, 1] - 360 * torch.round(difference[:, 1].detach() / 360)
        difference = torch.stack([difference[:, 0], longitude], -1) / scale
        shape = {"mse": F.mse_loss, "mae": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[kind]
        rows = shape(difference, torch.zeros_like(difference), reduction="none").mean(-1)
    return torch.where(counts, rows, 0.0).sum() / _items(counts, items)


def _items(counts: torch.Tensor, items: torch.Tensor | None) -> torch.Tensor:
    # a batch without any row that counts has the loss 0, not 0 / 0
    return (counts.sum() if items is None else items).clamp(min=1)
