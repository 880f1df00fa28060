"""The loader of the reference implementation, in torch: the same arguments, the same batches, from the cache."""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock

from geohf.errors import DataError, require_choice
from geohf.tiles.cache import ArrayFile, TileCache
from geohf.tiles.cutting import build_cache, reserve, write_all
from geohf.tiles.frames import resize_frames
from geohf.tiles.table import TARGET, TARGET_TYPES, load_tiles, own_resampling

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

FEW = 4  # tiles that become float32 while they lie in the processor's cache
MOST_KEPT = 4  # times the bytes of the tiles that resized ones may take on the disk


class SequenceDataLoader:
    """Batches (X, y) of image sequences and their targets.

    As Keras' Sequence, `loader[i]` is a batch, `len(loader)` their number, and with `shuffle` each pass has a new order.
    Unlike the reference implementation's it does shuffle, knows `last-image`, takes oblong `dim`s, and answers in float32.

    Args:
        labels: steps (years), oldest first.
        data: the table, a DataFrame or its file; see `geohf.tiles.table.load_tiles`.
        image_dir: holds `<label>/<region_id><extension>`.
        dim: height and width of the frames to come.
        batch_size: sequences in a batch; the last batch may be smaller.
        n_channels: the first bands to take.
        random_seed: of the order.
        shuffle: a new order for every pass.
        normalize: divide by the largest value of the type, 255 for uint8; floats stay as they are.
        target_type: `target`, or `last-image`: X then ends before the last frame, which is y.
        extension: of the image files.
        cache_dir: folder of tile caches, and of resized frames that take at most four times the tiles' bytes.

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
        require_choice(TARGET_TYPES, target_type=target_type)
        targets = [TARGET] if target_type == "target" else []
        table = load_tiles(data, image_dir, labels, extension, targets, max_missing=0)
        bands, dtype = table.rasters[0].bands, np.dtype(table.rasters[0].dtype)
        if not 1 <= n_channels <= bands:
            raise DataError(f"n_channels is {n_channels}, but the images have {bands} bands")
        self.cache = build_cache(table, cache_dir)
        self._source = kept_frames(ResizedTiles(self.cache, dim, n_channels, own_resampling(table)))
        self._free: deque[np.ndarray] = deque(maxlen=2)  # memory of batches that nobody holds any more
        self.targets = torch.from_numpy(table.values[:, -1].astype(np.float32)) if targets else None
        self.batch_size, self.shuffle = batch_size, shuffle
        self.scale = 1 / np.iinfo(dtype).max if normalize and dtype.kind != "f" else 1.0
        self._random = np.random.default_rng(random_seed)
        self.order: np.ndarray = np.arange(len(table))
        self.on_epoch_end()

    @property
    def dim(self) -> tuple[int, ...]:
        """Height and width of a frame."""
        return self._source.shape[2:4]

    @property
    def n_channels(self) -> int:
        """Bands of a frame."""
        return self._source.shape[4]

    def __getstate__(self):
        return self.__dict__ | {"_free": deque(maxlen=2)}

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
        out = self._memory(len(rows))
        for start in range(0, len(rows), FEW):
            frames = torch.from_numpy(self._source.read(rows[start : start + FEW]))
            here = out[start : start + FEW].copy_(frames)
            if self.scale != 1:
                here.mul_(self.scale)
        return out

    def _memory(self, count: int) -> torch.Tensor:
        """Of one batch. A new one's pages cost as much as its numbers, so that what nobody holds is taken again."""
        whole = self._free.pop() if self._free else None
        if whole is None or len(whole) < count:
            whole = np.empty((count, *self._source.shape[1:]), np.float32)
        part = whole[:count]  # lives as long as the tensor and all views of it
        weakref.finalize(part, self._free.append, whole)
        return torch.from_numpy(part)


class ResizedTiles:
    """The tiles of a cache at one size, resized whenever they are asked for.

    Args:
        cache: of the native pixels.
        size: height and width to come.
        bands: the first ones to take.
        resampling: see `geohf.tiles.frames.resize_frames`.
    """

    def __init__(self, cache: TileCache, size: Sequence[int], bands: int, resampling: str):
        self.cache, self.size, self.bands, self.resampling = cache, tuple(size), bands, resampling
        self.shape = (*cache.array.shape[:2], *self.size, bands)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), steps, height, width, bands) float32."""
        raw, sizes = self.cache.read(rows)[..., : self.bands], self.cache.sizes[rows]
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        for height, width in np.unique(sizes, axis=0).tolist():
            here = np.flatnonzero((sizes == (height, width)).all(1))
            frames = raw[here, :, :height, :width].reshape(-1, height, width, self.bands)
            resized = resize_frames(frames, self.size, self.resampling)
            out[here] = resized.numpy().reshape(len(here), *self.shape[1:])
        return out


def kept_frames(tiles: ResizedTiles) -> ResizedTiles | ArrayFile:
    """The tiles as a file in their cache, which is written where there is none; themselves where it would be large.

    uint8 stays uint8, which the resize rounds to; others become float32. The file's name tells what its content depends on
    beside the cache's key; another torch may round otherwise. Without room on the disk a warning says so.
    """
    cache, dtype = tiles.cache, np.dtype(np.uint8 if tiles.cache.array.dtype == np.uint8 else np.float32)
    size = math.prod(tiles.shape) * dtype.itemsize
    if size > MOST_KEPT * cache.array.nbytes or (cache.sizes == tiles.size).all():
        return tiles
    numbers = "x".join(map(str, tiles.shape[2:]))
    path = cache.folder / f"frames-{numbers}-{tiles.resampling}-torch-{torch.__version__}.npy"
    try:
        with FileLock(cache.folder / "locks" / path.name):
            if not path.exists():
                _write(tiles, path, dtype)
    except OSError as error:
        reason = f"{size / 2**30:.3g} GiB cannot be stored: {error.strerror}"
        logger.warning("%s: %s; frames are resized for every batch", path, reason)
        return tiles
    return ArrayFile(path)


def _write(tiles: ResizedTiles, path: Path, dtype: np.dtype) -> None:
    from tqdm.auto import tqdm

    temporary = path.with_suffix(".tmp")  # the same in every run: killed ones leave no second file
    try:
        reserve(temporary, tiles.shape, dtype)
        offset = np.load(temporary, mmap_mode="r").offset
        with open(temporary, "r+b", buffering=0) as file, tqdm(total=tiles.shape[0], desc="resizing") as bar:
            file.seek(offset)
            for rows in torch.arange(tiles.shape[0]).split(FEW):
                write_all(file, tiles.read(rows.numpy()).astype(dtype))
                bar.update(len(rows))
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
