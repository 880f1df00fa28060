"""Searching for queries in a database: the answers, and everything that is said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geohf.geo import great_circle_m, matches_within_m
from geohf.place.metrics import (
    counted_queries,
    place_metrics,
    recall_interval,
    right_answers,
    stretches,
)
from geohf.place.search import top_k
from geohf.place.splits import PlaceData

COUNTS = (1, 5, 10)
# Fewer drives than this are cut into stretches for an interval.
_DRIVES = 8


@dataclass
class Search:
    """The answers to queries.

    Attributes:
        queries, database: rows of the images.
        similarity, ranked: (q, k) cosines and positions in `database`, best first.
        right: (q, k) bool, within the radius.
        error_m: (q,) metres from the query to its top answer.
        metrics: see `geohf.place.metrics.place_metrics`, and `r1_low`, `r1_high`, the ends of a 95 % interval.
    """

    queries: np.ndarray
    database: np.ndarray
    similarity: np.ndarray
    ranked: np.ndarray
    right: np.ndarray
    error_m: np.ndarray
    metrics: dict[str, float]

    @property
    def answers(self) -> np.ndarray:
        """(q, k) rows of the images."""
        return self.database[self.ranked]


def search(
    descriptors: torch.Tensor,
    data: PlaceData,
    queries: np.ndarray,
    radii_m: Sequence[float],
    k: int = max(COUNTS),
) -> Search:
    """Search for queries in the database of `data`.

    Args:
        descriptors: (n, d) of all images.
        queries: rows.
        radii_m: metres within which an answer is right; the first one counts.

    Raises:
        DataError: see `geohf.place.metrics.recall_at_n`.
    """
    database = data.database
    similarity, ranked = (part.numpy() for part in top_k(descriptors[database], descriptors[queries], k))
    points = data.points
    metrics = place_metrics(ranked, points[database], points[queries], radii_m, COUNTS)
    matches = matches_within_m(points[database], points[queries], radii_m[0])
    right = right_answers(ranked, matches)
    counted = counted_queries(matches, "has_match")
    sequences = data.sequences[queries]
    if len(set(sequences)) < _DRIVES:
        sequences = stretches(points[queries], sequences)
    metrics["r1_low"], metrics["r1_high"] = recall_interval(right[counted, 0], sequences[counted])
    error_m = great_circle_m(points[database[ranked[:, 0]]], points[queries])
    return Search(queries, database, similarity, ranked, right, error_m, metrics)
