"""Trains and measures in as many processes as it is started in: `parts_processes.py FOLDER BIKES BATCH_SIZE`."""

import json
import sys
from pathlib import Path

from geohf.parts.data import load_parts, split_parts
from geohf.parts.phase import PartPhaseTrainer
from geohf.parts.vocabulary import names_of
from geohf.recipes.running import leave_process_group
from helpers.parts_models import ALL_SAMPLES, build_model, parse


def main(folder, bikes, batch_size):
    """Three steps on all anchors and regions, then the numbers on seven photos, in FOLDER/report.json."""
    splits = split_parts(load_parts(bikes)[0]["train"], validation=0.3, test=0)
    photos = splits["validation"].select(range(7))
    parts, states = names_of(photos)
    model = build_model(id2label=parts, id2state=states, one_per_part=True, spread=1.0, **ALL_SAMPLES)
    _, args = parse(
        "--output_dir", folder, "--max_steps", 3, "--per_device_train_batch_size", batch_size, "--eval_strategy", "no",
        "--per_device_eval_batch_size", 2, "--optim", "sgd", "--learning_rate", 0.01, "--warmup_steps", 0,
        "--save_strategy", "no", "--load_best_model_at_end", "false", "--logging_strategy", "steps",
        "--logging_steps", 3, "--augment", "false",  # the draws of two processes are others than those of one
    )  # fmt: skip
    trainer = PartPhaseTrainer(model, args, train_dataset=splits["train"])
    trainer.train()
    metrics, predictions = trainer.detect(photos)
    if args.should_save:
        model.save_pretrained(folder)
        report = {"metrics": metrics, "history": trainer.state.log_history, "photos": len(predictions)}
        (Path(folder) / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave_process_group()
