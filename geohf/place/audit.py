"""Leaks: ways in which a recall can be high without a place having been recognized."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geohf.errors import DataError
from geohf.geo import matches_within_m
from geohf.vision.contents import contents_of

logger = logging.getLogger(__name__)

# Two images of one place so close in time come from one drive, whatever their tables are called.
_SAME_DRIVE_NS = 120 * 10**9
# Cosines of descriptors beyond it belong to pictures that hardly differ.
_NEAR_DUPLICATE = 0.9999


@dataclass
class Finding:
    """One kind of leak: its name, how many queries it touches, their share, what it means, whether it is fatal."""

    kind: str
    queries: int
    share: float
    message: str
    fatal: bool = False


def audit(
    files: Sequence[str | dict],
    points: np.ndarray,
    sequences: np.ndarray,
    times_ns: Sequence[int | None],
    train: np.ndarray,
    database: np.ndarray,
    queries: np.ndarray,
    radius_m: float = 25.0,
) -> list[Finding]:
    """Look for leaks between rows of a table of images.

    Args:
        files, points, sequences, times_ns: of all n images: path (or path and bytes), (n, 2) degrees, drive, time or None.
        train, database, queries: rows.

    Returns:
        Of these the kinds that occur: `self_retrieval` (a query is in the database: the same file, or another with
        the same content), `same_drive` (a query's match in the database was taken within two minutes of it, or by
        the same drive where times are not known), `trained_place` (a query lies within the radius of an image that
        was trained on).
    """
    n = len(queries)
    offsets, indices = matches_within_m(points[database], points[queries], radius_m)
    asking = np.repeat(np.arange(n), np.diff(offsets))
    asked, answered = queries[asking], database[indices]
    times = np.array([np.nan if time is None else time for time in times_ns], np.float64)
    gap = np.abs(times[asked] - times[answered])
    same = np.where(np.isnan(gap), sequences[asked] == sequences[answered], gap <= _SAME_DRIVE_NS)
    trained, _ = matches_within_m(points[train], points[queries], radius_m)
    alike = (
        "are in the database themselves, so they find themselves and recall says nothing; use another drive"
    )
    moments = "have a match in the database that one drive took moments before or after: near-duplicates"
    seen = f"lie within {radius_m:g} m of an image that was trained on: recall on places that were never seen is lower"
    return [
        *_finding("self_retrieval", _among(files, queries, database), alike, fatal=True),
        *_finding("same_drive", np.bincount(asking, same, n) > 0, moments),
        *_finding("trained_place", np.diff(trained) > 0, seen),
    ]


def used_before(
    files: Sequence[str | dict],
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    by_content: bool = True,
) -> list[Finding]:
    """What test queries were used for before: `trained_on`, and `chosen_on` (they are validation queries, too), if they were.

    Args:
        files: see `audit`.
        train, validation, test: rows.
        by_content: whether files are opened; else their paths alone are compared.
    """
    trained, chosen = (_among(files, test, known, by_content) for known in (train, validation))
    by_these = "by which the model is chosen and calibrated: on others it is less good"
    return [
        *_finding("trained_on", trained, "are training images themselves: on others recall is lower"),
        *_finding("chosen_on", chosen, f"are validation queries, too, {by_these}"),
    ]


def _among(
    files: Sequence[str | dict], asked: np.ndarray, known: np.ndarray, by_content: bool = True
) -> np.ndarray:
    """(n,) bool: which of some rows hold a picture that one of the others holds."""
    named = [files[row] for row in [*known.tolist(), *asked.tolist()]]
    as_named = ((file["path"], file["bytes"]) if isinstance(file, dict) else file for file in named)
    contents: list[Any] = contents_of(named) if by_content else list(as_named)
    seen = {*contents[: len(known)]}
    return np.array([content in seen for content in contents[len(known) :]], bool)


def _finding(kind: str, touched: np.ndarray, what: str, fatal: bool = False) -> list[Finding]:
    count, n = int(touched.sum()), len(touched)
    return [Finding(kind, count, count / n, f"{count} of {n} queries {what}", fatal)] if count else []


def near_duplicates(similarity: np.ndarray) -> list[Finding]:
    """A finding where queries' top answers, (q,) cosines of frozen features, are the same picture to the eye."""
    what = f"have a picture in the database whose frozen features are the same (cosine above {_NEAR_DUPLICATE}): near-duplicates"
    return _finding("near_duplicate", np.asarray(similarity) > _NEAR_DUPLICATE, what)


def report_leaks(
    findings: Sequence[Finding], strict: bool, advice: str = "--audit off measures all the same"
) -> None:
    """Stop with DataError and an advice at what is fatal, or with `strict` at anything, and warn of the rest."""
    for finding in findings:
        if finding.fatal or strict:
            raise DataError(f"leak ({finding.kind}): {finding.message}; {advice}")
        logger.warning("leak (%s): %s", finding.kind, finding.message)
