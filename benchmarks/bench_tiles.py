"""Tile sequences side by side: the cache, the loader and the ConvLSTM, each to what it replaces.

    OMP_NUM_THREADS=1 python benchmarks/bench_tiles.py                       # 20 regions of 2000 x 2000, 43,000 tiles
    OMP_NUM_THREADS=1 python benchmarks/bench_tiles.py --regions 4 --side 1000

Results are compared before anything is timed. CPU seconds, ways interleaved, medians of the rounds, ratios.
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import torch
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from torch import nn
from torch.utils.data import DataLoader

from geohf.report import markdown_table
from geohf.tiles import SequenceDataLoader
from geohf.tiles.cells import ConvLSTMCell, RecurrentEncoder
from geohf.tiles.cutting import build_cache
from geohf.tiles.table import load_tiles
from geohf.training.tensor_table import batch_as_is

YEARS = list(range(2016, 2023))
BATCH = 256


def write_world(folder: Path, regions: int, side: int) -> pd.DataFrame:
    """Regions of coloured blocks with a sensor's noise, deflated in strips, cut into tiles of 45 x 40 as in the seed."""
    rng, rows = np.random.default_rng(0), []
    for region in range(regions):
        blocks = rng.integers(0, 255, (len(YEARS), side // 5, side // 5, 3), np.uint8)
        for year, block in zip(YEARS, blocks, strict=True):
            path = folder / "Images" / str(year) / f"{region}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = block.repeat(5, 0).repeat(5, 1) // 2 + rng.integers(0, 64, (side, side, 3), np.uint8)
            with rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=side,
                width=side,
                count=3,
                dtype="uint8",
                interleave="pixel",
                compress="deflate",
                zlevel=1,
            ) as raster:
                raster.write(pixels.transpose(2, 0, 1))
        for y in range(0, side - 39, 40):
            for x in range(0, side - 44, 45):
                rows.append(
                    {
                        "region_id": region,
                        "target": rng.random(),
                        "region_coordinates": str((x, y, x + 45, y + 40)),
                    }
                )
    return pd.DataFrame(rows).assign(tile_id=range(len(rows)))


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
                    out[row, t] = (
                        np.asarray(
                            image.crop(ast.literal_eval(texts[row])).resize(
                                dim[::-1], Image.Resampling.BICUBIC
                            )
                        )
                        / 255
                    )
    return out


class PlainConvLSTM(nn.Module):
    """The usual form: one convolution over [x, h] at every step, states of zeros at the first."""

    def __init__(self, cells: list[ConvLSTMCell]):
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        steps = frames.unbind(1)
        for cell in self.cells:
            h = c = frames.new_zeros(len(frames), cell.hidden, *frames.shape[-2:])
            outputs = []
            for x in steps:
                i, f, g, o = cell.gates(torch.cat([x, h], 1)).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            steps = outputs
        return steps[-1]


def seconds(way) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start


def medians(ways: dict, rounds: int) -> dict[str, float]:
    """CPU seconds of each way, in turns."""
    for way in ways.values():
        way()
    taken = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(seconds(way))
    return {name: statistics.median(values) for name, values in taken.items()}


def bench_loading(folder: Path, regions: int, side: int, rounds: int) -> None:
    frame = write_world(folder, regions, side)
    images = folder / "Images"
    table = load_tiles(frame, images, YEARS)
    files = [path for region in table.files for path in region]

    def decode_all():
        for path in files:
            with rasterio.open(path) as raster:
                raster.read()

    decode_all()
    decoding = seconds(decode_all)
    building = seconds(lambda: build_cache(table, folder / "cache", workers=1))
    cache = build_cache(table, folder / "cache")
    loader = SequenceDataLoader(
        YEARS,
        frame,
        images,
        (64, 64),
        BATCH,
        3,
        42,
        shuffle=False,
        normalize=True,
        cache_dir=folder / "cache",
    )
    rng = np.random.default_rng(1)
    some = np.sort(rng.permutation(len(frame))[:32])
    theirs = original_batch(frame.iloc[some], images, (64, 64))
    ours = loader._frames(some).numpy()
    # both round to whole grey levels, at another place in the resize
    apart = np.abs(ours - theirs) * 255
    assert apart.max() < 2.1, "the loaders' batches differ"
    assert (apart > 1.1).mean() < 1e-4, "the loaders' batches differ"
    native = cache[int(some[0])].numpy()
    x0, y0, x1, y1 = table.boxes[some[0]]
    with rasterio.open(files[0]) as raster:
        assert np.array_equal(native[0], raster.read().transpose(1, 2, 0)[y0:y1, x0:x1]), (
            "the cache's pixels differ"
        )

    n = min(len(frame), 20 * BATCH)
    order = rng.permutation(len(frame))[:n]
    source = cache.read(order)  # larger than the processor's caches
    shuffled = DataLoader(cache, BATCH, sampler=order.tolist(), collate_fn=batch_as_is)

    def copy():  # a batch is held until the next one is there, as a training loop does
        for _ in (source[start : start + BATCH].copy() for start in range(0, n, BATCH)):
            pass

    def native_batches():
        for _ in shuffled:
            pass

    def float_batches():
        for _ in (loader._frames(order[start : start + BATCH]) for start in range(0, n, BATCH)):
            pass

    few = frame.iloc[
        :BATCH
    ]  # the original's order: its shuffle does nothing, so a batch lies in a region or two
    took = medians({"copy": copy, "native": native_batches, "float": float_batches}, rounds)
    rates = {name: n / value for name, value in took.items()}
    rates["original"] = BATCH / statistics.median(
        seconds(lambda: original_batch(few, images, (64, 64))) for _ in range(max(1, rounds // 2))
    )
    rows = [
        {"way": "copying the same bytes in memory", "sequences a CPU second": rates["copy"]},
        {
            "way": "native uint8, shuffled, DataLoader",
            "sequences a CPU second": rates["native"],
            "to copying": rates["native"] / rates["copy"],
        },
        {
            "way": "64 x 64 float32, shuffled (SequenceDataLoader)",
            "sequences a CPU second": rates["float"],
            "to copying": rates["float"] / rates["copy"],
        },
        {
            "way": "the original's way (64 x 64 float64)",
            "sequences a CPU second": rates["original"],
            "to copying": rates["original"] / rates["copy"],
        },
    ]
    rows = [row | {"to the original": row["sequences a CPU second"] / rates["original"]} for row in rows]
    print(f"\n{len(frame):,} sequences of {len(YEARS)} years, {len(files)} images of {side} x {side}\n")
    print(markdown_table(rows))
    print(
        f"\nbuilding the cache: {building:.2f} CPU s, {building / decoding:.2f} times decoding every image once ({decoding:.2f} s)"
    )


READER = """
import os, sys
import numpy as np
from geohf.tiles.cache import TileCache
cache = TileCache(sys.argv[1])
rng = np.random.default_rng(0)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
peak = start = resident()
for batch in np.array_split(rng.permutation(len(cache)), max(1, len(cache) // 256)):
    cache.read(batch)
    peak = max(peak, resident())
print(cache.array.nbytes / 2**20, peak - start)
"""


def bench_memory(folder: Path) -> None:
    """What a fresh reader's resident memory grows by over one shuffled pass."""
    if not Path("/proc/self/statm").exists():
        return
    rows = []
    for cache in sorted((folder / "cache").iterdir(), key=lambda path: (path / "tiles.npy").stat().st_size):
        done = subprocess.run(
            [sys.executable, "-c", READER, str(cache)], capture_output=True, text=True, check=True
        )
        size, growth = map(float, done.stdout.split())
        rows.append({"cache, MiB": size, "resident memory grows by, MiB": growth})
    print("\n" + markdown_table(rows, digits=3))


def keras_form(cells: list[ConvLSTMCell]):
    """Keras' ConvLSTM2D layers with the weights of our cells, on its torch backend; None where Keras is missing."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
    except ImportError:
        return None
    layers = []
    for i, cell in enumerate(cells):
        layer = keras.layers.ConvLSTM2D(
            cell.hidden,
            cell.gates.kernel_size,
            padding="same",
            data_format="channels_first",
            return_sequences=i < len(cells) - 1,
        )
        layer.build((None, None, cell.inputs, 64, 64))
        weight = cell.gates.weight.detach().permute(2, 3, 1, 0)
        parts = (weight[:, :, : cell.inputs], weight[:, :, cell.inputs :], cell.gates.bias.detach())
        layer.set_weights([part.numpy() for part in parts])
        layers.append(layer)
    return keras.Sequential(layers)


def bench_convlstm(rounds: int) -> None:
    torch.manual_seed(0)
    cells = [ConvLSTMCell(3, 32), ConvLSTMCell(32, 32)]
    plain, ours = PlainConvLSTM(cells), RecurrentEncoder(cells)
    patched = RecurrentEncoder([ConvLSTMCell(48, 32), ConvLSTMCell(32, 32)], patch_size=4)
    frames = torch.randn(16, 6, 3, 64, 64)
    weights = list(plain.parameters())
    one, two = plain(frames), ours(frames)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    gradients = (torch.autograd.grad(out.square().mean(), weights) for out in (one, two))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    names = {"plain, one convolution a step": plain, "geohf": ours, "geohf, patch_size 4": patched}
    peer = keras_form(cells)
    if peer is not None:
        torch.testing.assert_close(peer(frames), one, rtol=1e-4, atol=1e-5)
        names["Keras' ConvLSTM2D on torch"] = peer
    steps = {name: lambda m=m: m(frames).square().mean().backward() for name, m in names.items()}
    took = medians(steps, rounds)
    base = took["plain, one convolution a step"]
    rows = [{"training step": name, "CPU s": s, "times as fast": base / s} for name, s in took.items()]
    print("\nConvLSTM, 2 layers of 32, 16 x 6 x 3 x 64 x 64\n\n" + markdown_table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regions", type=int, default=20)
    parser.add_argument("--side", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    bench_convlstm(options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small"
        build_cache(load_tiles(write_world(small, 2, 1400), small / "Images", YEARS), Path(folder) / "cache")
        bench_loading(Path(folder), options.regions, options.side, options.rounds)
        bench_memory(Path(folder))


if __name__ == "__main__":
    main()
