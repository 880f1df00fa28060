"""Measure any geohf model on data with ground truth.

    python recipes/evaluate.py outputs/street path/to/photos
    python recipes/evaluate.py org/geo-street table.csv --output metrics.json
    python recipes/evaluate.py org/geo-place --help                # with the options of this model's task

DATA is what the task's training recipe takes; of street places and of parts what it holds out is measured, where it comes in
splits, else all its rows: none of these should have been trained on.
"""

import argparse
import json

from geohf.io import atomic_write, plain, require_writable
from geohf.models.loading import load_model
from geohf.recipes.parsing import add_device, add_on_error, command_parser, parse_for_model
from geohf.recipes.running import run_recipe
from geohf.report.tables import markdown_table


def make_parser(**kwargs) -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__, **kwargs)
    parser.add_argument("model", help="A folder, or a repo of the Hub.")
    parser.add_argument(
        "data", nargs="?", help="Data with ground truth, as the task's training recipe takes it."
    )
    parser.add_argument("--output", help="JSON file for the numbers.")
    parser.add_argument("--batch_size", type=int, default=32, help="Samples in one pass.")
    add_on_error(parser)
    add_device(parser)
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    parser, args, chosen = parse_for_model(make_parser, "evaluate_options")
    if args.data is None:
        parser.error("name the data to measure on")
    if args.output:
        require_writable(args.output)
    model = load_model(args.model, args.device)
    metrics = plain(model.evaluate(args.data, args.batch_size, args.on_error, **chosen))
    print(markdown_table({"metric": name, "value": value} for name, value in metrics.items()))
    if args.output:
        with atomic_write(args.output) as file:
            json.dump(metrics, file, indent=2)


if __name__ == "__main__":
    run_recipe(main)
