"""Prediction of many photographs: decoding ahead of the model, next to one after the other and to workers.

    python benchmarks/predict_at_scale.py                          # 2,000 JPEGs of 640 px, elapsed time on all cores
    python benchmarks/predict_at_scale.py --memory 10000 100000    # peak memory of predict_to_file, too

Elapsed seconds count, so nothing else may run. The backbone has random weights; the answers of all ways must be equal.
All ways get what the command `geohf predict` does to its process: waiting threads sleep, and freed memory is kept.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded
import torch

CORES = torch.get_num_threads()  # before measure.py takes one

from measure import Row, make_parser, report, require  # noqa: E402
from memory import alone, peak_added  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from transformers import pipeline  # noqa: E402

from geohf import GeoStreetModel  # noqa: E402
from geohf.recipes.running import keep_freed_memory  # noqa: E402

BATCH, GOAL = 32, 1.6


def build(backbone: str, image_size: int | None = None) -> GeoStreetModel:
    torch.manual_seed(0)
    classes = {"id2label": {0: "a", 1: "b"}, "class_centroids": [[40.0, -100.0], [35.0, -90.0]]}
    return GeoStreetModel.from_backbone(backbone, pretrained=False, image_size=image_size, **classes)


def write_photos(folder: Path, count: int) -> list[str]:
    """JPEGs of 640 x 480 with the detail that photographs have: 20 different ones, linked under other names."""
    rng, names = np.random.default_rng(0), []
    for number in range(count):
        names.append(str(folder / f"{number:05d}.jpg"))
        if number >= 20:
            os.link(names[number % 20], names[-1])
            continue
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((640, 480))
        noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (480, 640, 3), np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(names[-1], quality=90)
    return names


@torch.inference_mode()
def one_after_the_other(model: GeoStreetModel, names: list[str]) -> list:
    """What `predict` was before it had threads."""
    answers = []
    for first in range(0, len(names), BATCH):
        answers += model.decode(model(**model.prepare(names[first : first + BATCH])))
    return answers


@torch.inference_mode()
def with_workers(model: GeoStreetModel, names: list[str]) -> list:
    """A plain DataLoader, whose worker processes prepare the batches."""
    answers = []
    loader = DataLoader(names, BATCH, collate_fn=lambda batch: dict(model.prepare(batch)), num_workers=CORES)
    for batch in loader:
        answers += model.decode(model(**batch))
    return answers


def by_pipeline(model: GeoStreetModel, names: list[str]) -> list:
    """transformers' pipeline with workers."""
    ask = pipeline("street-geolocation", model=model, image_processor=model.processor, device="cpu")
    return ask(names, num_workers=CORES, batch_size=BATCH)


def elapsed(ways: dict[str, Callable], rounds: int) -> tuple[dict[str, float], dict[str, list]]:
    """Median seconds of each way, which take turns, and the answers."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name] = way()
            spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in spent.items()}, answers


def compare(backbone: str, images: int, rounds: int) -> list[Row]:
    torch.set_num_threads(CORES)
    keep_freed_memory()
    model = build(backbone)
    with tempfile.TemporaryDirectory() as folder:
        names = write_photos(Path(folder), images)
        one_after_the_other(model, names[:BATCH])
        ways = {
            "predict": lambda: model.predict(names, BATCH),
            "one batch after the other": lambda: one_after_the_other(model, names),
            f"a DataLoader with {CORES} workers": lambda: with_workers(model, names),
            f"transformers' pipeline with {CORES} workers": lambda: by_pipeline(model, names),
        }
        took, answers = elapsed(ways, rounds)
    expected = [(answer.latitude, answer.longitude) for answer in answers["one batch after the other"]]
    for name, found in answers.items():
        points = [a if isinstance(a, dict) else vars(a) for a in found]
        points = np.array([(a["latitude"], a["longitude"]) for a in points])
        require(np.allclose(points, expected, rtol=0, atol=1e-4), name)
    what = f"{images:,} JPEGs of 640 px, {backbone}, {CORES} cores ({images / took['predict']:.0f} images a second)"
    return [
        Row(what, name, seconds / took["predict"], GOAL if "after" in name else None)
        for name, seconds in took.items()
        if name != "predict"
    ]


def peak_of(backbone: str, count: int) -> float:
    """MiB that predicting so many rows of 32 px into a file adds to the process's peak."""
    keep_freed_memory()
    model = build(backbone, image_size=32)
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (32, 32)).save(Path(folder, "a.png"))
        rows = ({"image": str(Path(folder, "a.png")), "heading": float(i)} for i in range(count))
        return peak_added(lambda: model.predict_to_file(rows, Path(folder, "a.csv"), 256))


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--backbone", default="mobilenetv3_small_050")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="rows to measure the memory of")
    options = parser.parse_args()
    rows = compare(options.backbone, options.images, options.rounds)
    for count in options.memory:
        peak = alone(peak_of, "test_resnet", count)
        rows.append(Row(f"peak memory of predict_to_file, {count:,} rows", "", peak, cost=True, unit="MiB"))
    report(rows, options.json)


if __name__ == "__main__":
    main()
