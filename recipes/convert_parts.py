"""`python recipes/convert_parts.py`: all of it stands in `geohf/recipes/convert.py`."""

from geohf.recipes.convert import main, make_parser
from geohf.recipes.running import run_recipe

__all__ = ["main", "make_parser"]

if __name__ == "__main__":
    run_recipe(main)
