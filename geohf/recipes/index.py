"""Keep the descriptors of a whole area in one file, to find photographs in it afterwards.

    python recipes/index_places.py outputs/place drive/poses.csv --output area.parquet
    python recipes/predict.py outputs/place photos/ --index area.parquet --output answers.html

A source is a poses.csv, a table with image, lat and lon, or a folder of photographs that say where they were taken.
The file's ending says the format: .parquet or .safetensors.
"""

import argparse

from geohf.models.loading import load_model
from geohf.place.index import PlaceIndex, index_format
from geohf.place.modeling import GeoPlaceModel
from geohf.recipes.parsing import add_device, add_on_error, command_parser
from geohf.recipes.running import run_recipe


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("model", help="A place model: a folder, or a repo of the Hub.")
    parser.add_argument("sources", nargs="+", help="Tables or folders of photographs with positions.")
    parser.add_argument("--output", required=True, help="The file to write: .parquet or .safetensors.")
    parser.add_argument("--camera_id", help="Take only the rows of this camera.")
    parser.add_argument("--utm", help="Zone of UTM coordinates that come without one, like '54 north'.")
    parser.add_argument("--batch_size", type=int, default=32, help="Images in one pass.")
    add_on_error(parser)
    add_device(parser)
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = make_parser().parse_args()
    index_format(args.output)  # before the work, not after it
    index = PlaceIndex.from_drives(
        load_model(args.model, args.device, GeoPlaceModel),
        args.sources,
        args.batch_size,
        camera_id=args.camera_id,
        utm=args.utm,
        on_error=args.on_error,
    )
    index.save(args.output)
    print(f"{len(index)} images lie in {args.output}")


if __name__ == "__main__":
    run_recipe(main)
