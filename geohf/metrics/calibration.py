"""Probabilities that mean what they say, and radii that hold the truth as often as they state."""

from __future__ import annotations

import math

import numpy as np

from geohf.errors import DataError


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T, 0.05 to 20, that minimizes the cross-entropy of softmax(logits / T).

    Guo et al., On Calibration of Modern Neural Networks, 2017. A standard normal prior on log T keeps a handful of rows that
    are all right from claiming certainty; of hundreds it changes nothing. T is 1 where fewer than two rows have a label.

    Args:
        logits: (n, classes).
        labels: (n,) integers, negative where unknown.
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


def conformal_quantile(scores: np.ndarray, coverage: float, groups: np.ndarray | None = None) -> float | None:
    """The threshold below which a new score falls with at least this probability (split conformal prediction).

    It is the ceil((n + 1) * coverage)-th smallest score (Vovk et al. 2005; Angelopoulos and Bates 2021), or None where n, or
    the number of groups, is too small to promise the coverage (n < coverage / (1 - coverage)).

    Args:
        groups: (n,) what each score belongs to, where the promise is of a score of a group that was never seen: every
            group weighs the same, however many scores it has, and the unseen one counts as a miss (Dunn, Wasserman
            and Ramdas, Distribution-free prediction sets for two-layer hierarchical models, 2023).

    >>> conformal_quantile(np.arange(1.0, 20.0), 0.9)
    18.0
    >>> conformal_quantile(np.arange(5.0), 0.9) is None
    True
    >>> conformal_quantile(np.array([1.0, 1.0, 1.0, 9.0, 2.0]), 0.5, np.array([0, 0, 0, 1, 2]))
    2.0
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must lie between 0 and 1, got {coverage}")
    scores = np.asarray(scores, np.float64)
    order = np.argsort(scores, kind="stable")
    # the subtraction keeps 10 * 0.9 = 9.000000000000002 from rounding up to 10
    if groups is None:
        place = math.ceil((len(scores) + 1) * coverage - 1e-9) - 1
    else:
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        weights = 1 / (len(sizes) + 1) / sizes[group]
        place = int((np.cumsum(weights[order]) < coverage - 1e-9).sum())
    return float(scores[order[place]]) if place < len(scores) else None


def risk_threshold(scores: np.ndarray, rows: np.ndarray, n: int, limit: float) -> float | None:
    """The largest threshold below which, of new rows, at most `limit` of their scores fall, on average; None if none does.

    Conformal risk control (Angelopoulos et al., 2024, arXiv 2208.02814): the risk is the mean over rows of the share of a
    row's scores that lie below the threshold t, and t is the largest with n / (n + 1) * risk(t) + 1 / (n + 1) <= limit. It is
    put halfway to the next lower score, so that rounding moves no score across it.

    Args:
        scores: (m,) at least 0; what has no score has 0, and lies below every threshold.
        rows: (m,) the row of each, 0 to n - 1; a row without scores has no risk.
        n: number of rows.
        limit: 0 to 1.

    >>> risk_threshold(np.array([0.2, 0.4, 0.6, 0.8]), np.arange(4), 4, 0.5)
    0.3
    >>> risk_threshold(np.array([0.2, 0.4]), np.arange(2), 2, 0.1) is None
    True
    """
    scores, rows = np.asarray(scores, np.float64), np.asarray(rows)
    weights = 1 / np.bincount(rows, minlength=n)[rows]
    values, place = np.unique(scores, return_inverse=True)
    lost = np.concatenate([[0.0], np.cumsum(np.bincount(place, weights))])[:-1]  # below each value
    holds = np.flatnonzero((lost + 1 <= limit * (n + 1) + 1e-9) & (values > 0))
    if not len(holds):
        return None
    best = holds[-1]
    below = values[best - 1] if best else 0.0
    return float(round((values[best] + below) / 2, 12))


def reliability_bins(
    probabilities, labels, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean confidence, accuracy and counts, (bins,) each, of bins of equal width, and expected calibration error (0..1).

    An empty bin is NaN, NaN, 0.

    Args:
        probabilities: (n, classes), of which the largest counts; or (n,), that a yes-or-no label is yes.
        labels: (n,) class indices, or 0 and 1.

    Raises:
        DataError: shapes that do not fit, or probabilities outside 0..1.

    >>> confidence, accuracy, counts, ece = reliability_bins([[0.9, 0.1], [0.9, 0.1]], [0, 1])
    >>> float(accuracy[13]), int(counts[13]), round(ece, 3)
    (0.5, 2, 0.4)
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels).ravel()
    if probabilities.ndim not in (1, 2) or len(probabilities) != len(labels) or not len(labels):
        raise DataError(f"probabilities {probabilities.shape} do not fit {len(labels)} labels")
    # Float32 softmax sums may pass 1 by an ulp.
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise DataError("probabilities: every value must be between 0 and 1")
    if probabilities.ndim == 1:
        confidence, correct = probabilities, labels == 1
    else:
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, confidence, bins) / counts
        accuracy = np.bincount(index, correct, bins) / counts
    ece = float(np.nansum(np.abs(accuracy - mean_confidence) * counts) / len(labels))
    return mean_confidence, accuracy, counts, ece


def expected_calibration_error(probabilities, labels, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, 0 to 1 (Guo et al. 2017), see `reliability_bins`.

    >>> round(expected_calibration_error([[0.8, 0.2], [0.8, 0.2]], [0, 1]), 3)
    0.3
    """
    return reliability_bins(probabilities, labels, bins)[3]
