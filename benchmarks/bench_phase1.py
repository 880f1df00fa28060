"""What phase 1 costs beside one pass of the tower over the same images.

    OMP_NUM_THREADS=1 python benchmarks/bench_phase1.py

Builds a ViT-B/16 at 224 px with random weights, writes generated places, and measures in CPU seconds: one plain
pass of the tower over all images, and phase 1 as `train_heads` runs it (features computed into an empty cache,
then 5 epochs), and the same again on the warm cache. The features of both ways are compared first.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch

from geohf.report import markdown_table
from geohf.street import GeoStreetModel
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.classes import describe_classes
from geohf.street.data import load_places, split_places
from geohf.street.sample import write_sample
from geohf.street.trainer import feature_table, train_heads
from geohf.vision.backbones import tower_features


@torch.inference_mode()
def one_pass(model, files, batch_size) -> torch.Tensor:
    return torch.cat(
        [
            tower_features(model.tower, model.processor.pixel_values(files[start : start + batch_size]))
            for start in range(0, len(files), batch_size)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--places", type=int, default=2, help="places a state in the sample, of 33 states")
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_sample(f"{folder}/data", size=options.places)
        places, _ = load_places(f"{folder}/data")
        splits, _ = split_places(places["train"], "random", validation=0.1, test=0.0)
        train, validation = splits["train"], splits["validation"]
        model = GeoStreetModel.from_backbone(options.backbone, pretrained=False, **describe_classes(train))
        args = StreetTrainingArguments(
            output_dir=f"{folder}/run",
            cache_dir=f"{folder}/cache",
            feature_batch_size=options.batch_size,
            disable_tqdm=True,
            use_cpu=True,
        )
        files = [image["path"] for split in (train, validation) for row in split["views"] for image in row]

        start = time.process_time()
        plain = one_pass(model, files, options.batch_size)
        pass_s = time.process_time() - start
        seconds = []
        for _ in range(2):
            start = time.process_time()
            train_heads(model, train, validation, args)
            seconds.append(time.process_time() - start)
        cached = torch.cat(
            [
                feature_table(model, split, args).columns["features"].flatten(0, 1)
                for split in (train, validation)
            ]
        )
        gap = float((cached - plain).abs().max() / plain.abs().max())
        assert gap < 1e-4, f"cached features differ from the plain pass by {gap:.1e}"
    rows = [
        {"way": "one pass of the tower", "ratio": 1.0},
        {"way": "phase 1, empty cache: features and 5 epochs", "ratio": seconds[0] / pass_s},
        {"way": "phase 1, warm cache: 5 epochs", "ratio": seconds[1] / pass_s},
    ]
    print(
        f"{options.backbone}, {len(files)} images, features equal to {gap:.0e}; CPU time, ratios to one pass:\n"
    )
    print(markdown_table(rows, digits=3))


if __name__ == "__main__":
    main()
