"""A place, street or region model as an ONNX file: pixels from 0 to 1 in, answers out, for any number of images.

    python recipes/export.py outputs/place --output place.onnx
    geohf export org/geo-street --output street.onnx

Mean, standard deviation, lengths and temperature are inside; the metadata hold height, width and how a picture gets there.
"""

import argparse
from pathlib import Path

from geohf.errors import DataError
from geohf.io import require_writable
from geohf.models.export import export_onnx
from geohf.models.loading import load_model
from geohf.recipes.parsing import command_parser
from geohf.recipes.running import run_recipe


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("model", help="A folder, or a repo of the Hub.")
    parser.add_argument("--output", required=True, help="The file to write, which ends in .onnx.")
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = make_parser().parse_args()
    require_writable(args.output)
    if Path(args.output).suffix.lower() != ".onnx":
        raise DataError(f"{args.output}: name a file that ends in .onnx")
    print(f"{export_onnx(load_model(args.model, 'cpu'), args.output)} is written")


if __name__ == "__main__":
    run_recipe(main)
