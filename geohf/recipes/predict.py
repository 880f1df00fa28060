"""Ask any geohf model about files, folders, globs, tables or datasets, and keep the answers in one file.

    python recipes/predict.py outputs/street photos/ --output answers.html
    python recipes/predict.py org/geo-street 'drive/*.jpg' table.csv --output answers.csv --top_k 3
    python recipes/predict.py org/geo-street --help               # with the options of this model's task

The file's ending says the format: .csv, .jsonl, .geojson or .html. A run that was killed goes on where it stopped.
"""

import argparse

from geohf.models.loading import load_model
from geohf.recipes.parsing import add_device, add_on_error, command_parser, parse_for_model
from geohf.recipes.running import run_recipe


def make_parser(**kwargs) -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__, **kwargs)
    parser.add_argument("model", help="A folder, or a repo of the Hub.")
    parser.add_argument("inputs", nargs="*", help="Files, folders, zips, globs, tables, datasets.")
    parser.add_argument("--output", help="The file to write: .csv, .jsonl, .geojson or .html.")
    parser.add_argument("--batch_size", type=int, default=32, help="Inputs in one pass.")
    add_on_error(parser)
    add_device(parser)
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    parser, args, chosen = parse_for_model(make_parser, "predict_options")
    if not args.inputs or not args.output:
        parser.error("name one input or more, and --output FILE")
    model = load_model(args.model, args.device)
    rows = model.predict_to_file(args.inputs, args.output, args.batch_size, on_error=args.on_error, **chosen)
    print(f"{rows} rows lie in {args.output}")


if __name__ == "__main__":
    run_recipe(main)
