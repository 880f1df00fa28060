"""What a street model answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StatePrediction:
    """One class: its name, its calibrated probability, the competition's index (None where there is none)."""

    name: str
    probability: float
    index: int | None = None


@dataclass
class StreetPrediction:
    """The answer for one place.

    Attributes:
        latitude, longitude: degrees.
        radius_m: holds the truth with the config's `radius_coverage`; None where that was not calibrated.
        states: the most probable classes, most probable first; empty for a model without classes.
    """

    latitude: float
    longitude: float
    radius_m: float | None
    states: list[StatePrediction]
