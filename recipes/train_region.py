"""`accelerate launch recipes/train_region.py`: all of it stands in `geohf/recipes/train_region.py`."""

from geohf.recipes.running import run_recipe
from geohf.recipes.train_region import main, make_parser

__all__ = ["main", "make_parser"]

if __name__ == "__main__":
    run_recipe(main)
