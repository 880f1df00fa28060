"""Try a model in a browser, on this machine.

    geohf demo outputs/street
    geohf demo outputs/place --index area.parquet --photos drive/
    geohf demo org/geo-street --examples photos/

Nothing leaves this machine unless --share is given; uploads are limited in size and deleted within minutes.
"""

import argparse

from geohf.demo.app import launch, make_app
from geohf.recipes.parsing import add_device, command_parser
from geohf.recipes.running import run_recipe


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("model", help="A folder, or a repo of the Hub.")
    parser.add_argument("--index", help="Of a place model: the index to find photos in.")
    parser.add_argument("--photos", help="The folder of the index's photos, to show them.")
    parser.add_argument("--examples", help="A folder of photos to try.")
    parser.add_argument("--port", type=int, help="By default a free one from 7860 on.")
    parser.add_argument(
        "--share", action="store_true", help="Also give a public link, through Gradio's servers."
    )
    add_device(parser)
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = make_parser().parse_args()
    app = make_app(args.model, args.device, args.index, args.photos, args.examples)
    launch(app, args.port, args.share)


if __name__ == "__main__":
    run_recipe(main)
