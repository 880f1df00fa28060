"""A detector that answers with queries, from random weights on the painted sample, as far as a few CPU minutes bring it.

    OMP_NUM_THREADS=1 python benchmarks/parts_queries.py --architectures rt_detr_v2

Prints the table that docs/parts.md shows: held-out numbers of each architecture and seed, how far scores lie from the share of
parts that are there (ECE), and the CPU seconds of training.
"""

from __future__ import annotations

import argparse
import tempfile
import time

from transformers import set_seed

from geohf.metrics.calibration import expected_calibration_error
from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.configuration import DETECTORS
from geohf.parts.data import load
from geohf.parts.decisions import presence_of
from geohf.parts.modeling import make_model
from geohf.parts.trainer import PartStateTrainer
from geohf.report.tables import markdown_table

SHOWN = {
    "map": "mAP",
    "map_50": "mAP 50",
    "state_accuracy": "state accuracy",
    "hallucination": "hallucination",
    "joint_map": "joint mAP",
}


def train(architecture: str, seed: int, epochs: float, folder: str) -> dict[str, float | str]:
    """Held-out numbers of one run, with the settings that docs/parts.md names for such a detector."""
    options = PartArguments(architecture=architecture, pretrained=False)
    args = PartTrainingArguments(
        output_dir=f"{folder}/{architecture}{seed}",
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        learning_rate=5e-4,
        max_grad_norm=1.0,
        seed=seed,
        eval_strategy="no",
        save_strategy="no",
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    data = load(options, args)
    set_seed(seed)
    trainer = PartStateTrainer(make_model(options, data), args, None, data.train, data.validation)
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start
    evaluation = trainer.evaluate(data.held_out)
    config, targets = trainer.config, evaluation.details["targets"]
    presence = presence_of(evaluation.predictions, targets, config.num_labels, config.absent_index)
    known = (presence.score > 0) & (presence.there >= 0)
    ece = expected_calibration_error(presence.score[known], presence.there[known])
    numbers = {text: round(evaluation.values_by_name[name], 3) for name, text in SHOWN.items()}
    return {"": architecture, "seed": seed} | numbers | {"ECE": round(ece, 3), "CPU seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", choices=DETECTORS, default=["rt_detr_v2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--epochs", type=float, default=36)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            train(name, seed, options.epochs, folder)
            for name in options.architectures
            for seed in options.seeds
        ]
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
