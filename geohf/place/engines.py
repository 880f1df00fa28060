"""Approximate search of packages that are installed: faiss (inverted lists, HNSW) and usearch (HNSW)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from geohf.errors import DataError, require_choice

Backend = Literal["exact", "ivf", "hnsw", "usearch"]
# (q, d) queries and k -> (q, k) rows, -1 where there is none
Engine = Callable[[np.ndarray, int], np.ndarray]

PROBED_LISTS = 16  # of about the square root of n
NEIGHBORS, BREADTH = 32, 128  # of a graph: links of an image, and images kept in view while searching


def check_backend(backend: str) -> None:
    """Refuse an unknown name, and one whose package is missing.

    Raises:
        DataError: so it is.
    """
    require_choice(get_args(Backend), backend=backend)
    if backend != "exact":
        package = "usearch" if backend == "usearch" else "faiss"
        try:
            importlib.import_module(package)
        except ImportError:
            raise DataError(
                f"the backend {backend} needs the package {package}: pip install 'geohf[search]', or search exactly"
            ) from None


def make_engine(backend: str, descriptors: np.ndarray) -> Engine:
    """Build a search structure over (n, d) float32 descriptors of length 1."""
    n, d = descriptors.shape
    if backend == "usearch":
        from usearch.index import Index

        graph = Index(ndim=d, metric="ip", dtype="f16", connectivity=NEIGHBORS, expansion_search=BREADTH)
        graph.add(np.arange(n), descriptors)

        def search(queries: np.ndarray, k: int) -> np.ndarray:
            found = graph.search(queries, k)
            keys = found.keys.reshape(len(queries), -1).astype(np.int64)
            counts = np.reshape(getattr(found, "counts", np.full(len(queries), k)), (-1, 1))
            return np.where(np.arange(keys.shape[1]) < counts, keys, -1)

        return search
    import faiss

    if backend == "ivf":
        lists = max(1, round(n**0.5))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
        index.train(descriptors)
        index.nprobe = min(PROBED_LISTS, lists)
    else:
        index = faiss.IndexHNSWFlat(d, NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = BREADTH
    index.add(descriptors)
    return lambda queries, k: index.search(queries, k)[1]
