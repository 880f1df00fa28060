"""What a run leaves beside the model: numbers, curves, what people look at, and the card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.data.samples import without_decoding
from geohf.data.task_data import facts_of
from geohf.hub.card import PLOTS
from geohf.hub.files import ANSWERS, MEASURED_WEIGHTS
from geohf.io import atomic_write, plain
from geohf.metrics.records import Evaluation
from geohf.report.plots import learning_panels, plot_learning_curves
from geohf.report.tables import write_csv
from geohf.vision.thumbnails import thumbnail
from geohf.vision.weights import weights_fingerprint

if TYPE_CHECKING:
    from geohf.training.trainer import GeoTrainer


def write_report(
    trainer: GeoTrainer, evaluation: Evaluation, skipped: Sequence[Mapping] = (), **options: Any
) -> None:
    """Leave a whole model repo in the Trainer's `output_dir`; on the first process only.

    Writes the model, metrics.json, log_history.csv, learning_curves.png, skipped.csv where rows were left out, what the
    task has for people to look at and, last, the card. Plots and answers of an earlier report there are removed first.

    Args:
        evaluation: what `trainer.evaluate` returned.
        skipped: rows of the data that were left out: source, row, reason.
        options: of the task's `write_outputs`.
    """
    folder = trainer.run_folder
    if trainer.args.should_save:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "metrics.json").exists():  # without an earlier report, they are files of the user's own
            left_out = ["skipped.csv"] if trainer.reported is None else []  # this run's, of a second report
            for name in (*PLOTS, *ANSWERS, *left_out):  # they would look like this one's
                (folder / name).unlink(missing_ok=True)
        if skipped:
            write_csv(folder / "skipped.csv", skipped)
    trainer.reported = evaluation
    extra = trainer.write_outputs(folder, evaluation, **options)
    if not trainer.args.should_save:
        return
    trainer.model.save_pretrained(folder)
    facts = trainer.data_facts(evaluation, "rows")
    split = {"held_out": facts["split_name"], "how": facts["split"]} | {
        name: value for name, value in facts_of(evaluation.dataset).items() if name.startswith("left_out")
    }
    metrics = evaluation.numbers | {"stages": trainer.stages, "split": split | facts["counts"]}
    metrics |= {"skipped": len(skipped)} | dict(extra)
    write_metrics(folder, metrics | {MEASURED_WEIGHTS: weights_fingerprint(trainer.model)})
    write_history(folder, trainer.state.log_history, trainer.shown_metrics)
    trainer.create_model_card()


def thumbnails_of(trainer: GeoTrainer, dataset: Any, most: int) -> list[str | None] | None:
    """Thumbnails of the first `most` rows for a map, None for the others; None where nobody asks for any."""
    if not most:
        return None
    rows = without_decoding(dataset)
    return [thumbnail(trainer.model.photo_of(rows[i])) if i < most else None for i in range(len(rows))]


def write_metrics(folder: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json."""
    with atomic_write(Path(folder) / "metrics.json") as file:
        json.dump(plain(metrics), file, indent=2)
        file.write("\n")


def write_history(folder: Path, history: Sequence[Mapping], curves: Sequence[str]) -> None:
    """Write log_history.csv and learning_curves.png: the losses, the learning rate and these metrics."""
    # what was logged after the training is in metrics.json
    history = [row for row in history if "phase" in row]
    write_csv(folder / "log_history.csv", history)
    if learning_panels(history):  # a run may log and evaluate nothing on its way
        plotted = {"phase", "step", "epoch", "learning_rate", *(f"eval_{name}" for name in curves)}
        rows = [{k: v for k, v in row.items() if k in plotted or k.endswith("loss")} for row in history]
        plot_learning_curves(folder / "learning_curves.png", rows)
