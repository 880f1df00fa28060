"""Shared next to separate experts, with the region given and routed, trained on the generated sample.

    python benchmarks/region_recipes.py --seeds 0 1 2
    python benchmarks/region_recipes.py --seeds 0 1 2 --experts shared --backbone tf_efficientnet_lite0 \\
        --finetune none last all --image_size 96 --epochs 10 --sample_size 40     # how much of a published backbone learns
    python benchmarks/region_recipes.py --seeds 0 1 2 --experts shared --density --refine 0 64     # regions, and prototypes

Prints the tables that docs/region.md shows: held-out photographs, mean over seeds and their range.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from transformers.utils import logging as transformers_logging

from geohf.recipes.train_region import run as run_region
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.configuration import EXPERTS
from geohf.report.tables import markdown_table
from geohf.training.options import FINETUNE


def numbers_of(
    experts: str, finetune: str, refine: int, seed: int, options: argparse.Namespace, folder: str
) -> dict[str, dict[str, float]]:
    """Answer -> its mean, median and 90th percentile error, the share of photographs in their 90 % regions, and the router's
    accuracy where it has one.
    """
    args = RegionTrainingArguments(
        output_dir=f"{folder}/{experts}",
        seed=seed,
        head_epochs=options.epochs,
        num_train_epochs=options.epochs,
        finetune=finetune,
        cache_dir=f"{folder}/cache",
        disable_tqdm=True,
        logging_strategy="no",
    )
    data = RegionArguments(
        experts=experts,
        frame=options.frame,
        backbone=options.backbone,
        sample_size=options.sample_size,
        image_size=options.image_size,
        refine=refine,
        density=options.density,
    )
    trainer = run_region(data, args)
    every, baseline, unit = (
        trainer.evaluated.values_by_name,
        trainer.evaluated.baseline,
        trainer.model.config.unit,
    )

    def errors(numbers: dict, prefix: str) -> dict[str, float]:
        row = {f"{name} {unit}": numbers[f"{prefix}_{name}_{unit}"] for name in ("mean", "median", "p90")}
        held = numbers.get(f"{prefix}_region_90")
        return row if held is None else row | {"in 90 % region": held}

    name = experts if finetune == "all" else f"{experts}, {finetune}"
    name += ", prototypes" * bool(refine)
    return {
        "center of all": errors(baseline, "routed"),
        "center of the region given": errors(baseline, "given"),
        f"{name}, routed": errors(every, "routed") | {"router right": every["router_accuracy"]},
        f"{name}, region given": errors(every, "given"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--frame", choices=["wgs84", "planar"], default="wgs84")
    parser.add_argument("--experts", nargs="+", choices=EXPERTS, default=["shared", "separate"])
    parser.add_argument("--finetune", nargs="+", choices=FINETUNE, default=["all"])
    parser.add_argument("--refine", type=int, nargs="+", default=[0], help="prototypes a region")
    parser.add_argument("--density", action="store_true", help="also tell what the 90 %% regions hold")
    parser.add_argument("--backbone", help="default: the sample's tiny one, with random weights")
    parser.add_argument("--image_size", type=int, help="default: the backbone's own")
    parser.add_argument("--sample_size", type=int, default=240, help="training photographs a region")
    parser.add_argument("--json", type=Path, help="also write every number here")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()  # of writing files
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for recipe in product(options.experts, options.finetune, options.refine):
                for name, numbers in numbers_of(*recipe, seed, options, folder).items():
                    if len(runs.setdefault(name, [])) <= options.seeds.index(seed):
                        runs[name].append(numbers)
    rows = []
    for name, numbers in runs.items():
        row = {"answer": name}
        for key in numbers[0]:
            values, digits = [run[key] for run in numbers], 0 if key[-1] in "ms" else 3
            row[key] = f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
        rows.append(row)
    print(f"\nHeld-out photographs of the generated sample, mean of seeds {options.seeds} (range):\n")
    print(markdown_table(rows))
    center, *others = (
        (name.removesuffix(", region given"), np.mean([next(iter(run.values())) for run in numbers]))
        for name, numbers in runs.items()
        if name.endswith("region given")
    )
    told = ", ".join(f"{center[1] / mean:.1f} ({name})" for name, mean in others)
    print(f"\nMean error of the region's center to that of its expert: {told}.")
    if options.json:
        options.json.write_text(json.dumps(runs, indent=2))


if __name__ == "__main__":
    main()
