"""Weights of a timm model that was trained elsewhere, on any bands, to a folder that `--backbone` takes.

    geohf convert timm B10_resnet50.pth models/s2-resnet50 --architecture resnet50 \\
        --bands B02 B03 B04 --mean 429.9 614.2 590.2 --std 572.4 582.9 675.9 --license mit

The file is read as tensors alone, and every weight of the model must be there; its classifier is left out.
"""

import argparse

from geohf.errors import listed
from geohf.recipes.parsing import command_parser
from geohf.recipes.running import run_recipe
from geohf.vision.converted import convert_timm


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("name", choices=("timm",), help="What the file holds.")
    parser.add_argument(
        "file", help="State dict: .safetensors, or .pth, .pt, .bin and .ckpt as tensors alone."
    )
    parser.add_argument("folder", help="A new folder for the backbone.")
    parser.add_argument("--architecture", required=True, help="timm's name of the model.")
    parser.add_argument("--bands", nargs="+", required=True, help="Names of what it sees, in its order.")
    for name, what in (("mean", "Mean"), ("std", "Standard deviation")):
        text = f"{what} of each band's pixels in its training."
        parser.add_argument(f"--{name}", type=float, nargs="+", required=True, help=text)
    parser.add_argument("--license", help="Of the weights.")
    parser.add_argument("--image_size", type=int, default=224, help="Side of its training images in pixels.")
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = vars(make_parser().parse_args())
    del args["name"]
    left = convert_timm(**args)
    without = f", without {listed(left)}" if left else ""
    print(f"{args['folder']}: {args['architecture']} of {len(args['bands'])} bands{without}")


if __name__ == "__main__":
    run_recipe(main)
