"""Photographs of cars with their parts: a detector around published weights beside one from random weights, in one small budget.

    pip install 'geohf[weights]'
    OMP_NUM_THREADS=1 python benchmarks/parts_photos.py FOLDER --seeds 42 1 2

FOLDER is a checkout of github.com/dsmlr/Car-Parts-Segmentation: 400 photos for training, a tenth of which is held out for
validation, and 100 of other sources for the numbers. Prints the tables that docs/parts.md shows, means over seeds with ranges.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.trainer import PartStateTrainer
from geohf.recipes.train_parts import run
from geohf.report import markdown_table

STARTS = {"ImageNet weights": True, "random weights": False}
BACKBONE = "tf_efficientnet_lite0"
SHOWN = {
    "map": "mAP",
    "map_50": "mAP 50",
    "hallucination": "hallucination",
    "present_recall": "present recall",
}
# fewer regions and a narrower pyramid than the defaults, for minutes on a CPU
FIELDS = {
    "pyramid_channels": 96,
    "anchor_sizes": [[16], [32], [64], [112], [180]],
    "box_hidden_size": 512,
    "box_batch_size_per_image": 96,
    "rpn_pre_nms_top_n_train": 500,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_train": 200,
    "rpn_post_nms_top_n_test": 150,
}


def trained(pretrained: bool, seed: int, options: argparse.Namespace, output: Path) -> PartStateTrainer:
    """One run, as `geohf train parts` does it; names of parts tell left from right, so no photo is mirrored."""
    args = PartTrainingArguments(
        output_dir=str(output),
        seed=seed,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=4,
        flip=0.0,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    photos = PartArguments(
        data=options.folder,
        backbone=BACKBONE,
        pretrained=pretrained,
        image_size=[options.image_size] * 2,
        config_overrides=json.dumps(FIELDS),
        overlays=options.overlays,
    )
    return run(photos, args)


def numbers_of(trainer: PartStateTrainer) -> dict[str, float]:
    """The numbers of a run on the held-out photos; of each part its average precision and threshold."""
    values, config = trainer.evaluated.values_by_name, trainer.config
    numbers = {text: values[name] for name, text in SHOWN.items()}
    for number, name in config.id2label.items():
        numbers |= {f"AP of {name}": values[f"ap/{name}"], f"threshold of {name}": config.thresholds[number]}
    return {name: float(value) for name, value in numbers.items()}


def shown(values: list[float]) -> str:
    """Mean and range."""
    return f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=[*STARTS])
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--image_size", type=int, default=320)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--overlays", type=int, default=0, help="held-out photos to draw with their parts")
    parser.add_argument("--keep", type=Path, help="folder where the models and overlays stay")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {name: {} for name in options.starts}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.starts:
            for seed in options.seeds:
                start = time.process_time()
                output = (options.keep or Path(temporary)) / f"{name.split()[0]}{seed}"
                numbers = numbers_of(trained(STARTS[name], seed, options, output))
                numbers["CPU seconds"] = time.process_time() - start
                print(
                    name,
                    seed,
                    json.dumps({key: round(value, 4) for key, value in numbers.items()}),
                    flush=True,
                )
                for key, value in numbers.items():
                    found[name].setdefault(key, []).append(value)
    columns = [*SHOWN.values(), "CPU seconds"]
    print(
        markdown_table(
            [{"start": name} | {key: shown(found[name][key]) for key in columns} for name in found]
        )
    )
    parts = [key.removeprefix("AP of ") for key in found[options.starts[0]] if key.startswith("AP of ")]
    print(
        markdown_table(
            [
                {"part": part}
                | {
                    f"{what}, {name}": shown(found[name][f"{what} of {part}"])
                    for name in found
                    for what in ("AP", "threshold")
                }
                for part in parts
            ]
        )
    )


if __name__ == "__main__":
    main()
