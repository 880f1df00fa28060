"""How an index is searched: frame by frame or drive by drive, everywhere or near a prior position, exactly or by a package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch

from geohf.errors import DataError, require_choice
from geohf.place.encoding import Encoder
from geohf.place.fingerprints import require_same_model
from geohf.place.search import blockwise_top_k, check_question, rows_near, unit_descriptors
from geohf.place.sequences import Center, SequenceMatches, center_descriptors, match_sequences, rows_of_each
from geohf.place.storage import FloatRows, project
from geohf.place.verification import LocalFeatures

Backend = Literal["exact", "ivf", "hnsw", "usearch"]
# (q, d) queries and k -> (q, k) rows, -1 where there is none
Engine = Callable[[np.ndarray, int], np.ndarray]

PROBED_LISTS = 16  # of about the square root of n
NEIGHBORS, BREADTH = 32, 128  # of a graph: links of an image, and images kept in view while searching


def check_backend(backend: str) -> None:
    """Raise DataError for an unknown name, and for one whose package is missing."""
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
            nearest = graph.search(queries, k)
            keys = nearest.keys.reshape(len(queries), -1).astype(np.int64)
            counts = np.reshape(getattr(nearest, "counts", np.full(len(queries), k)), (-1, 1))
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


class IndexSearch:
    """The searches of `PlaceIndex`, whose rows it has."""

    rows: FloatRows
    points: np.ndarray
    images: list[str]
    model: str
    sequences: list[str] | None
    axes: torch.Tensor | None
    local: LocalFeatures | None
    _engines: dict[tuple[str, bool], Engine]

    def __len__(self) -> int:
        return len(self.images)

    def near(self, near: Any) -> np.ndarray:
        """Rows of the images near a prior position, see `geohf.place.search.rows_near`."""
        return rows_near(self.points, near)

    def check_model(self, model: Encoder) -> None:
        """Refuse a model whose descriptors do not compare with these.

        Raises:
            DataError: descriptors of another length, see `geohf.place.fingerprints.require_same_model`.
        """
        size = model.config.descriptor_size
        if size != self._size:
            raise DataError(
                f"the index holds descriptors of length {self._size} and this model gives {size}: it was built with another "
                "model; build it anew"
            )
        require_same_model(self.model, model.fingerprint())

    @property
    def _size(self) -> int:
        return self.rows.size if self.axes is None else self.axes.shape[1]

    def search(
        self,
        descriptors,
        k: int = 5,
        center: Center = "none",
        sequences: Sequence | np.ndarray | None = None,
        near: Any = None,
        backend: Backend = "exact",
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k most similar images of every question.

        Args:
            descriptors: (q, d).
            k: at most as many as the index holds.
            center, sequences: see `geohf.place.sequences.center_descriptors`; the index counts as one drive, and all its
                descriptors are in memory as float32.
            near: look only there, see `near`; where fewer than k images lie there, all of them answer.
            backend: `exact`; `ivf` or `hnsw` of faiss, or `usearch`: candidates by its search, which is built by the first
                call, with their exact cosines. What lies `near` is always searched exactly.

        Returns:
            similarity (q, k) descending, rows (q, k).

        Raises:
            DataError: see `geohf.place.search.top_k` and `near`; a backend that is not installed.
        """
        check_backend(backend)
        queries = unit_descriptors(descriptors, "queries")
        check_question(self._size, len(self), queries, k)
        rows: Any = self.rows
        queries = project(queries, self.axes)
        if center != "none":
            rows, queries = center_descriptors(rows[:], queries, sequences, center)
        if near is not None:
            inside = self.near(near)
            part = rows.select(inside) if center == "none" else rows[inside]
            similarity, nearest = _top_k(part, queries, min(k, len(inside)))
            return similarity.numpy(), inside[nearest.numpy()]
        if backend != "exact":
            return self._search_with(backend, center != "none", rows, queries, k)
        similarity, nearest = _top_k(rows, queries, k)
        return similarity.cpu().numpy(), nearest.cpu().numpy()

    def _search_with(self, backend, centered, rows, queries, k) -> tuple[np.ndarray, np.ndarray]:
        if (backend, centered) not in self._engines:
            self._engines[backend, centered] = make_engine(backend, rows[:].numpy())
        candidates = self._engines[backend, centered](queries.numpy(), k)
        if candidates.shape[1] < k or (candidates < 0).any():  # lists that were looked into held fewer
            similarity, exact = _top_k(rows, queries, k)
            return similarity.numpy(), exact.numpy()
        near = torch.from_numpy(candidates)
        exact = rows[near.flatten()].view(*near.shape, -1)
        similarity, order = torch.bmm(exact, queries[:, :, None])[:, :, 0].sort(dim=1, descending=True)
        return similarity.numpy(), near.gather(1, order).numpy()

    def match(
        self,
        descriptors,
        k: int = 5,
        center: Center = "none",
        sequences: Sequence | np.ndarray | None = None,
        near: Any = None,
        parts: Sequence | np.ndarray | None = None,
        **options,
    ) -> tuple[np.ndarray, SequenceMatches]:
        """The k best images of every frame of some drives, each drive answered as a whole.

        Args:
            descriptors: (q, d), in the order of time within each drive.
            k, center, sequences, near: see `search`. All descriptors are in memory as float32, and their similarities.
            parts: q names of what of the drives has no gap in time, see `geohf.place.sequences.in_order`; the drives if None.
            options: see `geohf.place.sequences.match_sequences`.

        Returns:
            (q, k) cosines of the answers, and the answers.

        Raises:
            DataError: see `match_sequences` and `near`.
        """
        queries = unit_descriptors(descriptors, "queries")
        check_question(self._size, len(self), queries, k)
        database, queries = center_descriptors(self.rows[:], project(queries, self.axes), sequences, center)
        drives = np.zeros(len(self)) if self.sequences is None else np.asarray(self.sequences)
        inside = np.concatenate(rows_of_each(drives))
        drives = drives[inside]
        if near is not None:  # a drive that leaves the place and comes back is two
            at = np.flatnonzero(np.isin(inside, self.near(near)))
            left = np.cumsum(np.r_[0, np.diff(at) != 1])
            drives = np.array([f"{name} {part}" for name, part in zip(drives[at], left, strict=True)])
            inside = inside[at]
        cosines = queries @ database[inside].T
        follow = sequences if parts is None else parts
        matches = match_sequences(cosines, follow, drives, k=min(k, len(inside)), **options)
        similarity = np.take_along_axis(cosines.cpu().numpy(), matches.rows, 1)
        matches.rows = inside[matches.rows]
        return similarity, matches


def _top_k(rows: Any, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return rows.top_k(queries, k) if isinstance(rows, FloatRows) else blockwise_top_k(rows, queries, k)
