"""A run's data: the table or folder that the options name, its cache, its windows, its splits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geohf.data.tables import RowErrors
from geohf.data.task_data import TaskData, with_facts
from geohf.data.times import order_labels, shorten, step_key
from geohf.errors import DataError, listed, require_choice
from geohf.hub.card import data_source
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.cache import TilePixels
from geohf.tiles.configuration import TASKS
from geohf.tiles.cutting import build_cache
from geohf.tiles.dataset import TileSequences
from geohf.tiles.images import ITEMS, found_labels, mosaic_files
from geohf.tiles.points import load_table
from geohf.tiles.reading import Reading
from geohf.tiles.sample import BUILT, write_sample
from geohf.tiles.scales import NORMALIZE
from geohf.tiles.sources import raster_folder, shown_in
from geohf.tiles.splits import default_split, fold_split, fold_tiles, split_tiles
from geohf.tiles.stores import MARKS
from geohf.tiles.streaming import ImageTiles, StreamedSequences
from geohf.tiles.table import TARGET, TARGET_TYPES, TileTable, grid_tiles, table_in
from geohf.tiles.targets import color_share, look_at_pixels, look_at_targets, ndvi_fall, require_spread
from geohf.tiles.windows import TileWindows, make_windows

logger = logging.getLogger(__name__)
DERIVED = ("ndvi_fall", "color_share")
HOW = {"region": "whole regions", "blocks": "whole blocks of a region", "random": "tile by tile at random"}


@dataclass
class _Source:
    """What a run's data are before they are divided: the windows that may be asked, and how they are held out."""

    table: TileTable
    cache: TilePixels
    windows: TileWindows
    how: str
    skipped: list[dict]
    path: Path
    image: bool
    seed: int


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
    source = _load(options, args)
    held_out = _held_out_steps(options, source.table)
    shares = {"test": 0.0 if len(held_out) else options.test_share, "validation": options.validation_share}
    settings = options.block_px, options.buffer_px, options.allow_leaks
    tiles, buffer = split_tiles(source.table, source.how, shares, args.seed, *settings)
    windows, how = source.windows, HOW[source.how]
    if not len(held_out):
        return _divided(source, options, windows, tiles, buffer, how)
    answered_last = windows.steps + options.prediction_length - 1
    before, asked = answered_last < held_out.min(), np.isin(windows.steps, held_out)
    unused = int((~before & ~asked).sum())
    if unused:
        logger.warning("%d windows at or after the first of --test_labels are not trained on", unused)
    how = f"the labels {', '.join(options.test_labels or ())}, and for validation {how}"
    return _divided(source, options, windows.take(before), tiles, buffer, how, windows.take(asked))


def load_folds(options: TileArguments, args: TileTrainingArguments) -> Iterator[TaskData]:
    """The same tiles divided anew for each of `--folds`: every tile is in the test of one of them.

    Raises:
        DataError: see `load`; or there are too few regions or blocks.
    """
    source, folds = _load(options, args), options.folds or 0
    fold = fold_tiles(source.table, source.how, folds, args.seed, options.block_px)
    settings = options.block_px, options.buffer_px, options.allow_leaks
    for number in range(folds):
        tiles, buffer = fold_split(source.table, fold, number, source.how, *settings)
        how = f"{HOW[source.how]}, fold {number + 1} of {folds}"
        yield _divided(source, options, source.windows, tiles, buffer, how)


