"""Shared next to separate experts, with the region given and routed, trained on the generated sample.

    python benchmarks/region_recipes.py --seeds 0 1

Prints the table that docs/region.md shows: held-out photographs, mean over seeds and their range.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from transformers.utils import logging as transformers_logging

from geohf.recipes.train_region import run as run_region
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.report import markdown_table


def numbers_of(
    experts: str, seed: int, epochs: float, frame: str, folder: str
) -> dict[str, dict[str, float]]:
    """Answer -> its mean, median and 90th percentile error, and the router's accuracy where it has one."""
    args = RegionTrainingArguments(
        output_dir=f"{folder}/{experts}",
        seed=seed,
        num_train_epochs=epochs,
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = run_region(RegionArguments(experts=experts, frame=frame), args)
    every, baseline, unit = (
        trainer.evaluated.values_by_name,
        trainer.evaluated.baseline,
        trainer.model.config.unit,
    )

    def errors(numbers: dict, prefix: str) -> dict[str, float]:
        return {f"{name} {unit}": numbers[f"{prefix}_{name}_{unit}"] for name in ("mean", "median", "p90")}

    return {
        "center of all": errors(baseline, "routed"),
        "center of the region given": errors(baseline, "given"),
        f"{experts}, routed": errors(every, "routed") | {"router right": every["router_accuracy"]},
        f"{experts}, region given": errors(every, "given"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--frame", choices=["wgs84", "planar"], default="wgs84")
    parser.add_argument("--json", type=Path, help="also write every number here")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()  # of writing files
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for experts in ("shared", "separate"):
                for name, numbers in numbers_of(experts, seed, options.epochs, options.frame, folder).items():
                    if len(runs.setdefault(name, [])) <= options.seeds.index(seed):
                        runs[name].append(numbers)
    rows = []
    for name, numbers in runs.items():
        row = {"answer": name}
        for key in numbers[0]:
            values, digits = [run[key] for run in numbers], 3 if key == "router right" else 0
            row[key] = f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
        rows.append(row)
    print(f"\nHeld-out photographs of the generated sample, mean of seeds {options.seeds} (range):\n")
    print(markdown_table(rows))
    names = ("center of the region given", "shared, region given", "separate, region given")
    center, shared, separate = (np.mean([next(iter(run.values())) for run in runs[name]]) for name in names)
    print(
        f"\nMean error of the region's center to that of its expert: {center / shared:.1f} (shared), "
        f"{center / separate:.1f} (separate)."
    )
    if options.json:
        options.json.write_text(json.dumps(runs, indent=2))


if __name__ == "__main__":
    main()
