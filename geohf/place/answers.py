"""What a place model answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
        spread_m: metres from the top answer within which at least half of the answers lie: small where they agree.
        confidence: probability that the top answer is within the config's `confidence_m`; None where it was not
            fitted.
    """

    descriptor: np.ndarray = field(repr=False)
    answers: list[PlaceAnswer] = field(default_factory=list)
    latitude: float | None = None
    longitude: float | None = None
    spread_m: float | None = None
    confidence: float | None = None

    def as_row(self) -> dict[str, Any]:
        """For a table: the point, how sure it is, and the named images with their similarity; or the descriptor."""
        if not self.answers:
            return {"descriptor": self.descriptor.tolist()}
        return {
            "latitude": self.latitude,
            "longitude": self.longitude,
            "confidence": self.confidence,
            "spread_m": self.spread_m,
            "similarity": self.answers[0].similarity,
            "answers": {answer.image: answer.similarity for answer in self.answers},
        }
