"""Verification: the best answers of a search in the order of their local matches, where the search is in doubt.

Patches of two pictures that are each other's nearest are counted, as in the part of FoL that needs no training (Focus on Local:
Finding Reliable Discriminative Regions for Visual Place Recognition, AAAI 2025). Where a search is right already, reordering
harms it (To Match or Not to Match, 2504.06116): a gate learned on validation queries keeps it to those whose best answer is hardly
ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from geohf.errors import DataError
from geohf.place.confidence import evidence
from geohf.place.encoding import Encoder
from geohf.place.storage import principal_axes, project

if TYPE_CHECKING:
    from geohf.place.configuration import GeoPlaceConfig

logger = logging.getLogger(__name__)

MATCHED_COSINE = 0.7  # as published
LOCAL_DIMS = 128  # numbers that are kept of a place
CLOSED = 0.0  # no answer is ahead by less
# the gate is learned on cosines as they are, and local matches know of no order
UNVERIFIED = "frames of a drive, and centered descriptors, are not verified"
_SHOWN_IMAGES = 64  # from all over, whose places give the axes


class LocalFeatures:
    """The places of pictures, each of length 1, as float16: 2 bytes a number, `LOCAL_DIMS` numbers or fewer a place.

    Args:
        rows: (n, places, d) float16, in memory or mapped from a file.
        axes: (d, channels) along which places are kept; None: they are whole.

    Raises:
        ValueError: other dimensions.
    """

    def __init__(self, rows: torch.Tensor, axes: torch.Tensor | None = None):
        if rows.ndim != 3 or (axes is not None and (axes.ndim != 2 or len(axes) != rows.shape[2])):
            shapes = tuple(rows.shape), None if axes is None else tuple(axes.shape)
            raise ValueError(f"local features and their axes have the shapes {shapes}")
        self.rows, self.axes = rows, axes

    @classmethod
    def of_images(cls, model: Encoder, samples: Sequence[Any], batch_size: int = 32) -> LocalFeatures:
        """Those of samples, n of them, by one pass of the backbone more."""
        spread = np.unique(np.linspace(0, len(samples) - 1, _SHOWN_IMAGES).astype(int)).tolist()
        shown = torch.cat(list(model.local_maps([samples[row] for row in spread], batch_size)))
        places = _unit_places(shown).flatten(0, 1)
        axes = principal_axes(places, LOCAL_DIMS) if min(places.shape) > LOCAL_DIMS else None
        rows = [_along(part, axes).half() for part in model.local_maps(samples, batch_size)]
        return cls(torch.cat(rows), axes)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes_per_row(self) -> int:
        """Bytes that a picture takes, in memory or on disk."""
        return 2 * self.rows[0].numel()

    def select(self, rows: np.ndarray) -> LocalFeatures:
        """Those of some pictures."""
        return LocalFeatures(self.rows[rows], self.axes)

    def along_axes(self, maps: Iterable[torch.Tensor]) -> torch.Tensor:
        """(q, places, d) float32 of maps (batch, channels, rows, columns) of questions."""
        projected = torch.cat([_along(part, self.axes) for part in maps])
        if projected.shape[1:] != self.rows.shape[1:]:
            raise DataError(
                f"the local features of the index are {tuple(self.rows.shape[1:])} (places, numbers) and those of the "
                f"model {tuple(projected.shape[1:])}: build the index anew"
            )
        return projected


def _unit_places(maps: torch.Tensor) -> torch.Tensor:
    return F.normalize(maps.float().flatten(2).mT, dim=-1)


def _along(maps: torch.Tensor, axes: torch.Tensor | None) -> torch.Tensor:
    places = _unit_places(maps)
    return places if axes is None else project(places, axes.to(places.device))


def count_matches(query: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """(k,) pairs of places that are each other's nearest, with a cosine above `MATCHED_COSINE`.

    Args:
        query: (p, d) of length 1.
        candidates: (k, q, d) of length 1.

    >>> square = torch.eye(3)
    >>> count_matches(square, torch.stack([square.flip(0), square[[0, 0, 0]]])).tolist()
    [3, 1]
    """
    cosines = torch.einsum("pd,kqd->kpq", query, candidates)
    best, of_candidate = cosines.max(2)
    of_query = cosines.argmax(1)
    mutual = of_query.gather(1, of_candidate) == torch.arange(len(query), device=query.device)
    return (mutual & (best > MATCHED_COSINE)).sum(1)


def gap_of(similarity: np.ndarray, points: np.ndarray, apart_m: float) -> np.ndarray:
    """(q,) by how much the top answer beats the best one from elsewhere, see `geohf.place.confidence.evidence`."""
    return evidence(similarity, points, apart_m)[:, 1]


def verified(
    similarity: np.ndarray,
    ranked: np.ndarray,
    local: LocalFeatures,
    maps: Callable[[np.ndarray], Iterable[torch.Tensor]],
    asked: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Answers with the k best of some queries in the order of their matches; equal counts stay in the order of their cosines.

    Args:
        similarity, ranked: (q, n) cosines, and rows of `local`, best first.
        maps: gives maps (batch, channels, rows, columns) of the queries of these numbers, batch by batch.
        asked: numbers of the queries to reorder.
        k: answers of a query that are reordered.

    Returns:
        (q, n) and (q, n), as they came but for that order.
    """
    similarity, ranked = similarity.copy(), ranked.copy()
    if not len(asked):
        return similarity, ranked
    places = local.along_axes(maps(asked))
    for row, query in zip(asked, places, strict=True):
        best = ranked[row, :k]
        counts = count_matches(query, local.rows[best].to(query.device).float())
        order = np.argsort(-counts.cpu().numpy(), kind="stable")
        ranked[row, :k], similarity[row, :k] = best[order], similarity[row, :k][order]
    return similarity, ranked


