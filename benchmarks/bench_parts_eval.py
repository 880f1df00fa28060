"""Our evaluation of boxes next to pycocotools and faster-coco-eval.

The precisions of all ways are compared first, at every overlap, recall and class, and the script stops where they
differ by more than 1e-12. CPU seconds of `evaluate` and `accumulate` (reading the boxes is not counted), ways
interleaved, medians of the rounds, ratios. "like for like" limits the peer to what ours computes: all areas, 100
detections a class; "as it comes" adds its small, medium and large areas and its 1 and 10 detections.

    OMP_NUM_THREADS=1 python benchmarks/bench_parts_eval.py [--images 2000] [--parts 22] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from geohf.parts.coco_eval import Found, Truths, coco_precision
from geohf.report import markdown_table

TOLERANCE = 1e-12


def photos(images: int, parts: int, several: bool, seed: int = 0) -> tuple[Found, Truths]:
    """Truths, near and far detections; about 82,000 of these for 2,000 images x 22 parts with one truth each at most."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, images * parts) if several else rng.random(images * parts) < 0.8
    key = np.repeat(np.arange(images * parts), counts.astype(int))
    corner, size = rng.uniform(0, 400, (len(key), 2)), rng.uniform(8, 120, (len(key), 2))
    truths = Truths(key // parts, key % parts, np.concatenate([corner, corner + size], 1))
    near = np.repeat(np.arange(len(key)), rng.poisson(1.0 if several else 2.1, len(key)))
    box = truths.box[near] + rng.normal(0, 6, (len(near), 4))
    stray = rng.integers(0, images * parts, images * parts // 5)
    corner = rng.uniform(0, 400, (len(stray), 2))
    box = np.concatenate([box, np.concatenate([corner, corner + 30], 1)])
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    key = np.concatenate([key[near], stray])
    order = np.argsort(key, kind="stable")
    scores = rng.random(len(key)).round(3)  # with ties
    return Found(key[order] // parts, key[order] % parts, box[order], scores), truths


class Peer:
    """pycocotools or a package with its interface."""

    def __init__(self, coco, evaluation, found: Found, truths: Truths, images: int, parts: int, full: bool):
        self.evaluation, self.full = evaluation, full
        sizes = truths.box[:, 2:] - truths.box[:, :2]
        with contextlib.redirect_stdout(io.StringIO()):
            self.truths = coco()
            self.truths.dataset = {
                "info": {},
                "images": [{"id": i + 1} for i in range(images)],
                "categories": [{"id": i + 1, "name": str(i)} for i in range(parts)],
                "annotations": [
                    {"id": i + 1, "image_id": int(p) + 1, "category_id": int(c) + 1, "bbox": [*b[:2].tolist(), *s.tolist()],
                     "area": float(s.prod()), "iscrowd": 0}
                    for i, (p, c, b, s) in enumerate(zip(*truths, sizes, strict=True))
                ],
            }  # fmt: skip
            self.truths.createIndex()
            self.found = self.truths.loadRes(
                [
                    {
                        "image_id": int(p) + 1,
                        "category_id": int(c) + 1,
                        "bbox": [*b[:2].tolist(), *(b[2:] - b[:2]).tolist()],
                        "score": float(s),
                    }
                    for p, c, b, s in zip(*found, strict=True)
                ]
            )

    def __call__(self) -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self.evaluation(self.truths, self.found, "bbox")
            if not self.full:
                evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
                evaluation.params.maxDets = [100]
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][..., 0, -1]
        return np.where(precision < 0, np.nan, precision)


def peers() -> dict:
    """Name -> its classes for annotations and evaluation."""
    found = {"pycocotools": (COCO, COCOeval)}
    try:
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        print("faster-coco-eval is not installed and left out", file=sys.stderr)
    else:
        found["faster-coco-eval"] = (FasterCOCO, COCOeval_faster)
    return found


def compare(images: int, parts: int, rounds: int, several: bool) -> list[dict]:
    found, truths = photos(images, parts, several)
    ways = {"geohf": lambda: coco_precision(found, truths, parts)}
    for name, classes in peers().items():
        for full in (False, True):
            way = Peer(*classes, found, truths, images, parts, full)
            ways[f"{name}, {'as it comes' if full else 'like for like'}"] = way
    times, results = {name: [] for name in ways}, {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            results[name] = way()
            times[name].append(time.process_time() - start)
    for name, result in results.items():
        if not np.allclose(result, results["geohf"], rtol=0, atol=TOLERANCE, equal_nan=True):
            sys.exit(f"{name} differs from geohf by {np.nanmax(np.abs(result - results['geohf']))}")
    seconds = {name: statistics.median(values) for name, values in times.items()}
    what = "several truths a part" if several else "one truth a part"
    return [
        {
            "data": f"{what}, {len(truths.label):,} truths, {len(found.score):,} detections",
            "way": name,
            "largest difference": float(np.nanmax(np.abs(results[name] - results["geohf"]))),
            "CPU seconds": value,
            "ratio to geohf": value / seconds["geohf"],
        }
        for name, value in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--parts", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.images:,} images x {options.parts} parts, medians of {options.rounds} rounds")
    rows = [
        row
        for several in (False, True)
        for row in compare(options.images, options.parts, options.rounds, several)
    ]
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
