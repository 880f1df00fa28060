"""SimVP and TAU against the rolled-out ConvLSTM: the painted sample's next three frames, by lead.

    python benchmarks/tiles_frames.py --seeds 42 1 2

Prints the table of docs/tiles.md: error, likeness and skill over persistence of each predicted frame on held-out regions, as the
mean over seeds and their range, at as many CPU seconds of training: ConvLSTM sees the samples half again as often.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from transformers import set_seed

from geohf.report.tables import markdown_table
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load
from geohf.tiles.modeling import make_model
from geohf.tiles.sample import write_sample
from geohf.tiles.trainer import TileSequenceTrainer

LEADS = 3
SIMVP = {"hidden_sizes": [16, 64], "translator_blocks": 4}
WAYS: dict[str, dict] = {
    "ConvLSTM": {"encoder": "convlstm"},
    "SimVP (gSTA)": {"encoder": "simvp"} | SIMVP,
    "TAU": {"encoder": "tau"} | SIMVP,
}
TIMES_THE_EPOCHS = {"ConvLSTM": 1.5}  # an epoch of it takes two thirds of the others' CPU seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--regions", type=int, default=6, help="of the painted sample")
    options = parser.parse_args()
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sample = write_sample(Path(folder) / "sample", size=options.regions)
        for number, seed in enumerate(options.seeds, start=1):
            for way, fields in WAYS.items():
                epochs = options.epochs * TIMES_THE_EPOCHS.get(way, 1)
                found, theirs = run(Path(folder), sample, seed, epochs, fields)
                runs.setdefault(way, []).append(found)
                if way == next(iter(WAYS)):
                    runs.setdefault("persistence", []).append(theirs)
                print(f"seed {seed}, {way}: {found}", flush=True)
            print(
                f"\nMean of seeds {options.seeds[:number]} (range):\n\n{markdown_table(rows_of(runs))}\n",
                flush=True,
            )


def run(
    folder: Path, sample: Path, seed: int, epochs: float, fields: dict
) -> tuple[dict[str, float], dict[str, float]]:
    """The numbers of one training and of persistence."""
    options = TileArguments(
        data=str(sample / "tiles.csv"),
        target_type="last-image",
        prediction_length=LEADS,
        loss="mse",
        **fields,
    )
    args = TileTrainingArguments(
        output_dir=str(folder / "run"),
        cache_dir=str(folder / "cache"),
        seed=seed,
        num_train_epochs=epochs,
        disable_tqdm=True,
        logging_strategy="no",
    )
    data = load(options, args)
    set_seed(seed)
    model = make_model(options, data)
    trainer = TileSequenceTrainer(model, args, train_dataset=data.train, eval_dataset=data.validation)
    start = time.process_time()
    trainer.train()
    spent = time.process_time() - start
    result = trainer.evaluate(data.test)
    facts = {"cpu_s": spent, "parameters": model.num_parameters()}
    return result.values_by_name | facts, result.baseline


def rows_of(runs: dict[str, list[dict]]) -> list[dict[str, str]]:
    """A row for each way and lead."""
    rows = []
    for way, found in runs.items():
        for lead in range(1, LEADS + 1):
            row = {"": way if lead == 1 else "", "lead": str(lead)}
            for heading, values in (
                ("MSE", [run[f"lead_{lead}_nrmse"] ** 2 for run in found]),
                ("SSIM", [run[f"lead_{lead}_ssim"] for run in found]),
                ("skill", [run.get(f"lead_{lead}_skill_persistence", 0.0) for run in found]),
            ):
                row[heading] = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            if lead == 1 and "cpu_s" in found[0]:
                row["parameters"] = f"{found[0]['parameters']:,}"
                row["CPU seconds"] = f"{np.mean([run['cpu_s'] for run in found]):.0f}"
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
