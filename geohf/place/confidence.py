"""How sure an answer is: the probability that the top answer lies within the radius, fitted on validation queries."""

from __future__ import annotations

import numpy as np

from geohf.geo import great_circle_m

LEAST_QUERIES = 30  # fewer, or all right, or all wrong, say too little to fit three numbers


def evidence(similarity, points, apart_m: float) -> np.ndarray:
    """(q, 2): the top answer's cosine, and by how much it beats the best answer from elsewhere.

    Where all k answers come from one place, the gap is measured to the last of them: it is at least that wide.

    Args:
        similarity: (q, k) cosines, descending.
        points: (q, k, 2) degrees of the answers.
        apart_m: an answer is from elsewhere if it lies farther than this from the top answer.
    """
    similarity, points = np.asarray(similarity, np.float64), np.asarray(points, np.float64)
    elsewhere = great_circle_m(points[:, :1], points) > apart_m
    rival = np.where(elsewhere.any(1), elsewhere.argmax(1), similarity.shape[1] - 1)
    top = similarity[:, 0]
    return np.stack([top, top - similarity[np.arange(len(top)), rival]], 1)


def fit_confidence(evidence_: np.ndarray, right: np.ndarray) -> list[float] | None:
    """Weights of similarity, gap and one in a logistic regression; None where there is too little to fit.

    Args:
        evidence_: (q, 2), see `evidence`.
        right: (q,) bool.
    """
    from sklearn.linear_model import LogisticRegression

    right = np.asarray(right, bool)
    if len(right) < LEAST_QUERIES or right.all() or not right.any():
        return None
    mean, std = evidence_.mean(0), np.maximum(evidence_.std(0), 1e-9)
    model = LogisticRegression().fit((evidence_ - mean) / std, right)
    weights = model.coef_[0] / std
    return [*map(float, weights), float(model.intercept_[0] - (weights * mean).sum())]


def confidence(evidence_: np.ndarray, weights: list[float]) -> np.ndarray:
    """(q,) probabilities."""
    return 1 / (1 + np.exp(-(evidence_ @ np.asarray(weights[:2]) + weights[2])))
