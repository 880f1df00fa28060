"""What a street model answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from geohf.models.heading import degrees_of_directions


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
        row: dict[str, Any] = {
            "latitude": self.latitude,
            "longitude": self.longitude,
            "radius_m": self.radius_m,
        }
        if self.localizability is not None:
            row["localizability"] = self.localizability
        row |= self.areas
        if self.captions:
            row["captions"] = self.captions
        if self.regions:
            row["regions"] = self.regions
        if self.headings:
            row |= {"heading": self.headings[0]} if len(self.headings) == 1 else {"headings": self.headings}
        if self.matches:
            row["matches"] = [[match.latitude, match.longitude, match.probability] for match in self.matches]
        if self.states:
            row |= {"state": self.states[0].name, "probability": self.states[0].probability}
            row["states"] = {state.name: state.probability for state in self.states}
        return row


def best_matches(points: torch.Tensor, probabilities: torch.Tensor) -> list[MatchPrediction]:
    """One place's matches of (k, 2) degrees and (k,) probabilities, in their order."""
    return [
        MatchPrediction(latitude, longitude, probability)
        for (latitude, longitude), probability in zip(points.tolist(), probabilities.tolist(), strict=True)
    ]


def view_headings(directions: torch.Tensor | None) -> list[list[float]] | None:
    """Degrees of the views that are there, of (batch, max_views, 2) directions; None of a model that does not tell."""
    if directions is None:
        return None
    rows = degrees_of_directions(directions.float()).cpu().tolist()
    return [[degrees for degrees in row if degrees == degrees] for row in rows]
