"""Tiles whose pixels neither memory nor the disk's cache shall hold: cut from their images as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.tiles.cache import TilePixels
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.cutting import cut_region, hole_shares
from geohf.tiles.dataset import TileSequences
from geohf.tiles.grid import require_trained_table
from geohf.tiles.table import TileTable
from geohf.tiles.windows import make_windows

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
    settings = {"table": table, "config": config}
    regions = list(range(len(table.regions)))
    return IterableDataset.from_generator(_rows, gen_kwargs={"regions": regions} | settings)


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
    regions: Sequence[int], table: TileTable, config: TileSequenceConfig
) -> Iterator[dict[str, torch.Tensor]]:
    image = config.head == "image"
    for region in regions:
        for rows, block, mask in cut_region(table, region):
            part = table.take(rows)
            strip = _Strip(block, mask, part.sizes, hole_shares(mask, part.sizes))
            windows = make_windows(
                part,
                strip,
                config.task,
                config.frames,
                max_nodata=config.max_nodata,
                image=image,
                may_be_none=True,
                answered=config.prediction_length,
            )
            sequences = TileSequences(strip, windows, config)
            yield from (sequences[i] for i in range(len(sequences)))
