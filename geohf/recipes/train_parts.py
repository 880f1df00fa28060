"""Train a part detector: a photo to its parts, where each is, and the state that it is in.

    accelerate launch recipes/train_parts.py                      # the built-in sample: offline, minutes on a CPU
    accelerate launch recipes/train_parts.py --config recipes/configs/parts.yaml --data path/to/DelftBikes
    accelerate launch recipes/train_parts.py --data path/to/coco

`--help` lists every argument. `--output_dir` (outputs/parts) holds the model and all the rest afterwards.
"""

from transformers import set_seed

from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.data import load
from geohf.parts.modeling import make_model
from geohf.parts.trainer import PartStateTrainer
from geohf.recipes.running import leave_cores, run_recipe, show
from geohf.training.parser import GeoArgumentParser
from geohf.training.report import write_report


def make_parser() -> GeoArgumentParser:
    """The parser of all flags."""
    return GeoArgumentParser(PartArguments, PartTrainingArguments)


def run(options: PartArguments, args: PartTrainingArguments) -> PartStateTrainer:
    """Train, evaluate, and leave the model, its numbers and its card in `args.output_dir`; push it where asked.

    Raises:
        DataError: the data cannot be used, or the options do not go together.
    """
    data = load(options, args)
    set_seed(args.seed)
    model = make_model(options, data)
    rows = {"train_dataset": data.train, "eval_dataset": data.validation, "train_labels": data.labels}
    trainer = PartStateTrainer(model, args, **rows)
    trainer.train()
    result = trainer.evaluate(data.held_out)
    write_report(trainer, result, data.skipped, overlays=options.overlays, export_onnx=options.export_onnx)
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer


def main() -> None:
    """Run the recipe with the arguments of the command line."""
    options, args = make_parser().parse()
    with leave_cores(args):
        trainer = run(options, args)
    columns = ("map", "map_50", "state_f1", "state_recall", "hallucination", "present_recall", "joint_map")
    show(trainer, columns, "Open README.md, inspection.csv and overlays there.")


if __name__ == "__main__":
    run_recipe(main)
