"""What the frozen-feature cache saves: five seeds over the same photographs, and reading it at real size.

    OMP_NUM_THREADS=1 python benchmarks/bench_features.py

Five random splits of 800 photographs into train, validation and test cost one pass of a ResNet-18 with random weights;
beside them stand five passes, which is what a cache of whole lists costs. Then the features of 65,980 places of four
photographs are read: generated files and numbers, 768 a photograph.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import Row, make_parser, report, require, seconds
from memory import alone, peak_added
from PIL import Image

from geohf.geo import random_split
from geohf.vision import features
from geohf.vision.backbones import TimmTowerConfig
from geohf.vision.features import cached_features
from geohf.vision.processing import GeoImageProcessor
from geohf.vision.towers import build_tower

SEEDS, WIDTH = 5, 768


def splits(files: list[Path], seed: int) -> Iterator[list[Path]]:
    """Train, validation and test of a seed: eight, one and one tenth."""
    held_out = random_split(len(files), 0.2, seed)
    for part in (held_out.train, held_out.validation[::2], held_out.validation[1::2]):
        yield [files[i] for i in part]


def five_seeds(folder: Path, photographs: int) -> list[Row]:
    rng, files = np.random.default_rng(0), [folder / f"{i}.jpg" for i in range(photographs)]
    for file in files:
        noise = rng.integers(0, 256, (15, 20, 3), np.uint8)
        Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(file)
    tower = build_tower(TimmTowerConfig(architecture="resnet18", image_size=224))
    processor, run, computed = GeoImageProcessor(), features._run, []
    features._run = lambda *args: computed.append(len(args[2])) or run(*args)

    def cross(cache: str) -> float:
        return seconds(
            lambda: [
                cached_features(tower, processor, part, folder / cache.format(seed))
                for seed in range(SEEDS)
                for part in splits(files, seed)
            ]
        )

    each = cross("lists-{}")
    require(sum(computed) == SEEDS * photographs, "images of five passes")
    computed.clear()
    once, images = cross("cache"), sum(computed)
    features._run = run
    what, against = (
        f"{SEEDS} seeds of {photographs} photographs",
        f"{SEEDS} passes ({each:.0f} s, ours {once:.0f})",
    )
    return [
        Row(
            f"{what}: photographs through the backbone",
            "photographs",
            images / photographs,
            1,
            cost=True,
            unit="×",
        ),
        Row(what, against, each / once, 4.5),
    ]


class Blank(GeoImageProcessor):
    """Opens nothing."""

    def pixel_values(self, images, augment=None):
        return torch.zeros(len(images), 1)


def features_of(files: list[Path], cache: Path) -> torch.Tensor:
    """Of a backbone that computes nothing: its features are drawn by lot."""
    features.feature_function = lambda *_: lambda pixels: torch.rand(len(pixels), WIDTH)
    tower = torch.nn.Linear(1, 1)
    torch.nn.init.ones_(tower.weight), torch.nn.init.ones_(tower.bias)
    return cached_features(tower, Blank(), files, cache, batch_size=features.SHARD_IMAGES)


def warm_read(folder: str, count: int) -> tuple[float, float, int]:
    """CPU seconds, MiB beside the result, and files of the cache; the names are in another order."""
    files = [Path(folder, "photographs", f"{i}.jpg") for i in range(count)]
    order = np.random.default_rng(1).permutation(count)
    took, found = [], []

    def read() -> None:
        start = time.process_time()
        found.append(features_of([files[i] for i in order], Path(folder, "cache")))
        took.append(time.process_time() - start)

    added = peak_added(read) - found[0].nbytes / 2**20
    return took[0], added, len(list(Path(folder, "cache").iterdir()))


def real_size(folder: Path, count: int) -> list[Row]:
    (folder / "photographs").mkdir()
    files = [folder / "photographs" / f"{i}.jpg" for i in range(count)]
    for file in files:
        file.touch()
    features_of(files, folder / "cache")
    took, added, shards = alone(warm_read, str(folder), count)
    what = f"features of {count:,} photographs, {WIDTH} each, from {shards} files"
    return [
        Row(f"{what}: a warm read in another order", "CPU", took, 10, cost=True, unit="s"),
        Row(f"{what}: memory beside the result", "one file mapped at a time", added, cost=True, unit="MiB"),
    ]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--photographs", type=int, default=800)
    parser.add_argument("--places", type=int, default=65_980, help="of four photographs, at real size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        rows = five_seeds(Path(first), options.photographs)
        report(rows + real_size(Path(second), 4 * options.places), options.json)


if __name__ == "__main__":
    main()
