"""The Multi-Similarity loss, on the pairs that its miner finds informative."""

from __future__ import annotations

import torch

MINED = 0.1  # how far within the other kind's hardest pair a pair may lie and still be taken


def multi_similarity(
    descriptors: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    alpha: float = 1.0,
    beta: float = 50.0,
    base: float = 0.0,
) -> torch.Tensor:
    """Soft sums over an anchor's positives and negatives, each weighed by how it stands to the others.

    `log(1 + sum over positives of exp(-alpha (s - base))) / alpha + log(1 + sum over negatives of exp(beta (s - base))) /
    beta` with cosine similarities s, of the pairs that are mined: positives less similar than the most similar negative
    plus 0.1, and negatives more similar than the least similar positive less 0.1 (Wang et al.: Multi-Similarity Loss
    with General Pair Weighting for Deep Metric Learning, CVPR 2019; the numbers are those of SALAD and BoQ).

    Args:
        descriptors: (n, d) of length 1.
        positive, negative: (n, n) bool, row i for anchor i; see `pair_masks`.
        alpha, beta, base: see above.

    Returns:
        The mean over all anchors, a scalar; an anchor without a positive or without a negative counts as zero.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> same = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    >>> other = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]]).bool()
    >>> multi_similarity(x, same, other).item()  # nothing to mine
    0.0
    >>> multi_similarity(x, same, other, beta=1.0).item() == multi_similarity(x.flip(1), same, other).item()
    True
    """
    similarity = descriptors @ descriptors.T
    fixed = similarity.detach()
    hardest_negative = fixed.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
    hardest_positive = fixed.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
    taken = positive & (fixed < hardest_negative + MINED)
    pushed = negative & (fixed > hardest_positive - MINED)
    pulls = _log_one_plus(-alpha * (similarity - base), taken) / alpha
    pushes = _log_one_plus(beta * (similarity - base), pushed) / beta
    return (pulls + pushes).mean()


def _log_one_plus(exponents: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """log(1 + the sum of exp of what counts) of each row."""
    one = exponents.new_zeros(len(exponents), 1)
    return torch.cat([exponents.masked_fill(~counted, -torch.inf), one], 1).logsumexp(1)
