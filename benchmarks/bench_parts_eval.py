"""Our evaluation of boxes next to pycocotools and faster-coco-eval.

The precisions of all ways are the same at every overlap, recall and class, to 1e-12. Reading the boxes is not counted.
"like for like" limits the peer to what ours computes: all areas, 100 detections a class; "as it comes" adds its small,
medium and large areas and its 1 and 10 detections.

    OMP_NUM_THREADS=1 python benchmarks/bench_parts_eval.py
"""

from __future__ import annotations

import contextlib
import importlib
import io

import numpy as np
from measure import Row, installed, make_parser, medians, report, require

from geohf.parts.coco_eval import Detections, GroundTruth, MatchedBoxes

TOLERANCE = 1e-12


def photos(images: int, parts: int, several: bool, seed: int = 0) -> tuple[Detections, GroundTruth]:
    """Truths, near and far detections; about 82,000 of these for 2,000 images x 22 parts with one truth each at most."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, images * parts) if several else rng.random(images * parts) < 0.8
    key = np.repeat(np.arange(images * parts), counts.astype(int))
    corner, size = rng.uniform(0, 400, (len(key), 2)), rng.uniform(8, 120, (len(key), 2))
    truths = GroundTruth(key // parts, key % parts, np.concatenate([corner, corner + size], 1))
    near = np.repeat(np.arange(len(key)), rng.poisson(1.0 if several else 2.1, len(key)))
    box = truths.box[near] + rng.normal(0, 6, (len(near), 4))
    stray = rng.integers(0, images * parts, images * parts // 5)
    corner = rng.uniform(0, 400, (len(stray), 2))
    box = np.concatenate([box, np.concatenate([corner, corner + 30], 1)])
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    key = np.concatenate([key[near], stray])
    order = np.argsort(key, kind="stable")
    scores = rng.random(len(key)).round(3)  # with ties
    return Detections(key[order] // parts, key[order] % parts, box[order], scores), truths


class Peer:
    """pycocotools or a package with its interface."""

    def __init__(
        self, coco, evaluation, found: Detections, truths: GroundTruth, images: int, parts: int, full: bool
    ):
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


# name -> its package, the modules and names of its annotations and of its evaluation
PEERS = {
    "pycocotools": ("pycocotools", ("pycocotools.coco", "COCO"), ("pycocotools.cocoeval", "COCOeval")),
    "faster-coco-eval": (
        "faster_coco_eval",
        ("faster_coco_eval", "COCO"),
        ("faster_coco_eval", "COCOeval_faster"),
    ),
}


def compare(images: int, parts: int, rounds: int, several: bool) -> list[Row]:
    found, truths = photos(images, parts, several)
    results, ways, absent = {}, {"geohf": lambda: MatchedBoxes(found, truths, parts).precision()}, []
    for name, (package, *classes) in PEERS.items():
        if not installed(package):
            absent.append(name)
            continue
        classes = [getattr(importlib.import_module(module), attribute) for module, attribute in classes]
        for full in (False, True):
            way = Peer(*classes, found, truths, images, parts, full)
            ways[f"{name}, {'as it comes' if full else 'like for like'}"] = way

    def keeping(name, way):
        results[name] = way()

    took = medians(
        {name: lambda name=name, way=way: keeping(name, way) for name, way in ways.items()},
        rounds,
        slow=tuple(name for name in ways if name.startswith("pycocotools")),  # a minute and more
    )
    for name, result in results.items():
        same = np.allclose(result, results["geohf"], rtol=0, atol=TOLERANCE, equal_nan=True)
        require(same, f"{name} against geohf")
    truth = "several truths a part" if several else "one truth a part"
    what = f"mAP, {images:,} photos x {parts} parts, {truth}, {len(found.score):,} detections"
    goal = {"pycocotools, like for like": 4 if several else 50}
    rows = [Row(what, name, took[name] / took["geohf"], goal.get(name)) for name in ways if name != "geohf"]
    return rows + [Row(what, name, None) for name in absent]


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--parts", type=int, default=22)
    options = parser.parse_args()
    sizes = options.images, options.parts, options.rounds
    report(compare(*sizes, False) + compare(*sizes, True), options.json)


if __name__ == "__main__":
    main()
