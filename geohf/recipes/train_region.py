"""Train a region model: photographs to coordinates, by an expert of each region and a router that finds the region.

    accelerate launch recipes/train_region.py                     # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_region.py --config recipes/configs/region.yaml \\
        --train_csv labels_train.csv --train_dir images_train/images_train \\
        --val_csv labels_val.csv --val_dir images_val/images_val
    accelerate launch recipes/train_region.py --start_from outputs/region --regions 3 5    # two experts anew

`--help` lists every argument. `--output_dir` (outputs/region) holds the model and all the rest afterwards.
"""

from transformers import set_seed

from geohf.recipes.running import leave_cores, run_recipe, show
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.data import load
from geohf.region.modeling import make_model
from geohf.region.trainer import GeoRegionTrainer
from geohf.training.parser import GeoArgumentParser
from geohf.training.report import write_report


def make_parser() -> GeoArgumentParser:
    """The parser of all flags."""
    return GeoArgumentParser(RegionArguments, RegionTrainingArguments)


def run(options: RegionArguments, args: RegionTrainingArguments) -> GeoRegionTrainer:
    """Train, evaluate, and leave the model, its numbers and its card in `args.output_dir`; push it where asked.

    Raises:
        DataError: the data cannot be used, or the options do not go together.
    """
    data = load(options, args)
    set_seed(args.seed)
    model = make_model(options, data)
    retrained = options.regions if options.start_from else None
    rows = {"train_dataset": data.train, "eval_dataset": data.validation, "train_labels": data.labels}
    trainer = GeoRegionTrainer(model, args, **rows, regions=retrained)
    trainer.train()
    result = trainer.evaluate(data.held_out)
    write_report(trainer, result, data.skipped, thumbnails=options.thumbnails)
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer


def main() -> None:
    """Run the recipe with the arguments of the command line."""
    options, args = make_parser().parse()
    with leave_cores(args):
        trainer = run(options, args)
    numbers = [
        f"{name}_{trainer.model.config.unit}" for name in ("routed_mean", "routed_median", "given_mean")
    ]
    show(trainer, [*numbers, "router_accuracy"], "Open README.md and the map or scatter there.")


if __name__ == "__main__":
    run_recipe(main)
