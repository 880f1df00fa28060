"""Photographs of a drive answered together: what is common to a drive removed, and the order of its frames heard.

Removing a drive's own mean: Schubert et al., 2001.08960. Frames as states of a hidden Markov model with a banded
motion: Xu et al., 2006.08861. Diagonals of the similarities: Milford and Wyeth, SeqSLAM, ICRA 2012.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import numpy as np
import torch

from geohf.data.tables import label_of, text_of
from geohf.errors import DataError, listed, require_choice
from geohf.place.search import unit_descriptors

logger = logging.getLogger(__name__)

Center = Literal["none", "database", "sequence", "online"]
Method = Literal["filter", "smooth", "diagonal"]

_SLOPES = (0.8, 0.9, 1.0, 1.1, 1.2)  # speeds of a diagonal, database images per query
_SHUFFLES = 19  # an order that beats so many shuffles of itself is no accident at 5 percent
_FEWEST = 5  # frames; fewer have too few orders to shuffle into
_CELLS = 4_000_000  # numbers of a scratch array that holds a state per database image and chain
_ONLINE_WEIGHT = 10.0  # frames that the database's mean counts for until the drive's own are known


def center_descriptors(
    database, queries, sequences: Sequence | np.ndarray | None = None, center: Center = "none"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove what the images of a drive have in common: camera, weather, time of day.

    Args:
        database, queries: (m, d) and (q, d) descriptors, numpy or torch.
        sequences: q names of the drive of each query, in the order of time within each; one drive if None.
        center: `none`; `database` takes the mean of the database from both; `sequence` takes from each drive its own
            mean, the database counting as one; `online` knows of a drive only the frames up to the one that asks.

    Returns:
        (m, d) and (q, d) float32 of length 1.

    Raises:
        DataError: an unknown name, sequences of another length; see `geohf.place.search.unit_descriptors`.
    """
    check_options(center)
    database, queries = unit_descriptors(database, "database"), unit_descriptors(queries, "queries")
    if center == "none":
        return database, queries
    mean, moved = database.mean(0), queries.clone()
    for rows in _drives(sequences, len(queries)):
        drive = queries[rows]
        if center == "sequence":
            moved[rows] = drive - drive.mean(0)
        elif center == "online":
            seen = torch.arange(1, len(drive) + 1, device=drive.device)[:, None]
            moved[rows] = drive - (_ONLINE_WEIGHT * mean + drive.cumsum(0)) / (_ONLINE_WEIGHT + seen)
        else:
            moved[rows] = drive - mean
    return _unit_or_as_is(database - mean, database), _unit_or_as_is(moved, queries)


