"""Push the folder that a run left to the Hub, after a check that it loads.

    python recipes/push.py outputs/street org/geo-street --private

Only what belongs to a model repo goes along: no checkpoint, no log folder, no pickle, no code.
"""

import argparse

from geohf.models.loading import load_model
from geohf.recipes.parsing import command_parser
from geohf.recipes.running import run_recipe


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("folder", help="The output folder of a run.")
    parser.add_argument("repo", help="org/name; it is created where it does not exist.")
    parser.add_argument("--private", action="store_true", default=None, help="Create a private repo.")
    parser.add_argument("--revision", help="The branch to push to.")
    parser.add_argument("--commit_message", help="What the commit says.")
    parser.add_argument("--create_pr", action="store_true", help="Open a pull request instead.")
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = vars(make_parser().parse_args())
    folder, repo = args.pop("folder"), args.pop("repo")
    url = load_model(folder, "cpu").push_to_hub(repo, **args)
    print(f"pushed {folder} to {repo}: {url}")


if __name__ == "__main__":
    run_recipe(main)
