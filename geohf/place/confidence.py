"""How sure an answer is: the probability that the top answer lies within the radius, fitted on validation queries.

And below which probability a model rather gives none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from geohf.geo import great_circle_m
from geohf.metrics.selective import threshold_for_precision

if TYPE_CHECKING:
    from geohf.place.configuration import GeoPlaceConfig

logger = logging.getLogger(__name__)

SHOWN_ANSWERS = 5  # that a confidence looks at, as many as `GeoPlaceModel.decode` gives by default
NEVER_ANSWERS = 2.0  # a threshold that no probability reaches
LEAST_QUERIES = 30  # fewer, or all right, or all wrong, say too little to fit three numbers


def evidence(similarity, points, apart_m: float) -> np.ndarray:
    """(q, 2): the top answer's cosine, and by how much it beats the best answer from elsewhere.

    Where all k answers come from one place, the gap is measured to the last of them: it is at least that wide.

    Args:
        similarity: (q, k) cosines, descending; the first `SHOWN_ANSWERS` count.
        points: (q, k, 2) degrees of the answers.
        apart_m: an answer is from elsewhere if it lies farther than this from the top answer.
    """
    similarity, points = (np.asarray(part, np.float64)[:, :SHOWN_ANSWERS] for part in (similarity, points))
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


def certainty(similarity, points, config: GeoPlaceConfig | None) -> np.ndarray:
    """(q,) what answers are ordered by, the surest first: their confidence, or where none was fitted the top cosine.

    Args:
        similarity, points: see `evidence`.
        config: of the model; None: its confidence was fitted on no such cosines.
    """
    if config is None:
        return similarity[:, 0]
    seen = evidence(similarity, points, config.negative_m)
    return seen[:, 0] if config.confidence_weights is None else confidence(seen, config.confidence_weights)


def calibrate(
    config: GeoPlaceConfig, evidence_: np.ndarray, right: np.ndarray, precision: float | None = None
) -> None:
    """Fit the config's confidence and, for a precision, the confidence below which the model abstains.

    Args:
        evidence_, right: of validation queries, see `fit_confidence`.
        precision: share of answers to be right; None: as the config says already, if it does.
    """
    config.abstain_below = None
    config.confidence_weights = fit_confidence(evidence_, right)
    config.abstain_precision = precision = precision or config.abstain_precision
    if precision is None:
        return
    if config.confidence_weights is None:
        config.abstain_precision = None
        logger.warning(
            "the model never abstains: no confidence was fitted on %d validation queries, %d of them right; it takes "
            "%d, right and wrong ones",
            *(len(right), int(np.sum(right)), LEAST_QUERIES),
        )
        return
    threshold = threshold_for_precision(confidence(evidence_, config.confidence_weights), right, precision)
    config.abstain_below = NEVER_ANSWERS if threshold is None else threshold
    if threshold is None:
        logger.warning(
            "the model always abstains: at no confidence are %.1f %% of the answers to validation queries right",
            100 * precision,
        )


def forget_confidence(config: GeoPlaceConfig, change: str) -> None:
    """Take what was fitted on descriptors off a model whose descriptors are others after a `change`, with a warning."""
    fitted = {"confidence": config.confidence_weights, "gate of verification": config.verify_below}
    lost = " and ".join(f"the {name}" for name, value in fitted.items() if value is not None)
    config.verify_below = config.abstain_below = config.confidence_weights = None
    if lost:
        logger.warning(
            "%s: what was fitted before is forgotten, %s; validation queries fit it anew", change, lost
        )
