"""Train a place model: photographs with GPS to descriptors that recognise a place.

    accelerate launch recipes/train_place.py                      # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_place.py --config recipes/configs/place.yaml \
        --train_csv train/poses.csv --test_csv test/poses.csv --models dinov2_b convnext_b resnet50
    accelerate launch recipes/train_place.py --train_csv train/poses.csv --test_csv test/poses.csv \
        --models path/to/trained --num_train_epochs 0             # evaluate a trained model

`--help` lists every argument. `--output_dir` (outputs/place) holds the model and all the rest afterwards.
"""

from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.comparison import comparison_rows
from geohf.place.run import run_place
from geohf.recipes.running import leave_cores, run_recipe
from geohf.report import markdown_table
from geohf.training.arguments import GeoArgumentParser


def make_parser() -> GeoArgumentParser:
    return GeoArgumentParser(PlaceArguments, PlaceTrainingArguments)


def main() -> None:
    options, args = make_parser().parse()
    with leave_cores(args):
        result = run_place(options, args)
    if args.should_save:
        found = result.kept.trained.metrics
        print(
            f"\n{found['queries']} test queries, {found['queries_with_match']} of them with a database image within "
            f"{options.radii_m[0]:g} m; R@N counts those:\n\n{markdown_table(comparison_rows(result.runs), digits=3)}\n"
        )
        print(f"Everything lies in {args.output_dir}: open map.html and README.md there.")


if __name__ == "__main__":
    run_recipe(main)
