"""Train a tile model: a sequence of satellite tiles to a number, several, or the next image.

    accelerate launch recipes/train_tiles.py                      # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_tiles.py --config recipes/configs/tiles.yaml --data tiles.csv --image_dir Images
    accelerate launch recipes/train_tiles.py --data path/to/mosaics --target_from ndvi_fall --nir 2 --red 3

`--help` lists every argument. `--output_dir` (outputs/tiles) holds the model and all the rest afterwards.
"""

import logging

from geohf.recipes.running import leave_cores, run_recipe
from geohf.report import markdown_table
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.card import summary_rows
from geohf.tiles.run import run_tiles
from geohf.training.arguments import GeoArgumentParser


def make_parser() -> GeoArgumentParser:
    return GeoArgumentParser(TileArguments, TileTrainingArguments)


def main() -> None:
    logging.getLogger("rasterio").setLevel(
        logging.ERROR
    )  # GDAL says what it finds odd in a header at every opening
    options, args = make_parser().parse()
    with leave_cores(args):
        result = run_tiles(options, args)
    if args.should_save:
        print(
            f"\nOn {result.held_out} tiles:\n\n{markdown_table(summary_rows(result.stages, result.model.config.targets))}\n"
        )
        print(f"Everything lies in {args.output_dir}: open README.md and filmstrip.png there.")


if __name__ == "__main__":
    run_recipe(main)
