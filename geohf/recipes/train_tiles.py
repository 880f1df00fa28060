"""Train a tile model: a sequence of satellite tiles to a number, several, or the next image.

    accelerate launch recipes/train_tiles.py                      # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_tiles.py --config recipes/configs/tiles.yaml --data tiles.csv --image_dir Images
    accelerate launch recipes/train_tiles.py --data path/to/mosaics --target_from ndvi_fall --nir 2 --red 3

`--help` lists every argument. `--output_dir` (outputs/tiles) holds the model and all the rest afterwards.
"""

import logging

from transformers import set_seed

from geohf.recipes.running import leave_cores, run_recipe, show
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load
from geohf.tiles.folds import cross_validate
from geohf.tiles.modeling import make_model
from geohf.tiles.trainer import TileSequenceTrainer
from geohf.training.parser import GeoArgumentParser
from geohf.training.report import write_report


def make_parser() -> GeoArgumentParser:
    """The parser of this recipe's arguments."""
    return GeoArgumentParser(TileArguments, TileTrainingArguments)


def run(options: TileArguments, args: TileTrainingArguments) -> TileSequenceTrainer:
    """Train, evaluate, and leave the model, its numbers and its card in `args.output_dir`; push it where asked.

    Raises:
        DataError: the data cannot be used, or the options do not go together.
    """
    folds = cross_validate(options, args) if options.folds is not None else None
    data = load(options, args)
    set_seed(args.seed)
    model = make_model(options, data)
    rows = {"train_dataset": data.train, "eval_dataset": data.validation, "train_labels": data.labels}
    trainer = TileSequenceTrainer(model, args, **rows)
    trainer.train()
    result = trainer.evaluate(data.held_out)
    write_report(trainer, result, data.skipped, folds=folds)
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer


def main() -> None:
    """Run the recipe with the arguments of the command line."""
    # GDAL says what it finds odd in a header at every opening
    logging.getLogger("rasterio").setLevel(logging.ERROR)
    options, args = make_parser().parse()
    with leave_cores(args):
        trainer = run(options, args)
    columns = ("mae", "rmse", "r2", "r2_rate", "skill_persistence", "skill_trend", "psnr", "ssim")
    show(trainer, columns, "Open README.md and filmstrip.png there.")


if __name__ == "__main__":
    run_recipe(main)
