"""Train a part detector: a photo to its parts, where each is, and the state that it is in.

    accelerate launch recipes/train_parts.py                      # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_parts.py --config recipes/configs/parts.yaml --data path/to/DelftBikes
    accelerate launch recipes/train_parts.py --data path/to/coco

`--help` lists every argument. `--output_dir` (outputs/parts) holds the model and all the rest afterwards.
"""

from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.card import part_rows, summary_rows
from geohf.parts.run import run_parts
from geohf.recipes.running import leave_cores, run_recipe
from geohf.report import markdown_table
from geohf.training.arguments import GeoArgumentParser


def make_parser() -> GeoArgumentParser:
    return GeoArgumentParser(PartArguments, PartTrainingArguments)


def main() -> None:
    options, args = make_parser().parse()
    with leave_cores(args):
        result = run_parts(options, args)
    if args.should_save:
        print(f"\n{markdown_table(part_rows(result.stages['model']))}\n")
        print(f"On {result.held_out} photos:\n\n{markdown_table(summary_rows(result.stages))}\n")
        print(f"Everything lies in {args.output_dir}: open README.md, inspection.csv and overlays there.")


if __name__ == "__main__":
    run_recipe(main)
