"""Tiles of a table as samples for `predict`: their frames from the cache, and what was last known of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geohf.data.inputs import TABLES, Part
from geohf.data.tables import RowErrors, find_column
from geohf.data.times import StepTimes, shorten
from geohf.errors import DataError
from geohf.tiles.cache import TileCache
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.cutting import build_cache
from geohf.tiles.dataset import TileSequences
from geohf.tiles.dates import DATED
from geohf.tiles.frames import can_be_seen
from geohf.tiles.grid import require_trained_table
from geohf.tiles.images import found_labels
from geohf.tiles.masks import with_mask
from geohf.tiles.points import has_points, load_table
from geohf.tiles.reading import Reading
from geohf.tiles.table import TileTable, columns_of, table_in
from geohf.tiles.windows import windows_of


class TileSamples(Sequence):
    """A sample a tile: the newest frames that the model can take, oldest first, and the last known values.

    A forecast is for the step after the newest image, an estimate for that image's own. To a model that sees dates
    that step lies as far ahead as steps are apart, in the median.
    """

    def __init__(self, table: TileTable, cache: TileCache, config: TileSequenceConfig):
        self.cache, self.targets = cache, table.targets
        self.regions = np.array(table.regions)[table.region].tolist()
        self.steps = np.arange(len(table.labels))[-config.frames :]
        self.seen = can_be_seen(cache.holes, config.max_nodata)[:, self.steps]
        values = table.values if config.task == "forecast" else table.values[:, :-1]
        self.last = _last_known(values)
        self.dates = None
        if config.dates:
            times = table.steps.times
            typical = np.median(np.diff(times)) if config.task == "forecast" else 0.0
            if table.steps.unit not in DATED:
                told = f"the labels {shorten(table.labels)} tell no dates"
                raise DataError(f"{table.source}: {told}, which the model sees")
            at = [StepTimes(times[[step]], table.steps.unit) for step in self.steps]
            self.dates = {"dates": at, "date": StepTimes(times[-1:] + typical, table.steps.unit)}

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, row: Any) -> Any:
        tile, masks = self.cache.tile(row, self.steps), self.cache.tile_mask(row, self.steps)
        parts = zip(tile, masks, self.seen[row], strict=True)
        frames = [with_mask(frame, holes) if seen else None for frame, holes, seen in parts]
        last = dict(zip(self.targets, self.last[row], strict=True))
        sample = {"frames": frames, "last_values": last, "region": self.regions[row]}
        return sample | (self.dates or {})


def read_tiles(source: str | Path, config: TileSequenceConfig) -> Part:
    """The tiles of a table, or of a folder with a `tiles.csv`, in the reference implementation's layout, with `Images/<label>/<region_id>.tif` beside it.

    Target columns may be missing: nothing is then known of the tiles' values.

    Raises:
        DataError: a source that is no table, see `load_tiles`.
    """
    path = table_in(source)
    if path.suffix.lower() not in TABLES:
        raise DataError(
            f"{path}: is no table of tiles (.csv, .parquet) and no folder of a tiles.csv; whole scenes go through geohf.tiles.scene"
        )
    known = columns_of(path)
    targets = [name for name in config.targets if find_column(known, [name.lower()]) is not None]
    table = _load(path, config, targets, RowErrors())
    return list(map(str, table.tile_ids)), TileSamples(table, build_cache(table), config)


def labeled_tiles(source: str | Path, config: TileSequenceConfig, on_error: str = "raise") -> TileSequences:
    """The tiles of a table with its truth at the last label, as rows for the model of this config.

    Raises:
        DataError: the table cannot be used, or its images are of another kind than those of the training.
    """
    path = table_in(source)
    targets = [] if config.head == "image" else config.targets
    table = _load(path, config, targets, RowErrors(on_error))
    cache = build_cache(table)
    return TileSequences(cache, windows_of(table, cache, config), config, table)


def _load(path: Path, config: TileSequenceConfig, targets: list[str], errors: RowErrors) -> TileTable:
    """A table with `Images` beside it, of boxes or of points, read as the model's training data were, and of their kind."""
    images = path.parent / "Images"
    if config.window is None and has_points(path):
        trained = "the model was trained on tiles that have boxes"
        raise DataError(f"{path}: names points, and {trained}; give region_coordinates")
    reading = Reading.from_config(config.reading)
    if reading.named_grid and config.window is None:
        raise DataError(
            f"{path}: the model was trained with --grid, and its boxes count pixels of that grid, which a model does not "
            "keep: warp the images onto it, with gdalwarp for example, and give them as samples of `frames`"
        )
    settings = {"targets": targets, "nodata": config.nodata, "errors": errors, "reading": reading}
    table = load_table(path, images, found_labels(images), config.window or 0, **settings)
    require_trained_table(table, config.pixel_kind)
    return table


def _last_known(values: np.ndarray) -> np.ndarray:
    """(tiles, steps, targets) to the last finite value of each, NaN where there is none."""
    known = np.isfinite(values)
    newest = values.shape[1] - 1 - known[:, ::-1].argmax(1)
    return np.take_along_axis(values, newest[:, None], 1)[:, 0]
