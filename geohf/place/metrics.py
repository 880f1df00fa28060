"""How good a search for places is: recall under both rules, meters to the top answer, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geohf.errors import DataError, require_choice, require_whole
from geohf.geo import great_circle_m, matches_within_m
from geohf.metrics.directions import HIGHER, MetricInfo
from geohf.metrics.intervals import mean_interval
from geohf.metrics.records import Metric, join_metrics
from geohf.metrics.selective import average_precision, recall_at_precision, risk_coverage
from geohf.place.search import top_k

RULES = ("has_match", "all")
RECALLS = (1, 5, 10)  # what an evaluation while training measures
FEWEST_DRIVES = 8  # fewer are cut into stretches for an interval
METRICS = {f"r{n}": HIGHER for n in RECALLS} | {"median_m": MetricInfo(False, "m")}


def recall_at_n(
    database_descriptors,
    query_descriptors,
    database_points,
    query_points,
    n: Sequence[int] = (1, 5, 10),
    radius_m: float = 25.0,
    rule: str = "has_match",
) -> dict[int, float]:
    """Share of queries with a database image within the radius among their n most similar ones.

    Args:
        database_descriptors: (m, d), numpy or torch; compared by cosine.
        query_descriptors: (q, d).
        database_points, query_points: (m, 2) and (q, 2) latitude and longitude in degrees.
        n: how many answers count.
        radius_m: an answer is right within so many meters.
        rule: `has_match` leaves out queries without any database image within the radius, as the reference implementation
            and most papers do; `all` keeps them, as never right, as VPR-methods-evaluation does. The two do not compare.

    Returns:
        {n: recall}.

    Raises:
        DataError: NaN or zero descriptors, descriptors of two lengths, points that are no degrees, fewer database
            images than the largest n, an unknown rule, no query with a match under `has_match`.

    >>> recall_at_n([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]],
    ...             [[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0], [5.0, 5.0]], n=(1, 2))
    {1: 0.5, 2: 1.0}
    """
    parts = {"database": (database_descriptors, database_points), "query": (query_descriptors, query_points)}
    for name, (descriptors, points) in parts.items():
        if len(descriptors) != len(points):
            raise DataError(f"{name}: {len(descriptors)} descriptors for {len(points)} points")
    n = _check_n(n)
    # every answer up to the largest n is searched once; what is right is known from the points alone
    matches = matches_within_m(database_points, query_points, radius_m)
    _, ranked = top_k(database_descriptors, query_descriptors, n[-1])
    return recall_of_ranks(ranked, matches, n, rule)


def recall_of_ranks(
    ranked, matches: tuple[np.ndarray, np.ndarray], n: Sequence[int] = (1, 5, 10), rule: str = "has_match"
) -> dict[int, float]:
    """Recall of answers that are known already, against any ground truth.

    Args:
        ranked: (q, k) database rows, best first, k at least the largest n; -1 for none.
        matches: the right database rows of query i are `indices[offsets[i]:offsets[i + 1]]`, (offsets, indices), as
            `geohf.geo.matches_within_m` gives them.
        n, rule: see `recall_at_n`.

    >>> recall_of_ranks([[3, 1], [2, 0]], (np.array([0, 1, 1]), np.array([1])), n=(1, 2), rule="all")
    {1: 0.0, 2: 0.5}
    """
    n, hits = _check_n(n), right_answers(ranked, matches)
    if hits.shape[1] < n[-1]:
        raise DataError(f"recall at {n[-1]} needs {n[-1]} answers a query, got {hits.shape[1]}")
    first = np.where(hits.any(1), hits.argmax(1), hits.shape[1])
    counted = counted_queries(matches, rule)
    return {count: float((first[counted] < count).mean()) for count in n}


def right_answers(ranked, matches: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(q, k) bool: which of the (q, k) answers are among the query's matches; -1 is no answer, as faiss has it."""
    offsets, indices = (np.asarray(part, np.int64) for part in matches)
    ranked = np.asarray(ranked, np.int64)
    if ranked.ndim != 2 or len(ranked) != len(offsets) - 1:
        raise DataError(f"answers must be (q, k) for {len(offsets) - 1} queries, got {ranked.shape}")
    width = 1 + max(int(ranked.max(initial=0)), int(indices.max(initial=0)))
    # query and row as one number: membership is then a search in one sorted list
    right = np.sort(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * width + indices)
    asked = np.where(ranked < 0, -1, np.arange(len(ranked))[:, None] * width + ranked)
    right = np.r_[right, np.iinfo(np.int64).max]  # so that every place in it holds a number
    return right[np.searchsorted(right, asked)] == asked


