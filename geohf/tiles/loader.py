"""The loader of the reference implementation, in torch: the same arguments, the same batches, from the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.errors import DataError
from geohf.tiles.cutting import build_cache
from geohf.tiles.frames import resize_frames
from geohf.tiles.table import TARGET, TARGET_TYPES, load_tiles, own_resampling

if TYPE_CHECKING:
    import pandas as pd


class SequenceDataLoader:
    """Batches (X, y) of image sequences and their targets.

    It indexes, counts and iterates as Keras' Sequence does: `loader[i]` is a batch, `len(loader)` their number,
    and each pass over it has a new order where `shuffle` is set. Unlike the reference implementation's it does shuffle, knows the
    target `last-image`, takes oblong `dim`s, and answers in float32.

    Args:
        labels: steps (years), oldest first.
        data: the table, a DataFrame or its file; see `geohf.tiles.table.load_tiles`.
        image_dir: holds `<label>/<region_id><extension>`.
        dim: height and width of the frames to come.
        batch_size: sequences in a batch; the last batch may be smaller.
        n_channels: the first bands to take.
        random_seed: of the order.
        shuffle: a new order for every pass.
        normalize: divide by 255 (by the largest value of the type, for others than uint8; floats stay as they are).
        target_type: `target`, or `last-image`: X then ends before the last frame, which is y.
        extension: of the image files.
        cache_dir: folder of tile caches.

    Raises:
        DataError: the table or an image cannot be used.
    """

    def __init__(
        self,
        labels: Sequence[str | int],
        data: pd.DataFrame | str | Path,
        image_dir: str | Path,
        dim: tuple[int, int] = (64, 64),
        batch_size: int = 256,
        n_channels: int = 3,
        random_seed: int = 42,
        shuffle: bool = True,
        normalize: bool = True,
        target_type: str = "target",
        extension: str = ".tif",
        cache_dir: str | Path | None = None,
    ):
        if target_type not in TARGET_TYPES:
            raise DataError(f"target_type must be one of {', '.join(TARGET_TYPES)}, got {target_type!r}")
        targets = [TARGET] if target_type == "target" else []
        table = load_tiles(data, image_dir, labels, extension, targets, max_missing=0)
        bands, dtype = table.rasters[0].bands, np.dtype(table.rasters[0].dtype)
        if not 1 <= n_channels <= bands:
            raise DataError(f"n_channels is {n_channels}, but the images have {bands} bands")
        self.cache = build_cache(table, cache_dir)
        self.resampling = own_resampling(table)
        self.targets = torch.from_numpy(table.values[:, -1].astype(np.float32)) if targets else None
        self.dim, self.batch_size, self.n_channels, self.shuffle = tuple(dim), batch_size, n_channels, shuffle
        self.scale = 1 / np.iinfo(dtype).max if normalize and dtype.kind != "f" else 1.0
        self._random = np.random.default_rng(random_seed)
        self.order = np.arange(len(table))
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Draw the order of the next pass."""
        if self.shuffle:
            self.order = self._random.permutation(len(self.order))

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """X (n, steps, height, width, channels) float32, and y (n,), or (n, height, width, channels) for an image."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        start = index % len(self) * self.batch_size
        rows = self.order[start : start + self.batch_size]
        frames = self._frames(rows)
        return (
            (frames, self.targets[rows, 0]) if self.targets is not None else (frames[:, :-1], frames[:, -1])
        )

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index in range(len(self)):
            yield self[index]
        self.on_epoch_end()

    def _frames(self, rows: np.ndarray) -> torch.Tensor:
        raw, sizes = self.cache.read(rows)[..., : self.n_channels], self.cache.sizes[rows]
        if (sizes == sizes[0]).all():
            return self._resized(raw, sizes[0])
        out = torch.empty(*raw.shape[:2], *self.dim, self.n_channels)
        for size in np.unique(sizes, axis=0):
            here = np.flatnonzero((sizes == size).all(1))
            out[here] = self._resized(raw[here], size)
        return out

    def _resized(self, raw: np.ndarray, size: np.ndarray) -> torch.Tensor:
        height, width = size.tolist()
        frames = raw[:, :, :height, :width].reshape(-1, height, width, self.n_channels)
        return resize_frames(frames, self.dim, self.scale, self.resampling).unflatten(0, raw.shape[:2])
