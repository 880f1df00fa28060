"""The frames of a drive as states of a hidden Markov chain, and the diagonals of their similarities.

Source: see `geohf.place.sequences`, which answers with them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_SLOPES = (0.8, 0.9, 1.0, 1.1, 1.2)  # speeds of a diagonal, database images per query
_SHUFFLES = 19  # an order that beats so many shuffles of itself is no accident at 5 percent
FEWEST = 5  # frames; fewer have too few orders to shuffle into
_CELLS = 4_000_000  # numbers of a scratch array that holds a state per database image and chain


class Chain:
    """A hidden Markov chain over the most similar database images of each query.

    Args:
        z: (q, m) z-scores of the similarities of each query.
        drives: (m,) the drive of each database image.
        steps, jump, temperature: see `geohf.place.sequences.match_sequences`.
        count: database images of each query that can be its state.
    """

    def __init__(
        self,
        z: np.ndarray,
        drives: np.ndarray,
        steps: tuple[int, int],
        jump: float,
        temperature: float,
        count: int,
    ):
        self.images, self.steps, self.jump = z.shape[1], range(steps[0], steps[1] + 1), jump
        best = np.argpartition(-z, count - 1, axis=1)[:, :count]
        self.columns = np.sort(best, axis=1)  # (q, c) database rows
        self.z = np.take_along_axis(z, self.columns, 1)
        self.likelihood = np.exp((self.z - self.z.max(1, keepdims=True)) / temperature)
        # places of a scratch array, a border as wide as a step between drives, so that nothing moves across
        border = max(abs(steps[0]), abs(steps[1]))
        number = np.cumsum(np.r_[False, drives[1:] != drives[:-1]])
        self.place = np.arange(self.images) + border * (1 + number)
        self.places = int(self.place[-1]) + border + 1

    def evidence_of(self, rows: np.ndarray, seed: int) -> tuple[bool, float]:
        """Whether the drive runs against the database's order, and the nats by which its order beats shuffles."""
        if len(rows) < FEWEST:
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
            total = np.zeros_like(ends, float)
            for back in range(min(length, len(rows))):
                at = ends[back:] + round(slope * back) * (1 if backwards else -1)
                inside = (at >= 0) & (at < self.places)
                values = np.take_along_axis(dense[: len(rows) - back], np.clip(at, 0, self.places - 1), 1)
                inside &= np.isfinite(values)
                total[back:] += np.where(inside, values, 0)
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
        expected = np.full((len(orders), self.columns.shape[1]), 1 / self.images)
        for t, now in enumerate(orders.T):
            state = expected * self.likelihood[now]
            scale = state.sum(1)
            state = state / scale[:, None]
            yield state, scale
            if t + 1 < orders.shape[1]:
                expected = self._move(now, orders[:, t + 1], state, backwards)

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
