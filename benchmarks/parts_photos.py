"""Photographs of cars with their parts: a detector around published weights beside one from random weights, in one small budget.

    pip install 'geohf[weights]'
    OMP_NUM_THREADS=1 python benchmarks/parts_photos.py FOLDER --seeds 42 1 2

FOLDER is a checkout of github.com/dsmlr/Car-Parts-Segmentation: 400 photos for training, a tenth of which is held out for
validation, and 100 of other sources for the numbers. About 40 CPU minutes for six runs. Prints two
tables of means over seeds with ranges.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from measure import mean_and_range
from transformers import set_seed

from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.data import load
from geohf.parts.modeling import make_model
from geohf.parts.outputs import write_photos
from geohf.parts.trainer import PartStateTrainer
from geohf.report.tables import markdown_table

STARTS = {"ImageNet weights": True, "random weights": False}
DRAWN = 24  # photos
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


def measured(pretrained: bool, seed: int, options: argparse.Namespace, output: Path) -> dict[str, float]:
    """The numbers of one run on the held-out photos; names of parts tell left from right, so no photo is mirrored."""
    args = PartTrainingArguments(
        output_dir=str(output),
        seed=seed,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=4,
        flip=0.0,
        eval_strategy="no",
        save_strategy="no",
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    photos = PartArguments(
        data=options.folder,
        backbone=BACKBONE,
        pretrained=pretrained,
        image_size=[options.image_size] * 2,
        config_overrides=json.dumps(FIELDS),
    )
    data, start = load(photos, args), time.process_time()
    set_seed(seed)
    trainer = PartStateTrainer(make_model(photos, data), args, None, data.train, data.validation)
    trainer.train()
    seconds = time.process_time() - start
    found, config = trainer.outputs(data.held_out), trainer.config
    if options.overlays:
        write_photos(output, data.held_out, found.predictions, trainer.kept_targets, config, DRAWN)
    numbers = {text: found.numbers[name] for name, text in SHOWN.items()} | {"CPU seconds": seconds}
    for number, name in config.id2label.items():
        numbers |= {f"AP of {name}": found.numbers[f"ap/{name}"]}
        numbers |= {f"threshold of {name}": config.thresholds[number]}
    return {name: float(value) for name, value in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=[*STARTS])
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--overlays", type=Path, help="folder for some held-out photos with their parts")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {name: {} for name in options.starts}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.starts:
            for seed in options.seeds:
                output = (options.overlays or Path(temporary)) / f"{name.split()[0]}-{seed}"
                numbers = measured(STARTS[name], seed, options, output)
                rounded = {key: round(value, 4) for key, value in numbers.items()}
                print(name, seed, json.dumps(rounded), flush=True)
                for key, value in numbers.items():
                    found[name].setdefault(key, []).append(value)
    columns = [*SHOWN.values(), "CPU seconds"]
    print(
        markdown_table(
            [{"start": name} | {key: mean_and_range(found[name][key]) for key in columns} for name in found]
        )
    )
    first = found[options.starts[0]]
    parts = [key.removeprefix("AP of ") for key in first if key.startswith("AP of ")]
    rows: list[dict[str, str]] = []
    for part in parts:
        row = {"part": part}
        for name, values in found.items():
            row |= {
                f"{what}, {name}": mean_and_range(values[f"{what} of {part}"]) for what in ("AP", "threshold")
            }
        rows.append(row)
    print(f"\n{markdown_table(rows)}")


if __name__ == "__main__":
    main()
