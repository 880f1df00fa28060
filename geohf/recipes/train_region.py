"""Train a region model: photographs to coordinates, by an expert a region and a router that finds the region.

    accelerate launch recipes/train_region.py                     # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_region.py --config recipes/configs/region.yaml \\
        --train_csv labels_train.csv --train_dir images_train/images_train \\
        --val_csv labels_val.csv --val_dir images_val/images_val
    accelerate launch recipes/train_region.py --start_from outputs/region --regions 3 5    # two experts anew

`--help` lists every argument. `--output_dir` (outputs/region) holds the model and all the rest afterwards.
"""

from geohf.recipes.running import leave_cores, run_recipe
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.card import summary_rows
from geohf.region.run import run_region
from geohf.report import markdown_table
from geohf.training.arguments import GeoArgumentParser


def make_parser() -> GeoArgumentParser:
    return GeoArgumentParser(RegionArguments, RegionTrainingArguments)


def main() -> None:
    options, args = make_parser().parse()
    with leave_cores(args):
        result = run_region(options, args)
    if args.should_save:
        print(
            f"\nOn held-out photographs:\n\n{markdown_table(summary_rows(result.table, result.model.config.unit))}\n"
        )
        print(f"Everything lies in {args.output_dir}: open README.md and the map or scatter there.")


if __name__ == "__main__":
    run_recipe(main)
