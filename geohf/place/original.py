"""The reference implementation's recipe, to measure ours against: greedy clusters of places, and the anchor among its negatives.

It differs from ours in three ways: clusters in place of meters (on dense routes four to five of ten pairs within the
radius fall into different clusters and count as negatives), the anchor in the denominator of the contrastive loss,
and batches at random, in which most anchors have no positive. Model, features and budget are the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from geohf.geo import matches_within_m
from geohf.place.losses import hybrid


class RandomBatches(Sampler[int]):
    """All of n rows in an order by lot, anew in each epoch, but for those that fill no batch of all processes together."""

    hard_share = 0.0

    def __init__(self, n: int, batch_size: int, seed: int = 42):
        self.n, self.batch_size, self.seed, self.epoch = n, min(batch_size, n), seed, 0

    def __len__(self) -> int:
        return self.n // self.batch_size * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """The next iteration draws for this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        yield from np.random.default_rng([self.seed, self.epoch]).permutation(self.n)[: len(self)].tolist()


def greedy_clusters(points, radius_m: float = 25.0) -> np.ndarray:
    """Label every point with the first one, in their order, that has no label yet and lies within the radius.

    Args:
        points: (n, 2) latitude and longitude in degrees.

    Returns:
        (n,) int64 labels from 0.

    >>> greedy_clusters([[0.0, 0.0], [0.0, 0.0002], [0.0, 0.0004]]).tolist()  # 22 m apart
    [0, 0, 1]
    """
    offsets, neighbors = matches_within_m(points, points, radius_m)
    labels = np.full(len(offsets) - 1, -1, np.int64)
    count = 0
    for i in range(len(labels)):
        if labels[i] < 0:
            near = neighbors[offsets[i] : offsets[i + 1]]
            labels[near[labels[near] < 0]] = count
            count += 1
    return labels


def original_loss(
    descriptors: torch.Tensor, clusters: torch.Tensor, far: torch.Tensor, **settings
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The reference implementation's hybrid loss.

    Args:
        descriptors: (n, d) of length 1.
        clusters: (n,) labels.
        far: (n, n) bool, pairs beyond the negative radius, which the triplet loss takes.
        settings: see `geohf.place.losses.hybrid`.

    Returns:
        (the total, its parts before weighting).
    """
    positive = clusters[:, None] == clusters[None]
    positive.fill_diagonal_(False)
    # what is not positive is contrasted, the anchor with itself included
    return hybrid(descriptors, positive, far, contrasted=~positive, **settings)
