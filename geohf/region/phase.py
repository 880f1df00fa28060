"""One phase of a region model's training: the whole model, its router, or one expert."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction

from geohf.data.streaming import is_stream
from geohf.metrics.headings import HEADING_METRICS
from geohf.region.arguments import RegionTrainingArguments
from geohf.region.experts import RegionExpert, RegionOutput, RegionRouter
from geohf.region.modeling import GeoRegionModel
from geohf.region.processing import RegionCollator
from geohf.training.phase import PhaseTrainer


class RegionPhaseTrainer(PhaseTrainer):
    """Trains a whole region model, or its router or one expert by itself.

    Args:
        model: a `GeoRegionModel`; or one of its experts, or its `router_module()`, for which `whole` is needed.
        train_dataset, eval_dataset: datasets with `region_features`, or `TensorDictDataset`s of features for an expert
            without a tower.
        whole: the model that such a part belongs to.
    """

    shown_metrics = ("accuracy", "mean_m", "mean_units", "routed_mean_m", "routed_mean_units")
    class_columns = ("region",)
    arguments_class = RegionTrainingArguments

    def __init__(
        self, model=None, args=None, data_collator=None, whole: GeoRegionModel | None = None, **kwargs
    ):
        self._whole = whole
        super().__init__(model, args, data_collator, **kwargs)
        self.label_names = list(self.model.targets)

    def make_collator(self, model, training: bool):
        """Of photographs, for a whole model or the module of one."""
        whole = self._whole or model
        if not hasattr(whole, "processor"):  # an expert by itself learns from features
            return None
        return RegionCollator(whole, model.targets, self.args.augment if training else "none")

    @property
    def module(self):
        """The module that learns, without what wraps it."""
        module = self.accelerator.unwrap_model(self.model)
        return module.get_base_model() if hasattr(module, "peft_config") else module

    def measured(self):
        """As `METRICS`, of what this module does, in the frame's unit."""
        targets, unit, names = self.model.targets, self.config.unit, {"loss"}
        routed = isinstance(self.module, GeoRegionModel)
        if routed:
            names |= {"point_loss", "region_loss"} | ({"heading_loss"} if "headings" in targets else set())
        if "labels" in targets:
            names.add("accuracy")
        if "headings" in targets:
            names.update(HEADING_METRICS)
        if "coordinates" in targets:
            names |= {f"{'routed_' * routed}{name}_{unit}" for name in ("mean", "median", "p90")}
        return {name: metric for name, metric in super().measured().items() if name in names}

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Cosine with warm restarts, every `t_0` epochs at first; transformers' own where that is 0, and of a stream."""
        if not self.args.t_0 or is_stream(self.train_dataset):
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            batches = len(self.get_train_dataloader())
            steps = max(1, -(-batches // self.args.gradient_accumulation_steps))
            self.lr_scheduler = cosine_warm_restarts(
                optimizer or self.optimizer,
                round(self.args.t_0 * steps),
                self.args.t_mult,
                self.args.eta_min,
                self.args.get_warmup_steps(num_training_steps),
            )
        return self.lr_scheduler

    def outputs(self, dataset) -> RegionOutput:
        """The module's outputs on a whole dataset, on the CPU and on every process."""
        return self._named(self.predict(dataset).predictions)

    def _named(self, predictions) -> RegionOutput:
        arrays = [predictions] if isinstance(predictions, np.ndarray) else list(predictions)
        parts = {RegionRouter: ["logits"], RegionExpert: ["scaled"]}
        names = parts.get(type(self.module), ["logits", "scaled", "coordinates"])
        if "headings" in self.module.targets:
            names = [*names, "directions"]
        output = RegionOutput()
        for name, array in zip(names, arrays, strict=True):
            output[name] = torch.from_numpy(array)
        return output

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs = self._named(prediction.predictions)
        truth = prediction.label_ids if isinstance(prediction.label_ids, tuple) else [prediction.label_ids]
        return self.module.measure(outputs, *map(torch.from_numpy, truth))


def cosine_warm_restarts(
    optimizer: Optimizer, period: int, multiplier: int = 1, floor: float = 0.0, warmup: int = 0
) -> LambdaLR:
    """Cosine annealing that starts again (Loshchilov and Hutter, SGDR, 2017), for any number of rates.

    The curve of PyTorch's CosineAnnealingWarmRestarts, whose lower end is one number for all parameter groups.

    Args:
        period: steps of the first period.
        multiplier: each period is so many times as long as the one before.
        floor: share of each group's own rate at the end of a period.
        warmup: steps of a straight rise before the first period.
    """

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done, total = step - warmup, max(1, period)
        if multiplier == 1:
            done %= total
        while done >= total:
            done, total = done - total, total * multiplier
        return floor + (1 - floor) * (1 + math.cos(math.pi * done / total)) / 2

    return LambdaLR(optimizer, share)
