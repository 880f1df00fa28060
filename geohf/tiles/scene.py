"""Prediction over a whole scene, larger than memory: row by row of tiles from disk to disk."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from geohf.data.tensor_dataset import identity_collate
from geohf.data.times import check_frames, times_of_frames
from geohf.errors import DataError, require_at_least, require_whole
from geohf.io import atomic_write, plain, refuse_overwriting
from geohf.models.work import Work
from geohf.tiles.cache import file_facts
from geohf.tiles.geotiff import write_cog
from geohf.tiles.grid import require_alignable, require_same_grid, require_same_kind, require_trained_kind
from geohf.tiles.modeling import TileSequenceModel
from geohf.tiles.rasters import RasterInfo, inspect_raster
from geohf.tiles.reading import Reading
from geohf.tiles.samples import dates_of
from geohf.tiles.strips import Blend, Layout, SceneTiles, band_names, bands_of

logger = logging.getLogger(__name__)
RULES = 3  # raise it when rows of an older version can no longer be gone on with


def predict_scene(
    model: TileSequenceModel,
    frames: Sequence[str | Path | None],
    output: str | Path,
    tile_size: int,
    last_values: str | Path | None = None,
    batch_size: int = 64,
    dates: Sequence[Any] | None = None,
    date: Any = None,
    overlap: float | None = None,
    workers: int = 0,
) -> Path:
    """Predict every tile of a scene and write a cloud-optimized GeoTIFF, with a pixel a tile or a pixel a pixel.

    Memory holds one row of answers and one batch of tiles at a time. Finished rows lie in the folder `<output>.parts` until
    all are: a killed run goes on from there, unless the model, a file or another argument has changed.

    Args:
        frames: rasters on one grid, oldest first, None for a missing one.
        output: the file, replaced only when all of it is written: float32, a band for each target, then, of a calibrated model,
            each `low` and each `high`; of a model that answers with images the bands of each frame. NaN where all frames lack
            data, or the last value does.
        tile_size: side of a tile in pixels.
        last_values: raster of the last known values, a band a target, for a model that predicts changes: a pixel a tile; with
            `overlap` a pixel a pixel, on the frames' grid, of which each tile has the mean.
        batch_size: tiles in one pass.
        dates, date: of the frames (by default as their files are named) and of the answer, for a model that sees dates.
        overlap: None: a pixel a tile, without what does not fill one at the right and lower rim. Else a pixel a pixel, and the
            share, in [0, 1), of a tile's side that the next one shares; there answers are averaged, weighted to tiles' middles.
        workers: processes that read the frames ahead; 0: this one.

    Returns:
        The file's path.

    Raises:
        DataError: a raster cannot be read, lies on another grid or is of another kind than the first or than those
            that the model was trained on; their names go back in time; or the output is one of them.
    """
    if isinstance(frames, (str, Path)):
        raise DataError(f"a scene's frames are a list of rasters, oldest first, got {frames}")
    output, there = Path(output), [path for path in frames if path is not None]
    if output.suffix.lower() not in (".tif", ".tiff") or output.is_dir():
        raise DataError(f"{output}: a scene is written as a GeoTIFF; name a file that ends in .tif")
    if not there or tile_size < 1:
        raise DataError("a scene needs at least one frame, and tiles of at least one pixel")
    require_whole(1, batch_size=batch_size)
    require_at_least(0, workers=workers)
    first = _require_fitting(model, there)
    if first.gcps and not first.located:
        logger.warning(
            "%s: says where it lies by ground control points alone, so %s does not say it; warp the frames first (gdalwarp)",
            there[0],
            output,
        )
    layout = _layout(model, first, tile_size, overlap)
    dated: dict[str, Any] = {}
    if model.config.dates:
        dated = {"dates": times_of_frames(frames) if dates is None else dates, "date": date}
        dates_of(frames, dated["dates"], date, str(output))
    if not layout.tops or not layout.lefts:
        raise DataError(f"{there[0]}: no tile of {tile_size} x {tile_size} pixels fits in")
    grid = first if layout.stride is not None else _tile_grid(first, tile_size)
    if last_values is not None:
        what = "tiles" if layout.stride is None else "pixels"
        _require_last_values(last_values, grid, there[0], len(model.config.targets), what)
    inputs = [*there, *([] if last_values is None else [last_values])]
    refuse_overwriting(output, inputs)
    settings = [tile_size, overlap, [None if p is None else str(p) for p in frames], dated]
    work = Work(model, batch_size, "raise", {}).fingerprint()
    key = [RULES, work, plain(settings), [*map(file_facts, inputs)]]
    folder = _begun(output, json.dumps(key, default=str))
    names = band_names(model.config)
    done = next(row for row in count() if not (folder / f"{row}.npy").exists())
    rows = range(layout.first_row(done) if done < len(layout.tops) else done, len(layout.tops))
    tiles = SceneTiles(model.config, frames, last_values, layout, first, dated, rows, batch_size)
    for row, lines in _predicted(model, tiles, len(names), workers):
        if row >= done:
            with atomic_write(folder / f"{row}.npy", binary=True) as file:
                np.save(file, lines)
    write_cog(output, grid, names, _strips(folder, layout), folder, inputs, model.config.resampling)
    shutil.rmtree(folder)
    return output


def _predicted(
    model: TileSequenceModel, tiles: SceneTiles, bands: int, workers: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(row of tiles, its finished lines), row by row."""
    from tqdm.auto import tqdm

    layout, resampling = tiles.layout, model.config.resampling
    blend = Blend(layout, bands, model.config.head == "image" and resampling == "nearest")
    loader = DataLoader(tiles, batch_size=None, num_workers=workers, collate_fn=identity_collate)
    try:
        with tqdm(total=len(tiles), desc="scene", unit="batch") as bar:
            for chunk in loader:
                samples = list(chunk.samples.values())
                predictions = model.predict(samples, len(samples)) if samples else []
                answers = [bands_of(answer, layout.side, resampling) for answer in predictions]
                blend.add(chunk, dict(zip(chunk.samples, answers, strict=True)))
                if chunk.last:
                    yield chunk.row, blend.finish(chunk.row)
                bar.update()
    finally:
        tiles.close()


