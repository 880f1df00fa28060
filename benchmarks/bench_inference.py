"""The ways in which a frozen tower can compute features, next to eager float32, which is exact.

    OMP_NUM_THREADS=1 python benchmarks/bench_inference.py

Towers have random weights; how near their descriptors come is the least cosine of any image's to its exact one.
bfloat16 is fast where the processor computes in it (AMX, AVX512-BF16) and slow elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch._inductor.config
from measure import Row, make_parser, medians, report, require
from memory import alone, peak_added

from geohf.vision.backbones import TimmTowerConfig
from geohf.vision.features import feature_function
from geohf.vision.towers import build_tower

COSINES = {"compile": 0.9999, "int8": 0.98, "bf16": 0.99}  # far from these a way would be broken
SIDE = 224


def function_of(architecture: str, way: str, images: int) -> tuple[Callable, torch.Tensor]:
    """Images to features in one of the ways, and images."""
    torch.manual_seed(0)
    tower = build_tower(TimmTowerConfig(architecture=architecture, image_size=SIDE)).eval()
    pixels = torch.randn(images, 3, SIDE, SIDE)
    compute = feature_function(tower, mode=way if way in ("compile", "int8") else "eager", batch_size=images)

    @torch.inference_mode()
    def features() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=way == "bf16"):
            return compute(pixels).float()

    return features, pixels


def added_by(architecture: str, way: str, images: int) -> float:
    """MiB that making the tower and computing one batch add to the process's peak."""
    function_of("test_resnet", "eager", 1)[0]()  # imports
    return peak_added(lambda: function_of(architecture, way, images)[0]())


def compare(architecture: str, images: int, rounds: int) -> list[Row]:
    ways = {way: function_of(architecture, way, images)[0] for way in ("eager", *COSINES)}
    exact, first, cosine = ways["eager"](), {}, {}
    for way, least in COSINES.items():
        start = time.perf_counter()  # compilers are processes of their own, and CPU time leaves them out
        found = ways[way]()
        first[way] = time.perf_counter() - start
        cosine[way] = float(torch.nn.functional.cosine_similarity(found, exact).min())
        require(cosine[way] > least, f"{way} of {architecture}: cosine {cosine[way]:.4f}")
    took = medians(ways, rounds)
    memory = {way: alone(added_by, architecture, way, images) for way in ways}
    against = f"eager float32 ({memory['eager']:.0f} MiB)"
    rows = []
    for way in COSINES:
        what = f"features by {architecture}, batch {images}, {way}"
        rows.append(Row(f"{what} (cosine {cosine[way]:.5f})", against, took["eager"] / took[way]))
        rows.append(
            Row(
                f"peak memory of {what}",
                against,
                memory[way] / memory["eager"],
                cost=True,
                unit="× the memory",
            )
        )
    once = (first["compile"] - took["compile"]) / took["eager"]
    rows.append(
        Row(f"compiling {architecture} once, elapsed", f"a batch of {images}, eager float32", once, cost=True)
    )
    return rows


def main() -> None:
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--backbones", nargs="+", default=["vit_base_patch16_224", "convnext_tiny"])
    parser.add_argument("--images", type=int, default=8, help="in a batch")
    options = parser.parse_args()
    torch._inductor.config.force_disable_caches = True  # what was compiled before would count as fast
    rows = [row for name in options.backbones for row in compare(name, options.images, options.rounds)]
    report(rows, options.json)


if __name__ == "__main__":
    main()
