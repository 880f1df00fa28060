"""Pairs of images that may show the same place, for hloc, COLMAP and kapture, by a place model.

    python recipes/pairs.py outputs/place images/ --output pairs.txt --features global-feats.h5
    geohf pairs org/geo-place images/ --query_prefix query/ --database_prefix mapping/ --output pairs.txt --top 50

Names are relative to the folder, as these programs have them. An image is never its own answer.
"""

import argparse
from pathlib import Path

from geohf.io import refuse_overwriting, require_writable
from geohf.models.loading import load_model
from geohf.place.modeling import GeoPlaceModel
from geohf.place.pairs import FORMATS, find_pairs, write_features, write_pairs
from geohf.recipes.parsing import add_device, command_parser
from geohf.recipes.running import run_recipe
from geohf.vision.files import image_files


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("model", help="A place model: a folder, or a repo of the Hub.")
    parser.add_argument("images", help="A folder of images.")
    parser.add_argument("--output", required=True, help="The file of pairs to write.")
    parser.add_argument("--format", choices=FORMATS, default="hloc", help="Whose file of pairs.")
    parser.add_argument("--features", help="Also write hloc's global features: an .h5 file.")
    parser.add_argument("--top", type=int, default=20, help="Images for each query.")
    parser.add_argument("--min_similarity", type=float, help="Cosine from which a pair is named.")
    parser.add_argument(
        "--query_prefix", help="How the names of the images begin that ask; default: all ask."
    )
    parser.add_argument("--database_prefix", help="How those begin that answer; default: all answer.")
    parser.add_argument("--batch_size", type=int, default=32, help="Images in one pass.")
    add_device(parser)
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = make_parser().parse_args()
    files = image_files(args.images)
    for written in filter(None, (args.output, args.features)):
        refuse_overwriting(written, files)
        require_writable(written)
    names = [file.relative_to(args.images).as_posix() for file in files]
    descriptors = load_model(args.model, args.device, GeoPlaceModel).encode(files, args.batch_size)
    chosen = (args.top, args.min_similarity, args.query_prefix, args.database_prefix)
    pairs = find_pairs(names, descriptors, *chosen)
    write_pairs(args.output, pairs, args.format)
    if args.features:
        write_features(Path(args.features), names, descriptors)
    print(f"{len(pairs)} pairs of {len(names)} images lie in {args.output}")


if __name__ == "__main__":
    run_recipe(main)
