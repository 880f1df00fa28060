"""One short line an epoch that says how training goes, with or without a progress bar."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from transformers import ProgressCallback, TrainerCallback

from geohf.report.tables import format_number

logger = logging.getLogger(__name__)


def brief_line(phase: str, epoch: float | None, logs: Mapping, shown: Sequence[str]) -> str | None:
    """The loss, its parts and the chosen evaluation metrics of one log entry; None where it has none of them.

    >>> brief_line("phase1", 2.0, {"eval_loss": 1.25, "eval_score": 0.5, "eval_runtime": 3}, ["score"])
    'phase1 epoch 2: eval loss 1.25, eval score 0.5'
    """
    names = [f"eval_{name}" for name in ("loss", *shown)] if "eval_loss" in logs else []
    names += [n for n in logs if n.endswith("loss") and not n.startswith(("eval_", "train_"))]
    words = [f"{name} {format_number(logs[name])}" for name in names if name in logs]
    if not words:
        return None
    return f"{phase} epoch {format_number(round(epoch or 0, 2))}: {', '.join(words)}".replace("_", " ")


class BriefLog(TrainerCallback):
    """Logs the brief line; for runs without a progress bar. All else stands in the log history."""

    def __init__(self, phase: str = "", shown: Sequence[str] = ()):
        super().__init__()
        self.phase, self.shown = phase, shown

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the line on the first process."""
        line = brief_line(self.phase, state.epoch, logs, self.shown)
        if line and state.is_world_process_zero:
            self.show(line)

    def show(self, line: str) -> None:
        logger.info(line)


class BriefProgress(BriefLog, ProgressCallback):
    """transformers' progress bar with the brief line above it."""

    def show(self, line: str) -> None:
        if self.training_bar is not None:
            self.training_bar.write(line)
