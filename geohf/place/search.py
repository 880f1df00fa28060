"""Exact nearest neighbors by cosine, in blocks that never hold all similarities at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from geohf.errors import DataError, listed, require_whole
from geohf.geo import check_points, great_circle_m

# Rows of a block of queries and of the database. Its similarities, 16 MiB, are looked through while they are near.
_QUERY_ROWS, _DATABASE_ROWS = 512, 8192
# Columns of a block of which only the best is looked at first.
_GROUP = 16


class Rows(Protocol):
    """(n, d) float32 rows that are read in slices: a tensor, or what `geohf.place.storage` has."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> torch.Tensor: ...


def unit_descriptors(descriptors, name: str = "descriptors") -> torch.Tensor:
    """Descriptors as a float32 tensor of rows of length 1.

    Args:
        descriptors: (n, d), numpy or torch; a tensor stays on its device.

    Raises:
        DataError: not two dimensions, no row, a row that is zero or holds NaN or infinity.
    """
    tensor = torch.as_tensor(descriptors).detach().float()
    if tensor.ndim != 2 or not tensor.shape[0] or not tensor.shape[1]:
        raise DataError(f"{name} must have shape (n, d) with n and d above zero, got {tuple(tensor.shape)}")
    length = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)
    bad = (~(length.isfinite() & (length > 0)))[:, 0].nonzero()[:, 0].tolist()
    if bad:
        raise DataError(
            f"{name}: row {listed(bad)} is zero, or holds NaN or infinity; look for broken images, or a model "
            "whose training did not end well"
        )
    # what has length 1 already stays to the bit, so that an index that is written and read is the same
    return torch.where((length - 1).abs() < 1e-6, tensor, tensor / length)


def top_k(database, queries, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most similar database rows of every query, exactly.

    The search runs where the tensors are. faiss does it on the CPU where it is installed.

    Args:
        database: (n, d) descriptors, numpy or torch; their length does not matter.
        queries: (q, d) descriptors.
        k: at most n.

    Returns:
        similarity: (q, k) float32 cosines, descending.
        indices: (q, k) int64 database rows.

    Raises:
        DataError: see `unit_descriptors`; descriptors of two lengths; fewer than k rows in the database.

    >>> similarity, indices = top_k([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], [[0.0, 1.0]], k=2)
    >>> indices.tolist(), similarity.round(decimals=3).tolist()
    ([[1, 2]], [[1.0, 0.7070000171661377]])
    """
    database, queries = unit_descriptors(database, "database"), unit_descriptors(queries, "queries")
    check_question(database.shape[1], len(database), queries, k)
    on_cpu = database.device.type == queries.device.type == "cpu"
    return (_faiss if on_cpu and importlib.util.find_spec("faiss") else blockwise_top_k)(database, queries, k)


def check_question(size: int, count: int, queries: torch.Tensor, k: int) -> None:
    """Raise DataError for queries that do not compare with `count` descriptors of length `size`, and for a wrong k."""
    if size != queries.shape[1]:
        raise DataError(
            f"the database has descriptors of length {size} and the queries of {queries.shape[1]}: they come from "
            "different models"
        )
    require_whole(1, k=k)
    if k > count:
        raise DataError(f"cannot give the {k} best answers: the database holds {count} images")


def blockwise_top_k(database: Rows, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`top_k` of rows of length 1, without faiss."""
    similarity = queries.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for start in range(0, len(queries), _QUERY_ROWS):
        rows = slice(start, start + _QUERY_ROWS)
        similarity[rows], indices[rows] = _best_cosines(database, queries[rows], k)
    return similarity, indices


def _best_cosines(database: Rows, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return best_of_blocks(len(database), lambda rows: queries @ database[rows].T, k, _DATABASE_ROWS)


def best_of_blocks(
    count: int, scores: Callable[[slice], torch.Tensor], k: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(q, k) best scores, descending, and their rows, of (q, rows) scores at a time of `count` rows."""
    best, where = top_columns(scores(slice(0, rows)), k)
    for start in range(rows, count, rows):
        beyond = best[:, -1:] if best.shape[1] == k else None
        values, at = top_columns(scores(slice(start, start + rows)), k, beyond)
        if values.shape[1]:
            values, at = torch.cat([best, values], 1), torch.cat([where, at + start], 1)
            best, order = values.topk(min(k, values.shape[1]), dim=1)
            where = at.gather(1, order)
    return best, where


def rows_near(points: np.ndarray, near: Any) -> np.ndarray:
    """Rows of (n, 2) points in degrees near a prior position, or near any of those of a prior drive.

    Args:
        near: latitude, longitude and a radius in meters, (3,) or (p, 3).

    Raises:
        DataError: no such numbers, or no point lies there.
    """
    try:
        priors = np.atleast_2d(np.asarray(near, np.float64))
    except (TypeError, ValueError):  # text, or rows of several lengths
        priors = np.empty((0, 0))
    if priors.ndim != 2 or priors.shape[1] != 3 or not (priors[:, 2] > 0).all():
        raise DataError(f"near must be latitude, longitude and meters above 0, got {near}")
    inside = np.zeros(len(points), bool)
    for prior, radius_m in zip(check_points(priors[:, :2]), priors[:, 2], strict=True):
        inside |= great_circle_m(points, prior) <= radius_m
    if not inside.any():
        raise DataError(f"no image of the index lies within {priors[0, 2]:g} m of {priors[0, :2].tolist()}")
    return np.flatnonzero(inside)


def top_columns(
    block: torch.Tensor, k: int, beyond: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best columns of each row, or all where there are fewer: they lie in the k groups of columns with the best maxima.

    Args:
        beyond: (rows, 1) what a column must exceed to count: most groups need not be looked into then, and fewer
            than k columns, or none, may come back.
    """
    rows, columns = block.shape
    groups = columns // _GROUP
    if columns % _GROUP or groups < k:
        return block.topk(min(k, columns), dim=1)
    # a group is every `groups`-th column, so maxima run along memory
    members = block.view(rows, _GROUP, groups)
    largest, looked_into = members.amax(1), k
    if beyond is not None:
        looked_into = min(k, int((largest > beyond).sum(1).max()))
    best = largest.topk(looked_into, dim=1).indices
    several = members.gather(2, best[:, None].expand(rows, _GROUP, looked_into)).flatten(1)
    values, at = several.topk(min(k, several.shape[1]), dim=1)
    return values, at // looked_into * groups + best.gather(1, at % looked_into) if looked_into else at


def _faiss(database, queries, k) -> tuple[torch.Tensor, torch.Tensor]:
    import faiss

    index = faiss.IndexFlatIP(database.shape[1])
    index.add(np.ascontiguousarray(database.numpy()))
    similarity, indices = index.search(np.ascontiguousarray(queries.numpy()), k)
    return torch.from_numpy(similarity), torch.from_numpy(indices)
