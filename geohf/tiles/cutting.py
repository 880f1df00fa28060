"""Cutting tiles: every region is decoded once, and all its tiles are cut in one go.

Any number of processes may cut into the same cache at once: each takes the regions that no other holds. The locks
lie beside the tiles, and the system frees those of a process that dies.

    done/        an empty file for each region that is whole
    locks/       one for each region
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from geohf.errors import DataError
from geohf.io import atomic_write, cache_folder
from geohf.tiles.cache import LAYOUT, TileCache, cache_key
from geohf.tiles.masks import read_window
from geohf.tiles.rasters import open_raster
from geohf.tiles.sources import RasterFile
from geohf.tiles.stores import StoreFrame
from geohf.tiles.table import TileTable

STRIP_BYTES = 256 * 2**20  # the most that is decoded at once of one region, all steps together


def build_cache(
    table: TileTable, cache_dir: str | Path | None = None, workers: int | None = None
) -> TileCache:
    """Open the cache of a table, cutting the regions that are not in it yet.

    Args:
        cache_dir: the folder of all tile caches; None: `tiles` in `$GEOHF_CACHE`, or in the Hugging Face cache's.
        workers: processes to cut with; one a core where None.

    Raises:
        DataError: an image cannot be read, or the disk is full.
    """
    from tqdm.auto import tqdm

    folder = Path(cache_dir or cache_folder("tiles")) / cache_key(table)
    try:
        _lay_out(folder, table)
        missing = [r for r in range(len(table.regions)) if not _done(folder, r).exists()]
        if missing:
            with tqdm(total=len(missing), desc="cutting tiles", unit="region") as bar:
                busy = []
                for region, was_cut in _cut_all(folder, table, missing, workers):
                    if was_cut:
                        bar.update()
                    else:
                        busy.append(region)
                for region in busy:  # another process is at them: wait, and cut what it left behind
                    _cut(folder, table, region, wait=True)
                    bar.update()
    except OSError as error:
        need = np.prod(tiles_shape(table), dtype=np.float64) * np.dtype(table.dtype).itemsize / 2**30
        raise DataError(
            f"{folder}: {need:.3g} GiB of tiles cannot be stored there ({error.strerror}); free some space or "
            "choose another folder with --cache_dir"
        ) from None
    return TileCache(folder, table)


def _cut_all(folder, table, regions, workers) -> Iterator[tuple[int, bool]]:
    """Cut regions as they come: (region, False where another process holds it)."""
    workers = min(workers or os.cpu_count() or 1, len(regions))
    if workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from ((region, _cut(folder, table, region)) for region in regions)
        return
    # a forked worker has all modules loaded; it runs numpy and GDAL only
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        jobs = {pool.submit(_cut, folder, table, region): region for region in regions}
        try:
            yield from ((jobs[job], job.result()) for job in as_completed(jobs))
        except BrokenProcessPool:
            raise DataError(
                f"{folder}: a process that cut tiles was killed, for want of memory perhaps; run again to go on, "
                "with fewer --cache_workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _done(folder: Path, region: int) -> Path:
    return folder / "done" / str(region)


def tiles_shape(table: TileTable) -> tuple[int, ...]:
    """(tiles, steps, height, width, bands) of all tiles, padded to the largest."""
    height, width = table.sizes.max(0).tolist()
    return len(table), len(table.labels), height, width, table.bands


def _lay_out(folder: Path, table: TileTable) -> None:
    for name in ("done", "locks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "locks" / "layout"):
        if (folder / "index.json").exists():
            return
        *shape, width, _ = tiles_shape(table)
        try:
            reserve(folder / "tiles.npy", tiles_shape(table), table.dtype)
            reserve(folder / "holes.npy", (shape[0], shape[1]), "float32")
            reserve(folder / "masks.npy", (*shape, -(-width // 8)), "uint8")
            np.save(folder / "sizes.npy", table.sizes)
        except OSError:
            (folder / "tiles.npy").unlink(missing_ok=True)
            raise
        index = {"layout": LAYOUT, "key": cache_key(table)}
        index |= {"regions": len(table.regions), "nodata": table.nodata}
        with atomic_write(folder / "index.json") as file:
            json.dump(index, file)


def reserve(path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
    """An array file whose every byte has its place on the disk: writing into a map of a full disk would kill us."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _cut(folder: Path, table: TileTable, region: int, wait: bool = False) -> bool:
    """Cut one region unless it is done; False where another process holds it."""
    try:
        with FileLock(folder / "locks" / str(region), timeout=-1 if wait else 0):
            if not _done(folder, region).exists():
                _cut_region(folder, table, region)
                _done(folder, region).touch()
    except Timeout:
        return False
    return True


