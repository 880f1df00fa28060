"""Probabilities that mean what they say, and radii that hold the truth as often as they state."""

from __future__ import annotations

import math

import numpy as np


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T > 0 that minimizes the cross-entropy of softmax(logits / T).

    Guo et al., On Calibration of Modern Neural Networks, 2017. Rows with a negative label do not count. A
    standard normal prior on log T keeps a handful of rows that are all right from claiming certainty; with
    hundreds of rows it changes nothing that can be seen.

    Args:
        logits: (n, classes).
        labels: (n,) integers.

    Returns:
        T between 0.05 and 20; 1.0 where fewer than two labeled rows exist.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    known = np.asarray(labels) >= 0
    logits, labels = np.asarray(logits, np.float64)[known], np.asarray(labels)[known]
    if len(labels) < 2:
        return 1.0

    def loss(log_t):
        likelihood = log_softmax(logits / math.exp(log_t), axis=-1)[np.arange(len(labels)), labels].mean()
        return log_t**2 / (2 * len(labels)) - likelihood

    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return float(math.exp(best.x))


def conformal_quantile(scores: np.ndarray, coverage: float) -> float | None:
    """The threshold below which a new score falls with at least this probability (split conformal prediction).

    It is the ceil((n + 1) * coverage)-th smallest score (Vovk et al. 2005; Angelopoulos and Bates 2021).

    Returns:
        The threshold, or None where n is too small to promise the coverage (n < coverage / (1 - coverage)).

    >>> conformal_quantile(np.arange(1.0, 20.0), 0.9)
    18.0
    >>> conformal_quantile(np.arange(5.0), 0.9) is None
    True
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must lie between 0 and 1, got {coverage}")
    scores = np.sort(np.asarray(scores, np.float64))
    # the subtraction keeps 10 * 0.9 = 9.000000000000002 from rounding up to 10
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(scores[rank - 1]) if rank <= len(scores) else None