def _require_fitting(model: TileSequenceModel, paths: Sequence[str | Path]) -> RasterInfo:
    """The first raster's header; all are on its grid, and of the kind that the model was trained on."""
    check_frames(paths)
    first, reading = inspect_raster(paths[0]), Reading.from_config(model.config.reading)
    for path in paths:
        raster = inspect_raster(path)
        require_trained_kind(path, raster, model.config.pixel_kind)
        require_same_kind(path, raster, paths[0], first)
        reading.require_possible(path, raster)
        (require_alignable if reading.align else require_same_grid)(path, raster, paths[0], first)
    return first


def _layout(model: TileSequenceModel, scene: RasterInfo, side: int, overlap: float | None) -> Layout:
    if overlap is None:
        if model.config.head == "image":
            raise DataError("the model answers with images, a pixel a pixel: say overlap=0 or more")
        return Layout(scene.height, scene.width, side)
    if not 0 <= overlap < 1:
        raise DataError(f"overlap is the share of a tile's side, at least 0 and below 1, got {overlap:g}")
    if model.config.head == "image" and model.config.resampling == "nearest" and overlap > 0:
        raise DataError("the model answers with classes, whose numbers cannot be averaged: say overlap=0")
    return Layout(scene.height, scene.width, side, max(1, round(side * (1 - overlap))))


def _begun(output: Path, key: str) -> Path:
    """The folder of a scene's finished rows, emptied where they are of another scene, model or setting."""
    folder = output.with_name(f"{output.name}.parts")
    file = folder / "key.json"
    if folder.exists() and not (file.exists() and file.read_text(encoding="utf-8") == key):
        own = (".npy", ".tmp", ".tif")
        strange = sorted(path.name for path in folder.iterdir() if path.suffix not in own and path != file)
        if strange:
            raise DataError(f"{folder}: holds {strange[0]}, which no scene wrote; name another output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as written:
        written.write(key)
    return folder


def _strips(folder: Path, layout: Layout) -> Iterator[tuple[int, np.ndarray]]:
    """(first line, lines) of the finished rows."""
    for row in range(len(layout.tops)):
        yield layout.lines(row).start, np.load(folder / f"{row}.npy", allow_pickle=False)


def _tile_grid(raster: RasterInfo, side: int) -> RasterInfo:
    """The grid of a scene's answers: a pixel a tile."""
    from rasterio import Affine

    transform = raster.transform
    if raster.located:
        transform = tuple(raster.affine @ Affine.scale(side))[:6]
    return replace(raster, height=raster.height // side, width=raster.width // side, transform=transform)


def _require_last_values(
    path: str | Path, grid: RasterInfo, start: str | Path, targets: int, what: str
) -> None:
    known = inspect_raster(path)
    if (known.height, known.width) != (grid.height, grid.width):
        raise DataError(
            f"{path}: is {known.width} x {known.height} pixels, the scene has {grid.width} x {grid.height} {what}"
        )
    if known.bands != targets:
        raise DataError(f"{path}: has {known.bands} bands, the model has {targets} targets")
    require_same_grid(path, known, f"the grid of {what} in {start}", grid)
