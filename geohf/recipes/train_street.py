"""Train a street model: four street views, or single photographs, to a state and a point.

    accelerate launch recipes/train_streetclip.py                 # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_streetclip.py --config recipes/configs/street.yaml --data path/to/competition
    accelerate launch recipes/train_streetclip.py --data path/to/photos

`--help` lists every argument. `--output_dir` (outputs/street) holds the model and all the rest afterwards.
"""

from transformers import set_seed

from geohf.recipes.running import leave_cores, run_recipe, show
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.data import load
from geohf.street.modeling import make_model
from geohf.street.outputs import submit
from geohf.street.trainer import GeoStreetTrainer
from geohf.training.parser import GeoArgumentParser
from geohf.training.report import write_report


def make_parser() -> GeoArgumentParser:
    """The parser of all flags."""
    return GeoArgumentParser(StreetArguments, StreetTrainingArguments)


def run(options: StreetArguments, args: StreetTrainingArguments) -> GeoStreetTrainer:
    """Train, evaluate, and leave the model, its numbers and its card in `args.output_dir`; push it where asked.

    Raises:
        DataError: the data cannot be used, or the options do not go together.
    """
    data = load(options, args)
    set_seed(args.seed)
    model = make_model(options, data)
    rows = {"train_dataset": data.train, "eval_dataset": data.validation, "train_labels": data.labels}
    trainer = GeoStreetTrainer(model, args, **rows, levels=options.levels)
    trainer.train()
    result = trainer.evaluate(data.held_out)
    if data.template is not None and data.source:
        submit(trainer, data.source, data.template)
    drawn = {"outlines": options.outlines, "map_places": options.map_places}
    write_report(trainer, result, data.skipped, thumbnails=options.thumbnails, **drawn)
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer


def main() -> None:
    """Run the recipe with the arguments of the command line."""
    options, args = make_parser().parse()
    with leave_cores(args):
        trainer = run(options, args)
    show(trainer, ("score", "top1", "top5", "mean_km", "median_km"), "Open map.html and README.md there.")


if __name__ == "__main__":
    run_recipe(main)
