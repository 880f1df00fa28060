"""Tile sequences next to the original loader and to the machine: reading, building the cache, memory.

OMP_NUM_THREADS=1 python benchmarks/bench_tiles.py [--regions 4 --side 1000]
"""

from __future__ import annotations

import ast
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from measure import Row, make_parser, medians, report, require, seconds
from memory import MIB, alone, peak_added
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from torch.utils.data import DataLoader

from geohf.data.tensor_dataset import identity_collate
from geohf.tiles import SequenceDataLoader
from geohf.tiles.cache import TileCache
from geohf.tiles.cutting import build_cache
from geohf.tiles.table import load_tiles

YEARS = list(range(2016, 2023))
BATCH = 256
SIDES = (64, 64)


def write_world(folder: Path, regions: int, side: int) -> pd.DataFrame:
    """Regions of colored blocks with a sensor's noise, deflated in strips, cut into tiles of 45 x 40 as in the reference implementation."""
    rng, rows = np.random.default_rng(0), []
    for region in range(regions):
        blocks = rng.integers(0, 255, (len(YEARS), side // 5, side // 5, 3), np.uint8)
        for year, block in zip(YEARS, blocks, strict=True):
            path = folder / "Images" / str(year) / f"{region}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = block.repeat(5, 0).repeat(5, 1) // 2 + rng.integers(0, 64, (side, side, 3), np.uint8)
            shape = {"height": side, "width": side, "count": 3, "dtype": "uint8"}
            form = {"driver": "GTiff", "interleave": "pixel", "compress": "deflate", "zlevel": 1}
            with rasterio.open(path, "w", **shape, **form) as raster:
                raster.write(pixels.transpose(2, 0, 1))
        for y in range(0, side - 39, 40):
            for x in range(0, side - 44, 45):
                rows.append((region, rng.random(), str((x, y, x + 45, y + 40))))
    frame = pd.DataFrame(rows, columns=["region_id", "target", "region_coordinates"])
    return frame.assign(tile_id=range(len(frame)))


def original_batch(frame: pd.DataFrame, images: Path, dim: tuple[int, int]) -> np.ndarray:
    """The original loader's way, written anew: a region and year decoded once a batch, the box read
    from its text for every tile and year, Pillow crops and resizes."""
    texts = frame["region_coordinates"].tolist()
    out = np.empty((len(frame), len(YEARS), *dim, 3))
    for t, year in enumerate(YEARS):
        for region, rows in frame.reset_index(drop=True).groupby("region_id").groups.items():
            with Image.open(images / str(year) / f"{region}.tif") as image:
                image.load()
                for row in rows:
                    crop = image.crop(ast.literal_eval(texts[row]))
                    out[row, t] = np.asarray(crop.resize(dim[::-1], Image.Resampling.BICUBIC)) / 255
    return out


def building(table, frame: pd.DataFrame, files: list[Path], folder: Path) -> list[Row]:
    """Cutting all tiles of all years into a new cache, on one process; and of the same files in a zip file."""

    def decode_all():
        for path in files:
            with rasterio.open(path) as raster:
                raster.read()

    decode_all()  # the files are in memory from now on
    decoding = seconds(decode_all)
    took = seconds(lambda: build_cache(table, folder / "cache", workers=1))
    archive = shutil.make_archive(str(folder / "zipped"), "zip", folder / "Images")
    zipped = load_tiles(frame, archive, YEARS)
    from_zip = seconds(lambda: build_cache(zipped, folder / "zip-cache", workers=1))
    what = f"building the cache of {len(files)} images"
    return [
        Row(what, "decoding each once", took / decoding, 3, cost=True),
        Row(f"{what} in a zip file", "the same files in a folder", from_zip / took, 1.5, cost=True),
    ]


def require_same(table, cache, loader, files: list[Path], rows: np.ndarray, expected: np.ndarray) -> None:
    # both round to whole gray levels, at another place in the resize
    apart = np.abs(loader._frames(rows).numpy() - expected) * 255
    require(
        apart.max() < 2.1 and (apart > 1.1).mean() < 1e-4, "batches against the reference implementation's"
    )
    x0, y0, x1, y1 = table.boxes[rows[0]]
    with rasterio.open(files[0]) as raster:
        crop = raster.read().transpose(1, 2, 0)[y0:y1, x0:x1]
    require(np.array_equal(cache[int(rows[0])].numpy()[0], crop), "the cache's pixels against rasterio's")


def reading(frame: pd.DataFrame, images: Path, folder: Path, rounds: int) -> list[Row]:
    table = load_tiles(frame, images, YEARS)
    files = [path for region in table.files for path in region]
    built = building(table, frame, files, folder)
    cache = build_cache(table, folder / "cache")
    loader = SequenceDataLoader(
        YEARS, frame, images, SIDES, BATCH, 3, 42, shuffle=False, normalize=True, cache_dir=folder / "cache"
    )
    rng = np.random.default_rng(1)
    some = np.sort(rng.permutation(len(frame))[:32])
    require_same(table, cache, loader, files, some, original_batch(frame.iloc[some], images, SIDES))

    order = rng.permutation(len(frame))[: 20 * BATCH]
    source = cache.read(order)  # larger than the processor's caches
    shuffled = DataLoader(cache, BATCH, sampler=order.tolist(), collate_fn=identity_collate)
    starts = range(0, len(order), BATCH)

    def go_through(batches):  # a batch is held until the next one is there, as a training loop does
        for _ in batches:
            pass

    few = frame.iloc[:BATCH]  # the original's shuffle does nothing, so that a batch lies in a region or two
    took = medians(
        {
            "copy": lambda: go_through(source[at : at + BATCH].copy() for at in starts),
            "native": lambda: go_through(shuffled),
            "float": lambda: go_through(loader._frames(order[at : at + BATCH]) for at in starts),
        },
        rounds,
    )
    original = medians({"original": lambda: original_batch(few, images, SIDES)}, max(1, rounds // 2))
    original = original["original"] * len(order) / len(few)  # for as many sequences
    world = f"{len(frame):,} sequences of {len(YEARS)} years"
    native, single = f"shuffled uint8 batches, {world}", "shuffled 64 x 64 float32 batches"
    return [
        Row(native, "copying the same bytes in memory", took["copy"] / took["native"], 0.6),
        Row(native, "the original loader's way", original / took["native"], 350),
        Row(single, "the original loader's way", original / took["float"], 40),
        *built,
    ]


def read_all(folder: str) -> tuple[float, float]:
    """MiB of a cache, and MiB that one shuffled pass over it adds to the process's peak."""
    cache = TileCache(folder)
    order = np.random.default_rng(0).permutation(len(cache))

    def go_through():
        for rows in np.array_split(order, max(1, len(cache) // BATCH)):
            cache.read(rows)

    return cache.array.nbytes / MIB, peak_added(go_through)


def memory(caches: Path) -> Row:
    """What a fresh reader gains over one shuffled pass; the file's own pages are the system's, and counted too."""
    (few, low), (many, high) = sorted(alone(read_all, str(path)) for path in caches.iterdir())
    return Row(
        f"memory that a reader gains over a cache of {many:.0f} MiB ({high:.1f} MiB)",
        f"over one of {few:.0f} MiB ({low:.1f} MiB)",
        high / low,
        1.5,
        cost=True,
        unit="× the memory",
    )


def main() -> None:
    parser = make_parser(__doc__, rounds=9)
    parser.add_argument("--regions", type=int, default=20)
    parser.add_argument("--side", type=int, default=2000, help="pixels of a region")
    options = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with tempfile.TemporaryDirectory() as temporary:
        folder, small = Path(temporary), Path(temporary) / "small"
        build_cache(load_tiles(write_world(small, 2, 1400), small / "Images", YEARS), folder / "cache")
        frame = write_world(folder, options.regions, options.side)
        rows = reading(frame, folder / "Images", folder, options.rounds)
        report([*rows, memory(folder / "cache")], options.json)


if __name__ == "__main__":
    main()
