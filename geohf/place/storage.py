"""How an index keeps its descriptors: whole, in half precision, as bytes, or as signs with the rows behind them on disk.

Rows of length 1 come in and go out as float32. Signs: Lu et al., SelaVPR++, 2502.16601, rank by Hamming distance first.
"""

from __future__ import annotations

import importlib.util
from typing import ClassVar

import numpy as np
import torch

from geohf.errors import DataError, require_choice, require_whole
from geohf.place.search import best_of_blocks, blockwise_top_k

RERANKED = 100  # best by their signs whose exact cosines are taken
# queries and rows of a block of Hamming distances, 16 MiB, and rows of a product that stays in the cache
_SIGN_QUERIES, _SIGN_ROWS, _PRODUCT_ROWS = 64, 131_072, 4096


class FloatRows:
    """Descriptors as float32 or float16, 4 or 2 bytes a number.

    Attributes:
        tensors: what is stored, by its name in the file, one for each of `layout`; each has a row per descriptor, but for
            those of `whole`.

    Raises:
        ValueError: other tensors than these, or of other types, dimensions or numbers of rows.
    """

    layout: ClassVar[dict[str, tuple[torch.dtype, int]]] = {"descriptors": (torch.float32, 2)}
    whole: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **tensors: torch.Tensor):
        if tensors.keys() != self.layout.keys():
            raise ValueError(f"holds {', '.join(sorted(tensors))} and not {', '.join(self.layout)}")
        for name, (dtype, dims) in self.layout.items():
            if (tensors[name].dtype, tensors[name].ndim) != (dtype, dims):
                held = f"{tensors[name].ndim} of {tensors[name].dtype}"
                raise ValueError(f"{name} must have {dims} dimensions of {dtype} and not {held}")
        counts = {name: len(tensor) for name, tensor in tensors.items() if name not in self.whole}
        if len({*counts.values()}) != 1:
            raise ValueError(f"rows of different numbers: {counts}")
        self.tensors = tensors

    @classmethod
    def of(cls, unit: torch.Tensor, like: FloatRows | None = None) -> FloatRows:
        """Rows of (n, d) float32 descriptors of length 1, coded as `like` is where that is given."""
        return cls(descriptors=unit.to(cls.layout["descriptors"][0]))

    def __len__(self) -> int:
        return len(self.tensors[next(iter(self.layout))])

    @property
    def size(self) -> int:
        """Numbers in a descriptor."""
        return self.tensors["descriptors"].shape[1]

    @property
    def bytes_per_row(self) -> float:
        """Bytes of memory that a descriptor takes."""
        return sum(
            tensor.element_size() * tensor[0].numel()
            for name, tensor in self.tensors.items()
            if name not in (*self.whole, "exact")
        )

    def __getitem__(self, rows) -> torch.Tensor:
        """(n, d) float32 of a slice or of row numbers."""
        return self.tensors["descriptors"][rows].float()

    def select(self, rows: np.ndarray) -> FloatRows:
        """Some rows, coded as they are."""
        kept = {name: t if name in self.whole else t[rows] for name, t in self.tensors.items()}
        return type(self)(**kept)

    def append(self, unit: torch.Tensor) -> FloatRows:
        """These rows and others."""
        more, kept = self.of(unit, self).tensors, self.tensors
        return type(self)(**{n: t if n in self.whole else torch.cat([t, more[n]]) for n, t in kept.items()})

    def top_k(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(q, k) cosines, descending, and rows, of (q, d) queries of length 1."""
        return blockwise_top_k(self, queries, k)


class HalfRows(FloatRows):
    """Descriptors as float16."""

    layout: ClassVar = {"descriptors": (torch.float16, 2)}


class ByteRows(FloatRows):
    """Descriptors as int8, with the scale that makes a row's length 1: a byte a number and 4 a row."""

    layout: ClassVar = {"descriptors": (torch.int8, 2), "scale": (torch.float32, 1)}

    @classmethod
    def of(cls, unit: torch.Tensor, like: FloatRows | None = None) -> FloatRows:
        codes = (unit * (127 / unit.abs().amax(1, keepdim=True))).round()
        return cls(descriptors=codes.to(torch.int8), scale=1 / torch.linalg.vector_norm(codes, dim=1))

    def __getitem__(self, rows) -> torch.Tensor:
        return self.tensors["descriptors"][rows].float() * self.tensors["scale"][rows][:, None]


class SignRows(FloatRows):
    """The signs of descriptors about their mean, a bit a number; the rows themselves, float16, are read where needed.

    In an index that was loaded these stay on disk, see `geohf.place.index_files`.
    """

    layout: ClassVar = {"signs": (torch.uint8, 2), "mean": (torch.float32, 1), "exact": (torch.float16, 2)}
    whole = ("mean",)

    def __init__(self, **tensors: torch.Tensor):
        super().__init__(**tensors)
        widths = [tensors[name].shape[1] for name in ("signs", "exact")]
        if widths != [-(-self.size // 8), self.size]:
            raise ValueError(f"signs and exact of {widths} numbers do not fit a mean of {self.size}")

    @classmethod
    def of(cls, unit: torch.Tensor, like: FloatRows | None = None) -> FloatRows:
        mean = unit.mean(0) if like is None else like.tensors["mean"]
        return cls(signs=_signs(unit - mean), mean=mean, exact=unit.half())

    @property
    def size(self) -> int:
        return len(self.tensors["mean"])

    def __getitem__(self, rows) -> torch.Tensor:
        return self.tensors["exact"][rows].float()

    def top_k(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `FloatRows.top_k`, among the `RERANKED` rows whose signs are the nearest."""
        count = min(max(k, RERANKED), len(self))
        near = self._nearest(queries - self.tensors["mean"], count)
        blocks = zip(near.split(_SIGN_QUERIES), queries.split(_SIGN_QUERIES), strict=True)
        similarity = torch.cat([self._cosines(rows, asked) for rows, asked in blocks])
        similarity, order = similarity.topk(k, dim=1)
        return similarity, near.gather(1, order)

    def _cosines(self, rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """(q, k) of each query with its own (q, k) rows."""
        exact = self.tensors["exact"].index_select(0, rows.flatten()).view(*rows.shape, -1)
        return (exact * queries[:, None]).sum(2)  # float16 times float32 is float32

    def _nearest(self, moved: torch.Tensor, count: int) -> torch.Tensor:
        """(q, count) rows by Hamming distance."""
        signs = self.tensors["signs"].numpy()
        if importlib.util.find_spec("faiss"):
            import faiss

            index = faiss.IndexBinaryFlat(8 * signs.shape[1])
            index.add(signs)  # a copy, of a bit a number
            return torch.from_numpy(index.search(_signs(moved).numpy(), count)[1])
        blocks = moved.split(_SIGN_QUERIES)
        return torch.cat([self._nearest_by_products(signs, block, count) for block in blocks])

    def _nearest_by_products(self, signs: np.ndarray, moved: torch.Tensor, count: int) -> torch.Tensor:
        # the product of bits and signs of a query is the number of its ones less their distance
        asked = torch.where(moved > 0, 1, -1).to(torch.int8)

        def agreement(rows: slice) -> torch.Tensor:
            part, dtype = signs[rows], torch.int16 if self.size < 2**15 else torch.int32
            counts = torch.empty(len(asked), len(part), dtype=dtype)
            for start in range(0, len(part), _PRODUCT_ROWS):
                some = slice(start, start + _PRODUCT_ROWS)
                bits = np.unpackbits(part[some], axis=1, count=self.size).view(np.int8)
                counts[:, some] = torch._int_mm(asked, torch.from_numpy(bits).T)
            return counts

        return best_of_blocks(len(signs), agreement, count, _SIGN_ROWS)[1]


STORAGES = {"float32": FloatRows, "float16": HalfRows, "int8": ByteRows, "signs": SignRows}


def storage_of(rows: FloatRows) -> str:
    """The name of a kind of rows, one of `STORAGES`."""
    return next(name for name, kind in STORAGES.items() if kind is type(rows))


def check_storage(storage: str) -> type[FloatRows]:
    """The kind of rows of a name, or DataError where there is none."""
    require_choice(tuple(STORAGES), storage=storage)
    return STORAGES[storage]


def principal_axes(unit: torch.Tensor, dims: int) -> torch.Tensor:
    """(dims, d) axes that keep most of the inner products of (n, d) rows: eigenvectors of their second moment.

    No mean is taken away, so cosines stay near what they were.

    Raises:
        DataError: more axes than numbers or rows.
    """
    require_whole(1, dims=dims)
    if dims > min(unit.shape):
        raise DataError(
            f"dims must be between 1 and {min(unit.shape)}, of {len(unit)} descriptors of length {unit.shape[1]}, "
            f"got {dims}"
        )
    exact = unit.double()
    _, vectors = torch.linalg.eigh(exact.T @ exact)
    return vectors[:, -dims:].T.flip(0).float().contiguous()


def project(unit: torch.Tensor, axes: torch.Tensor | None) -> torch.Tensor:
    """(n, dims) of length 1: (n, d) rows along these axes, or as they are where there are none."""
    return unit if axes is None else torch.nn.functional.normalize(unit @ axes.T, dim=-1)


def _signs(moved: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.packbits((moved > 0).numpy(), axis=1))
