"""A run's data: the table or folder that the options name, its cache, its windows, its splits."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from geohf.data.tables import RowErrors
from geohf.data.task_data import TaskData, with_facts
from geohf.data.times import order_labels
from geohf.errors import DataError, require_choice
from geohf.hub.card import data_source
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.cache import TileCache
from geohf.tiles.configuration import TASKS
from geohf.tiles.cutting import build_cache
from geohf.tiles.dataset import TileSequences
from geohf.tiles.derive import colour_share, ndvi_fall
from geohf.tiles.images import found_labels
from geohf.tiles.sample import BUILT, write_sample
from geohf.tiles.splits import default_split, split_tiles
from geohf.tiles.table import TARGET, TARGET_TYPES, TileTable, grid_tiles, load_tiles, table_in
from geohf.tiles.windows import TileWindows, make_windows, unmeasured

logger = logging.getLogger(__name__)
DERIVED = ("ndvi_fall", "colour_share")


HOW = {"region": "whole regions", "blocks": "whole blocks of a region", "random": "tile by tile at random"}


def load(options: TileArguments, args: TileTrainingArguments | None = None) -> TaskData:
    """Load the tiles that the options name, cut them into the cache, and hold some out.

    Args:
        args: of the training: the seed of the split, the cache, and where the painted sample goes; the defaults
            where None.

    Returns:
        `TileSequences` by split, which a Trainer binds to its model.

    Raises:
        DataError: the data cannot be used, or the options do not go together.
    """
    args = args or TileTrainingArguments()
    _check(options)
    source = options.data
    if source is None:
        folder = Path(args.output_dir).parent / "tiles-sample"
        with args.main_process_first(desc="writing the sample"):
            write_sample(folder, seed=0, size=options.sample_size)
        source = folder / "tiles.csv"
    errors = RowErrors(options.on_error)
    image = options.target_type == "last-image"
    table = _table(table_in(source), options, image, errors)
    cache = build_cache(table, args.cache_dir, args.cache_workers)
    if options.target_from is not None:
        table.targets, table.values = [options.target_from], _derived(options, table, cache)[..., None]
    years = min(options.target_years, len(table.labels) - 1)
    if not image:  # a table without years knows the last label's targets only
        known = np.isfinite(table.values).any((0, 2))
        years = min(years, int(known[::-1].cumprod().sum()))
    windows = make_windows(
        table, cache, options.task, options.frames, max(years, 1), options.max_nodata, image
    )
    how = options.split or default_split(table)
    shares = {"test": options.test_share, "validation": options.validation_share}
    tiles, buffer = split_tiles(
        table, how, shares, args.seed, options.block_px, options.buffer_px, options.allow_leaks
    )
    splits = {name: windows.take(np.isin(windows.rows, rows)) for name, rows in tiles.items()}
    for name, part in splits.items():
        if not len(part):
            raise DataError(
                f"{table.source}: the split {name} holds no usable sample; use another --seed or share"
            )
    if not image:
        _require_spread(table, splits["train"], cache)
    facts = data_source(options.data) | {
        "split": HOW[how],
        "leaks": how == "random",
        "left_out_for_buffer": buffer,
        "steps": table.steps.unit,
    }
    parts = {
        name: with_facts(TileSequences(cache, part, table=table), **facts, split_name=name)
        for name, part in splits.items()
    }
    return TaskData(parts["train"], parts["validation"], parts.get("test"), errors.rows, source)


def _require_spread(table: TileTable, train: TileWindows, cache: TileCache) -> None:
    """Refuse targets that are the same in every training tile: there is nothing to learn."""
    for name, truth in zip(table.targets, train.truth.T, strict=True):
        known = truth[np.isfinite(truth)]
        if len(known) and np.ptp(known) > 0:
            continue
        what = (
            f"is {known[0]:g} in all {len(known)} training windows" if len(known) else "is not known in any"
        )
        raise DataError(
            f"{table.source}: the target {name} {what}, so there is nothing to learn; {unmeasured(table, cache)}"
        )


def _check(options: TileArguments) -> None:
    for name, allowed in (
        ("target_type", TARGET_TYPES),
        ("target_from", DERIVED),
        ("task", TASKS),
    ):
        require_choice(allowed, **{name: getattr(options, name)})
    if not options.validation_share > 0:
        raise DataError("validation_share must be above 0: the model is chosen and calibrated there")


def _table(source: Path, options: TileArguments, image: bool, errors: RowErrors) -> TileTable:
    if source.is_dir():
        if options.target_from is None and not image:
            raise DataError(
                f"{source}: a folder of images has no targets; say --target_from ndvi_fall or colour_share, or "
                "--target_type last-image"
            )
        labels = options.labels or order_labels(
            [path.stem for path in source.glob(f"[!.]*{options.extension}")]
        )
        if not labels:
            raise DataError(
                f"{source}: holds no *{options.extension}; give a table of tiles, or the images' folder"
            )
        return grid_tiles(source, labels, options.tile_size, options.extension, options.nodata)
    if not source.is_file():
        raise DataError(f"{source}: no such table, and no folder of images either")
    images = Path(options.image_dir or source.parent / "Images")
    labels = options.labels or found_labels(images)
    targets = [] if image or options.target_from else options.targets or [TARGET]
    return load_tiles(
        source, images, labels, options.extension, targets, options.max_missing, options.nodata, errors
    )


def _derived(options: TileArguments, table: TileTable, cache: TileCache) -> np.ndarray:
    if options.target_from == "ndvi_fall":
        colors = table.rasters[0].colors
        for number in (options.nir, options.red):
            if number <= len(colors) and colors[number - 1] == "alpha":
                logger.warning(
                    "%s: band %d is an alpha band by the images' headers, so where it is 0 nothing counts as measured; if "
                    "it is none, gdal_edit.py -colorinterp_%d undefined says so",
                    table.source,
                    number,
                    number,
                )
        return ndvi_fall(cache, options.nir, options.red)
    return colour_share(cache, options.colour or BUILT)
