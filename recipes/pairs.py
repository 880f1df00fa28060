"""`python recipes/pairs.py`: all of it stands in `geohf/recipes/pairs.py`."""

from geohf.recipes.pairs import main, make_parser
from geohf.recipes.running import run_recipe

__all__ = ["main", "make_parser"]

if __name__ == "__main__":
    run_recipe(main)
