"""`python recipes/evaluate.py`: all of it stands in `geohf/recipes/evaluate.py`."""

from geohf.recipes.evaluate import main, make_parser
from geohf.recipes.running import run_recipe

__all__ = ["main", "make_parser"]

if __name__ == "__main__":
    run_recipe(main)
