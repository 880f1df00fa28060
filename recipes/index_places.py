"""`python recipes/index_places.py`: all of it stands in `geohf/recipes/index.py`."""

from geohf.recipes.index import main, make_parser
from geohf.recipes.running import run_recipe

__all__ = ["main", "make_parser"]

if __name__ == "__main__":
    run_recipe(main)