def counted_queries(matches: tuple[np.ndarray, np.ndarray], rule: str) -> np.ndarray:
    """(q,) bool: the queries that are in the denominator under the rule.

    Raises:
        DataError: an unknown rule, or none is.
    """
    require_choice(RULES, rule=rule)
    has_match = np.diff(matches[0]) > 0
    counted = has_match if rule == "has_match" else np.ones_like(has_match)
    if not counted.any():
        raise DataError(
            "no query has a database image within the radius, so there is nothing to recall. Are latitude and "
            "longitude swapped in one of the tables, are they in another UTM zone, or is the radius too small?"
        )
    return counted


def place_metrics(
    ranked, database_points, query_points, radii_m: Sequence[float] = (25.0,), n: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Everything that is reported of a search.

    Args:
        ranked: (q, k) database rows, best first; -1 for none, and no distance is told then.
        database_points, query_points: (m, 2) and (q, 2) degrees.
        radii_m: thresholds for recall; the first one is the one that counts.

    Returns:
        `r1`, `r5`, ... (the rule `has_match` at the first radius), `recall@N_RULE_METERSm` for all rules and radii (of
        `has_match` NaN where no query has a database image within a further radius),
        `queries`, `queries_with_match`, `median_m` and `mean_m` from the query to its top answer.
    """
    ranked = np.asarray(ranked)
    metrics: dict[str, float] = {}
    for radius_m in radii_m:
        matches = matches_within_m(database_points, query_points, radius_m)
        for rule in RULES:
            nothing = bool(metrics) and rule == "has_match" and not matches[1].size
            recall = dict.fromkeys(n, math.nan) if nothing else recall_of_ranks(ranked, matches, n, rule)
            if not metrics:
                metrics |= {f"r{count}": value for count, value in recall.items()}
                matched = int((np.diff(matches[0]) > 0).sum())
                metrics |= {"queries": len(ranked), "queries_with_match": matched}
            metrics |= {f"recall@{count}_{rule}_{radius_m:g}m": value for count, value in recall.items()}
    away = great_circle_m(np.asarray(database_points, np.float64)[ranked[:, 0]], np.asarray(query_points))
    away = np.where(ranked[:, 0] < 0, np.nan, away)
    return metrics | {"median_m": float(np.median(away)), "mean_m": float(away.mean())}


def selective_metrics(certainty, right, matched: int, abstain_below: float | None = None) -> dict[str, float]:
    """How well certainty tells right answers from wrong ones, see `geohf.metrics.selective`.

    Args:
        certainty, right: (q,) of the top answers.
        matched: queries with a database image within the radius; recall is of these.
        abstain_below: answers less certain than this are not given; None: all are.

    Returns:
        `auc_pr`, the area under precision over recall; `full_precision_recall`, the recall at 100 % precision;
        `risk_coverage`, the area under risk over coverage, the only one that is better the smaller it is. With a
        threshold also `answered`, the share of queries that get an answer, and `answered_precision`, that of right ones
        among these, NaN where there is none.
    """
    certainty, right = np.asarray(certainty), np.asarray(right, bool)
    values = {
        "auc_pr": average_precision(certainty, right, matched),
        "full_precision_recall": recall_at_precision(certainty, right, 1.0, matched),
        "risk_coverage": risk_coverage(certainty, right),
    }
    if abstain_below is None:
        return values
    answered = certainty >= abstain_below
    precision = float(right[answered].mean()) if answered.any() else math.nan
    return values | {"answered": float(answered.mean()), "answered_precision": precision}


@dataclass
class Retrieval:
    """The answers to queries, best first."""

    similarity: np.ndarray  # (q, k) cosines
    ranked: np.ndarray  # (q, k) rows of the database
    right: np.ndarray  # (q, k) bool, within the first radius
    error_m: np.ndarray  # (q,) meters from the query to its top answer
    values: dict[str, float]  # see `place_metrics`
    answer_points: np.ndarray  # (q, k, 2) latitude and longitude in degrees
    radius_m: float  # the first radius


def retrieve(
    database: torch.Tensor,
    queries: torch.Tensor,
    database_points: np.ndarray,
    query_points: np.ndarray,
    radii_m: Sequence[float],
) -> Retrieval:
    """Search for queries in a database.

    Args:
        database, queries: (m, d) and (q, d) descriptors.
        database_points, query_points, radii_m: see `place_metrics`.

    Raises:
        DataError: see `recall_at_n`.
    """
    similarity, ranked = (part.numpy() for part in top_k(database, queries, max(RECALLS)))
    values = place_metrics(ranked, database_points, query_points, radii_m, RECALLS)
    right = right_answers(ranked, matches_within_m(database_points, query_points, radii_m[0]))
    answer_points = database_points[ranked]
    error_m = great_circle_m(answer_points[:, 0], query_points)
    return Retrieval(similarity, ranked, right, error_m, values, answer_points, radii_m[0])


def recall_intervals(
    retrieval: Retrieval,
    database_points: np.ndarray,
    query_points: np.ndarray,
    sequences: np.ndarray,
    times_ns: Sequence[int | None],
) -> dict[str, tuple[float, float] | None]:
    """The ends of a 95 % interval of `r1`, `r5`, ..., drawn over drives, or over stretches of too few: frames are no draws.

    Args:
        database_points, query_points: as `retrieve` was given them.
        sequences, times_ns: (q,) drive of each query, and times in nanoseconds since 1970, None where unknown.
    """
    matches = matches_within_m(database_points, query_points, retrieval.radius_m)
    counted = counted_queries(matches, "has_match")
    if len(set(sequences)) < FEWEST_DRIVES:
        sequences = stretches(query_points, sequences, times_ns)
    return {
        f"r{count}": mean_interval(retrieval.right[counted, :count].any(1), sequences[counted])
        for count in RECALLS
    }


def measure(
    retrieval: Retrieval,
    baseline: Retrieval | None = None,
    intervals: dict[str, tuple[float, float] | None] | None = None,
) -> list[Metric]:
    """The numbers of a search, their intervals, and those of the frozen backbone's feature on the same queries."""
    return join_metrics(retrieval.values, intervals, None if baseline is None else baseline.values)


def stretches(
    points, sequences, times_ns: Sequence[int | None] | None = None, length_m: float = 250.0
) -> np.ndarray:
    """(n,) text that names a stretch of about `length_m` of the drive that each row belongs to.

    A drive's rows are taken in the order of their times, or as they stand where not all have one.
    """
    points, sequences = np.asarray(points, np.float64), np.asarray(sequences).astype(str)
    names = np.empty(len(points), object)
    for sequence in np.unique(sequences):
        rows = np.flatnonzero(sequences == sequence)
        times = [times_ns[row] for row in rows.tolist()] if times_ns is not None else [None]
        if None not in times:
            rows = rows[np.argsort(np.array(times, np.int64), kind="stable")]
        along = np.cumsum(np.r_[0.0, great_circle_m(points[rows[1:]], points[rows[:-1]])])
        names[rows] = [f"{sequence} {part}" for part in (along // length_m).astype(int)]
    return names.astype(str)


def _check_n(n: Sequence[int]) -> list[int]:
    if not len(n):
        raise DataError("n must be whole numbers from 1, got none")
    for count in n:
        require_whole(1, n=count)
    return sorted({int(count) for count in n})
