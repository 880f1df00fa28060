"""The Trainer that every task's Trainer extends."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sized
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainingArguments

from geohf.data.classes import NamedClasses, class_names
from geohf.data.samples import without_decoding
from geohf.data.streaming import EndlessStream, is_stream
from geohf.data.tensor_dataset import TensorDictDataset, identity_collate
from geohf.errors import DataError
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.batches import BatchesAhead, EmptyBatch, StreamBatches, drop_padding_rows
from geohf.training.finetuning import layer_shares
from geohf.training.phases import Phases
from geohf.training.progress import BriefLog, BriefProgress
from geohf.training.settings import (
    own_arguments,
    refused,
    rehearse,
    require_a_batch,
    require_float32,
    require_recomputing,
)

logger = logging.getLogger(__name__)

# what a backbone is called in ours, and in detectors of transformers
TOWERS = {"tower", "backbone", "conv_encoder"}

# keyword arguments of transformers' Trainer that would do nothing here, or nothing right: name -> what to do instead
NOT_TAKEN = {
    "compute_loss_func": "its models compute their own losses; a model of your own has another `forward`",
    "preprocess_logits_for_metrics": "metrics and calibration need the outputs as they are; change them in compute_metrics",
    "optimizer_cls_and_kwargs": "name one with optim and optim_args, or give a built one in optimizers",
}


class PhaseTrainer(Phases):
    """transformers' Trainer with eight things more.

    - **Parts of the loss.** A model's output may hold `loss_parts`, a dict of scalars, each logged beside `loss`.
    - **Exact means.** A model with `count_loss_items(batch)` (a dict: part -> number of rows that count) gets
      `loss_items` in its forward: the numbers over all micro-batches and processes of an optimizer step. It divides its
      sums by them, and the gradient is that of one large batch, whatever the accumulation, the number of processes, and
      the rows that lack a label. Each tensor or list of such a model's batches has one entry per row.
    - **Two learning rates**: parameters below `tower` take `backbone_learning_rate`, times `layer_decay` for every block
      that follows theirs.
    - **Two collators**: `eval_collator`, where given, makes the batches of evaluation, which augments nothing.
    - **Streams.** `train_dataset` may be a `datasets.IterableDataset`; with `max_steps` it is read as often as that
      takes, each process its share (see `EndlessStream`). Images stay undecoded until a collator opens them.
    - **A moving average of the weights** where `ema_decay` asks for it: it is evaluated, saved and kept.
    - **Checkpoints without pickle**, used only when they are whole: a run killed at any moment resumes to the same weights
      as an uninterrupted one.
    - **Pushes of data alone**: the task's card, no pickle, no token, and only numbers of the weights that are pushed.
    """

    args: Any  # of `arguments_class`
    train_dataset: Any
    eval_dataset: Any
    shown_metrics: ClassVar[tuple[str, ...]] = ()  # what the progress bar tells of an evaluation
    class_columns: ClassVar[tuple[str, ...]] = ()  # columns of rows that name a class, or number it
    arguments_class: ClassVar[type[GeoTrainingArguments]] = GeoTrainingArguments

    def __init__(
        self,
        model=None,
        args: TrainingArguments | None = None,
        data_collator=None,
        eval_collator=None,
        **kwargs,
    ):
        for name, instead in NOT_TAKEN.items():
            if kwargs.get(name) is not None:
                raise DataError(f"a geohf Trainer takes no {name}: {instead}")
        args = own_arguments(args, self.arguments_class, kwargs.get("eval_dataset") is not None)
        rehearse(args)
        self._given_collators = data_collator, eval_collator
        # the task's, unless a user gave another
        kwargs.setdefault("compute_metrics", getattr(self, "_metrics", None))
        for name in ("train_dataset", "eval_dataset"):
            kwargs[name] = without_decoding(kwargs.get(name))
        with refused():
            super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        for theirs, ours in ((ProgressCallback, BriefProgress), (PrinterCallback, BriefLog)):
            if self.pop_callback(theirs) is not None:
                self.add_callback(ours(self.run_folder.name, self.shown_metrics))
        self._parts: dict[str, Any] = defaultdict(float)  # 0.0, then scalar tensors
        self._parts_logged_at = 0
        self._counted: dict[str, torch.Tensor] | None = {}  # rows for each part, until they are told
        self._fit(self.model)
        require_recomputing(self.model, self.args)
        if isinstance(self.train_dataset, Sized):
            require_a_batch(self.args, len(self.train_dataset))
        self._settle_metric()
        self._average_weights()
        patience = self.args.early_stopping_patience
        if patience and self.args.load_best_model_at_end and not self._stopping_callbacks():
            self.add_callback(EarlyStoppingCallback(patience))

    def _stopping_callbacks(self) -> list[EarlyStoppingCallback]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]

    def _fit(self, model) -> None:
        """What depends on the model, which `model_init` makes anew for every training."""
        require_float32(model)
        self.counts_items = hasattr(model, "count_loss_items")
        self.loss_is_scaled_for_ga = self.counts_items
        # known before anything shards or wraps the model
        self._vectors = {name for name, p in model.named_parameters() if p.ndim < 2}
        training, evaluation = self._given_collators
        self.data_collator = training or self.make_collator(model, training=True) or self.data_collator
        self.eval_collator = evaluation or self.make_collator(model, training=False)

    def make_collator(self, model, training: bool):
        """The task's own collator of rows, for a model; None where transformers' does."""
        return None

    @property
    def config(self):
        """The model's config."""
        return self.accelerator.unwrap_model(self.model).config

    def call_model_init(self, trial=None):
        """As transformers', with collators that fit the new model."""
        model = super().call_model_init(trial)
        if hasattr(self, "data_collator"):  # not while the Trainer itself is made
            self._fit(model)
        return model

    def _init_training_state(self, max_steps, steps_an_epoch, epochs, checkpoint, trial):
        where = super()._init_training_state(max_steps, steps_an_epoch, epochs, checkpoint, trial)
        self._parts.clear()
        self._parts_logged_at = self.state.global_step
        self._counted = {}
        if is_stream(self.train_dataset):
            self._stream.passed_over = where[1]
        elif checkpoint and where[1]:
            self._resume_within_epoch(checkpoint)
        stops = self._stopping_callbacks()
        if checkpoint and any(c.early_stopping_patience_counter >= c.early_stopping_patience for c in stops):
            return epochs, 0  # it was killed after its last step: nothing is left to train
        return where

    # ---- batches

    def get_train_dataloader(self):
        """As transformers'; a stream comes as a loader without end that knows this process's share."""
        if not is_stream(self.train_dataset):
            self._ahead = BatchesAhead(self.data_collator)
            with self._collating(self.train_dataset, self._ahead):
                return super().get_train_dataloader()
        args = self.args
        # accelerate would read all of it on one process, or end when the shortest share does
        self._stream = StreamBatches(
            EndlessStream(self.train_dataset, args.process_index, args.world_size),
            self._train_batch_size,
            self._with_names(self.train_dataset, self.data_collator),
            seed=args.order_seed * args.world_size + args.process_index,
        )
        asked = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "in_order")
        options = {name: getattr(args, f"dataloader_{name}") for name in (*asked, "multiprocessing_context")}
        return DataLoader(self._stream, batch_size=None, collate_fn=identity_collate, **options)

    def get_eval_dataloader(self, eval_dataset=None):
        """As transformers', with `eval_collator` where one was given: evaluation augments nothing."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):  # one of several by its name
            dataset = self.eval_dataset[eval_dataset]
        with self._collating(dataset, self.eval_collator or self.data_collator, drops=False):
            return super().get_eval_dataloader(without_decoding(eval_dataset))

    def get_test_dataloader(self, test_dataset):
        """As `get_eval_dataloader`."""
        with self._collating(test_dataset, self.eval_collator or self.data_collator, drops=False):
            return super().get_test_dataloader(without_decoding(test_dataset))

    @contextmanager
    def _collating(self, dataset, collator, drops=True):
        """transformers takes the collator of training, and `dataloader_drop_last`, for all loaders."""
        training, asked = self.data_collator, self.args.dataloader_drop_last
        self.data_collator = self._with_names(dataset, collator)
        self.args.dataloader_drop_last = asked and drops
        try:
            yield
        finally:
            self.data_collator, self.args.dataloader_drop_last = training, asked

    def _with_names(self, dataset, collator):
        """The collator for rows of this dataset, whose classes may be numbers that its features name."""
        if isinstance(dataset, TensorDictDataset):
            return identity_collate
        names = class_names(dataset, self.class_columns) if self.class_columns else {}
        return NamedClasses(collator, names) if names else collator

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The batches of one optimizer step, and how many of their rows count."""
        batches = []
        for batch in islice(epoch_iterator, num_batches):
            batches.append(drop_padding_rows(batch, self.accelerator) if self.counts_items else batch)
        if not batches and is_stream(self.train_dataset):  # it has no end: the others would wait for ever
            share = f"process {self.args.process_index + 1} of {self.args.world_size}"
            raise DataError(f"the training stream has no row for {share}")
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
            counts.append(rows * 0 if isinstance(batch, EmptyBatch) else rows)
        totals = dict(zip(items, self.accelerator.reduce(sum(counts), reduction="sum").unbind(), strict=True))
        if self._counted is not None:
            self._counted = {name: total + self._counted.get(name, 0) for name, total in totals.items()}
        return totals

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's own loss; the gradient's scale is what one process with one large batch would have."""
        items = {} if num_items_in_batch is None else {"loss_items": num_items_in_batch}
        outputs = model(**inputs, **items)
        loss = outputs.get("loss")
        if loss is None:
            raise DataError("the model gave no loss: the batch holds neither labels nor coordinates")
        # processes average their gradients, but each holds its share of one sum
        share = self.accelerator.num_processes if num_items_in_batch is not None else 1
        share = 0 if isinstance(inputs, EmptyBatch) else share
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
                means = torch.stack([*self._parts.values()]).to(self.args.device)
                means = self.accelerator.reduce(means, reduction="mean") / steps
                logs.update(zip(self._parts, means.tolist(), strict=True))
                self._parts.clear()
            self._parts_logged_at = self.state.global_step
            self._require_finite(logs["loss"])
        if "train_loss" in logs or ("loss" in logs and (self.state.epoch or 0) >= 1):
            self._say_what_never_counted()
        super().log(logs, start_time)

    def _say_what_never_counted(self) -> None:
        """A part of the loss for which no row of an epoch had a label is 0, and learns nothing."""
        counted = {name: float(count) for name, count in (self._counted or {}).items()}
        self._counted = None
        lacking = [name for name, count in counted.items() if not count]
        named = " and ".join(name.replace("_", " ") for name in lacking)
        if lacking and len(lacking) == len(counted):
            raise DataError(f"no training row has a label to learn from: nothing counts for {named}")
        if lacking:
            logger.warning(
                "no training row has a label for %s: that part of the loss is 0 and learns nothing", named
            )

    def _get_grad_norm(self, model, grad_norm=None):
        # the norm costs a pass over all gradients: known where it was asked to be clipped, else left out
        return None if grad_norm is None else super()._get_grad_norm(model, grad_norm=grad_norm)

    # ---- the optimizer

    @refused()
    def create_optimizer(self, *args, **kwargs):
        """AdamW with weight decay on matrices only, and the backbone at its own learning rate."""
        if self.optimizer is None:
            model = self.accelerator.unwrap_model(self.model)
            decayed = set(self.get_decay_parameter_names(model)) - self._vectors
            groups = defaultdict(list)
            shares = layer_shares(model, getattr(self.args, "layer_decay", 1.0))
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    in_tower = not TOWERS.isdisjoint(name.split("."))
                    groups[in_tower, name in decayed, shares.get(id(parameter), 1.0)].append(parameter)
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            settings.pop("params", None)
            rate, tower_rate = self.args.learning_rate, self.args.backbone_learning_rate
            if tower_rate is None:  # published weights are to be kept, random ones are not
                published = getattr(getattr(model, "config", None), "backbone_name", None)
                tower_rate = 1e-5 if published else rate / 3
            described = [
                {
                    "params": groups[in_tower, decay, share],
                    "weight_decay": self.args.weight_decay if decay else 0.0,
                    "lr": share * tower_rate if in_tower else rate,
                }
                for in_tower, decay, share in sorted(groups)
            ]
            self.optimizer = optimizer_class(described, **settings)
        return self.optimizer