def _load(options: TileArguments, args: TileTrainingArguments) -> _Source:
    _check(options)
    options.require_steps(args)
    if options.data is None:
        folder = Path(args.output_dir).parent / "tiles-sample"
        with args.main_process_first(desc="writing the sample"):
            write_sample(folder, seed=0, size=options.sample_size)
        path = folder / "tiles.csv"
    else:
        path = Path(options.data)
    errors = RowErrors(options.on_error)
    image = options.target_type == "last-image"
    table = _table(table_in(path), options, image, errors)
    cache = ImageTiles(table) if options.streaming else build_cache(table, args.cache_dir, args.cache_workers)
    if options.target_from is not None:
        table.targets, table.values = [options.target_from], _derived(options, table, cache)[..., None]
    look_at_targets(table)
    held_out = _held_out_steps(options, table)
    last = held_out.min() if len(held_out) else len(table.labels)
    years = min(options.target_years, last - options.prediction_length)
    if not image:  # a table without years knows the last label's targets only
        known = np.isfinite(table.values).any((0, 2))[:last]
        years = min(years, int(known[::-1].cumprod().sum()))
    years = max(years, 1) + len(table.labels) - last
    asked = options.task, options.frames, years, options.max_nodata, image
    windows = make_windows(table, cache, *asked, answered=options.prediction_length)
    how = options.split or default_split(table)
    return _Source(table, cache, windows, how, errors.rows, path, image, args.seed)


def _held_out_steps(options: TileArguments, table: TileTable) -> np.ndarray:
    """The steps of `--test_labels`, ascending; none where the option is not set."""
    known = {step_key(label): step for step, label in enumerate(table.labels)}
    asked = {label: step_key(label) for label in map(str, options.test_labels or ())}
    answered = options.prediction_length
    for label, key in asked.items():
        if key not in known:
            raise DataError(f"--test_labels {label}: the labels are {shorten(table.labels)}")
    steps = np.array(sorted({known[key] for key in asked.values()}), np.int64)
    if len(steps):
        first = f"--test_labels {table.labels[steps[0]]}"
        if steps[0] <= answered:
            raise DataError(f"{first}: no label before it can be a target with a frame before it")
        if steps[0] + answered > len(table.labels):
            raise DataError(f"{first}: --prediction_length {answered} needs as many labels from it on")
    return steps


def _divided(
    source: _Source,
    options: TileArguments,
    windows: TileWindows,
    tiles: Mapping[str, np.ndarray],
    buffer: int,
    how: str,
    test: TileWindows | None = None,
) -> TaskData:
    """Windows by the split that their tiles are in; `test` takes the place of test tiles."""
    table = source.table
    splits = {name: windows.take(np.isin(windows.rows, rows)) for name, rows in tiles.items()}
    splits |= {} if test is None else {"test": test}
    for name, part in splits.items():
        if not len(part):
            raise DataError(f"{table.source}: the split {name} is empty; use another --seed or share")
    look_at_pixels(table, source.cache, splits["train"])
    if not source.image:
        require_spread(table, splits["train"], source.cache)
    facts = data_source(options.data) | {"split": how, "leaks": source.how == "random"}
    facts |= {"left_out_for_buffer": buffer, "steps": table.steps.unit}
    parts = {name: TileSequences(source.cache, part, table=table) for name, part in splits.items()}
    labels = None
    if options.streaming:
        labels = StreamedSequences(source.cache, splits["train"], table, options.buffer_size, source.seed)
        parts["train"] = labels
    for name, rows in parts.items():
        with_facts(rows, **facts, split_name=name)
    return TaskData(
        parts["train"], parts["validation"], parts.get("test"), source.skipped, source.path, labels
    )


