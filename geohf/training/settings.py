"""Arguments of a task from what a Trainer is given, and what cannot be trained, refused before any work is done."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy

from geohf.errors import DataError
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.checkpoints import random_state, set_random_state

# defaults of other classes that a task may not be able to work with
NOT_BY_DEFAULT = {"remove_unused_columns": True, "batch_eval_metrics": False, "do_train": False}


def own_arguments(
    args: TrainingArguments | None, kind: type[GeoTrainingArguments], evaluates: bool
) -> GeoTrainingArguments:
    """Arguments of a task's own class.

    Args:
        args: of this class, taken as they are; transformers' or GeoTrainingArguments, copied with the task's defaults for
            what they lack; None for the task's defaults.
        kind: the task's class.
        evaluates: there is something to evaluate on; without it the task's defaults evaluate nothing.

    Raises:
        DataError: they are another task's.
    """
    if args is None:
        return kind() if evaluates else kind(eval_strategy="no", load_best_model_at_end=False)
    if isinstance(args, kind):
        return args
    plain = isinstance(args, TrainingArguments) and not isinstance(args, GeoTrainingArguments)
    if not plain and type(args) not in kind.__mro__:
        raise DataError(f"this Trainer takes {kind.__name__}, got {type(args).__name__}")
    own: Any = copy.copy(args)
    own.__class__ = kind
    for field in dataclasses.fields(kind):
        if field.name not in vars(args) or NOT_BY_DEFAULT.get(field.name) == getattr(args, field.name):
            makes = field.default_factory
            setattr(own, field.name, field.default if makes is dataclasses.MISSING else makes())
    if plain:
        own.asked_metric = None if own.metric_for_best_model == "loss" else own.metric_for_best_model
    own.require_honored()
    return own


def require_float32(model: torch.nn.Module) -> None:
    """Raise DataError where weights, all or some, are of half precision, in which small steps are lost, or of double."""
    dtypes = (weights.dtype for weights in model.parameters() if weights.is_floating_point())
    other = next((dtype for dtype in dtypes if dtype != torch.float32), None)
    if other is not None:
        name = str(other).removeprefix("torch.")
        raise DataError(
            f"the model's weights are {name}, and a Trainer works on float32: load it with dtype=torch.float32, or call "
            "model.float(); bf16=True then computes in bfloat16"
        )


def require_recomputing(model: torch.nn.Module, args: GeoTrainingArguments) -> None:
    """Raise DataError where activations are to be recomputed, and the model has no layer that can."""
    layers = model.modules() if getattr(model, "supports_gradient_checkpointing", False) else ()
    if args.activation_checkpointing and not any(
        hasattr(layer, "gradient_checkpointing") for layer in layers
    ):
        raise DataError(
            f"gradient_checkpointing: this {type(model).__name__} cannot recompute its activations, as towers of "
            "transformers can; leave it out"
        )


def require_a_batch(args: GeoTrainingArguments, rows: int, batch: int | None = None) -> None:
    """Raise DataError where rows make no whole batch, of `per_device_train_batch_size` by default, and others are dropped."""
    size = (batch or args.train_batch_size) * args.world_size
    if args.dataloader_drop_last and rows < size:
        raise DataError(
            f"dataloader_drop_last leaves nothing of {rows} training rows in batches of {size}: leave it out, or "
            "take a smaller per_device_train_batch_size"
        )


def phase_arguments(
    args: GeoTrainingArguments, name: str, default_metric: str | None = None, **changes: Any
) -> GeoTrainingArguments:
    """The arguments of one phase: a copy with these changes, whose checkpoints lie in `output_dir/checkpoints/name`.

    Args:
        default_metric: chooses the best checkpoint where no `metric_for_best_model` was asked for.
    """
    phase = copy.copy(args)
    phase.output_dir = str(Path(str(args.output_dir)) / "checkpoints" / name)
    phase.push_to_hub = False  # the run pushes once, when it is whole
    phase.resume_from_checkpoint = None
    if default_metric is not None and args.asked_metric is None:
        phase.metric_for_best_model, phase.greater_is_better = default_metric, None
    for key, value in changes.items():
        if not hasattr(phase, key):
            raise AttributeError(f"no training argument {key!r}")
        setattr(phase, key, value)
    # one of them without the other cannot choose a best checkpoint
    if SaveStrategy.NO in (phase.save_strategy, phase.eval_strategy):
        phase.load_best_model_at_end = False
    return phase


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
    """Build a Trainer, its optimizer and schedule for a model of one number: what they refuse of the flags is a DataError now."""
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
