"""A run's data: the table or folder that the options name, its cache, its samples, its splits."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geohf.errors import DataError
from geohf.tables import RowErrors
from geohf.tiles.arguments import TileArguments
from geohf.tiles.cache import TileCache, build_cache
from geohf.tiles.derive import colour_share, ndvi_fall
from geohf.tiles.sample import BUILT, write_sample
from geohf.tiles.samples import TileSamples, make_samples
from geohf.tiles.splits import split_tiles
from geohf.tiles.table import TARGET, TileTable, grid_tiles, load_tiles

logger = logging.getLogger(__name__)

DERIVED = ("ndvi_fall", "colour_share")


@dataclass
class TileData:
    """Tiles, their pixels, and samples by split.

    Attributes:
        splits: name -> samples.
        held_out: the split that the numbers are measured on.
        skipped: rows of the table that were left out.
        buffer: tiles left out between training and held-out ones.
    """

    table: TileTable
    cache: TileCache
    splits: dict[str, TileSamples]
    held_out: str
    skipped: list[dict]
    buffer: int


def load_data(options: TileArguments, args) -> TileData:
    """Everything that a run needs to know of its data.

    Raises:
        DataError: the data cannot be used, or the options do not go together.
    """
    if options.target_type not in (TARGET, "last-image"):
        raise DataError(f"target_type must be target or last-image, got {options.target_type!r}")
    if options.target_from not in (None, *DERIVED):
        raise DataError(f"target_from must be one of {', '.join(DERIVED)}, got {options.target_from!r}")
    source = options.data
    if source is None:
        folder = Path(args.output_dir).parent / "tiles-sample"
        with args.main_process_first(desc="writing the sample"):
            write_sample(folder, seed=0, size=options.sample_size)
        source = str(folder / "tiles.csv")
    errors = RowErrors(options.on_error)
    image = options.target_type == "last-image"
    table = _table(Path(source), options, image, errors)
    cache = build_cache(table, args.cache_dir, args.cache_workers)
    if options.target_from is not None:
        table.targets, table.values = [options.target_from], _derived(options, cache, table)[..., None]
    known = np.isfinite(table.values).any((0, 2))
    years = min(options.target_years, len(table.labels) - 1)
    if not image:  # a table without years knows the last label's targets only
        years = min(years, int(known[::-1].cumprod().sum()))
    samples = make_samples(
        table, cache, options.task, options.frames, max(years, 1), options.max_nodata, image
    )
    tiles, buffer = split_tiles(
        table,
        options.split,
        options.validation_share,
        options.test_share,
        args.seed,
        options.block_px,
        options.buffer_px,
        options.allow_leaks,
    )
    splits = {name: samples.take(np.isin(samples.rows, rows)) for name, rows in tiles.items()}
    for name, part in splits.items():
        if not len(part):
            raise DataError(
                f"{table.source}: the split {name} holds no usable sample; use another --seed or share"
            )
    held_out = "test" if "test" in splits else "validation"
    if "validation" not in splits:
        raise DataError("validation_share must be above 0: the model is chosen and calibrated there")
    return TileData(table, cache, splits, held_out, errors.rows, buffer)


def _table(source: Path, options: TileArguments, image: bool, errors: RowErrors) -> TileTable:
    if source.is_dir():
        if options.target_from is None and not image:
            raise DataError(
                f"{source}: a folder of images has no targets; say --target_from ndvi_fall or colour_share, or "
                "--target_type last-image"
            )
        labels = options.labels or _found(path.stem for path in source.glob(f"*{options.extension}"))
        if not labels:
            raise DataError(
                f"{source}: holds no *{options.extension}; give a table of tiles, or the images' folder"
            )
        return grid_tiles(source, labels, options.tile_size, options.extension, options.nodata)
    images = Path(options.image_dir) if options.image_dir else source.parent / "Images"
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; say where the images lie with --image_dir")
    labels = options.labels or _found(path.name for path in images.iterdir() if path.is_dir())
    targets = [] if image or options.target_from else options.targets or [TARGET]
    return load_tiles(
        source, images, labels, options.extension, targets, options.max_missing, options.nodata, errors
    )


def _found(names) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))


def _derived(options: TileArguments, cache: TileCache, table: TileTable) -> np.ndarray:
    if options.target_from == "ndvi_fall":
        return ndvi_fall(cache, table, options.nir, options.red)
    return colour_share(cache, table, options.colour or BUILT)


def data_range(table: TileTable) -> str:
    """The images in one phrase, for the card."""
    raster = table.rasters[0]
    return f"{len(table.regions)} regions, {raster.bands} bands of {raster.dtype}, {len(table.labels)} labels"
