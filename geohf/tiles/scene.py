"""Prediction over a whole scene, larger than memory: window by window from disk to disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from geohf.errors import DataError
from geohf.tiles.frames import can_be_seen
from geohf.tiles.modeling import TileSequenceModel
from geohf.tiles.rasters import inspect_raster, nodata_pixels, open_raster, read_window


def predict_scene(
    model: TileSequenceModel,
    frames: Sequence[str | Path | None],
    output: str | Path,
    tile_size: int,
    last_values: str | Path | None = None,
    batch_size: int = 64,
) -> Path:
    """Predict every tile of a scene and write a GeoTIFF with one pixel a tile.

    Memory holds one batch of tiles at a time, whatever the scene's size. Rows and columns at the right and lower rim
    that do not fill a tile are left out.

    Args:
        frames: rasters of one size, oldest first, None for a missing one.
        output: the file; a band for each target, then, where the model is calibrated, each `low` and each `high`.
            Float32; NaN where all frames lack data, or the last value does.
        tile_size: side of a tile in pixels.
        last_values: raster with a pixel a tile and a band a target, the last known values; a model that predicts
            changes needs it.
        batch_size: tiles in one pass.

    Returns:
        The file's path.

    Raises:
        DataError: a raster cannot be read, or their sizes do not fit.
    """
    import rasterio
    from tqdm.auto import tqdm

    there = [path for path in frames if path is not None]
    if not there or tile_size < 1:
        raise DataError("a scene needs at least one frame, and tiles of at least one pixel")
    info = inspect_raster(there[0])
    for path in there[1:]:
        other = inspect_raster(path)
        if (other.height, other.width) != (info.height, info.width):
            raise DataError(
                f"{path}: is {other.width} x {other.height} pixels, {there[0]} {info.width} x {info.height}"
            )
    rows, columns = info.height // tile_size, info.width // tile_size
    if not rows or not columns:
        raise DataError(f"{there[0]}: no tile of {tile_size} x {tile_size} pixels fits in")
    names = _band_names(model)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        rasters = [None if path is None else stack.enter_context(open_raster(path)) for path in frames]
        known = None if last_values is None else stack.enter_context(open_raster(last_values))
        if known is not None and (known.height, known.width) != (rows, columns):
            raise DataError(
                f"{last_values}: is {known.width} x {known.height} pixels, the scene has {columns} x {rows} tiles"
            )
        profile = {
            "driver": "GTiff",
            "height": rows,
            "width": columns,
            "count": len(names),
            "dtype": "float32",
        }
        if info.crs is not None:
            grid = rasterio.Affine(*info.transform) @ rasterio.Affine.scale(tile_size)
            profile |= {"crs": info.crs, "transform": grid}
        written = stack.enter_context(
            rasterio.open(output, "w", nodata=np.nan, compress="deflate", **profile)
        )
        written.descriptions = tuple(names)
        for row in tqdm(range(rows), desc="scene", unit="row"):
            line = np.full((len(names), 1, columns), np.nan, np.float32)
            for start in range(0, columns, batch_size):
                chosen = range(start, min(start + batch_size, columns))
                samples = dict(_samples(model, rasters, known, row, chosen, tile_size))
                answers = model.predict(list(samples.values()), batch_size) if samples else []
                for column, answer in zip(samples, answers, strict=True):
                    line[:, 0, column] = _bands(answer)
            written.write(line, window=rasterio.windows.Window(0, row, columns, 1))
    return output


def _samples(model, rasters, known, row, columns, side) -> Iterator[tuple[int, dict]]:
    """Column -> sample, of the tiles that have something to see and to count from."""
    config = model.config
    box = columns[0] * side, row * side, (columns[-1] + 1) * side, (row + 1) * side
    strips = [None if raster is None else read_window(raster, box) for raster in rasters]
    last = None if known is None else read_window(known, (columns[0], row, columns[-1] + 1, row + 1))[0]
    for i, column in enumerate(columns):
        tiles = [None if strip is None else strip[:, i * side : (i + 1) * side] for strip in strips]
        tiles = [tile if tile is not None and _has_data(tile, config) else None for tile in tiles]
        sample = {"frames": tiles}
        if last is not None:
            if config.answers == "change" and not np.isfinite(last[i]).all():
                continue
            sample["last_values"] = last[i]
        if any(tile is not None for tile in tiles):
            yield column, sample


def _has_data(tile: np.ndarray, config) -> bool:
    return bool(can_be_seen(nodata_pixels(tile, config.nodata).mean(), config.max_nodata))


def _band_names(model: TileSequenceModel) -> list[str]:
    targets = model.config.targets
    if model.config.head == "image":
        raise DataError("a scene of images is not written: the model must answer with numbers")
    ends = ("low", "high") if model.config.interval_margin is not None else ()
    return [*targets, *(f"{end}_{name}" for end in ends for name in targets)]


def _bands(answer) -> list[float]:
    parts = [answer.values, answer.low, answer.high]
    return [value for part in parts if part is not None for value in part.values()]