def _cut_region(folder: Path, table: TileTable, region: int) -> None:
    holes, masks = (np.load(folder / name, mmap_mode="r+") for name in ("holes.npy", "masks.npy"))
    tiles = np.load(folder / "tiles.npy", mmap_mode="r")
    with open(folder / "tiles.npy", "r+b", buffering=0) as file:
        for rows, block, mask in cut_region(table, region):
            holes[rows] = hole_shares(mask, table.sizes[rows])
            masks[rows] = np.packbits(mask, -1)
            # whole runs of tiles: large writes give the system's cache large pages, which are read faster
            for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                file.seek(tiles.offset + int(rows[run[0]]) * tiles[0].nbytes)
                write_all(file, block[run[0] : run[-1] + 1])
    holes.flush()
    masks.flush()


def cut_region(table: TileTable, region: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The tiles of one region, strip by strip of its images, so many at once as fit into memory.

    Yields:
        (rows of the table, ascending; native pixels (rows, steps, height, width, bands), padded to the largest tile;
        which of them were not measured, (rows, steps, height, width) bool: all of a missing year).
    """
    shape = tiles_shape(table)[1:]
    for rows, top, bottom in _strips(np.flatnonzero(table.region == region), table, region):
        block = np.zeros((len(rows), *shape), table.dtype)
        mask = np.ones((len(rows), *shape[:3]), bool)
        for step, path in enumerate(table.files[region]):
            if path is not None:
                _cut_strip(path, table, rows, (top, bottom), block[:, step], mask[:, step])
        yield rows, block, mask


def hole_shares(mask: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The share of pixels that were not measured, (tiles, steps) float32, of masks padded to the largest tile.

    Args:
        mask: (tiles, steps, height, width) bool.
        sizes: (tiles, 2) each tile's own height and width.
    """
    pairs = zip(mask, sizes, strict=True)
    return np.stack([tile[:, :h, :w].mean((1, 2)) for tile, (h, w) in pairs]).astype(np.float32)


def _cut_strip(path: RasterFile, table: TileTable, rows, strip: tuple[int, int], out, mask) -> None:
    """One step of some tiles into `out` (tiles, height, width, bands), what was not measured into `mask`."""
    top, bottom = strip
    grid, first = table.rasters[table.region[rows[0]]], 0
    if isinstance(path, StoreFrame) and not table.reading.align:  # of a store these lines alone are read
        path, first = replace(path, lines=(top, bottom)), top
    with open_raster(path) as raster:
        box = 0, top - first, grid.width, bottom - first
        pixels, holes = read_window(raster, box, table.nodata, table.reading, grid)
    for i, (x0, y0, x1, y1) in enumerate(table.boxes[rows].tolist()):
        out[i, : y1 - y0, : x1 - x0] = pixels[y0 - top : y1 - top, x0:x1]
        mask[i, : y1 - y0, : x1 - x0] = holes[y0 - top : y1 - top, x0:x1]


def cut_tiles(path: RasterFile, table: TileTable, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some tiles of one image, (n, height, width, bands) padded, and which of their pixels were not measured.

    Args:
        rows: of the table, all of the image's region.
    """
    frame = tiles_shape(table)[2:]
    pixels, masks = np.empty((len(rows), *frame), table.dtype), np.empty((len(rows), *frame[:2]), bool)
    for here, top, bottom in _strips(np.unique(rows), table, table.region[rows[0]]):
        out, mask = np.zeros((len(here), *frame), table.dtype), np.ones((len(here), *frame[:2]), bool)
        _cut_strip(path, table, here, (top, bottom), out, mask)
        wanted = np.isin(rows, here)
        position = np.searchsorted(here, rows[wanted])
        pixels[wanted], masks[wanted] = out[position], mask[position]
    return pixels, masks


def write_all(file, block: np.ndarray) -> None:
    """All bytes of an array into a file without a buffer, which may take fewer at once."""
    rest = block.reshape(-1).view(np.uint8).data
    while rest:
        rest = rest[file.write(rest) :]


def _strips(rows: np.ndarray, table: TileTable, region: int):
    """Tiles by strips of their images that fit into memory, all steps at once: (rows ascending, top, bottom)."""
    raster = table.rasters[region]
    line = raster.width * raster.bands * np.dtype(raster.dtype).itemsize * len(table.labels)
    rows = rows[np.argsort(table.boxes[rows, 1], kind="stable")]
    while len(rows):
        top = table.boxes[rows[0], 1]
        fits = (table.boxes[rows, 3] - top) * line <= STRIP_BYTES
        fits[0] = True  # a tile is never cut apart
        here = np.sort(rows[fits])
        yield here, int(top), int(table.boxes[here, 3].max())
        rows = rows[~fits]
