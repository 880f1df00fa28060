"""What transformers, accelerate and peft refuse, said in one line and before any work is done."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from geohf.errors import DataError
from geohf.training.checkpoints import random_state, set_random_state

if TYPE_CHECKING:
    from transformers import TrainingArguments


@contextmanager
def refused() -> Iterator[None]:
    """Raise what transformers, accelerate and peft refuse while something is built as DataError, in one line."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, TypeError, ImportError, NotImplementedError, RuntimeError, AttributeError) as error:
        raise DataError(" ".join(str(error).split()) or type(error).__name__) from error


def rehearse(args: TrainingArguments) -> None:
    """Build a Trainer, its optimizer and schedule for a model of one number: what they refuse, they refuse now.

    Raises:
        DataError: a flag that this machine or these libraries cannot do, or that do not go together.
    """
    if getattr(args, "rehearsed", False):
        return
    from transformers import Trainer

    state = random_state()
    try:
        with tempfile.TemporaryDirectory() as folder, refused():
            tried = _without_effects(args, folder)
            rows = [{"x": torch.zeros(1)}] * tried.train_batch_size * tried.world_size
            trainer = Trainer(torch.nn.Linear(1, 1), tried, train_dataset=rows)
            trainer.create_optimizer_and_scheduler(10)
            trainer.get_train_dataloader()
    finally:
        set_random_state(state)
    args.rehearsed = True  # type: ignore[attr-defined]  # ours alone


def _without_effects(args: TrainingArguments, folder: str) -> TrainingArguments:
    tried = copy.copy(args)
    tried.output_dir, tried.report_to, tried.push_to_hub = folder, [], False
    tried.eval_strategy, tried.load_best_model_at_end = "no", False
    tried.full_determinism = False
    if tried.learning_rate is None:  # parts: known when the weights are
        tried.learning_rate = 1e-3
    if tried.lr_scheduler_type == "reduce_lr_on_plateau":
        given: Any = tried.lr_scheduler_kwargs or {}  # parsed by now, where it was text
        tried.lr_scheduler_kwargs = {"mode": "min"} | dict(given)
    return tried
