"""Prediction over a whole scene, larger than memory: window by window from disk to disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geohf.data.times import check_frames, times_of_frames
from geohf.errors import DataError
from geohf.tiles.frames import can_be_seen
from geohf.tiles.geotiff import write_geotiff
from geohf.tiles.grid import require_alignable, require_same_grid, require_same_kind, require_trained_kind
from geohf.tiles.masks import read_numbers, read_window, with_mask
from geohf.tiles.modeling import TileSequenceModel
from geohf.tiles.rasters import RasterInfo, inspect_raster, open_raster
from geohf.tiles.reading import Reading
from geohf.tiles.samples import dates_of


def predict_scene(
    model: TileSequenceModel,
    frames: Sequence[str | Path | None],
    output: str | Path,
    tile_size: int,
    last_values: str | Path | None = None,
    batch_size: int = 64,
    dates: Sequence[Any] | None = None,
    date: Any = None,
) -> Path:
    """Predict every tile of a scene and write a GeoTIFF with one pixel a tile.

    Memory holds one batch of tiles at a time, whatever the scene's size. Rows and columns at the right and lower rim
    that do not fill a tile are left out.

    Args:
        frames: rasters on one grid, oldest first, None for a missing one.
        output: the file, replaced only when all of it is written; a band for each target, then, where the model is calibrated, each `low` and each `high`.
            Float32; NaN where all frames lack data, or the last value does.
        tile_size: side of a tile in pixels.
        last_values: raster with a pixel a tile and a band a target, the last known values, on the tiles' grid; a
            model that predicts changes needs it.
        batch_size: tiles in one pass.
        dates, date: of the frames and of the answer, for a model that sees dates; frames are dated by their files'
            names where `dates` is None.

    Returns:
        The file's path.

    Raises:
        DataError: a raster cannot be read, lies on another grid or is of another kind than the first or than those
            that the model was trained on; their names go back in time; or the output is one of them.
    """
    from rasterio.windows import Window
    from tqdm.auto import tqdm

    there = [path for path in frames if path is not None]
    if not there or tile_size < 1:
        raise DataError("a scene needs at least one frame, and tiles of at least one pixel")
    check_frames(there)
    first, reading = inspect_raster(there[0]), Reading.from_config(model.config.reading)
    for path in there:
        raster = inspect_raster(path)
        require_trained_kind(path, raster, model.config.pixel_kind)
        require_same_kind(path, raster, there[0], first)
        reading.require_possible(path, raster)
        (require_alignable if reading.align else require_same_grid)(path, raster, there[0], first)
    names, grid = _band_names(model), _tile_grid(first, tile_size)
    dated: dict[str, Any] = {}
    if model.config.dates:
        dated = {"dates": times_of_frames(frames) if dates is None else dates, "date": date}
        dates_of(frames, dated["dates"], date, str(output))
    if not grid.height or not grid.width:
        raise DataError(f"{there[0]}: no tile of {tile_size} x {tile_size} pixels fits in")
    if last_values is not None:
        _require_last_values(last_values, grid, there[0], len(model.config.targets))
    with ExitStack() as stack:
        rasters = [None if path is None else stack.enter_context(open_raster(path)) for path in frames]
        known = None if last_values is None else stack.enter_context(open_raster(last_values))
        written = stack.enter_context(write_geotiff(output, grid, names, inputs=(*there, last_values)))
        for row in tqdm(range(grid.height), desc="scene", unit="row"):
            line = np.full((len(names), 1, grid.width), np.nan, np.float32)
            for start in range(0, grid.width, batch_size):
                chosen = range(start, min(start + batch_size, grid.width))
                samples = dict(_samples(model, rasters, first, known, row, chosen, tile_size, dated))
                answers = model.predict(list(samples.values()), batch_size) if samples else []
                for column, answer in zip(samples, answers, strict=True):
                    line[:, 0, column] = _bands(answer)
            written.write(line, window=Window(0, row, grid.width, 1))
    return Path(output)


def _tile_grid(raster: RasterInfo, side: int) -> RasterInfo:
    """The grid of a scene's answers: a pixel a tile."""
    from rasterio import Affine

    transform = raster.transform
    if raster.located:
        transform = tuple(raster.affine @ Affine.scale(side))[:6]
    return replace(raster, height=raster.height // side, width=raster.width // side, transform=transform)


def _require_last_values(path: str | Path, grid: RasterInfo, start: str | Path, targets: int) -> None:
    known = inspect_raster(path)
    if (known.height, known.width) != (grid.height, grid.width):
        raise DataError(
            f"{path}: is {known.width} x {known.height} pixels, the scene has {grid.width} x {grid.height} tiles"
        )
    if known.bands != targets:
        raise DataError(f"{path}: has {known.bands} bands, the model has {targets} targets")
    require_same_grid(path, known, f"the grid of tiles in {start}", grid)


def _samples(model, rasters, grid, known, row, columns, side, dated) -> Iterator[tuple[int, dict]]:
    """Column -> sample, of the tiles that have something to see and to count from."""
    config, reading = model.config, Reading.from_config(model.config.reading)
    box = columns[0] * side, row * side, (columns[-1] + 1) * side, (row + 1) * side
    strips = [
        None if raster is None else read_window(raster, box, config.nodata, reading, grid)
        for raster in rasters
    ]
    last = None if known is None else read_numbers(known, (columns[0], row, columns[-1] + 1, row + 1))[0]
    for i, column in enumerate(columns):
        here = slice(i * side, (i + 1) * side)
        tiles = [
            None if strip is None else with_mask(strip[0][:, here], strip[1][:, here]) for strip in strips
        ]
        tiles = [tile if tile is not None and _has_data(tile, config) else None for tile in tiles]
        sample = {"frames": tiles} | dated
        if last is not None:
            if config.answers == "change" and not np.isfinite(last[i]).all():
                continue
            sample["last_values"] = last[i]
        if any(tile is not None for tile in tiles):
            yield column, sample


def _has_data(tile: np.ma.MaskedArray, config) -> bool:
    return bool(can_be_seen(np.ma.getmaskarray(tile)[..., 0].mean(), config.max_nodata))


def _band_names(model: TileSequenceModel) -> list[str]:
    targets = model.config.targets
    if model.config.head == "image":
        raise DataError("a scene of images is not written: the model must answer with numbers")
    ends = ("low", "high") if model.config.interval_margin is not None else ()
    return [*targets, *(f"{end}_{name}" for end in ends for name in targets)]


def _bands(answer) -> list[float]:
    parts = [answer.values, answer.low, answer.high]
    return [value for part in parts if part is not None for value in part.values()]