@dataclass
class SequenceMatches:
    """The database images of each query of some drives, each drive answered as a whole.

    Attributes:
        rows: (q, k) database rows, best first.
        posterior: (q, k) probability of each; for a drive that is not `chained`, of its frames one by one.
        chained: (q,) bool: the drive's order explained its frames; where it did not, single frames answer.
        evidence: {drive: nats by which its order beats the best of its shuffles}; only a positive one is believed.
    """

    rows: np.ndarray
    posterior: np.ndarray
    chained: np.ndarray
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
        similarity: (q, m) cosines of queries in the order of time and database images in the order of their drive.
        sequences: q names of the queries' drives; a break in time begins a new one, see `split_at_gaps`. One if None.
        database_sequences: m names of the database's drives. One if None.
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
    spread = scores.std(1, keepdims=True)
    z = (scores - scores.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    chain = _Chain(z, database_sequences, steps, jump, temperature, max(k, min(candidates, m)))
    found = SequenceMatches(np.empty((q, k), np.int64), np.empty((q, k)), np.zeros(q, bool))
    for rows in _drives(sequences, q):
        name = "" if sequences is None else str(sequences[rows[0]])
        backwards, found.evidence[name] = chain.evidence_of(rows, seed)
        found.chained[rows] = found.evidence[name] > 0
        if not found.chained[rows[0]]:
            posterior = chain.alone(rows)
        elif method == "diagonal":
            posterior = chain.diagonal(rows, backwards, length)
        else:
            posterior = chain.posterior(rows, backwards, method == "smooth")
        # images that are as likely as each other, as those far away are, in the order of their similarity
        order = np.lexsort((-chain.z[rows], -posterior), axis=1)[:, :k]
        found.rows[rows] = np.take_along_axis(chain.columns[rows], order, 1)
        found.posterior[rows] = np.take_along_axis(posterior, order, 1)
    _tell_of_single_frames(found)
    return found


def _tell_of_single_frames(found: SequenceMatches) -> None:
    alone = [name or "the drive" for name, nats in found.evidence.items() if not nats > 0]
    if alone:
        logger.warning(
            "%d of %d drives answer frame by frame, as the order of their frames explains them no better than shuffles "
            "of it do, or they have fewer than %d: %s",
            len(alone),
            len(found.evidence),
            _FEWEST,
            listed(alone),
        )


def split_at_gaps(sequences: Sequence, times_ns: Sequence[int | None], gap_s: float = 10.0) -> np.ndarray:
    """(q,) names of drives that begin anew where a frame comes more than `gap_s` seconds after the one before.

    >>> split_at_gaps(["a", "a", "a"], [0, 10**9, 10**12]).tolist()
    ['a', 'a', 'a, part 2']
    """
    parts: dict[str, tuple[int, int | None]] = {}
    names = []
    for name, time in zip(map(str, sequences), times_ns, strict=True):
        part, before = parts.get(name, (1, None))
        part += before is not None and time is not None and not 0 <= time - before <= gap_s * 1e9
        parts[name] = part, time
        names.append(name if part == 1 else f"{name}, part {part}")
    return np.array(names)


def in_order(
    rows: np.ndarray, sequences: Sequence, times_ns: Sequence[int | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the order of time within their drives, where all frames of a drive have one, and each row's drive.

    Args:
        rows: (q,) of all rows.
        sequences, times_ns: of all rows; times in nanoseconds since 1970, None where unknown.
    """
    names = np.asarray(sequences).astype(str)
    ordered = []
    for name in dict.fromkeys(names[rows].tolist()):
        drive = rows[names[rows] == name]
        times = [times_ns[row] for row in drive]
        known = [time for time in times if time is not None]
        if len(known) < len(times) and known != sorted(known):
            logger.warning(
                "%s: %d of %d frames have no time, so that all stay in the order given, which is not that of the times",
                *(name or "the drive", len(times) - len(known), len(times)),
            )
        ordered.append(drive if None in times else drive[np.argsort(times, kind="stable")])
    rows = np.concatenate(ordered)
    return rows, split_at_gaps(names[rows], [times_ns[row] for row in rows])


class _Chain:
    """A hidden Markov chain over the most similar database images of each query."""

    def __init__(self, z, database_sequences, steps, jump, temperature, count):
        self.images, self.steps, self.jump = z.shape[1], range(steps[0], steps[1] + 1), jump
        best = np.argpartition(-z, count - 1, axis=1)[:, :count]
        self.columns = np.sort(best, axis=1)  # (q, c) database rows
        self.z = np.take_along_axis(z, self.columns, 1)
        self.likelihood = np.exp((self.z - self.z.max(1, keepdims=True)) / temperature)
        # places of a scratch array, a border as wide as a step between drives, so that nothing moves across
        border = max(abs(steps[0]), abs(steps[1]))
        names = (
            np.zeros(self.images) if database_sequences is None else np.array(drive_names(database_sequences))
        )
        if len(names) != self.images:
            raise DataError(f"{len(names)} database sequences for {self.images} images")
        number = np.cumsum(np.r_[False, names[1:] != names[:-1]])
        self.place = np.arange(self.images) + border * (1 + number)
        self.places = int(self.place[-1]) + border + 1

    def evidence_of(self, rows: np.ndarray, seed: int) -> tuple[bool, float]:
        """Whether the drive runs against the database's order, and the nats by which its order beats shuffles."""
        if len(rows) < _FEWEST:
            return False, -np.inf
        rng = np.random.default_rng(seed)
        orders = np.stack([rows, *(rng.permutation(rows) for _ in range(_SHUFFLES))])
        # both directions are tried for the shuffles, too, or the drive's own order would have two chances to their one
        tried = np.stack([self._evidence(orders, backwards) for backwards in (False, True)])
        best = tried.max(0)
        return bool(tried[:, 0].argmax()), float(best[0] - best[1:].max())

    def alone(self, rows: np.ndarray) -> np.ndarray:
        """(n, c) probabilities of the candidates, each frame by itself."""
        return self.likelihood[rows] / self.likelihood[rows].sum(1, keepdims=True)

    def posterior(self, rows: np.ndarray, backwards: bool, smooth: bool) -> np.ndarray:
        """(n, c) probabilities of the candidates given the frames up to each, or all frames of the drive."""
        forward = np.stack([state[0] for state, _ in self._forward(rows[None], backwards)])
        if not smooth:
            return forward
        later = np.ones_like(forward)
        for t in range(len(rows) - 2, -1, -1):
            ahead = self.likelihood[rows[t + 1]] * later[t + 1]
            later[t] = self._move(rows[None, t + 1], rows[None, t], ahead[None], not backwards)[0]
            later[t] /= later[t].max()
        both = forward * later
        return both / both.sum(1, keepdims=True)

    def diagonal(self, rows: np.ndarray, backwards: bool, length: int) -> np.ndarray:
        """(n, c) softmax of the best mean of z along lines that end at each candidate."""
        dense = np.full((len(rows), self.places), np.nan)
        np.put_along_axis(dense, self.place[self.columns[rows]], self.z[rows], 1)
        ends, means = self.place[self.columns[rows]], []
        for slope in _SLOPES:
            total, count = np.zeros_like(ends, float), np.zeros_like(ends, float)
            for back in range(min(length, len(rows))):
                at = ends[back:] + round(slope * back) * (1 if backwards else -1)
                inside = (at >= 0) & (at < self.places)
                values = np.take_along_axis(dense[: len(rows) - back], np.clip(at, 0, self.places - 1), 1)
                inside &= np.isfinite(values)
                total[back:] += np.where(inside, values, 0)
                count[back:] += inside
            # a line that leaves the drive is believed less: what it lacks counts as an average frame
            means.append(total / np.minimum(np.arange(1, len(rows) + 1), length)[:, None])
        best = np.exp(np.max(means, axis=0))
        return best / best.sum(1, keepdims=True)

    def _evidence(self, orders: np.ndarray, backwards: bool) -> np.ndarray:
        """(b,) log evidence of the frames in each order, minus that of the same frames each by itself."""
        group = max(1, _CELLS // self.places)
        gains = []
        for start in range(0, len(orders), group):
            some = orders[start : start + group]
            chain = sum(np.log(scale) for _, scale in self._forward(some, backwards))
            gains.append(chain - np.log(self.likelihood[some].sum(2) / self.images).sum(1))
        return np.concatenate(gains)

    def _forward(self, orders: np.ndarray, backwards: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each frame in turn: (b, c) probabilities of its candidates, (b,) likelihood of it given the earlier."""
        state = None
        for t in range(orders.shape[1]):
            if state is None:
                expected = np.full(self.likelihood[orders[:, t]].shape, 1 / self.images)
            else:
                expected = self._move(orders[:, t - 1], orders[:, t], state, backwards)
            state = expected * self.likelihood[orders[:, t]]
            scale = state.sum(1)
            state = state / scale[:, None]
            yield state, scale

    def _move(self, before: np.ndarray, now: np.ndarray, state: np.ndarray, backwards: bool) -> np.ndarray:
        """(b, c) what arrives at the candidates of the frames `now` from (b, c) `state` at those of `before`."""
        scratch = np.zeros((len(state), self.places))
        np.put_along_axis(scratch, self.place[self.columns[before]], state, 1)
        to = self.place[self.columns[now]]
        arrived = sum(
            np.take_along_axis(scratch, to + (step if backwards else -step), 1) for step in self.steps
        )
        everywhere = state.sum(1, keepdims=True) * self.jump / self.images
        return arrived * (1 - self.jump) / len(self.steps) + everywhere


def drive_names(sequences: Sequence | np.ndarray) -> list[str]:
    """The name of each image's drive, as text; `3.0` is `3`, which pandas writes so where a column has holes.

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
    names = np.asarray(drive_names(sequences))
    return [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]


def _unit_or_as_is(moved: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; a row that is its own mean, as a drive of one frame is, stays as it was."""
    length = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
    return torch.where(length > 1e-6, moved / length.clamp_min(1e-6), original)


def check_options(center: str = "none", method: str | None = None) -> tuple[Center, Method | None]:
    """The names, refused where `Center` and `Method` do not have them; without a method frames answer one by one.

    Raises:
        DataError: one of them.
    """
    require_choice(get_args(Center), center=center)
    require_choice(get_args(Method), method=method)
    return cast(Center, center), cast("Method | None", method)
