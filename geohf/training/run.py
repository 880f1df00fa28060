"""How a run of the rooms that are not yet a Trainer ends."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geohf.hub.card import write_card
from geohf.hub.files import MEASURED_WEIGHTS, push_folder
from geohf.io import atomic_write
from geohf.models.modeling import GeoPreTrainedModel
from geohf.report.plots import plot_learning_curves
from geohf.report.tables import write_csv
from geohf.vision.weights import weights_fingerprint

logger = logging.getLogger("geohf")


def write_metrics(folder: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json: `{"eval": {...}, "baseline": {...}, "intervals": {...}, ...}`."""
    with atomic_write(Path(folder) / "metrics.json") as file:
        json.dump(metrics, file, indent=2)
        file.write("\n")


def finish_run(
    model: GeoPreTrainedModel,
    args,
    history: Sequence[Mapping],
    metrics: Mapping,
    card: Mapping[str, Any],
    curves: Sequence[str] = (),
) -> None:
    """Leave a whole model repo in `args.output_dir`, and push it where that was asked for.

    Writes the model, metrics.json, log_history.csv, learning_curves.png and, last, the card, which shows every
    PNG that lies in the folder.

    Args:
        history: log rows, see `phase_history`.
        metrics: what goes into metrics.json: `eval`, `baseline`, `intervals` and whatever else a task has.
        card: further keyword arguments of `write_card`.
        curves: evaluation metrics to plot beside the losses and the learning rate.
    """
    folder = Path(args.output_dir)
    model.save_pretrained(folder)
    metrics = {**metrics, MEASURED_WEIGHTS: weights_fingerprint(model)}
    write_metrics(folder, metrics)
    write_csv(folder / "log_history.csv", history)
    if history:
        plotted = {"phase", "step", "epoch", "learning_rate", *(f"eval_{name}" for name in curves)}
        rows = [{k: v for k, v in row.items() if k in plotted or k.endswith("loss")} for row in history]
        plot_learning_curves(folder / "learning_curves.png", rows)
    write_card(
        args.output_dir, model.card_template, model.config, repo_id=args.hub_model_id, metrics=metrics, **card
    )
    if args.push_to_hub:
        url = push_folder(
            folder,
            args.hub_model_id or folder.name,
            private=args.hub_private_repo,
            token=args.hub_token,
            revision=args.hub_revision,
        )
        logger.info("pushed to %s", url)
