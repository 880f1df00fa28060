"""Splits that keep neighbors of held-out tiles out of training."""

from __future__ import annotations

import numpy as np
import pytest

from geohf import DataError
from geohf.tiles.splits import default_split, split_tiles
from geohf.tiles.table import load_tiles

SHARES = {"test": 0.15, "validation": 0.15}


def grid(tmp_path, tiff, regions=1, side=96):
    import pandas as pd

    rows = []
    for region in range(regions):
        for label in ("1", "2"):
            tiff(tmp_path / "Images" / label / f"{region}.tif", np.ones((side, side, 1), np.uint8))
        rows += [
            {"region_id": region, "target": 0.0, "region_coordinates": (x, y, x + 8, y + 8)}
            for y in range(0, side, 8)
            for x in range(0, side, 8)
        ]
    frame = pd.DataFrame(rows).assign(tile_id=range(len(rows)))
    return load_tiles(frame, tmp_path / "Images", ["1", "2"])


@pytest.mark.case("files-D8")
def test_blocks_keep_training_tiles_away(tmp_path, tiff):
    table = grid(tmp_path, tiff, regions=2)
    splits, buffer = split_tiles(table, "blocks", SHARES, block_px=32, buffer_px=4)
    assert buffer > 0
    assert sum(map(len, splits.values())) + buffer == len(table)
    train = splits["train"]
    for name in ("validation", "test"):
        for row in splits[name].tolist():
            near = train[table.region[train] == table.region[row]]
            low, high = table.boxes[near, :2], table.boxes[near, 2:]
            gaps = np.maximum(low - table.boxes[row, 2:], table.boxes[row, :2] - high).clip(0)
            assert np.hypot(*gaps.T).min() >= 4


def test_regions_are_held_out_whole(tmp_path, tiff):
    table = grid(tmp_path, tiff, regions=6, side=16)
    assert default_split(table) == "region"
    splits, _ = split_tiles(table, "region", SHARES)
    held = [set(table.region[rows].tolist()) for rows in splits.values()]
    assert sum(map(len, held)) == 6
    assert not held[0] & held[1]


def test_a_random_split_needs_a_flag_and_warns(tmp_path, tiff, caplog):
    table = grid(tmp_path, tiff)
    with pytest.raises(DataError, match="--allow_leaks"):
        split_tiles(table, "random", SHARES)
    splits, _ = split_tiles(table, "random", SHARES, allow_leaks=True)
    assert len(splits["test"]) == round(0.15 * len(table))
    assert "the numbers will flatter" in caplog.text
