"""Ask any geohf model about files, folders, globs, tables or datasets, and keep the answers in one file.

    python recipes/predict.py outputs/street photos/ --output answers.html
    python recipes/predict.py org/geo-street 'drive/*.jpg' table.csv --output answers.csv --top_k 3
    python recipes/predict.py org/geo-street --help               # with the options of this model's task

    accelerate launch --num_processes 4 recipes/predict.py outputs/street s3://b/shards/ --output s3://b/answers/

The file's ending says the format: .csv, .jsonl, .parquet or .html, or points as .geojson, .geoparquet, .kml or .gpx; a
folder (it ends in /) gets shards of Parquet. A run that was killed goes on where it stopped.
"""

import argparse
import os
from datetime import timedelta

import torch
from accelerate.state import PartialState

from geohf.models.loading import load_model
from geohf.recipes.parsing import add_device, add_on_error, command_parser, parse_for_model
from geohf.recipes.running import run_recipe
from geohf.vision.thumbnails import MOST


def make_parser(**kwargs) -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__, **kwargs)
    parser.add_argument("model", help="A folder, or a repo of the Hub.")
    parser.add_argument("inputs", nargs="*", help="Files, folders, zips, globs, tables, datasets, addresses.")
    parser.add_argument("--output", help="The file to write, by its ending (see above), or a folder.")
    parser.add_argument("--batch_size", type=int, default=32, help="Inputs in one pass.")
    parser.add_argument(
        "--thumbnails",
        type=int,
        default=MOST,
        help=f"Of how many of the first inputs a map (.html) holds small photographs; 0: of none. Default: {MOST}.",
    )
    add_on_error(parser)
    add_device(parser)
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    parser, args, chosen = parse_for_model(make_parser, "predict_options")
    if not args.inputs or not args.output:
        parser.error("name one input or more, and --output FILE")
    processes = _processes(args.device)
    model = load_model(args.model, processes.device if processes and not args.device else args.device)
    chosen |= {"processes": processes, "thumbnails": args.thumbnails}
    rows = model.predict_to_file(args.inputs, args.output, args.batch_size, on_error=args.on_error, **chosen)
    if processes is None or processes.is_main_process:
        print(f"{rows} rows lie in {args.output}")


def _processes(device: str | None) -> PartialState | None:
    """Those that `accelerate launch` started, where there are several; they wait for the slowest as long as it takes."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    return PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=timedelta(days=30))


if __name__ == "__main__":
    run_recipe(main)
