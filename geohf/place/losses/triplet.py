"""The triplet loss, and three ways to choose its negatives."""

from __future__ import annotations

import torch

# Squared distances below it are rounding; the root's gradient must not blow them up.
_SQUARED_FLOOR = 1e-8


def triplet(
    descriptors: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    margin: float = 0.5,
    mining: str = "half_hard",
    hard_share: float = 0.5,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """`max(0, d(anchor, positive) - d(anchor, negative) + margin)` over mined triplets.

    Args:
        descriptors: (n, d) of length 1; d(a, b) is their Euclidean distance, between 0 and 2.
        positive, negative: (n, n) bool, row i for anchor i; see `pair_masks`.
        margin: of the hinge.
        mining: `batch_hard` takes the farthest positive and the nearest negative of every anchor (Hermans et al.
            2017). `semi_hard` takes, for every anchor and positive, the nearest negative that is farther than the
            positive, or the farthest one where none is (Schroff et al. 2015, FaceNet). `half_hard` takes, for every
            anchor and positive, the nearest negative and one by lot, weighted by `hard_share` and its rest.
        hard_share: of `half_hard`.
        noise: (n, n) random numbers that draw the negatives of `half_hard`: the largest wins. None draws them
            here; several processes that compute one loss must agree on them.

    Returns:
        The mean over triplets, a scalar; zero where there is none.

    >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> same = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    >>> other = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]]).bool()
    >>> # anchor 0: 0.632 - 1.414 + 0.5 < 0; anchor 1: 0.632 - 0.894 + 0.5 = 0.238
    >>> round(triplet(x, same, other, mining="batch_hard").item(), 4)
    0.119
    """
    distance = (2 - 2 * descriptors.float() @ descriptors.float().T).clamp(min=_SQUARED_FLOOR).sqrt()
    complete = positive.any(1) & negative.any(1)
    hardest = distance.masked_fill(~negative, torch.inf).amin(1)
    if mining == "batch_hard":
        farthest = distance.masked_fill(~positive, -torch.inf).amax(1)
        return _mean_hinge(farthest - hardest + margin, complete)
    pairs = positive & complete[:, None]
    if mining == "semi_hard":
        return _mean_hinge(distance - _semi_hard(distance, negative) + margin, pairs)
    if mining != "half_hard":
        raise ValueError(f"mining must be batch_hard, semi_hard or half_hard, got {mining!r}")
    noise = torch.rand_like(distance) if noise is None else noise
    drawn = distance.gather(1, noise.masked_fill(~negative, -1.0).argmax(1, keepdim=True))
    hard = _mean_hinge(distance - hardest[:, None] + margin, pairs)
    return hard_share * hard + (1 - hard_share) * _mean_hinge(distance - drawn + margin, pairs)


def _semi_hard(distance: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """(n, n): for anchor i and positive j the nearest negative beyond j, or the farthest of all."""
    ordered, places = distance.masked_fill(~negative, torch.inf).sort(1)
    beyond = torch.searchsorted(ordered.detach(), distance.detach().contiguous(), right=True)
    last = negative.sum(1, keepdim=True) - 1
    chosen = places.gather(1, torch.minimum(beyond, last.clamp(min=0)))
    return distance.gather(1, chosen)


def _mean_hinge(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    # what does not count may be infinite, and infinity times zero is NaN
    return torch.where(counted, values, 0.0).clamp(min=0).sum() / counted.sum().clamp(min=1)
