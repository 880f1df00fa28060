"""What a place model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.errors import require_whole
from geohf.geo import great_circle_m
from geohf.place.confidence import SHOWN_ANSWERS, confidence, evidence

if TYPE_CHECKING:
    from geohf.place.configuration import GeoPlaceConfig


@dataclass
class PlaceAnswer:
    """One image of an index: its name, where it was taken, and its cosine with the question."""

    image: str
    latitude: float
    longitude: float
    similarity: float


@dataclass
class PlacePrediction:
    """The answer for one photograph.

    Attributes:
        descriptor: (d,) float32 of length 1.
        answers: the most similar images of the index, best first; empty without an index.
        latitude, longitude: degrees of the top answer; None without an index.
        spread_m: meters from the top answer within which at least half of the answers lie: small where they agree.
        confidence: probability that the top answer is within the config's `confidence_m`; None where it was not
            fitted, or not on such cosines: centered ones, or those of an index that keeps some `dims` of its descriptors.
        abstains: whether the confidence is below the config's `abstain_below`, so that the answer should not be relied on;
            None where the config has none, and for drives that answer as a whole.
        verified: whether the best answers stand in the order of their local matches; None where nobody asked for it. Then
            there is no confidence, which was fitted on the order of cosines.
        chained: whether the order of its drive's frames was heard; None for a photograph that was asked about alone.
    """

    descriptor: np.ndarray = field(repr=False)
    answers: list[PlaceAnswer] = field(default_factory=list)
    latitude: float | None = None
    longitude: float | None = None
    spread_m: float | None = None
    confidence: float | None = None
    chained: bool | None = None
    abstains: bool | None = None
    verified: bool | None = None

    def as_row(self) -> dict[str, Any]:
        """For a table: the point, how sure it is, and the named images with their similarity; or the descriptor."""
        if not self.answers:
            return {"descriptor": self.descriptor.tolist()}
        row = {
            "latitude": self.latitude,
            "longitude": self.longitude,
            "confidence": self.confidence,
            "spread_m": self.spread_m,
            "similarity": self.answers[0].similarity,
            "answers": {answer.image: answer.similarity for answer in self.answers},
        }
        told = {"abstains": self.abstains, "chained": self.chained, "verified": self.verified}
        return row | {name: value for name, value in told.items() if value is not None}


def predictions_of(
    descriptors: np.ndarray,
    similarity: np.ndarray,
    ranked: np.ndarray,
    points: np.ndarray,
    images: Sequence[str],
    config: GeoPlaceConfig,
    top_k: int | None = None,
    verified: np.ndarray | None = None,
    fitted: bool = True,
) -> list[PlacePrediction]:
    """Predictions from the answers of a search.

    Args:
        descriptors: (q, d) of the photographs.
        similarity, ranked: (q, k) cosines, descending, and rows of the index.
        points, images: (n, 2) latitude and longitude in degrees of the index's images, and their names.
        top_k: answers to give; None: all k. The confidence looks at five, as it did when it was fitted.
        config: of the model: `negative_m`, `confidence_weights` and `abstain_below`.
        fitted: whether the confidence was fitted on cosines as these are; else there is none.
        verified: numbers of the photographs whose answers were verified; None: nobody asked for it.
    """
    at = points[ranked]
    sure: list[float | None] = [None] * len(ranked)
    if config.confidence_weights is not None and fitted:
        sure = confidence(evidence(similarity, at, config.negative_m), config.confidence_weights).tolist()
    similarity, ranked, at = similarity[:, :top_k], ranked[:, :top_k], at[:, :top_k]
    away = great_circle_m(at[:, :1], at)
    spread = np.sort(away, axis=1)[:, away.shape[1] // 2].tolist()
    told = None if verified is None else set(verified.tolist())
    predictions = []
    for i, rows in enumerate(ranked):
        named = zip(rows, at[i].tolist(), similarity[i].tolist(), strict=True)
        answers = [PlaceAnswer(images[row], north, east, cosine) for row, (north, east), cosine in named]
        one = PlacePrediction(descriptors[i], answers, answers[0].latitude, answers[0].longitude, spread[i])
        if told is not None:
            one.verified = i in told
        if not one.verified:
            one.confidence = sure[i]
            if one.confidence is not None and config.abstain_below is not None:
                one.abstains = one.confidence < config.abstain_below
        predictions.append(one)
    return predictions


def answers_searched(top_k: int, count: int) -> int:
    """How many answers to search for among `count` images, for `top_k` (DataError, if not whole and above 0) and the confidence."""
    require_whole(1, top_k=top_k)
    return max(top_k, min(SHOWN_ANSWERS, count))
