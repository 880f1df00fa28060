"""`python recipes/export.py`: all of it stands in `geohf/recipes/export.py`."""

from geohf.recipes.export import main, make_parser
from geohf.recipes.running import run_recipe

__all__ = ["main", "make_parser"]

if __name__ == "__main__":
    run_recipe(main)
