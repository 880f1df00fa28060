"""Photographs of a drive answered together: what is common to a drive removed, and the order of its frames heard.

Removing a drive's own mean: Schubert et al., 2001.08960. Frames as states of a hidden Markov model with a banded
motion: Xu et al., 2006.08861. Diagonals of the similarities: Milford and Wyeth, SeqSLAM, ICRA 2012.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, cast, get_args

import numpy as np
import torch

from geohf.data.cells import label_of, text_of
from geohf.errors import DataError, listed, require_choice
from geohf.place.chain import FEWEST, Chain
from geohf.place.search import unit_descriptors

logger = logging.getLogger(__name__)

Center = Literal["none", "database", "sequence", "online"]
Method = Literal["filter", "smooth", "diagonal"]

_GAP_NS, _GAP_STEPS = 10 * 10**9, 5  # nanoseconds, and steps of a drive, see `split_at_gaps`
_ONLINE_WEIGHT = 10.0  # frames that the database's mean counts for until the drive's own are known


def center_descriptors(
    database, queries, sequences: Sequence | np.ndarray | None = None, center: Center = "none"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove what the images of a drive have in common: camera, weather, time of day.

    Args:
        database, queries: (m, d) and (q, d) descriptors, numpy or torch.
        sequences: q names of the drive of each query, in the order of time within each; one drive if None.
        center: `none`; `database` takes the mean of the database from both; `sequence` takes from each drive its own
            mean, the database counting as one; `online` knows of a drive only the frames up to the one that asks. The mean
            of a few frames, or of a car that stands, is their place itself: they count with the database's, with a warning.

    Returns:
        (m, d) and (q, d) float32 of length 1.

    Raises:
        DataError: an unknown name, sequences of another length; see `geohf.place.search.unit_descriptors`.
    """
    check_options(center)
    database, queries = unit_descriptors(database, "database"), unit_descriptors(queries, "queries")
    if center == "none":
        return database, queries
    mean, drives = database.mean(0), _drives(sequences, len(queries))
    centered = queries - mean
    moved = centered.clone()
    for rows in drives:
        drive = queries[rows]
        if center == "online":
            seen = torch.arange(1, len(drive) + 1, device=drive.device)[:, None]
            moved[rows] = drive - (_ONLINE_WEIGHT * mean + drive.cumsum(0)) / (_ONLINE_WEIGHT + seen)
        elif center == "sequence" and len(drive) >= FEWEST:
            moved[rows] = drive - drive.mean(0)
    short = sum(len(rows) < FEWEST for rows in drives)
    if center == "sequence" and short:
        logger.warning(
            "%d of %d drives have fewer than %d frames, whose mean would be their places themselves: the database's mean is "
            "taken from them", short, len(drives), FEWEST,
        )  # fmt: skip
    return _unit_or_else(database - mean, database), _unit_or_else(_unit_or_else(moved, centered), queries)


@dataclass
class SequenceMatches:
    """The database images of each query of some drives, each drive answered as a whole."""

    rows: np.ndarray  # (q, k) database rows, best first
    # (q, k) probability of each; for a drive that is not `chained`, of its frames one by one
    posterior: np.ndarray
    # (q,) bool: the drive's order explained its frames; where it did not, single frames answer
    chained: np.ndarray
    # of each drive the nats by which its order beats the best of its shuffles; only a positive one is believed
    evidence: dict[str, float] = field(default_factory=dict)


