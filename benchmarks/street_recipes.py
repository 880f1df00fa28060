"""The reference implementation's recipe beside ours, trained on the generated sample with the same data, tower and budget.

    python benchmarks/street_recipes.py --seeds 0 1 2

Prints the table that docs/street.md shows: held-out numbers, mean over seeds and their range.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from geohf.recipes.train_street import run
from geohf.report.tables import markdown_table
from geohf.street.arguments import StreetArguments, StreetTrainingArguments

ALONE = {"gps_head": "gallery", "max_cells": 0}
RECIPES: dict[str, dict] = {
    "original: bounded GPS head": {"gps_head": "bounded", "gps_scale": [46.0, 59.0]},
    "ours: class plus offset": {},
    "mixture of von Mises-Fisher": {"gps_head": "vmf"},
    "matching on the sphere, no classes": ALONE | {"location_encoder": "sphere"},
    "matching by harmonics, no classes": ALONE | {"location_encoder": "spherical_harmonics"},
    "matching on the sphere beside classes": {"gps_head": "gallery", "location_encoder": "sphere"},
}
SHOWN = ("score", "top1", "top5", "mean_km", "median_km")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--json", type=Path, help="also write every number here")
    options = parser.parse_args()
    numbers: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for name, fields in RECIPES.items():
                args = StreetTrainingArguments(
                    output_dir=f"{folder}/run",
                    seed=seed,
                    num_train_epochs=options.epochs,
                    disable_tqdm=True,
                    logging_strategy="no",
                )
                found = run(StreetArguments(**fields), args).evaluated
                numbers.setdefault("constant baseline", []).append(found.baseline)
                numbers.setdefault(name, []).append(found.values_by_name)
                print(
                    f"seed {seed}, {name}: {json.dumps({k: round(numbers[name][-1][k], 4) for k in SHOWN if k in numbers[name][-1]})}",
                    flush=True,
                )
    rows = []
    for name, runs in numbers.items():
        row = {"recipe": name}
        for key in SHOWN:
            values = [run[key] for run in runs if key in run]
            if not values:  # without classes there is no state to name
                continue
            digits = 0 if key.endswith("km") else 3
            row[key] = f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
        rows.append(row)
    print(f"\nHeld-out places of the generated sample, mean of seeds {options.seeds} (range):\n")
    print(markdown_table(rows))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
