"""The Trainer that every task's Trainer extends."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy, rotate_checkpoints

from geohf.errors import DataError
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.batches import BatchWithoutRows, own_rows
from geohf.training.checkpoints import (
    COMPLETE,
    last_complete_checkpoint,
    load_tree,
    mark_complete,
    random_state,
    save_tree,
    set_random_state,
)
from geohf.training.progress import BriefLog, BriefProgress
from geohf.training.streaming import EndlessStream, is_stream
from geohf.training.tensor_table import TensorTable, batch_as_is
from geohf.vision.images import undecoded

OPTIMIZER, SCHEDULER, SCALER = "optimizer.safetensors", "scheduler.safetensors", "scaler.safetensors"
FINISHED = "finished.safetensors"


class GeoTrainer(Trainer):
    """transformers' Trainer with six things more.

    - **Parts of the loss.** A model's output may hold `loss_parts`, a dict of scalars; each is logged by its
      name beside `loss`.
    - **Exact means.** A model with `count_loss_items(batch)` (a dict: part -> number of rows that count) gets
      `loss_items` in its forward: the numbers over the whole optimiser step, all micro-batches and all
      processes. It divides its sums by them, and the gradient is that of one large batch, whatever the
      accumulation, the number of processes, and the rows that lack a label. Each tensor or list of such a
      model's batches has one entry a row.
    - **Two learning rates**: parameters below `tower` take `backbone_learning_rate`.
    - **Two collators**: `eval_collator`, where given, makes the batches of evaluation, which augments nothing.
    - **Streams.** `train_dataset` may be a `datasets.IterableDataset`; with `max_steps` it is read as often as that
      takes, each process its share. Images of any dataset stay undecoded until a collator opens them.
    - **Checkpoints without pickle** that are only used when they are whole, so that a run killed at any moment
      resumes to the same weights as an uninterrupted one.
    """

    shown_metrics: ClassVar[tuple[str, ...]] = ()  # what the progress bar tells of an evaluation

    def __init__(
        self,
        model=None,
        args: GeoTrainingArguments | None = None,
        data_collator=None,
        eval_collator=None,
        **kwargs,
    ):
        self.eval_collator = eval_collator
        if data_collator is None and isinstance(kwargs.get("train_dataset"), TensorTable):
            data_collator = batch_as_is
        for name in ("train_dataset", "eval_dataset"):
            kwargs[name] = _opened_late(kwargs.get(name))
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        for theirs, ours in ((ProgressCallback, BriefProgress), (PrinterCallback, BriefLog)):
            if self.pop_callback(theirs) is not None:
                self.add_callback(ours(Path(self.args.output_dir).name, self.shown_metrics))
        self.counts_items = hasattr(model, "count_loss_items")
        self.loss_is_scaled_for_ga = self.counts_items
        self._parts: dict[str, torch.Tensor] = defaultdict(float)
        self._parts_logged_at = 0
        # known before anything shards or wraps the model
        self._vectors = {name for name, p in self.model.named_parameters() if p.ndim < 2}
        patience = getattr(self.args, "early_stopping_patience", 0)
        if patience and self.args.load_best_model_at_end:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience=patience))

    def _init_training_state(self, max_steps, steps_an_epoch, epochs, checkpoint, trial):
        where = super()._init_training_state(max_steps, steps_an_epoch, epochs, checkpoint, trial)
        self._parts.clear()
        self._parts_logged_at = self.state.global_step
        patience = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        if checkpoint and any(
            c.early_stopping_patience_counter >= c.early_stopping_patience for c in patience
        ):
            return epochs, 0  # it was killed after its last step: nothing is left to train
        return where

    # ---- batches

    def get_train_dataloader(self):
        """As transformers'; a stream comes as a loader without end that knows this process's share."""
        if not is_stream(self.train_dataset):
            return super().get_train_dataloader()
        args = self.args
        # accelerate would read all of it on one process, or end when the shortest share does
        return DataLoader(
            EndlessStream(self.train_dataset, args.process_index, args.world_size),
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def get_eval_dataloader(self, eval_dataset=None):
        """As transformers', with `eval_collator` where one was given: evaluation augments nothing."""
        with self._collating_for_evaluation():
            return super().get_eval_dataloader(_opened_late(eval_dataset))

    def get_test_dataloader(self, test_dataset):
        """As `get_eval_dataloader`."""
        with self._collating_for_evaluation():
            return super().get_test_dataloader(_opened_late(test_dataset))

    @contextmanager
    def _collating_for_evaluation(self):
        training = self.data_collator
        self.data_collator = self.eval_collator or training
        try:
            yield
        finally:
            self.data_collator = training

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The batches of one optimiser step, and how many of their rows count."""
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(own_rows(batch, self.accelerator) if self.counts_items else batch)
        return batches, self._get_num_items_in_batch(batches, device)

    # ---- the loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device):
        if not self.counts_items or not batch_samples:
            return None
        model = self.accelerator.unwrap_model(self.model)
        counts = []
        for batch in batch_samples:
            items = model.count_loss_items(batch)
            rows = torch.stack([torch.as_tensor(count, device=device).float() for count in items.values()])
            counts.append(rows * 0 if isinstance(batch, BatchWithoutRows) else rows)
        totals = self.accelerator.reduce(sum(counts), reduction="sum")
        return dict(zip(items, totals.unbind(), strict=True))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's own loss; the gradient's scale is what one process with one large batch would have."""
        items = {} if num_items_in_batch is None else {"loss_items": num_items_in_batch}
        outputs = model(**inputs, **items)
        loss = outputs.get("loss")
        if loss is None:
            raise DataError("the model gave no loss: the batch holds neither labels nor coordinates")
        # processes average their gradients, but each holds its share of one sum
        share = self.accelerator.num_processes if num_items_in_batch is not None else 1
        share = 0 if isinstance(inputs, BatchWithoutRows) else share
        if model.training:
            micro = 1 if num_items_in_batch is not None else self.current_gradient_accumulation_steps
            for name, part in (outputs.get("loss_parts") or {}).items():
                self._parts[name] += part.detach().float() * (share / micro)
        loss = loss * share if share != 1 else loss
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the parts of the loss, averaged over steps and processes since the last time."""
        if "loss" in logs:
            steps = max(1, self.state.global_step - self._parts_logged_at)
            if self._parts:
                means = torch.stack([self._parts[name] for name in self._parts]).to(self.args.device)
                means = self.accelerator.reduce(means, reduction="mean") / steps
                logs.update(zip(self._parts, means.tolist(), strict=True))
                self._parts.clear()
            self._parts_logged_at = self.state.global_step
            self._require_finite(logs["loss"])
        super().log(logs, start_time)

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DataError(
                f"the loss is {loss} at step {self.state.global_step}: lower the learning rate, or look for bad rows; "
                f"the last whole checkpoint in {self.args.output_dir} is sound"
            )

    def _get_grad_norm(self, model, grad_norm=None):
        # the norm costs a pass over all gradients: known where it was asked to be clipped, else left out
        return None if grad_norm is None else super()._get_grad_norm(model, grad_norm=grad_norm)

    # ---- the optimiser

    def create_optimizer(self, *args, **kwargs):
        """AdamW with weight decay on matrices only, and the tower at its own learning rate."""
        if self.optimizer is None:
            model = self.accelerator.unwrap_model(self.model)
            decayed = set(self.get_decay_parameter_names(model)) - self._vectors
            groups = defaultdict(list)
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    in_tower = "tower" in name.split(".")
                    groups[in_tower, name in decayed].append(parameter)
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            settings.pop("params", None)
            tower_rate = self.args.backbone_learning_rate
            if tower_rate is None:  # published weights are to be kept, random ones are not
                tower_rate = (
                    1e-5
                    if getattr(getattr(model, "config", None), "backbone_name", None)
                    else self.args.learning_rate / 3
                )
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                        "lr": tower_rate if in_tower else self.args.learning_rate,
                    }
                    for (in_tower, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
                ],
                **settings,
            )
        return self.optimizer

    # ---- phases: train, or go on, or see that it is done

    def run(self, resume: bool = False) -> None:
        """Train to the end; with `resume`, go on from the last whole checkpoint, or take the finished weights.

        Without `resume` the checkpoints and the finished weights of an earlier run in this folder are removed
        first.
        """
        folder = Path(self.args.output_dir)
        finished = folder / FINISHED
        if not resume and self.is_world_process_zero():
            finished.unlink(missing_ok=True)
            for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(checkpoint)
        self.accelerator.wait_for_everyone()
        if resume and finished.is_file():
            self._move_model_to_device(self.model, self.args.device)
            self._load_finished(finished)
            self.state.log_history = json.loads((folder / "log_history.json").read_text())
            return
        self.train(resume_from_checkpoint=last_complete_checkpoint(folder) if resume else None)
        weights = self.accelerator.get_state_dict(self.model_wrapped)  # by all processes: it may be sharded
        if self.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "log_history.json").write_text(json.dumps(self.state.log_history))
            temporary = folder / (FINISHED + ".tmp")
            save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, temporary)
            temporary.replace(finished)
        self.accelerator.wait_for_everyone()

    def _load_finished(self, path: Path) -> None:
        try:
            self._require_all_weights(self.model.load_state_dict(load_file(path), strict=False), path)
        except SafetensorError as error:
            raise DataError(
                f"{path}: cannot be read: {error}; begin without --resume_from_checkpoint"
            ) from None
        except RuntimeError as error:  # of another shape
            raise _of_another_model(path, str(error)) from None

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise _of_another_model(resume_from_checkpoint, str(error)) from None

    def _issue_warnings_after_load(self, load_result) -> None:
        self._require_all_weights(load_result, self.args.output_dir)

    def _require_all_weights(self, loaded, path) -> None:
        wrong = [*loaded.missing_keys, *loaded.unexpected_keys]
        if wrong:
            raise _of_another_model(path, ", ".join(wrong[:3]))

    def best_score(self) -> float:
        """The best value of the metric that chooses checkpoints, as large-is-better; -inf before any evaluation."""
        name = f"eval_{self.args.metric_for_best_model}"
        sign = 1 if self.args.greater_is_better else -1
        return max((sign * row[name] for row in self.state.log_history if name in row), default=-math.inf)

    def _determine_best_metric(self, metrics, trial):
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            raise DataError(error.args[0]) from None

    # ---- checkpoints without pickle

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder, state_dict=state_dict)
        else:
            weights = {n: t.contiguous() for n, t in (state_dict or model.state_dict()).items()}
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "training_args.json").write_text(self.args.to_json_string())

    def _save_checkpoint(self, model, trial) -> None:
        self._require_finite(float(self._tr_loss))
        run = self._get_output_dir(trial=trial)
        folder = Path(run) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            (folder / COMPLETE).unlink(missing_ok=True)
        # older checkpoints are deleted only when this one is whole
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(folder, self.state.global_step)
            rotate_checkpoints(run, limit, self.state.best_model_checkpoint, use_mtime=True)

    @property
    def _shards_its_state(self) -> bool:
        return (
            self.is_deepspeed_enabled or self.is_fsdp_enabled
        )  # accelerate saves what is spread over devices

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._shards_its_state:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            save_tree(self.optimizer.state_dict(), Path(output_dir) / OPTIMIZER)
            save_tree(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._shards_its_state:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None and (Path(checkpoint) / OPTIMIZER).is_file():
            self.optimizer.load_state_dict(load_tree(Path(checkpoint) / OPTIMIZER))
            self.lr_scheduler.load_state_dict(load_tree(Path(checkpoint) / SCHEDULER))

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            save_tree(scaler.state_dict(), Path(output_dir) / SCALER)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (Path(checkpoint) / SCALER).is_file():
            self.accelerator.scaler.load_state_dict(load_tree(Path(checkpoint) / SCALER))

    def _random_file(self, folder: str) -> Path:
        return Path(folder) / f"random_state_{self.args.process_index}.safetensors"

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_tree(random_state(), self._random_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self._random_file(checkpoint).is_file():
            set_random_state(load_tree(self._random_file(checkpoint)))


def _opened_late(dataset):
    if isinstance(dataset, dict):
        return {name: _opened_late(split) for name, split in dataset.items()}
    return undecoded(dataset) if getattr(dataset, "features", None) else dataset


def _of_another_model(path: str | Path, found: str) -> DataError:
    return DataError(
        f"{path}: holds the weights of a model with other settings ({found}); take that run's settings again, "
        "or begin without --resume_from_checkpoint"
    )


def phase_arguments(args: GeoTrainingArguments, name: str, **changes: Any) -> GeoTrainingArguments:
    """The arguments of one phase: a copy whose checkpoints lie in `output_dir/checkpoints/name`."""
    phase = copy.copy(args)
    phase.output_dir = str(Path(args.output_dir) / "checkpoints" / name)
    phase.push_to_hub = False  # the run pushes once, when it is whole
    phase.resume_from_checkpoint = None
    for key, value in changes.items():
        if not hasattr(phase, key):
            raise AttributeError(f"no training argument {key!r}")
        setattr(phase, key, value)
    # one of them without the other cannot choose a best checkpoint
    if SaveStrategy.NO in (phase.save_strategy, phase.eval_strategy):
        phase.load_best_model_at_end = False
    return phase
