"""The reference implementation's logs: a CSV of batches, epochs and validations for every run, and a summary of all runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from transformers import TrainerCallback

from geohf.report.tables import write_csv

_PARTS = ("train_loss", "triplet_loss", "contrastive_loss")
# column -> what transformers calls it in the metrics of an evaluation
_VALIDATION = {"val_loss": "loss", "val_r1": "r1", "val_r5": "r5", "val_r10": "r10", "val_time": "runtime"}
COLUMNS = (
    *("timestamp", "event", "batch", "epoch", *_PARTS, "learning_rate", "batch_time"),
    *(*(f"avg_{name}" for name in _PARTS), "epoch_time", *_VALIDATION),
)


class StepClock(TrainerCallback):
    """Notes every batch, epoch and evaluation; losses stay on the device until an epoch ends.

    Attributes:
        rows: dicts with the keys of `COLUMNS`.
    """

    def __init__(self):
        self.rows: list[dict] = []
        self._micro: list[torch.Tensor] = []  # losses of the optimizer step that is under way
        self._losses: list[torch.Tensor] = []
        self._batches: list[dict] = []
        self._epoch_began = self._step_began = time.perf_counter()

    def note(self, loss: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> None:
        """A micro-batch's loss and its parts; those of one optimizer step are averaged."""
        missing = loss.new_tensor(torch.nan)
        values = {"train_loss": loss, **parts}
        self._micro.append(torch.stack([values.get(name, missing).detach().float() for name in _PARTS]))

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Start the epoch's clock."""
        self._epoch_began = self._step_began = time.perf_counter()

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        """Note when the batch ended."""
        now, rate = time.perf_counter(), None if optimizer is None else optimizer.param_groups[0]["lr"]
        took = {"learning_rate": rate, "batch_time": now - self._step_began}
        self._batches.append(_row("batch", batch=state.global_step, epoch=state.epoch, **took))
        self._losses.append(torch.stack(self._micro).mean(0))
        self._step_began, self._micro = now, []

    def on_epoch_end(self, args, state, control, **kwargs):
        """Bring the epoch's losses over from the device, and average them."""
        if not self._batches:
            return
        losses = torch.stack(self._losses).tolist()
        for row, loss in zip(self._batches, losses, strict=True):
            self.rows.append(row | dict(zip(_PARTS, loss, strict=True)))
        took, means = time.perf_counter() - self._epoch_began, torch.tensor(losses).mean(0).tolist()
        averages = {f"avg_{name}": mean for name, mean in zip(_PARTS, means, strict=True)}
        self.rows.append(_row("epoch", epoch=state.epoch, epoch_time=took, **averages))
        self._losses, self._batches = [], []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Note an evaluation."""
        values = {name: (metrics or {}).get(f"eval_{theirs}") for name, theirs in _VALIDATION.items()}
        self.rows.append(_row("validation", epoch=state.epoch, **values))


def _row(event: str, **values) -> dict:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return dict.fromkeys(COLUMNS) | {"timestamp": now, "event": event} | values


def write_log(folder: str | Path, name: str, rows: Sequence[Mapping]) -> Path:
    """Write one run's rows to `folder/NAME_YYYYmmdd_HHMMSS.csv`."""
    path = Path(folder) / f"{name}_{datetime.now(timezone.utc).strftime('%Y%m%d_%H%M%S')}.csv"
    write_csv(path, rows)
    return path
