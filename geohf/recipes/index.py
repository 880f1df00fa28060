"""Keep the descriptors of a whole area in one file, to find photographs in it afterwards.

    python recipes/index_places.py outputs/place drive/poses.csv --output area.parquet
    python recipes/predict.py outputs/place photos/ --index area.parquet --output answers.html

A source is a poses.csv, a table with image, lat and lon, or a folder of photographs that say where they were taken.
The file's ending says the format: .parquet or .safetensors. `--storage` makes the index smaller: float16 takes 2 bytes a
number, int8 one (and 4 a row), signs a bit, with rows in half precision that are left on disk; `--dims` keeps so many numbers.
"""

import argparse

from geohf.errors import DataError
from geohf.io import require_writable
from geohf.models.loading import load_model
from geohf.place.index import PlaceIndex
from geohf.place.index_files import index_format
from geohf.place.modeling import GeoPlaceModel
from geohf.place.storage import STORAGES, storage_of
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
    parser.add_argument(
        "--storage",
        choices=tuple(STORAGES),
        help="How descriptors are kept; default: float32, with --add_to as in that index.",
    )
    parser.add_argument("--dims", type=int, help="Numbers of a descriptor to keep; default: all of them.")
    parser.add_argument(
        "--local",
        action="store_true",
        help="Keep local features, too, for --verify of predict; see docs/place.md.",
    )
    parser.add_argument(
        "--add_to", help="An index whose images come first in the file, kept as they are in it."
    )
    parser.add_argument("--batch_size", type=int, default=32, help="Images in one pass.")
    add_on_error(parser)
    add_device(parser)
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = make_parser().parse_args()
    require_writable(args.output)
    known = None if args.add_to is None else PlaceIndex.load(args.add_to)
    if known is not None and (args.local or known.local is not None):
        raise DataError(
            "local features are of one build: leave --add_to or --local out, or build the index anew of all images"
        )
    kept = {"storage": args.storage or "float32", "dims": args.dims}
    if known is not None:
        kept = {"storage": storage_of(known.rows), "dims": None if known.axes is None else len(known.axes)}
        for name, value in kept.items():
            if getattr(args, name) not in (None, value):
                told = f"all {name}" if value is None else f"{name} {value}"
                raise DataError(
                    f"{args.add_to} keeps {told}, and what is added is kept as it is there: leave --{name} out, or "
                    "build the index anew"
                )
    index_format(args.output, local=args.local, **kept)  # before the work, not after it
    index = PlaceIndex.from_drives(
        load_model(args.model, args.device, GeoPlaceModel),
        args.sources,
        args.batch_size,
        local=args.local,
        **(kept if known is None else {}),
        camera_id=args.camera_id,
        utm=args.utm,
        on_error=args.on_error,
    )
    if known is not None:
        known.add(index)
        index = known
    index.save(args.output)
    print(f"{len(index)} images lie in {args.output}, {index.rows.bytes_per_row:g} bytes of memory each")
    if index.local is not None:
        print(f"and {index.local.bytes_per_row} bytes of local features each, which are left on disk")


if __name__ == "__main__":
    run_recipe(main)
