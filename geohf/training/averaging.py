"""A moving average of the weights (EMA): what a training evaluates, saves and ends with, where `ema_decay` asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import TrainerCallback

from geohf.errors import DataError
from geohf.training.checkpoints import load_tree, save_tree
from geohf.training.pushing import SafePushes

RAW = "raw_weights.safetensors"  # of a checkpoint: what the optimizer goes on with


class MovingAverage(TrainerCallback):
    """Of the weights that learn, and of the statistics of batch norms; kept beside the model's own tensors.

    After step k, average = d x average + (1 - d) x weights with d = min(decay, (1 + k) / (10 + k)), as TensorFlow's
    `ExponentialMovingAverage` with `num_updates`: the random weights of the start are soon forgotten.

    Args:
        decay: above 0 and below 1.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.weights: dict[str, torch.Tensor] = {}  # the model's own
        self.kept: dict[str, torch.Tensor] = {}  # the average; while it is shown, the model's own

    @torch.no_grad()
    def start(self, model: torch.nn.Module, raw: dict[str, torch.Tensor] | None = None) -> None:
        """Begin with a model as it is; where it came as the average, `raw` gives it its own weights again."""
        self.weights = {name: tensor.detach() for name, tensor in _changing(model)}
        self.kept = {name: tensor.clone() for name, tensor in self.weights.items()}
        if raw is not None:
            for name, tensor in self.weights.items():
                tensor.copy_(raw[name])

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        """Take a step's weights in."""
        share = 1 - min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        torch._foreach_lerp_([*self.kept.values()], [*self.weights.values()], share)

    @torch.no_grad()
    def exchange(self) -> None:
        """The model has the average instead of its own weights, or its own again."""
        for name, tensor in self.weights.items():
            own = tensor.clone()
            tensor.copy_(self.kept[name])
            self.kept[name] = own

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The model has the average within."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()


class AveragedWeights(SafePushes):
    """The methods of transformers' Trainer that see the average: it is a checkpoint's model, as it was evaluated.

    What a resumed run trains on lies in the checkpoint, too.
    """

    average: MovingAverage | None = None

    def _average_weights(self) -> None:
        if self.args.ema_decay is not None:
            if self._shards_its_state:
                raise DataError(
                    "ema_decay averages whole weights, and these are spread over devices: leave it out"
                )
            self.average = MovingAverage(self.args.ema_decay)
            self.add_callback(self.average)

    def _evaluate(self, *args, **kwargs):
        with self.average.shown() if self.average else nullcontext():
            return super()._evaluate(*args, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        with self.average.shown() if self.average else nullcontext():
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            save_tree(self.average.kept, Path(output_dir) / RAW)

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.average is not None:
            raw = resume_from_checkpoint and Path(resume_from_checkpoint) / RAW
            model = self.accelerator.unwrap_model(self.model)  # of a checkpoint, the average
            self.average.start(model, load_tree(raw) if raw and raw.is_file() else None)
        return prepared

    def _finalize_training(self, *args, **kwargs):
        if self.average is not None:
            self.average.exchange()
        return super()._finalize_training(*args, **kwargs)


def _changing(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from ((name, weights) for name, weights in model.named_parameters() if weights.requires_grad)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            for key, statistic in module.named_buffers(recurse=False):
                if statistic.is_floating_point():
                    yield f"{name}.{key}", statistic
