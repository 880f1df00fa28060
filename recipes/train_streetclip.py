"""Train a street model: four street views, or single photographs, to a state and a point.

    accelerate launch recipes/train_streetclip.py                 # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_streetclip.py --config recipes/configs/street.yaml --data path/to/competition
    accelerate launch recipes/train_streetclip.py --data path/to/photos

`--help` lists every argument. `--output_dir` (outputs/street) holds the model and all the rest afterwards.
"""

from geohf.report import markdown_table
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.card import summary_rows
from geohf.street.run import run_street
from geohf.training.arguments import GeoArgumentParser
from geohf.training.run import leave_cores, run_recipe


def make_parser() -> GeoArgumentParser:
    return GeoArgumentParser(StreetArguments, StreetTrainingArguments)


def main() -> None:
    options, args = make_parser().parse()
    with leave_cores(args):
        result = run_street(options, args)
    if args.should_save:
        print(f"\nOn {result.held_out} places:\n\n{markdown_table(summary_rows(result.stages))}\n")
        print(f"Everything lies in {args.output_dir}: open map.html and README.md there.")


if __name__ == "__main__":
    run_recipe(main)
