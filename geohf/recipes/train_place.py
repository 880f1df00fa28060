"""Train a place model: photographs with GPS to descriptors that recognize a place.

    accelerate launch recipes/train_place.py                      # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_place.py --config recipes/configs/place.yaml \
        --train_csv train/poses.csv --test_csv test/poses.csv --models dinov2_b convnext_b resnet50
    accelerate launch recipes/train_place.py --train_csv train/poses.csv --test_csv test/poses.csv \
        --models path/to/trained --num_train_epochs 0             # evaluate a trained model

`--help` lists every argument. `--output_dir` (outputs/place) holds the model and all the rest afterwards.
"""

from transformers import set_seed

from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.comparison import comparison_rows, keep_best, variants
from geohf.place.data import load
from geohf.place.modeling import make_model
from geohf.place.trainer import GeoPlaceTrainer
from geohf.recipes.running import leave_cores, run_recipe
from geohf.report.tables import markdown_table
from geohf.training.parser import GeoArgumentParser
from geohf.training.report import write_report


def make_parser() -> GeoArgumentParser:
    """The parser of the recipe's flags."""
    return GeoArgumentParser(PlaceArguments, PlaceTrainingArguments)


def run(options: PlaceArguments, args: PlaceTrainingArguments) -> GeoPlaceTrainer:
    """Train and evaluate every run that is asked for, leave the best one in `args.output_dir`, and push it where asked.

    Raises:
        DataError: the data cannot be used, or leaks and `options.audit` stops there.
    """
    data = load(options, args)
    rows = {"train_dataset": data.train, "eval_dataset": data.validation, "train_labels": data.labels}
    rows |= {"database": data.database, "validation_database": data.validation_database}
    names = ("radii_m", "whitening_dim", "audit", "center", "abstain", "verify")
    how = {name: getattr(options, name) for name in names} | {"sequence_method": options.method}
    runs = []
    for variant, own in variants(options, args):  # one for each of --models, --seeds and --methods
        set_seed(own.seed)
        model = make_model(variant, data)
        name = variant.models[0] if variant.models else None
        trainer = GeoPlaceTrainer(model, own, **rows, **how, method=variant.methods[0], name=name)
        trainer.train()
        trainer.evaluate(data.test)
        trainer.model.to("cpu")
        runs.append(trainer)
    trainer = keep_best(runs, args)
    assert trainer.evaluated is not None  # as every run was above
    write_report(trainer, trainer.evaluated, data.skipped, thumbnails=options.thumbnails)
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer


def main() -> None:
    """Parse the command line, run, and print the comparison."""
    options, args = make_parser().parse()
    with leave_cores(args):
        trainer = run(options, args)
    if args.should_save and trainer.evaluated is not None:
        metrics = trainer.evaluated.values_by_name
        print(
            f"\n{metrics['queries']} test queries, {metrics['queries_with_match']} of them with a database image within "
            f"{options.radii_m[0]:g} m; R@N counts those:\n\n{markdown_table(comparison_rows(trainer.runs), digits=3)}\n"
        )
        print(f"Everything lies in {args.output_dir}: open map.html and README.md there.")


if __name__ == "__main__":
    run_recipe(main)
