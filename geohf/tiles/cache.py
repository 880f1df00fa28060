"""The tile cache: native pixels of every tile and step in one memory-mapped array, read back as slices.

    tiles.npy    (tiles, steps, height, width, bands), native pixels; tiles smaller than the largest are padded with 0
    sizes.npy    (tiles, 2) int32, height and width of each tile
    holes.npy    (tiles, steps) float32, the share of pixels that were not measured; 1 for a missing year
    masks.npy    (tiles, steps, height, width / 8), a bit a pixel, set where it was not measured
    index.json   the key of table and files, the nodata value, the number of regions
    frames-*     the same tiles resized, (tiles, steps, height, width, bands): see `geohf.tiles.loader.kept_frames`

`geohf.tiles.cutting` builds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from geohf.errors import DataError
from geohf.tiles.align import PLACE
from geohf.tiles.rasters import beside, open_raster
from geohf.tiles.sources import BandFiles, RasterFile, local_file
from geohf.tiles.stores import StoreFrame
from geohf.tiles.table import TileTable

LAYOUT = 4  # raise it when files of an older version can no longer be read, or hold other pixels


class ArrayFile:
    """An array of a .npy file, whose rows are read.

    They are not taken from the memory map: pages of a map count as this process's memory, and a shuffled pass touches
    them all. A damaged file is a DataError.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.array: np.memmap = np.load(path, mmap_mode="r")
            self._file = os.open(path, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise DataError(f"{path.parent}: is damaged ({error}); delete it") from None
        self.shape = self.array.shape
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self):  # a worker process opens the file itself; the array's bytes never travel
        return type(self), (self.path,)

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """A copy of some rows."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        length, start = self.array[0].nbytes, self.array.offset
        for buffer, row in zip(out.reshape(len(rows), -1).view(np.uint8), rows.tolist(), strict=True):
            if os.preadv(self._file, [buffer.data], start + row * length) != length:
                raise DataError(f"{self.path.parent}: is damaged, tile {row} cannot be read; delete it")
        return out


class TilePixels:
    """Tiles' frames and what of them was measured, in memory or on the disk.

    Attributes:
        array: (tiles, steps, height, width, bands), padded to the largest tile.
        sizes: (tiles, 2) height and width.
        holes: (tiles, steps) share of pixels that were not measured.
        nodata: the pixel value that means "not measured" in files that do not say; None where there is none.
    """

    array: np.ndarray
    sizes: np.ndarray
    holes: np.ndarray
    nodata: float | None = None

    def read(self, rows: Sequence[int] | np.ndarray, steps: np.ndarray | None = None) -> np.ndarray:
        """Some tiles' frames of these steps (len(rows), n), or of all: (len(rows), n, height, width, bands), padded."""
        raise NotImplementedError

    def masks(self, rows: Sequence[int] | np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Which pixels were not measured, (len(rows), n, height, width) bool, of frames as `read` gives them."""
        raise NotImplementedError

    def tile_mask(self, row: int, steps: np.ndarray) -> np.ndarray:
        """Which pixels of one tile's frames were not measured, (n, height, width) bool without padding."""
        height, width = self.sizes[row]
        return self.masks([row], np.asarray(steps)[None])[0, :, :height, :width]

    def tile(self, row: int, steps: np.ndarray | None = None) -> np.ndarray:
        """One tile's frames of these (n,) steps, or of all, without padding, (steps, height, width, bands)."""
        height, width = self.sizes[row]
        return self.read([row], None if steps is None else np.asarray(steps)[None])[0, :, :height, :width]


class TileCache(TilePixels, Dataset):
    """A finished cache. As a dataset it hands out native sequences, (steps, height, width, bands) each.

    `geohf.tiles.cutting.build_cache` builds or opens the cache of a table.

    Args:
        folder: of the cache.
        table: where given, the cache must be this table's.

    Raises:
        DataError: there is no finished cache, or it belongs to another table or other files.
    """

    def __init__(self, folder: str | Path, table: TileTable | None = None):
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise DataError(f"{self.folder}: holds no tile cache") from None
        if index["layout"] != LAYOUT:
            raise DataError(f"{self.folder}: was built by another version of geohf; delete it")
        if table is not None and index["key"] != cache_key(table):
            raise DataError(f"{self.folder}: was built from another table or other images; delete it")
        left = index["regions"] - len(list((self.folder / "done").iterdir()))
        if left:
            raise DataError(f"{self.folder}: {left} regions are not cut yet; build it again to go on")
        self.nodata = index["nodata"]
        self._tiles, self._masks = (ArrayFile(self.folder / name) for name in ("tiles.npy", "masks.npy"))
        try:
            self.sizes, self.holes = (np.load(self.folder / name) for name in ("sizes.npy", "holes.npy"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder}: is damaged ({error}); delete it") from None

    @property
    def array(self) -> np.memmap:  # type: ignore[override]
        return self._tiles.array

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Sequence[int] | np.ndarray, steps: np.ndarray | None = None) -> np.ndarray:
        """A copy of some tiles' frames, see `TilePixels.read`."""
        frames = self._tiles.read(rows)
        return frames if steps is None else frames[np.arange(len(rows))[:, None], steps]

    def masks(self, rows: Sequence[int] | np.ndarray, steps: np.ndarray) -> np.ndarray:
        """See `TilePixels.masks`."""
        tiles, steps = np.broadcast_arrays(np.asarray(rows)[:, None], steps)
        masks = np.zeros((*steps.shape, *self.array.shape[2:4]), bool)
        some = self.holes[tiles, steps] > 0  # of most frames nothing needs to be read
        bits = self._masks.array[tiles[some], steps[some]]
        masks[some] = np.unpackbits(bits, axis=-1, count=masks.shape[-1]).view(bool)
        return masks

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        """Sequences as one batch (PyTorch's loaders ask for batches by this name): use `collate_fn=identity_collate`."""
        return torch.from_numpy(self.read(rows))


def cache_key(table: TileTable) -> str:
    """A digest of the tiles' places, the labels, and the path, size and time of change of each image and its mask."""
    digest = hashlib.blake2b(digest_size=16)
    how = table.reading.as_config()
    read: list = [] if how is None else [how]
    if table.reading.grid is not None:
        read.append([getattr(table.reading.grid[1], name) for name in PLACE])
    digest.update(json.dumps([LAYOUT, table.labels, table.regions, table.nodata, *read]).encode())
    digest.update(table.region.tobytes() + table.boxes.tobytes())
    for path in (path for files in table.files for path in files):
        digest.update(("none" if path is None else file_facts(path)).encode() + b"\0")
    return digest.hexdigest()


def file_facts(path: RasterFile | os.PathLike) -> str:
    """An image's path (of a stack those of all its files), and size and time of change of it and of what lies `beside` it; of a
    VRT those of the files that it shows, too; of what lies in a zip file the zip's, elsewhere none.
    """
    if isinstance(path, BandFiles):
        return " ".join(map(file_facts, path.files))
    if isinstance(path, StoreFrame):
        return f"{os.path.abspath(path.store)} {path.names} {path.step} {path.facts}"
    facts, held = os.path.abspath(path), local_file(path)
    files = [] if held is None else [held, *beside(path)]
    if held is not None and held.suffix.lower() == ".vrt":
        with open_raster(path) as raster:
            files += [Path(file) for file in raster.files]
    stats = [file.stat() for file in files if file == held or file.exists()]
    return " ".join([facts, *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)])
