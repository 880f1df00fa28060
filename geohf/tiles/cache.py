"""The tile cache: every region decoded once, all its tiles cut in one go, read back as slices of one array.

    tiles.npy    (tiles, steps, height, width, bands), native pixels; tiles smaller than the largest are padded with 0
    holes.npy    (tiles, steps) float32, the share of pixels that were not measured; 1 for a missing year
    index.json   the key of table and files, the nodata value
    done/        an empty file for each region that is whole
    locks/       one for each region: freed by the system when a process dies

Any number of processes may build the same cache at once: each takes the regions that no other holds.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch.utils.data import Dataset

from geohf.errors import DataError
from geohf.tiles.rasters import nodata_pixels, open_raster, read_window
from geohf.tiles.table import TileTable

LAYOUT = 1  # raise it when files of an older version can no longer be read
STRIP_BYTES = 256 * 2**20  # the most that is decoded at once of one region, all steps together


class TileCache(Dataset):
    """A built cache. As a dataset it hands out native sequences, (steps, height, width, bands) each.

    Build or open it with `build_cache`, or open a finished one by its folder.

    Args:
        folder: of a finished cache.
        table: where given, the cache must be this table's.

    Raises:
        DataError: there is no finished cache, or it belongs to another table or other files.
    """

    def __init__(self, folder: str | Path, table: TileTable | None = None):
        self.folder = Path(folder)
        try:
            self.index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise DataError(f"{self.folder}: holds no tile cache") from None
        if self.index["layout"] != LAYOUT:
            raise DataError(f"{self.folder}: was built by another version of geohf; delete it")
        if table is not None and self.index["key"] != cache_key(table):
            raise DataError(f"{self.folder}: was built from another table or other images; delete it")
        left = self.index["regions"] - len(list((self.folder / "done").iterdir()))
        if left:
            raise DataError(f"{self.folder}: {left} regions are not cut yet; build it again to go on")
        self.holes = np.load(self.folder / "holes.npy")
        self._map()

    def _map(self) -> None:
        self.array = np.load(self.folder / "tiles.npy", mmap_mode="r")
        self._file = os.open(self.folder / "tiles.npy", os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    # a worker process opens the file itself; the array's bytes never travel
    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name not in ("array", "_file")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._map()

    @property
    def nodata(self) -> float | None:
        """The pixel value that means "not measured"."""
        return self.index["nodata"]

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Sequence[int], steps: np.ndarray | None = None) -> np.ndarray:
        """A copy of some tiles' frames, (len(rows), steps, height, width, bands), padded to the largest tile.

        The bytes are read and not taken from the memory map: pages of a map count as this process's memory, and
        a shuffled pass touches them all.

        Args:
            steps: (len(rows), n) which steps of each tile; None: all.
        """
        rows = np.asarray(rows)
        frames = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        length, start = self.array[0].nbytes, self.array.offset
        for buffer, row in zip(frames.reshape(len(rows), -1).view(np.uint8), rows.tolist(), strict=True):
            if os.preadv(self._file, [buffer], start + row * length) != length:
                raise DataError(f"{self.folder}: tiles.npy ends before tile {row}; delete the cache")
        return frames if steps is None else frames[np.arange(len(rows))[:, None], steps]

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        """Sequences as one batch (PyTorch's loaders ask for batches by this name): use `collate_fn=batch_as_is`."""
        return torch.from_numpy(self.read(rows))


def default_cache_dir() -> Path:
    """`$GEOHF_CACHE`, or `geohf` in the folder where Hugging Face keeps its caches."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("GEOHF_CACHE") or Path(HF_HOME) / "geohf") / "tiles"


def cache_key(table: TileTable) -> str:
    """A digest of the tiles' places, the labels, and each image's path, size and time of change."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([LAYOUT, table.labels, table.regions, table.nodata], default=str).encode())
    digest.update(table.region.tobytes() + table.boxes.tobytes())
    for path in (path for files in table.files for path in files):
        stat = None if path is None else os.stat(path)
        facts = "none" if stat is None else f"{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}"
        digest.update(facts.encode() + b"\0")
    return digest.hexdigest()


def build_cache(
    table: TileTable, cache_dir: str | Path | None = None, workers: int | None = None
) -> TileCache:
    """Open the cache of a table, cutting the regions that are not in it yet.

    Args:
        cache_dir: the folder of all tile caches; `default_cache_dir()` where None.
        workers: processes to cut with; one a core where None.

    Raises:
        DataError: an image cannot be read, or the disk is full.
    """
    from tqdm.auto import tqdm

    folder = Path(cache_dir or default_cache_dir()) / cache_key(table)
    try:
        _lay_out(folder, table)
        missing = [r for r in range(len(table.regions)) if not _done(folder, r).exists()]
        if missing:
            with tqdm(total=len(missing), desc="cutting tiles", unit="region") as bar:
                busy = _cut_all(folder, table, missing, workers, bar)
                for region in busy:  # another process is at them: wait, and cut what it left behind
                    _cut(folder, table, region, wait=True)
                    bar.update()
    except OSError as error:
        need = _shape_bytes(table) / 2**30
        raise DataError(
            f"{folder}: {need:.3g} GiB of tiles cannot be stored there ({error.strerror}); free some space or "
            "choose another folder with --cache_dir"
        ) from None
    return TileCache(folder, table)


def _cut_all(folder, table, regions, workers, bar) -> list[int]:
    """Cut these regions; returns those that another process holds."""
    workers = min(workers or os.cpu_count() or 1, len(regions))
    busy = []
    if workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        for region in regions:
            _note(_cut(folder, table, region), region, busy, bar)
        return busy
    # a forked worker has all modules loaded; it runs numpy and GDAL only
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        jobs = {pool.submit(_cut, folder, table, region): region for region in regions}
        try:
            for job in as_completed(jobs):
                _note(job.result(), jobs[job], busy, bar)
        except BrokenProcessPool:
            raise DataError(
                f"{folder}: a process that cut tiles was killed, for want of memory perhaps; run again to go on, "
                "with fewer --cache_workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return busy


def _note(cut: bool, region: int, busy: list[int], bar) -> None:
    if cut:
        bar.update()
    else:
        busy.append(region)


def _done(folder: Path, region: int) -> Path:
    return folder / "done" / str(region)


def _shape(table: TileTable) -> tuple[int, ...]:
    height, width = table.sizes.max(0).tolist()
    return len(table), len(table.labels), height, width, table.rasters[0].bands


def _shape_bytes(table: TileTable) -> int:
    return int(np.prod(_shape(table), dtype=np.int64)) * np.dtype(table.rasters[0].dtype).itemsize


def _lay_out(folder: Path, table: TileTable) -> None:
    for name in ("done", "locks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "locks" / "layout"):
        if (folder / "index.json").exists():
            return
        try:
            _reserve(folder / "tiles.npy", _shape(table), table.rasters[0].dtype)
            _reserve(folder / "holes.npy", _shape(table)[:2], "float32")
        except OSError:
            (folder / "tiles.npy").unlink(missing_ok=True)
            raise
        index = {
            "layout": LAYOUT,
            "key": cache_key(table),
            "regions": len(table.regions),
            "nodata": table.nodata,
        }
        temporary = folder / "index.json.tmp"
        temporary.write_text(json.dumps(index), encoding="utf-8")
        os.replace(temporary, folder / "index.json")


def _reserve(path: Path, shape: tuple[int, ...], dtype: str) -> None:
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
    shape = _shape(table)[1:]
    holes = np.load(folder / "holes.npy", mmap_mode="r+")
    tiles = np.load(folder / "tiles.npy", mmap_mode="r")
    with open(folder / "tiles.npy", "r+b", buffering=0) as file:
        for rows, top, bottom in _strips(np.flatnonzero(table.region == region), table, region):
            block, empty = (
                np.zeros((len(rows), *shape), tiles.dtype),
                np.ones((len(rows), shape[0]), np.float32),
            )
            for step, path in enumerate(table.files[region]):
                if path is not None:
                    _cut_strip(path, table, rows, (top, bottom), block[:, step], empty[:, step])
            holes[rows] = empty
            # whole runs of tiles: large writes give the system's cache large pages, which are read faster
            for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                file.seek(tiles.offset + int(rows[run[0]]) * tiles[0].nbytes)
                _write_all(file, block[run[0] : run[-1] + 1])
    holes.flush()


def _cut_strip(path: Path, table: TileTable, rows, strip: tuple[int, int], out, empty) -> None:
    """One step of some tiles into `out` (tiles, height, width, bands), the share of their holes into `empty`."""
    top, bottom = strip
    with open_raster(path) as raster:
        pixels = read_window(raster, (0, top, raster.width, bottom))
    holes = nodata_pixels(pixels, table.nodata)
    whole = not holes.any()
    for i, (x0, y0, x1, y1) in enumerate(table.boxes[rows].tolist()):
        out[i, : y1 - y0, : x1 - x0] = pixels[y0 - top : y1 - top, x0:x1]
        empty[i] = 0.0 if whole else holes[y0 - top : y1 - top, x0:x1].mean()


def _write_all(file, block: np.ndarray) -> None:
    rest = memoryview(block.reshape(-1).view(np.uint8))
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
