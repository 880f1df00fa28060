"""Heads on a frozen, published backbone, trained on real photographs with their positions in EXIF, beside the mean.

    pip install -e '.[weights]'
    python benchmarks/region_photos.py FOLDER --seeds 0 1 2
    python benchmarks/region_photos.py FOLDER --seeds 0 1 2 --finetune none last all --refine 0 32 --epochs 10

FOLDER holds photographs of one area. Prints the table that docs/region.md shows: held-out photographs, mean over
seeds and their range. Nothing of the photographs is kept.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

from geohf.recipes.train_region import run as run_region
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.report.tables import markdown_table, write_csv
from geohf.training.options import FINETUNE
from geohf.vision.exif import exif_position
from geohf.vision.files import image_files


def write_table(folder: Path, table: Path) -> int:
    """A row for each photograph that has a position."""
    rows = []
    for path in image_files(folder):
        position = exif_position(path)
        if position is not None:
            name = str(Path(path).relative_to(folder))
            rows.append(
                {
                    "filename": name,
                    "latitude": position[0],
                    "longitude": position[1],
                    "Region_ID": folder.name,
                }
            )
    write_csv(table, rows)
    return len(rows)


def errors_of(
    folder: Path, table: Path, seed: int, finetune: str, refine: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Answer -> its errors on the held-out photographs, metres."""
    data = RegionArguments(
        train_csv=str(table), train_dir=str(folder), backbone=options.backbone, experts="shared", split="random",
        validation_share=0.2, test_share=0.3, mad_threshold=0, dbscan_eps=0, percentile_low=0, percentile_high=100,
        min_rows=5, refine=refine,
    )  # fmt: skip
    args = RegionTrainingArguments(
        output_dir=str(table.parent / "run"), seed=seed, finetune=finetune, head_epochs=options.epochs,
        num_train_epochs=options.epochs, cache_dir=str(table.parent / "cache"), disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    found = run_region(data, args).evaluated
    name = {"none": "heads on the frozen backbone"}.get(finetune, f"backbone fine-tuned, {finetune}")
    name += ", prototypes" * bool(refine)
    numbers = {"mean of the training photographs": found.baseline, name: found.values_by_name}
    return {
        answer: {f"{name} m": values[f"routed_{name}_m"] for name in ("mean", "median")}
        | {"photographs": len(found.dataset)}
        for answer, values in numbers.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--finetune", nargs="+", choices=FINETUNE, default=["none"])
    parser.add_argument("--refine", type=int, nargs="+", default=[0], help="prototypes")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        table = Path(temporary) / "photos.csv"
        count = write_table(options.folder, table)
        runs: list[dict] = [{} for _ in options.seeds]
        for seed, run in zip(options.seeds, runs, strict=True):
            for finetune, refine in product(options.finetune, options.refine):
                run |= errors_of(options.folder, table, seed, finetune, refine, options)
    rows = []
    for answer in runs[0]:
        row = {"answer": answer}
        for key in runs[0][answer]:
            values = [run[answer][key] for run in runs]
            row[key] = f"{np.mean(values):.0f} ({min(values):.0f} to {max(values):.0f})"
        rows.append(row)
    print(f"\n{count} photographs of {options.folder.name}, mean of seeds {options.seeds} (range):\n")
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
