"""Make the demo of a model that lies on the Hub a Space.

    geohf push-demo org/geo-street org/geo-street-demo
    geohf push-demo org/geo-street org/geo-street-demo --output_dir space --examples photos/

The folder with app.py, requirements and card stays in --output_dir.
"""

import argparse

from geohf.demo.space import push_space, write_space
from geohf.recipes.parsing import command_parser
from geohf.recipes.running import run_recipe


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("model", help="The model's repo, org/name.")
    parser.add_argument("space", help="The Space, org/name; it is created where it does not exist.")
    parser.add_argument("--output_dir", default="space", help="A new folder for the Space's files.")
    parser.add_argument("--examples", help="A folder of photos to try; their tags are left out.")
    parser.add_argument("--private", action="store_true", default=None, help="Create a private Space.")
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = make_parser().parse_args()
    write_space(args.output_dir, args.model, args.examples)
    print(f"pushed {args.output_dir} to {push_space(args.output_dir, args.space, args.private)}")


if __name__ == "__main__":
    run_recipe(main)
