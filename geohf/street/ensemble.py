"""Several checkpoints, one answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from geohf.errors import DataError, require_choice, require_whole
from geohf.geo import spherical_mean
from geohf.street.answers import StatePrediction, StreetPrediction, answered_points
from geohf.street.modeling import GeoStreetModel

METHODS = ("mean", "vote", "rank")
RANK_CONSTANT = 60  # Cormack et al., Reciprocal Rank Fusion, SIGIR 2009


def combine(
    predictions: Sequence[Sequence[StreetPrediction]],
    weights: Sequence[float] | None = None,
    method: str = "mean",
    top_k: int = 5,
) -> list[StreetPrediction]:
    """Combine the answers of several models for the same places.

    States are matched by name, so models with other classes or another order of them combine, and no state
    is answered that none of them named.

    Args:
        predictions: one list per model, each in the order of the places. What a model does not name counts as 0, so ask
            each for all its states.
        weights: one a model, e.g. validation scores squared; equal where None.
        method: `mean` (weighted mean of probabilities), `vote` (weighted votes for the first state, ties by
            mean probability) or `rank` (reciprocal rank fusion, k = 60).

    Returns:
        One answer a place: the point is the weighted mean on the sphere of the models that agree with the
        combined first state (of all, where there are no states). Its radius is not calibrated: None.

    Raises:
        DataError: no model, models with a different number of places or other indices for a state, or weights
            that do not fit.
    """
    require_choice(METHODS, method=method)
    require_whole(1, top_k=top_k)
    counts = {len(answers) for answers in predictions}
    if not predictions or len(counts) != 1:
        raise DataError(f"every model must answer for the same places; got {sorted(counts) or 'no model'}")
    shares = np.ones(len(predictions)) if weights is None else np.asarray(weights, np.float64)
    fitting = shares.shape == (len(predictions),) and np.isfinite(shares).all() and (shares >= 0).all()
    if not fitting or not shares.sum():
        raise DataError(
            f"weights must be {len(predictions)} non-negative numbers, not all 0; got {shares.tolist()}"
        )
    shares = shares / shares.sum()
    return [_combine_one(answers, shares, method, top_k) for answers in zip(*predictions, strict=True)]


def ensemble_predict(
    models: Sequence[GeoStreetModel],
    inputs: Any,
    weights=None,
    method: str = "mean",
    batch_size: int = 32,
    top_k: int = 5,
) -> list[StreetPrediction]:
    """Ask several models and combine their answers, see `combine`."""
    answers = [
        model.predict(inputs, batch_size=batch_size, top_k=max(1, model.config.num_classes))
        for model in models
    ]
    return combine(answers, weights, method, top_k)


def _combine_one(answers, weights, method, top_k) -> StreetPrediction:
    scores: dict[str, float] = defaultdict(float)
    shares: dict[str, float] = defaultdict(float)
    indices: dict[str, int | None] = {}
    for answer, weight in zip(answers, weights, strict=True):
        for rank, state in enumerate(answer.states, start=1):
            if indices.get(state.name) is None:
                indices[state.name] = state.index
            elif state.index not in (None, indices[state.name]):
                raise DataError(
                    f"the models give {state.name!r} the indices {indices[state.name]} and {state.index}"
                )
            shares[state.name] += weight * state.probability
            ways = {"mean": state.probability, "vote": float(rank == 1), "rank": 1 / (RANK_CONSTANT + rank)}
            scores[state.name] += weight * ways[method]
    ranked = sorted(scores, key=lambda name: (-scores[name], -shares[name], name))
    agree = np.array([[state.name for state in answer.states[:1]] == ranked[:1] for answer in answers])
    if not (weights[agree] > 0).any():  # fused ranks can put first what no model did
        agree[:] = True
    latitude, longitude = spherical_mean(answered_points(answers)[agree], weights[agree])
    states = [StatePrediction(name, shares[name], indices[name]) for name in ranked[:top_k]]
    return StreetPrediction(float(latitude), float(longitude), None, states)
