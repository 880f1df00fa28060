"""Batches of P places x K images, so that every anchor has positives and meets other places."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from geohf.errors import DataError
from geohf.geo import EARTH_RADIUS_M, pairs_within_m, unit_vectors
from geohf.geo.angles import wrap_degrees

# Places among which a hard one is looked for.
_CANDIDATES = 256
# Places that are passed over for lying near another one of the batch, before one is taken all the same.
_PATIENCE = 64


class PlaceSampler(Sampler[int]):
    """Row numbers in an order whose every `batch_size` form a batch of places with `images_per_place` images each.

    A place is an image drawn by lot and others within the radius of it, half of them of other drives where there are
    some, as these differ the most. Places of one batch lie apart where there are enough, so that they are negatives of
    each other. Several processes that draw with one seed draw the same; each takes its part of a batch.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        batch_size: images in a batch, of all processes together.
        images_per_place: K, at least 2.
        radius_m: images of one place lie within it of the one that was drawn.
        apart_m: places of one batch lie farther apart than this where that is possible.
        sequences: (n,) drive of each image, numbers or names; None: all are of one.
        headings, heading_deg: images of one place look the same way within so many degrees, where known.
        hard_share: share of a batch's places that are mistaken for each other, once `set_descriptors` was called.
        seed: of the lot; each epoch draws anew. `order` has the rows of the last one.
        cliques: images of one place lie within the radius of each other, too (Izquierdo and Civera, Close, But Not There:
            Boosting Geographic Distance Sensitivity in Visual Place Recognition, ECCV 2024).

    Raises:
        DataError: no two images lie within the radius of each other.
    """

    def __init__(
        self,
        points,
        batch_size: int,
        images_per_place: int = 4,
        radius_m: float = 25.0,
        apart_m: float = 100.0,
        sequences=None,
        headings=None,
        heading_deg: float | None = None,
        hard_share: float = 0.5,
        seed: int = 42,
        cliques: bool = False,
    ):
        if images_per_place < 2 or batch_size < 2 * images_per_place:
            told = f"does not hold two places of {images_per_place} images; a place needs at least 2"
            raise DataError(f"a batch of {batch_size} images {told}")
        points = np.asarray(points, np.float64)
        self.batch_size, self.images_per_place, self.hard_share = batch_size, images_per_place, hard_share
        self.seed, self.epoch = seed, 0
        self.descriptors: np.ndarray | None = None
        self.order: np.ndarray | None = None
        self._resumed = -1, np.empty(0, np.int64)  # an epoch, and its order
        self.sequences = (
            np.zeros(len(points), int) if sequences is None else np.unique(sequences, return_inverse=True)[1]
        )
        self._vectors = EARTH_RADIUS_M * unit_vectors(points)
        self._apart_m = apart_m
        pairs = pairs_within_m(points, radius_m)
        if headings is not None and heading_deg is not None:
            first, second = np.asarray(headings, np.float64)[pairs.T]
            pairs = pairs[~(np.abs(wrap_degrees(first - second)) > heading_deg)]
        if not len(pairs):
            raise DataError(
                f"no two of the {len(points)} training images lie within {radius_m:g} m of each other, so there is "
                "nothing to learn from; is the radius too small, or are the positions wrong?"
            )
        both = np.concatenate([pairs, pairs[:, ::-1]])
        self._keys = np.sort(both[:, 0] * len(points) + both[:, 1]) if cliques else None
        order = np.argsort(both[:, 0], kind="stable")
        self._neighbors = both[order, 1]
        self._offsets = np.searchsorted(both[order, 0], np.arange(len(points) + 1))
        self.anchors = np.flatnonzero(np.diff(self._offsets))
        # as many images an epoch as there are with a neighbor
        self.batches = max(1, len(self.anchors) // batch_size)

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """The next iteration draws for this epoch."""
        self.epoch = epoch

    def resume(self, epoch: int, order: np.ndarray) -> None:
        """Take the order of an epoch from a checkpoint: the descriptors that found its hard places are gone."""
        self._resumed = epoch, order

    def set_descriptors(self, descriptors: torch.Tensor) -> None:
        """Take the model's present view of the images, (n, d) of length 1, to find hard places by."""
        self.descriptors = descriptors.detach().float().cpu().numpy()

    def __iter__(self) -> Iterator[int]:
        epoch, self.order = self._resumed
        if (epoch, len(self.order)) != (self.epoch, len(self)):
            self.order = np.fromiter(self._draw(), np.int64, len(self))
        yield from self.order.tolist()

    def _draw(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        waiting = deque(rng.permutation(self.anchors).tolist())
        for _ in range(self.batches):
            yield from self._batch(rng, waiting)

    def _batch(self, rng, waiting: deque) -> list[int]:
        wanted = -(-self.batch_size // self.images_per_place)
        places = self._hard(rng, round(self.hard_share * wanted))
        batch: list[int] = []
        for anchor in places:
            batch += self._images(rng, anchor, batch)
        passed: list[int] = []
        while len(batch) < self.batch_size:
            if not waiting:  # the lot is used up: everyone once more
                waiting.extend(rng.permutation(self.anchors).tolist())
            anchor = waiting.popleft()
            twice = anchor in batch and len(set(batch)) < len(self.anchors)
            if twice or (len(passed) < _PATIENCE and self._near(anchor, places)):
                passed.append(anchor)
                continue
            places.append(anchor)
            batch += self._images(rng, anchor, batch)
        waiting.extendleft(reversed(passed))
        return batch[: self.batch_size]

    def _near(self, anchor: int, places: list[int]) -> bool:
        gap = self._vectors[places] - self._vectors[anchor]
        return bool((np.einsum("ij,ij->i", gap, gap) <= self._apart_m**2).any())

    def _images(self, rng, anchor: int, taken: list[int]) -> list[int]:
        near = rng.permutation(self._neighbors[self._offsets[anchor] : self._offsets[anchor + 1]])
        near = near[~np.isin(near, taken)]  # a picture says nothing beside itself
        if self._keys is not None:
            return self._clique(anchor, near)
        others = near[self.sequences[near] != self.sequences[anchor]][: self.images_per_place // 2]
        rest = near[~np.isin(near, others)][: self.images_per_place - 1 - len(others)]
        return [anchor, *others.tolist(), *rest.tolist()]

    def _clique(self, anchor: int, near: np.ndarray) -> list[int]:
        """The anchor and neighbors that are neighbors of each other, taken in their order, other drives' first for a half."""
        assert self._keys is not None
        other = self.sequences[near] != self.sequences[anchor]
        first = near[other][: self.images_per_place // 2]
        clique = [anchor]
        for row in [*first.tolist(), *near[~np.isin(near, first)].tolist()]:
            if len(clique) == self.images_per_place:
                break
            keys = np.array(clique) * len(self.sequences) + row
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            if (self._keys[at] == keys).all():
                clique.append(row)
        return clique

    def _hard(self, rng, count: int) -> list[int]:
        """Places, far apart from each other, that the descriptors hold for near: the first by lot, the others by it."""
        if self.descriptors is None or count < 2:
            return []
        pool = rng.choice(self.anchors, min(_CANDIDATES, len(self.anchors)), replace=False).tolist()
        places = [pool[0]]
        for at in np.argsort(-(self.descriptors[pool] @ self.descriptors[pool[0]]), kind="stable"):
            if len(places) < count and not self._near(pool[at], places):
                places.append(pool[at])
        return places
