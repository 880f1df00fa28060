"""What is done for states that are rare in training: held-out recall of `damaged` on the painted sample, before and after.

    OMP_NUM_THREADS=1 python benchmarks/parts_rare_states.py --seeds 42 1 2

Recall is end to end: a damaged part counts where its box is found at IoU 0.5 and its state is told. Prints a table
of means over seeds with ranges.
"""

from __future__ import annotations

import argparse
import tempfile

from measure import mean_and_range

from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.metrics import part_evaluator
from geohf.recipes.train_parts import run
from geohf.report.tables import markdown_table

WAYS: dict[str, dict] = {
    "nothing": {},
    "--state_balance logit_adjust": {"state_balance": "logit_adjust"},
    "--repeat_threshold 0.3": {"repeat_threshold": 0.3},
    "--paste_rare 0.5": {"paste_rare": 0.5},
}
RARE = "damaged"


def measured(way: dict, seed: int, options: argparse.Namespace, folder: str) -> dict[str, float]:
    """The numbers of one run."""
    balance = way.get("state_balance", "none")
    args = PartTrainingArguments(
        output_dir=f"{folder}/run",
        seed=seed,
        num_train_epochs=options.epochs,
        repeat_threshold=way.get("repeat_threshold", 0.0),
        paste_rare=way.get("paste_rare", 0.0),
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_num_workers=0,
    )
    trainer = run(PartArguments(overlays=0, sample_size=options.sample_size, state_balance=balance), args)
    evaluation, config = trainer.evaluated, trainer.config
    evaluator = part_evaluator(config)
    evaluator.add(evaluation.predictions, evaluation.details["targets"])
    counts = evaluator.confusion()
    rare = {name: number for number, name in config.id2state.items()}[RARE]
    numbers = {f"recall of {RARE}": counts[rare, rare] / counts[rare].sum()}
    return numbers | {name: evaluation.values_by_name[name] for name in ("state_accuracy", "state_f1", "map")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--sample_size", type=int, default=320)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    options = parser.parse_args()
    rows = []
    for name in options.ways:
        found: dict[str, list[float]] = {}
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                numbers = measured(WAYS[name], seed, options, folder)
            print(name, seed, {key: round(float(value), 4) for key, value in numbers.items()}, flush=True)
            for key, value in numbers.items():
                found.setdefault(key, []).append(float(value))
        rows.append(
            {"for rare states": name} | {key: mean_and_range(values) for key, values in found.items()}
        )
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