def match_sequences(
    similarity,
    sequences: Sequence | np.ndarray | None = None,
    database_sequences: Sequence | np.ndarray | None = None,
    method: Method = "filter",
    k: int = 10,
    steps: tuple[int, int] = (-1, 3),
    jump: float = 0.01,
    length: int = 11,
    temperature: float = 5.0,
    candidates: int = 1000,
    seed: int = 0,
) -> SequenceMatches:
    """Answer drives as a whole, where their order says something; frame by frame, where it does not.

    A drive is a chain of states, one per database image: a frame moves on by `steps` images, in the database's order
    or against it, or jumps anywhere. Its order is believed where it explains the frames better than 19 shuffles of
    them do (a permutation test at 5 percent). Work grows with queries x candidates x steps.

    Args:
        similarity: (q, m) cosines of queries and database images, both in the order of time within their drive.
        sequences: q names of the queries' drives; a break in time begins a new one, see `split_at_gaps`. One if None.
        database_sequences: m names of the database's drives, whose images may stand among those of others. One if None.
        method: `filter` hears the frames up to the one that asks, `smooth` the later ones, too; `diagonal` averages
            the similarities of the last `length` frames along straight lines.
        k: answers for each query, at most m.
        steps: fewest and most database images from one frame to the next.
        jump: probability that a frame is anywhere instead.
        temperature: how little a frame says by itself: the likelihood of an image is exp(z / temperature), with the z-scores
            of the frame's similarities.
        candidates: database images of each query that can be its state, the most similar ones.
        seed: of the shuffles.

    Raises:
        DataError: similarities that are no finite matrix, an option out of range, names of another length.
    """
    on_cpu = similarity.detach().cpu() if isinstance(similarity, torch.Tensor) else similarity
    scores = np.asarray(on_cpu, np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise DataError(
            f"similarity must be a finite matrix of queries x database images, got {scores.shape}"
        )
    check_options(method=method)
    q, m = scores.shape
    if not 1 <= k <= m:
        raise DataError(f"cannot give the {k} best answers: the database holds {m} images")
    if not (steps[0] <= steps[1] and 0 < jump < 1 and length >= 1 and temperature > 0):
        raise DataError(
            "steps must ascend, jump lie between 0 and 1, length be at least 1 and temperature above 0, "
            f"got {steps}, {jump}, {length}, {temperature}"
        )
    drives = np.zeros(m) if database_sequences is None else np.array(drive_names(database_sequences))
    if len(drives) != m:
        raise DataError(f"{len(drives)} database sequences for {m} images")
    columns = np.concatenate(rows_of_each(drives))  # neighbors of one drive stand side by side
    scores = scores[:, columns] if (np.diff(columns) < 0).any() else scores
    drives = drives[columns]
    spread = scores.std(1, keepdims=True)
    z = (scores - scores.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    chain = Chain(z, drives, steps, jump, temperature, max(k, min(candidates, m)))
    matches = SequenceMatches(np.empty((q, k), np.int64), np.empty((q, k)), np.zeros(q, bool))
    for rows in _drives(sequences, q):
        name = "" if sequences is None else str(sequences[rows[0]])
        backwards, matches.evidence[name] = chain.evidence_of(rows, seed)
        matches.chained[rows] = matches.evidence[name] > 0
        if not matches.chained[rows[0]]:
            posterior = chain.alone(rows)
        elif method == "diagonal":
            posterior = chain.diagonal(rows, backwards, length)
        else:
            posterior = chain.posterior(rows, backwards, method == "smooth")
        # images that are as likely as each other, as those far away are, in the order of their similarity
        order = np.lexsort((-chain.z[rows], -posterior), axis=1)[:, :k]
        matches.rows[rows] = np.take_along_axis(chain.columns[rows], order, 1)
        matches.posterior[rows] = np.take_along_axis(posterior, order, 1)
    matches.rows = columns[matches.rows]
    alone = [name or "the drive" for name, nats in matches.evidence.items() if not nats > 0]
    if alone:
        logger.warning(
            "%d of %d drives answer frame by frame, as the order of their frames explains them no better than shuffles "
            "of it do, or they have fewer than %d: %s",
            *(len(alone), len(matches.evidence), FEWEST, listed(alone)),
        )
    return matches


def split_at_gaps(sequences: Sequence, times_ns: Sequence[int | None]) -> np.ndarray:
    """(q,) names of drives that begin anew after a gap in time.

    A gap is longer than 10 seconds and five times as long as the drive's frames are commonly apart: a camera that takes
    a picture every half minute has none.

    >>> split_at_gaps(["a", "a", "a"], [0, 10**9, 10**12]).tolist()
    ['a', 'a', 'a, part 2']
    """
    names = np.asarray(sequences).astype(str)
    parts = names.astype(object)
    for rows in rows_of_each(names):
        times = [times_ns[row] for row in rows]
        steps = [0 if None in pair else pair[1] - pair[0] for pair in pairwise(times)]
        common = sorted(steps)[(len(steps) - 1) // 2] if steps else 0
        longest, part = max(_GAP_NS, _GAP_STEPS * common), 1
        for row, step in zip(rows[1:], steps, strict=True):
            part += not 0 <= step <= longest
            parts[row] = names[row] if part == 1 else f"{names[row]}, part {part}"
    return parts.astype(str)


def in_order(
    sequences: Sequence, times_ns: Sequence[int | None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames in the order of time within their drives, where all frames of a drive have one.

    Args:
        sequences, times_ns: of each frame; times in nanoseconds since 1970, None where unknown.

    Returns:
        (q,) numbers of the frames; the drive of each, and the part of it without a gap in time, see `split_at_gaps`.
    """
    names = np.asarray(sequences).astype(str)
    ordered = []
    for drive in rows_of_each(names):
        times = [times_ns[row] for row in drive]
        known = [time for time in times if time is not None]
        if len(known) < len(times) and known != sorted(known):
            logger.warning(
                "%s: %d of %d frames have no time, so that all stay in the order given, which is not that of the times",
                *(names[drive[0]] or "the drive", len(times) - len(known), len(times)),
            )
        ordered.append(drive if None in times else drive[np.argsort(times, kind="stable")])
    rows = np.concatenate(ordered)
    return rows, names[rows], split_at_gaps(names[rows], [times_ns[row] for row in rows])


def drive_names(sequences: Sequence | np.ndarray) -> list[str]:
    """The name of each image's drive, as text, see `label_of`.

    Raises:
        DataError: a text in place of the names, or images without one.

    >>> drive_names(["a", 7, 3.0])
    ['a', '7', '3']
    """
    if isinstance(sequences, str):
        raise DataError(f"sequences must name the drive of each image, got the text {sequences!r}")
    lacking = [row for row, name in enumerate(sequences) if text_of(name) is None and str(name) != ""]
    if lacking:
        raise DataError(
            f"sequences must name the drive of each image, and those of number {listed(lacking)} are without; give them "
            "names of their own, or leave sequences out"
        )
    return [label_of(name) or "" for name in sequences]


def _drives(sequences: Sequence | np.ndarray | None, count: int) -> list[np.ndarray]:
    """The rows of each drive, in the order of their first row."""
    if sequences is None:
        return [np.arange(count)]
    if len(sequences) != count:
        raise DataError(f"{len(sequences)} sequences for {count} queries")
    return rows_of_each(np.asarray(drive_names(sequences)))


def rows_of_each(names: np.ndarray) -> list[np.ndarray]:
    """The rows of each name, in the order of their first row.

    >>> [rows.tolist() for rows in rows_of_each(np.array(["b", "a", "b"]))]
    [[0, 2], [1]]
    """
    _, first, numbers, counts = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
    return [groups[i] for i in np.argsort(first)]


def _unit_or_else(moved: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; of a row of length zero, as what is its own mean has become, the other."""
    length = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
    return torch.where(length > 1e-6, moved / length.clamp_min(1e-6), other)


def check_options(center: str = "none", method: str | None = None) -> tuple[Center, Method | None]:
    """The names, or DataError where `Center` and `Method` do not have them; without a method frames answer one by one."""
    require_choice(get_args(Center), center=center)
    require_choice((*get_args(Method), None), method=method)
    return cast(Center, center), cast("Method | None", method)
