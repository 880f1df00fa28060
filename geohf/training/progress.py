"""A progress bar that says in one short line an epoch how training goes."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import ProgressCallback

from geohf.report.tables import format_number


class BriefProgress(ProgressCallback):
    """transformers' progress bar, but a line a log with the loss, its parts and the chosen metrics only.

    Args:
        phase: named at the head of each line.
        shown: names of evaluation metrics; everything else stands in the log history all the same.
    """

    def __init__(self, phase: str = "", shown: Sequence[str] = ()):
        super().__init__()
        self.phase, self.shown = phase, shown

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write the line above the bar."""
        if not state.is_world_process_zero or self.training_bar is None:
            return
        wanted = [f"eval_{name}" for name in ("loss", *self.shown)] if "eval_loss" in logs else []
        wanted += [
            name
            for name in logs
            if name == "loss" or (name.endswith("_loss") and not name.startswith("eval_"))
        ]
        words = [
            f"{name} {format_number(logs[name])}" for name in wanted if name in logs and name != "train_loss"
        ]
        if words:
            epoch = format_number(round(state.epoch or 0, 2))
            self.training_bar.write(f"{self.phase} epoch {epoch}: " + ", ".join(words).replace("_", " "))
