"""What a street model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class StatePrediction:
    """One class: its name, its calibrated probability, the competition's index (None where there is none)."""

    name: str
    probability: float
    index: int | None = None


@dataclass
class MatchPrediction:
    """One position of a gallery: degrees, and its probability among all of the gallery (not calibrated)."""

    latitude: float
    longitude: float
    probability: float


@dataclass
class StreetPrediction:
    """The answer for one place.

    Attributes:
        latitude, longitude: degrees.
        radius_m: holds the truth with the config's `radius_coverage`; None where that was not calibrated.
        states: the most probable classes, most probable first; empty for a model without classes.
        matches: the best positions of the gallery, best first, where the point was looked for in one.
        localizability: nats that are known of the place, 0 for nothing; None for a model without a density.
        regions: where they were asked for: `50` and `90`, the percent of places that each holds, and a GeoJSON
            MultiPolygon.
        areas: where levels were asked for: `country`, `region`, `sub-region`, `city` and the point's name there.
        captions: those that were asked for, most probable first, with their probabilities among them.
        headings: which way each view looks, degrees clockwise from north; empty for a model that does not tell.
    """

    latitude: float
    longitude: float
    radius_m: float | None
    states: list[StatePrediction]
    matches: list[MatchPrediction] = field(default_factory=list)
    headings: list[float] = field(default_factory=list)
    localizability: float | None = None
    regions: dict[str, dict] = field(default_factory=dict)
    areas: dict[str, str] = field(default_factory=dict)
    captions: dict[str, float] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """The point, its radius, the first state, and all named states with their probabilities."""
        row: dict[str, Any] = {name: getattr(self, name) for name in ("latitude", "longitude", "radius_m")}
        if self.localizability is not None:
            row["localizability"] = self.localizability
        row |= self.areas
        row |= {name: told for name in ("captions", "regions") if (told := getattr(self, name))}
        if self.headings:
            row |= {"heading": self.headings[0]} if len(self.headings) == 1 else {"headings": self.headings}
        if self.matches:
            row["matches"] = [[match.latitude, match.longitude, match.probability] for match in self.matches]
        if self.states:
            row |= {"state": self.states[0].name, "probability": self.states[0].probability}
            row["states"] = {state.name: state.probability for state in self.states}
        return row


def answered_points(answers: Sequence[StreetPrediction]) -> np.ndarray:
    """(n, 2) latitude and longitude of the answers in degrees."""
    return np.array([[one.latitude, one.longitude] for one in answers])
