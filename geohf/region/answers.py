"""What a region model answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geohf.metrics.density import Mixtures


@dataclass
class RegionProbability:
    """One region: its name and its calibrated probability, 1 where it was given."""

    name: str
    probability: float


@dataclass
class RegionPrediction:
    """The answer for one photograph.

    Attributes:
        latitude, longitude: degrees for a `wgs84` model, units of its data for a `planar` one.
        radius: holds the truth with the config's `radius_coverage`; None where that was not calibrated.
        unit: of the radius: `m`, or `units` of planar data.
        regions: the most probable regions, most probable first.
        heading: which way the photograph looks, degrees clockwise from north; None for a model that does not tell.
        localizability: nats that are known of the place, 0 for nothing; None for a model without a density.
        credible_regions: `50` and `90`, the percent of photographs like this that each holds, as GeoJSON; empty where they
            were not asked for.
    """

    latitude: float
    longitude: float
    radius: float | None
    unit: str
    regions: list[RegionProbability]
    heading: float | None = None
    localizability: float | None = None
    credible_regions: dict[str, dict] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """Point, radius, the first region, and all named regions with their probabilities, for a table."""
        # in a table of answers latitude and longitude are degrees, which go on a map
        prefix = "" if self.unit == "m" else "planar_"
        row = {
            f"{prefix}latitude": self.latitude,
            f"{prefix}longitude": self.longitude,
            f"radius_{self.unit}": self.radius,
            "region": self.regions[0].name,
            "probability": self.regions[0].probability,
            "regions": {region.name: region.probability for region in self.regions},
        }
        more = {"heading": self.heading, "localizability": self.localizability}
        row |= {name: value for name, value in more.items() if value is not None}
        return row | {"credible_regions": self.credible_regions} if self.credible_regions else row


def points_array(answers: Sequence[RegionPrediction]) -> np.ndarray:
    """(n, 2) latitude and longitude of answers."""
    return np.array([[answer.latitude, answer.longitude] for answer in answers])


@dataclass
class RegionAnswers:
    """A model's answers for photographs whose truth is known.

    Attributes:
        labels, truth: (n,) true region numbers and (n, 2) true points.
        routed, given: answers without and with the region.
        headings: (n,) true degrees, NaN where unknown; None where nobody asks.
        densities: `routed` and `given` of a model with a density, see `geohf.metrics.density.Mixtures`.
    """

    labels: np.ndarray
    truth: np.ndarray
    routed: list[RegionPrediction]
    given: list[RegionPrediction]
    headings: np.ndarray | None = None
    densities: dict[str, Mixtures] = field(default_factory=dict)

    def named(self, label2id: Mapping[str, int]) -> np.ndarray:
        """(n,) numbers of the regions that the router named."""
        return np.array([label2id[answer.regions[0].name] for answer in self.routed])
