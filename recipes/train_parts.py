"""`accelerate launch recipes/train_parts.py`: all of it stands in `geohf/recipes/train_parts.py`."""

from geohf.recipes.running import run_recipe
from geohf.recipes.train_parts import main, make_parser

__all__ = ["main", "make_parser"]

if __name__ == "__main__":
    run_recipe(main)
