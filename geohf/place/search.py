"""Exact nearest neighbors by cosine, in blocks that never hold all similarities at once."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch

from geohf.errors import DataError, listed

# Rows of a block of queries and of the database. Its similarities, 16 MiB, are looked through while they are near.
_QUERY_ROWS, _DATABASE_ROWS = 512, 8192
# Columns of a block of which only the best is looked at first.
_GROUP = 16


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
    if database.shape[1] != queries.shape[1]:
        raise DataError(
            f"the database has descriptors of length {database.shape[1]} and the queries of "
            f"{queries.shape[1]}: they come from different models"
        )
    if not 1 <= k <= len(database):
        raise DataError(f"cannot give the {k} best answers: the database holds {len(database)} images")
    on_cpu = database.device.type == queries.device.type == "cpu"
    return (_faiss if on_cpu and importlib.util.find_spec("faiss") else blockwise_top_k)(database, queries, k)


def blockwise_top_k(
    database: torch.Tensor, queries: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`top_k` of rows of length 1, without faiss."""
    similarity = queries.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for start in range(0, len(queries), _QUERY_ROWS):
        rows = slice(start, start + _QUERY_ROWS)
        similarity[rows], indices[rows] = _merge_blocks(database, queries[rows], k)
    return similarity, indices


def _merge_blocks(database, queries, k) -> tuple[torch.Tensor, torch.Tensor]:
    best = where = None
    for start in range(0, len(database), _DATABASE_ROWS):
        block = queries @ database[start : start + _DATABASE_ROWS].T
        found, at = _top_of_block(block, k)
        at = at + start
        if best is not None:
            found, at = torch.cat([best, found], 1), torch.cat([where, at], 1)
            found, order = found.topk(min(k, found.shape[1]), dim=1)
            at = at.gather(1, order)
        best, where = found, at
    return best, where


def _top_of_block(block: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best columns of each row: they lie in the k groups of columns with the best maxima."""
    rows, columns = block.shape
    groups = columns // _GROUP
    if columns % _GROUP or groups < k:
        return block.topk(min(k, columns), dim=1)
    members = block.view(
        rows, _GROUP, groups
    )  # a group is every so-manieth column, so maxima run along memory
    best = members.amax(1).topk(k, dim=1).indices
    values, at = members.gather(2, best[:, None].expand(rows, _GROUP, k)).flatten(1).topk(k, dim=1)
    return values, at // k * groups + best.gather(1, at % k)


def _faiss(database, queries, k) -> tuple[torch.Tensor, torch.Tensor]:
    import faiss

    index = faiss.IndexFlatIP(database.shape[1])
    index.add(np.ascontiguousarray(database.numpy()))
    similarity, indices = index.search(np.ascontiguousarray(queries.numpy()), k)
    return torch.from_numpy(similarity), torch.from_numpy(indices)
