"""What every recipe does around its training: begin, report, push, and fail politely."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from transformers.utils import logging as transformers_logging

from geohf.errors import DataError
from geohf.hub.card import write_card
from geohf.hub.files import MEASURED_WEIGHTS, push_folder
from geohf.io import atomic_write
from geohf.models.modeling import GeoPreTrainedModel
from geohf.report.plots import plot_learning_curves
from geohf.report.tables import write_csv
from geohf.vision.weights import weights_fingerprint

logger = logging.getLogger("geohf")


def run_recipe(main: Callable[[], Any]) -> None:
    """Run a recipe's `main`: bad input ends with one message and exit code 2, not with a traceback."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.disable_progress_bar()  # bars for writing one file; training and features have their own
    datasets.disable_progress_bars()
    logger.setLevel(logging.INFO if int(os.environ.get("RANK", 0)) == 0 else logging.ERROR)
    try:
        main()
        leave_process_group()
    except (DataError, OSError, HFValidationError) as error:  # the Hub's answers are OSErrors, too
        print_error(error)
        sys.exit(2)
    except StrictDataclassError as error:  # what a config says of its fields, without the wrapping
        print_error(error.__cause__ or error)
        sys.exit(2)


@contextmanager
def leave_cores(args) -> Iterator[None]:
    """On a CPU, torch's threads and the loader's workers would wait for the same cores; for a whole process alone."""
    threads = torch.get_num_threads()
    if args.device.type == "cpu" and args.dataloader_num_workers and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, threads - args.dataloader_num_workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def leave_process_group() -> None:
    """Take leave of the other processes, or their threads may abort this one as it ends, with all its work done."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def print_error(error: Exception) -> None:
    """Say on standard error what is wrong."""
    named = isinstance(error, OSError) and error.filename and error.strerror
    sys.stderr.write(f"\nerror: {f'{error.filename}: {error.strerror}' if named else error}\n")


def write_metrics(folder: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json: `{"eval": {...}, "baseline": {...}, "intervals": {...}, ...}`."""
    with atomic_write(Path(folder) / "metrics.json") as file:
        json.dump(metrics, file, indent=2)
        file.write("\n")


def phase_history(**phases: Sequence[Mapping]) -> list[dict]:
    """The log rows of several phases as one list, each with its phase, steps counted through."""
    rows, offset = [], 0
    for phase, history in phases.items():
        rows += [{"phase": phase, **row, "step": row.get("step", 0) + offset} for row in history]
        offset = rows[-1]["step"] if rows else 0
    return rows


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
