"""From JPEG files to 224 px tensors, next to Pillow with torchvision's v1 transforms.

    OMP_NUM_THREADS=1 python benchmarks/bench_images.py

The pictures are generated: colored patches with noise. How near ours comes to the exact pixels is printed as PSNR.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from measure import Row, make_parser, medians, report, require
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from geohf.vision.processing import GeoImageProcessor

SIDE = 224


def jpeg(width: int, height: int, rng: np.random.Generator) -> bytes:
    patches = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))
    noisy = (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(noisy).save(data, "JPEG", quality=90)
    return data.getvalue()


def main() -> None:
    parser = make_parser(__doc__, rounds=9)
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    half = (0.5, 0.5, 0.5)
    v1 = Compose(
        [Resize(SIDE, InterpolationMode.BICUBIC), CenterCrop(SIDE), ToTensor(), Normalize(half, half)]
    )
    near, reduced = GeoImageProcessor(), GeoImageProcessor(reduced_decoding=True)
    rows = []
    for width, height, goals in ((640, 480, (1.6, 2.3)), (1600, 1200, (1.6, 2.3))):
        rng = np.random.default_rng(0)
        files = [jpeg(width, height, rng) for _ in range(options.images)]
        ways = {
            "Pillow and v1 transforms": lambda files=files: torch.stack(
                [v1(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
            ),
            "geohf": lambda files=files: near.pixel_values(files),
            "geohf, reduced_decoding": lambda files=files: reduced.pixel_values(files),
        }
        exact, *ours = (way() for way in ways.values())
        took = medians(ways, options.rounds)
        base = took["Pillow and v1 transforms"]
        for (name, seconds), pixels, goal in zip(list(took.items())[1:], ours, goals, strict=True):
            decibel = float(10 * torch.log10(4 / (pixels - exact).square().mean()))
            require(decibel > 40, f"{name}, {width} px: PSNR {decibel:.1f} dB")
            rows.append(
                Row(
                    f"JPEG of {width} px to tensors, {name} ({decibel:.0f} dB)",
                    "Pillow and v1 transforms",
                    base / seconds,
                    goal,
                )
            )
    report(rows, options.json)


if __name__ == "__main__":
    main()
