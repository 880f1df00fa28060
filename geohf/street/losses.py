"""The losses of the street task, as pure functions of tensors.

Each returns a sum over the rows that count divided by `items`, so that the caller decides over what the mean
goes: by default the rows that count in this batch.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable
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
        targets: (batch, classes), non-negative, sparse or not; rows need not sum to one.
        counts: (batch,) bool, the rows with a known target.
        items: number to divide by; None: the rows that count.
    """
    if targets.is_sparse:
        return hierarchical_cross_entropy(logits, targets, counts, [], items)
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
        logits, targets, counts, items: see `soft_cross_entropy`, of the cells; targets may be sparse.
        levels: see `level_tensors`; none: `soft_cross_entropy`.
    """
    if not levels and not targets.is_sparse:
        return soft_cross_entropy(logits, targets, counts, items)
    targets = targets.to_sparse().coalesce()
    rows, cells = targets.indices()
    weights = torch.where(counts.index_select(0, rows), targets.values(), 0.0).float()
    total = LevelsCrossEntropy.apply(logits.float(), rows, cells, weights, levels)
    return total / (1 + len(levels)) / _items(counts, items)


class LevelsCrossEntropy(torch.autograd.Function):
    """The sum over rows and levels of the cross-entropy, with one gradient for all levels.

    Of a row's cell with probability p it is ``p * sum(w - t / q) - t'``: w is what the row's targets add up to, t and q
    are target and probability of the part that the cell lies in, summed over the levels, and t' is its own target.
    A part's target is not zero for few parts, so only these are touched.
    """

    @staticmethod
    def forward(ctx, logits, rows, cells, weights, levels):
        probabilities = logits.softmax(-1)
        # logarithms are needed where targets are, and not of all cells; large logits are subtracted first, for their digits
        own = rows * logits.shape[1] + cells
        below = logits.amax(-1).index_select(0, rows) - logits.reshape(-1).index_select(0, own)
        total = (weights * (below - probabilities.amax(-1).log().index_select(0, rows))).sum()
        sums = weights.new_zeros(len(logits), dtype=torch.float64).index_add_(0, rows, weights.double())
        sums *= 1 + len(levels)
        parts, known, shares, of_rows = [], [weights], [], []
        for (parents, size), found in zip(levels, sums_of_levels(probabilities, levels), strict=True):
            # the cells of a part that stand side by side become one entry
            places, inverse = torch.unique_consecutive(rows * size + parents.index_select(0, cells), return_inverse=True)
            known.append(weights.new_zeros(len(places)).index_add_(0, inverse, known[-1]))
            rows, cells = places // size, places % size
            parts.append(places)
            shares.append(found.view(-1).index_select(0, places))
            of_rows.append(rows)
        ratios = weights.new_zeros(0)
        if levels:
            shares, known = torch.cat(shares), torch.cat(known[1:])
            # a part whose probability underflows is still told of by its cells' own logits
            tiny = torch.finfo(shares.dtype).tiny
            total -= (known * shares.clamp(min=tiny).log()).sum()
            ratios = torch.where(shares < tiny, 0.0, known / shares)
            sums.index_add_(0, torch.cat(of_rows), torch.where(shares < tiny, known, 0.0).double(), alpha=-1)
        ctx.levels = levels
        ctx.save_for_backward(probabilities, sums.to(logits.dtype)[:, None], own, weights, ratios, *parts)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        probabilities, factors, own, targets, ratios, *parts = ctx.saved_tensors
        width = ctx.levels[-1][1] if ctx.levels else probabilities.shape[1]
        factors = (factors * gradient).repeat(1, width)
        ratios = (ratios * -gradient).split([len(places) for places in parts])
        for (parents, _), places, values in zip(ctx.levels[::-1], parts[::-1], ratios[::-1], strict=True):
            factors.view(-1).index_add_(0, places, values)
            factors = factors.index_select(1, parents)
        factors.mul_(probabilities).view(-1).index_add_(0, own, targets * -gradient)
        return factors, None, None, None, None


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
