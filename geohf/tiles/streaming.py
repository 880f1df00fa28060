"""Tiles whose pixels neither memory nor the disk's cache shall hold: cut from their images as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.tiles.cache import TilePixels
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.cutting import cut_region, cut_tiles, hole_shares, tiles_shape
from geohf.tiles.dataset import TileSequences
from geohf.tiles.grid import require_trained_table
from geohf.tiles.table import TileTable
from geohf.tiles.windows import TileWindows, windows_of

if TYPE_CHECKING:
    from datasets import IterableDataset


def stream_tiles(table: TileTable, config: TileSequenceConfig) -> IterableDataset:
    """What `TileSequences` has of a table, region by region, without a cache.

    Its shards are the regions, which processes and workers share out
    (`datasets.distributed.split_dataset_by_node`, `DataLoader(num_workers=)`). A region's images are decoded once
    a pass, strip by strip; `IterableDataset.shuffle(buffer_size=)` mixes tiles of several.

    Args:
        table: from `load_tiles` or `grid_tiles`. It stays in memory; pixels do not.
        config: of the model: frames, task, head, input size, bands' mean and spread.

    Returns:
        Rows of `pixel_values`, `step_mask`, `last_values` and `labels`, tensors as `TileSequences` gives them.

    Raises:
        DataError: the images are of another kind than those the model was trained on; or, as rows are read, an
            image cannot be.
    """
    from datasets import IterableDataset

    require_trained_table(table, config.pixel_kind)
    settings = {"regions": list(range(len(table.regions))), "table": table, "config": config}
    return IterableDataset.from_generator(_rows, gen_kwargs=settings)


class ImageTiles(TilePixels):
    """Tiles that are kept nowhere, but cut from their images whenever they are asked for.

    Args:
        table: whose images are read once for `holes`.

    Raises:
        DataError: an image cannot be read.
    """

    def __init__(self, table: TileTable):
        from tqdm.auto import tqdm

        self.table, self.sizes, self.nodata = table, table.sizes, table.nodata
        self.array = np.broadcast_to(np.zeros((), table.dtype), tiles_shape(table))  # for its shape alone
        self.holes = np.ones(self.array.shape[:2], np.float32)
        for region in tqdm(range(len(table.regions)), desc="reading tiles", unit="region"):
            for rows, _, mask in cut_region(table, region):
                self.holes[rows] = hole_shares(mask, table.sizes[rows])
        self._last: tuple[bytes, np.ndarray, np.ndarray] = (b"", self.array, self.array)

    def read(self, rows: Sequence[int] | np.ndarray, steps: np.ndarray | None = None) -> np.ndarray:
        return self._cut(rows, steps)[0]

    def masks(self, rows: Sequence[int] | np.ndarray, steps: np.ndarray) -> np.ndarray:
        return self._cut(rows, steps)[1]

    def _cut(self, rows, steps: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and masks of some frames; each image is opened once, and what was asked last is at hand."""
        every = np.arange(self.array.shape[1])
        tiles, frames = np.broadcast_arrays(np.asarray(rows)[:, None], every if steps is None else steps)
        asked = tiles.tobytes() + frames.tobytes()
        if asked != self._last[0]:
            pixels = np.zeros((*tiles.shape, *self.array.shape[2:]), self.array.dtype)
            masks = np.ones(pixels.shape[:-1], bool)
            regions = self.table.region[tiles]
            for region, step in np.unique(np.stack([regions, frames], -1).reshape(-1, 2), axis=0):
                path = self.table.files[region][step]
                if path is not None:
                    here = (regions == region) & (frames == step)
                    pixels[here], masks[here] = cut_tiles(path, self.table, tiles[here])
            self._last = (asked, pixels, masks)
        return self._last[1], self._last[2]


class StreamedSequences(TileSequences):
    """Windows of a table whose tiles are not cached: bound to a model they are a stream, region by region.

    Args:
        tiles: of the table.
        windows, table: as `TileSequences` takes them.
        buffer_size: the stream is shuffled by a buffer of so many windows; 0: it is not.
        seed: of the order.
    """

    def __init__(
        self, tiles: TilePixels, windows: TileWindows, table: TileTable, buffer_size: int = 0, seed: int = 42
    ):
        super().__init__(tiles, windows, table=table)
        self.buffer_size, self.seed = buffer_size, seed

    def bound_to(self, config: TileSequenceConfig) -> IterableDataset:  # type: ignore[override]  # no rows by number
        """The windows as a stream for the model of this config."""
        from datasets import IterableDataset

        chosen, rows = np.unique(self.windows.rows, return_inverse=True)
        table, windows = self.known_table.take(chosen), replace(self.windows, rows=rows)
        regions = {"regions": np.unique(table.region).tolist()}  # the shards
        settings = {"table": table, "windows": windows, "config": config}
        stream = IterableDataset.from_generator(_rows, gen_kwargs=regions | settings)
        return stream.shuffle(seed=self.seed, buffer_size=self.buffer_size) if self.buffer_size else stream


@dataclass
class _Strip(TilePixels):
    """Tiles in memory."""

    array: np.ndarray
    mask: np.ndarray
    sizes: np.ndarray
    holes: np.ndarray

    def read(self, rows: Sequence[int] | np.ndarray, steps: np.ndarray | None = None) -> np.ndarray:
        rows = np.asarray(rows)
        return self.array[rows] if steps is None else self.array[rows[:, None], steps]

    def masks(self, rows: Sequence[int] | np.ndarray, steps: np.ndarray) -> np.ndarray:
        return self.mask[np.asarray(rows)[:, None], steps]


def _rows(
    regions: Sequence[int], table: TileTable, config: TileSequenceConfig, windows: TileWindows | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """The rows of some regions: of these windows of the table, or of all that the model answers."""
    for region in regions:
        for rows, block, mask in cut_region(table, region):
            part = table.take(rows)
            strip = _Strip(block, mask, part.sizes, hole_shares(mask, part.sizes))
            if windows is None:
                own = windows_of(part, strip, config, may_be_none=True)
            else:
                own = windows.take(np.isin(windows.rows, rows))
                own = replace(own, rows=np.searchsorted(rows, own.rows))
            sequences = TileSequences(strip, own, config)
            yield from (sequences[i] for i in range(len(sequences)))