def fit_gate(config: GeoPlaceConfig, gap: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    """Set the config's `verify_below`: the gap below which verified answers are right more often than those of the search.

    The gate stays closed, and says so, where what is mended does not exceed what is spoiled by more than chance, a standard
    deviation of coins.

    Args:
        gap: (q,) of validation queries, see `gap_of`.
        before, after: (q,) whether the top answer is right, of the search and verified.
    """
    order = np.argsort(gap, kind="stable")
    ordered = gap[order]
    mended = np.cumsum((after & ~before)[order])
    spoiled = np.cumsum((before & ~after)[order])
    # a threshold above a gap takes all queries of that gap
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])[: len(ordered)]
    gained = (mended - spoiled)[last]
    at = int(gained.argmax()) if len(gained) else 0
    config.verify_below = CLOSED
    if len(gained) and gained[at] > np.sqrt((mended + spoiled)[last[at]]):
        beyond = ordered[last[at] + 1] if last[at] + 1 < len(ordered) else np.inf
        config.verify_below = float(min((ordered[last[at]] + beyond) / 2, 2.0))
    used = f"it is used where the best answer is ahead by less than {config.verify_below:.4f}"
    logger.info(
        "verification of all %d validation queries mends %d top answers and spoils %d: %s",
        *(len(gap), int((after & ~before).sum()), int((before & ~after).sum())),
        "the gate stays closed" if config.verify_below == CLOSED else used,
    )


def gated(gap: np.ndarray, config: GeoPlaceConfig) -> np.ndarray:
    """Numbers of the queries that the config's gate lets through; without a gate all of them."""
    return np.flatnonzero(gap < (np.inf if config.verify_below is None else config.verify_below))


def require_local(local: LocalFeatures | None, config: GeoPlaceConfig) -> LocalFeatures:
    """The local features of an index; a warning, where no gate was learned.

    Raises:
        DataError: there are none.
    """
    if local is None:
        raise DataError(
            "the index holds no local features to verify by: build it with local=True (--local of the command), or leave "
            "verify out"
        )
    if config.verify_below is None:
        logger.warning(
            "no gate was learned on validation queries (--verify in training): all answers are verified, also where "
            "that harms"
        )
    return local
