"""A ranker of the best candidates for a place, learned from how far each lies from the truth.

Its loss is the first part of GeoRanker's (Jia et al., NeurIPS 2025, arXiv 2505.13731): the likelihood of Plackett and Luce
that candidates are drawn in the order of their distance.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from geohf.geo import great_circle_m, unit_vectors

WIDTH = 64
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 400, 128, 1e-3, 0.01
LEAST_SCORE = -20.0  # a candidate that is less probable is as improbable
# a candidate so near is the photograph's own position: degrees in float32 are off by a meter or two
OWN_M = 5.0


class Ranker(nn.Module):
    """Puts the best candidates of a place into order, by its features, their positions and their first scores."""

    middle: torch.Tensor
    unit: torch.Tensor

    def __init__(self, size: int):
        super().__init__()
        self.place = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, WIDTH))
        self.candidate = nn.Linear(5, WIDTH)
        self.change = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 1))
        for parameter in self.change[1].parameters():
            nn.init.zeros_(parameter)  # it begins with the first order
        self.register_buffer("middle", torch.zeros(5))
        self.register_buffer("unit", torch.ones(5))

    def forward(self, place: torch.Tensor, points: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The new scores, (batch, k); those of candidates that are ruled out are -inf, as they were.

        Args:
            place: (batch, size) features.
            points: (batch, k, 2) degrees.
            scores: (batch, k) logarithms of weights.
        """
        known = (self.known(points, scores) - self.middle) / self.unit
        hidden = self.place(place.float())[:, None] + self.candidate(known)
        changed = scores.log_softmax(-1).clamp(min=LEAST_SCORE) + self.change(hidden)[..., 0]
        return changed.masked_fill(scores == -math.inf, -math.inf)

    @staticmethod
    def known(points: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(batch, k, 5) where each candidate lies, its score, and its mean distance to all by their weights in km."""
        shares = scores.log_softmax(-1)
        away = great_circle_m(points[:, :, None], points[:, None]) / 1000.0
        expected = (away @ shares.exp()[..., None])[..., 0]
        others = torch.stack([shares.clamp(min=LEAST_SCORE), expected], -1)
        return torch.cat([unit_vectors(points), others], -1).float()

    @torch.no_grad()  # an answer, of outputs that may have been made in inference mode
    def best(self, place: torch.Tensor, points: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(batch, 2) degrees: the first candidate of the new order; see `forward`."""
        first = self(place, points, scores).argmax(-1)
        return points.gather(1, first[:, None, None].expand(-1, 1, 2))[:, 0]

    def fit(
        self, place: torch.Tensor, points: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor
    ) -> None:
        """Learn from the candidates of training places, whose truth is (batch, 2) degrees; see `forward`.

        A photograph's own position is no candidate of it: it would not be there for a new one.
        """
        away = great_circle_m(points, truth[:, None])
        scores = scores.masked_fill(away < OWN_M, -math.inf)
        usable = scores.isfinite().sum(1) > 1  # of one candidate alone there is no order
        place, points, scores, away = (part[usable] for part in (place, points, scores, away))
        if not len(place):
            return
        known = self.known(points, scores)[scores.isfinite()]
        self.middle.copy_(known.mean(0))
        self.unit.copy_(known.std(0, correction=0).clamp(min=1e-6))
        optimizer = torch.optim.AdamW(self.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        order = torch.Generator().manual_seed(0)
        with torch.enable_grad():
            for _ in range(STEPS):
                rows = torch.randint(len(place), (min(BATCH, len(place)),), generator=order)
                loss = plackett_luce_loss(self(place[rows], points[rows], scores[rows]), away[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def plackett_luce_loss(scores: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """The mean negative logarithm of drawing each candidate, nearest first, among those that are left.

    Args:
        scores: (batch, k); -inf for candidates that do not count.
        distances: (batch, k) of the candidates from the truth.

    >>> float(plackett_luce_loss(torch.zeros(1, 3), torch.tensor([[5.0, 2.0, 9.0]])))  # (log 3 + log 2 + log 1) / 3
    0.597...
    """
    counts = scores.isfinite()
    order = distances.masked_fill(~counts, math.inf).argsort(dim=-1, stable=True)
    counts, ordered = counts.gather(-1, order), scores.gather(-1, order)
    ordered = torch.where(counts, ordered, -1e9)  # a logarithm of nothing whose gradient is zero
    left = ordered.flip(-1).logcumsumexp(-1).flip(-1)
    return torch.where(counts, left - ordered, 0.0).sum() / counts.sum()


def make_ranker(
    place: torch.Tensor, points: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor
) -> Ranker:
    """A ranker that has learned from the candidates of training places; see `Ranker.fit`."""
    # first weights that do not depend on what was drawn before: every process has the same
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ranker = Ranker(place.shape[-1])
    ranker.fit(place, points, scores, truth)
    return ranker
