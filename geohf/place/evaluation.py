"""Searching for queries in a database: the answers, and everything that is said about them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.errors import DataError
from geohf.geo import great_circle_m, matches_within_m
from geohf.io import natural_key
from geohf.metrics.intervals import mean_interval
from geohf.place.audit import audit, judge
from geohf.place.data import load_drives
from geohf.place.metrics import (
    counted_queries,
    place_metrics,
    right_answers,
    stretches,
)
from geohf.place.search import top_k
from geohf.place.splits import PlaceData

if TYPE_CHECKING:
    from geohf.place.modeling import GeoPlaceModel

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
        metrics: see `geohf.place.metrics.place_metrics`.
        intervals: of `r1`, `r5`, ...: the ends of a 95 % interval over drives, or stretches of too few drives:
            neighbouring frames stand or fall together.
    """

    queries: np.ndarray
    database: np.ndarray
    similarity: np.ndarray
    ranked: np.ndarray
    right: np.ndarray
    error_m: np.ndarray
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]

    @property
    def answers(self) -> np.ndarray:
        """(q, k) rows of the images."""
        return self.database[self.ranked]


def search(
    descriptors: torch.Tensor, data: PlaceData, queries: np.ndarray, radii_m: Sequence[float]
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
    found = top_k(descriptors[database], descriptors[queries], max(COUNTS))
    similarity, ranked = (part.numpy() for part in found)
    points = data.points
    metrics = place_metrics(ranked, points[database], points[queries], radii_m, COUNTS)
    matches = matches_within_m(points[database], points[queries], radii_m[0])
    right = right_answers(ranked, matches)
    counted = counted_queries(matches, "has_match")
    sequences = data.sequences[queries]
    if len(set(sequences)) < _DRIVES:
        sequences = stretches(points[queries], sequences, [data.times_ns[row] for row in queries])
    intervals = {
        f"r{count}": mean_interval(right[counted, :count].any(1), sequences[counted]) for count in COUNTS
    }
    error_m = great_circle_m(points[database[ranked[:, 0]]], points[queries])
    return Search(queries, database, similarity, ranked, right, error_m, metrics, intervals)


def evaluate(
    model: GeoPlaceModel, data: str | os.PathLike, batch_size: int, on_error: str
) -> dict[str, float]:
    """What `search` measures where the first drive is the database and the others ask.

    Args:
        data: a folder with a `poses.csv` in each of its subfolders, in the order of their names, or a table or
            folder that `load_drives` takes, with a column of sequences.

    Raises:
        DataError: a single drive, queries that are in the database, see `load_drives` and `search`.
    """
    poses = sorted(Path(data).glob("*/poses.csv"), key=natural_key)
    images, skipped = load_drives(poses or data, on_error=on_error)
    drives = images["sequence"][:]
    first = np.array(drives) == drives[0]
    if first.all():
        raise DataError(f"{data}: is the single drive {drives[0]!r}; a second one has to ask")
    database, queries, none = np.flatnonzero(first), np.flatnonzero(~first), np.arange(0)
    places = PlaceData(images, none, database, none, queries, skipped, f"database: the drive {drives[0]}")
    radius_m = model.config.confidence_m
    findings = audit(
        places.files, places.points, places.sequences, places.times_ns, none, database, queries, radius_m
    )
    judge(findings, strict=False)
    descriptors = torch.from_numpy(model.encode(places.files, batch_size))
    return search(descriptors, places, queries, [radius_m]).metrics