def _check(options: TileArguments) -> None:
    require_choice(TARGET_TYPES, target_type=options.target_type)
    require_choice((*DERIVED, None), target_from=options.target_from)
    require_choice(TASKS, task=options.task)
    require_choice(NORMALIZE, normalize=options.normalize)
    options.require_backbone()
    if options.class_values and (options.target_type == "last-image" or options.target_from == "ndvi_fall"):
        raise DataError(
            "--class_values make inputs of class maps: their targets are numbers, of the table or --target_from color_share"
        )
    if options.prediction_length > 1 and options.target_type != "last-image":
        raise DataError("--prediction_length counts frames: it needs --target_type last-image")
    if options.targets and len(set(options.targets)) < len(options.targets):
        raise DataError(f"--targets {' '.join(options.targets)}: name each column once")
    if options.interval_groups != "none" and options.target_type == "last-image":
        raise DataError(
            "--interval_groups is of intervals, and --target_type last-image predicts frames, which have none"
        )
    if options.folds is not None and options.streaming:
        raise DataError("--folds reads the tiles again and again: without --streaming")
    if options.folds is not None and options.test_labels:
        raise DataError("--folds holds out places and --test_labels times; take one of them")
    if options.interval_groups == "cluster" and options.streaming:
        raise DataError("--interval_groups cluster needs the training rows at hand, not a stream of them")
    if not options.validation_share > 0:
        raise DataError("validation_share must be above 0: the model is chosen and calibrated there")


def _table(source: Path, options: TileArguments, image: bool, errors: RowErrors) -> TileTable:
    reading = Reading.from_options(options)
    if source.is_dir() or source.suffix in (*ITEMS, ".zip"):
        if options.target_from is None and not image:
            raise DataError(
                f"{source}: a folder of images has no targets; say --target_from ndvi_fall or color_share, or "
                "--target_type last-image"
            )
        labels = options.labels or order_labels(list(mosaic_files(source, options.extension, options.asset)))
        if not labels:
            inside = sorted(file.name for file in shown_in(raster_folder(source)))
            if not set(MARKS).isdisjoint(inside):
                raise DataError(f"{source}: is a zipped zarr store; unzip it, and give its folder")
            raise DataError(
                f"{source}: holds no *{options.extension}, but {listed(inside) or 'nothing'}; give a table of tiles, or the "
                "folder of the images"
            )
        how = options.tile_size, options.extension, options.nodata, reading, options.asset
        return grid_tiles(source, labels, *how)
    if not source.is_file():
        raise DataError(f"{source}: no such table, and no folder of images either")
    if options.asset:
        raise DataError(
            f"{source}: --asset is of a STAC item collection or a zarr store, and this is a table"
        )
    images = Path(options.image_dir or source.parent / "Images")
    labels = options.labels or found_labels(images)
    targets = [] if image or options.target_from else options.targets or [TARGET]
    settings = {"extension": options.extension, "targets": targets, "max_missing": options.max_missing}
    settings |= {"nodata": options.nodata, "errors": errors, "reading": reading}
    return load_table(source, images, labels, options.tile_size, **settings)


def _derived(options: TileArguments, table: TileTable, cache: TilePixels) -> np.ndarray:
    if options.target_from == "color_share":
        return color_share(cache, _counted(options))
    header, numbers = table.rasters[0], {"--nir": options.nir, "--red": options.red}
    chosen = table.reading.chosen(header.bands)
    for flag, number in numbers.items():
        if number > header.bands:
            continue
        if header.colors[number - 1] == "alpha":
            logger.warning(
                "%s: band %d is an alpha band by the images' headers, so where it is 0 nothing counts as measured; if "
                "it is none, gdal_edit.py -colorinterp_%d undefined says so",
                table.source,
                number,
                number,
            )
        if number - 1 not in chosen:
            raise DataError(f"{flag} {number} is none of the bands that are seen; name it in --bands, too")
    nir, red = (chosen.index(n - 1) + 1 if n - 1 in chosen else n for n in numbers.values())
    return ndvi_fall(cache, nir, red, [(header.scales[i], header.offsets[i]) for i in chosen])


def _counted(options: TileArguments) -> Sequence[int]:
    """The color whose share is the target, as frames hold it: of a class map the class's band alone."""
    color, classes = options.color or BUILT, options.class_values
    if classes is None:
        return color
    if len(color) != 1 or color[0] not in classes:
        raise DataError(
            f"--color names the class whose share is the target, one of --class_values; got {color}"
        )
    return [int(number == color[0]) for number in classes]
