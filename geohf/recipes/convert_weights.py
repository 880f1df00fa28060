"""A model as its authors published it, to a geohf model: predict, index, push and train on.

    python recipes/convert.py cosplace ResNet50_2048_cosplace.pth models/cosplace
    geohf convert salad dino_salad.ckpt models/salad --image_size 322 434
    geohf convert geoclip path/to/geoclip models/geoclip --backbone path/to/clip-vit-large-patch14

The file is read as tensors alone, and every one of them must find its place in the model.
"""

import argparse
from pathlib import Path

from geohf.errors import DataError
from geohf.hub.card import write_card
from geohf.models.modeling import GeoPreTrainedModel
from geohf.place import GeoPlaceModel
from geohf.place import published as place
from geohf.recipes.parsing import command_parser
from geohf.recipes.running import run_recipe
from geohf.street import GeoStreetModel
from geohf.street import published as street

PUBLISHED = place.PUBLISHED | street.PUBLISHED


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("name", choices=tuple(PUBLISHED), help="What the file holds.")
    parser.add_argument("file", help="The published file, or the folder of a model of several files.")
    parser.add_argument("folder", help="A new folder for the model.")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="Of what a model of place recognition sees; default: what it was published for.",
    )
    parser.add_argument(
        "--backbone", help="Folder of the CLIP that GeoCLIP or OSV-5M stands on; default: from the Hub."
    )
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = make_parser().parse_args()
    folder = Path(args.folder)
    if folder.exists():
        raise DataError(f"{folder}: is there already; name a new folder for the model")
    if args.name in street.PUBLISHED:
        model: GeoPreTrainedModel = GeoStreetModel.from_published(args.name, args.file, args.backbone)
        config = model.config
        what = (
            f"{config.num_classes} cells" if config.cells else f"a gallery of {config.gallery_size} positions"
        )
    else:
        size = args.image_size and tuple(args.image_size)
        model = GeoPlaceModel.from_published(args.name, args.file, size)
        what = f"descriptors of {model.config.descriptor_size}"
    model.save_pretrained(folder)
    write_card(folder, model.card_template, model.config)
    print(f"{folder}: {PUBLISHED[args.name]}, {what}")


if __name__ == "__main__":
    run_recipe(main)
