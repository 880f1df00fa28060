"""Training of experts and router, one after the other or together, and the calibration behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import torch
from transformers import EvalPrediction

from geohf.data.classes import class_numbers
from geohf.data.rows import positions_of
from geohf.data.streaming import is_stream
from geohf.data.tables import points_of
from geohf.data.tensor_table import TensorTable
from geohf.errors import DataError
from geohf.geo import frame_distance
from geohf.metrics.calibration import conformal_quantile, fit_temperature
from geohf.region.arguments import RegionTrainingArguments
from geohf.region.experts import RegionExpert, RegionOutput, RegionRouter
from geohf.region.modeling import GeoRegionModel
from geohf.training.phase import PhaseTrainer, phase_arguments
from geohf.training.schedules import cosine_warm_restarts
from geohf.vision.augmentation import RandomAreaCrop
from geohf.vision.features import cached_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

_SMALLEST_ERROR = (
    1e-6  # metres or units: an expert of one single point is never wrong, and must not divide by 0
)


class RegionCollator:
    """Rows of a dataset of photographs to a batch of pixels and the targets of what is trained.

    Args:
        model: gives the processor and the regions.
        targets: `labels`, `coordinates` or both.
        augment: `none`, `light` or `full`, see `region_augmentation`.
    """

    def __init__(self, model: GeoRegionModel, targets: Sequence[str], augment: str = "none"):
        self.processor, self.targets = model.processor, targets
        self.label2id, self.frame = dict(model.config.label2id), model.config.frame
        self.augment = region_augmentation(augment)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        images = [row["image"] for row in rows]
        batch = {"pixel_values": self.processor.pixel_values(images, self.augment)}
        if "labels" in self.targets:
            regions, names = ([row.get(name) for row in rows] for name in ("region", "filename"))
            batch["labels"] = torch.from_numpy(class_numbers(regions, self.label2id, "region", names))
        if "coordinates" in self.targets:
            batch["coordinates"] = torch.from_numpy(positions_of(rows, self.frame))
        return batch


def region_augmentation(kind: str):
    """What happens to a training image before it is resized.

    `light` crops a little and changes colours. `full` is the seed's: it also mirrors both ways, rotates by up to
    20 degrees and erases a patch, which suits pictures from above; a street that is mirrored is another place.
    """
    if kind == "none":
        return None
    from torchvision.transforms import v2

    if kind == "light":
        return v2.Compose([RandomAreaCrop(0.85), v2.ColorJitter(0.15, 0.15, 0.1)])
    grey = [124, 116, 104]  # the mean of ImageNet, which normalises to about zero
    return v2.Compose(
        [
            RandomAreaCrop(0.85, (0.9, 1.1)),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(20, fill=grey),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
            v2.RandomErasing(0.25, value=grey),
        ]
    )


class RegionPhaseTrainer(PhaseTrainer):
    """Trains a whole region model, or its router or one expert by itself.

    Args:
        module: a `GeoRegionModel`; or one of its experts, or its `router_module()`, for which `model` is needed.
        train_dataset, eval_dataset: datasets with `region_features`, or `TensorTable`s of features for an expert
            without a tower.
        model: the model that the module belongs to, or the whole model where no module is given.
    """

    shown_metrics = ("accuracy", "mean_m", "mean_units", "routed_mean_m", "routed_mean_units")
    class_columns = ("region",)
    arguments_class = RegionTrainingArguments

    def __init__(self, module=None, args=None, train_dataset=None, eval_dataset=None, model=None, **kwargs):
        module = model if module is None else module
        self._whole = None if model is module else model
        kwargs.setdefault("compute_metrics", self._metrics)
        super().__init__(module, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        self.label_names = list(self.model.targets)

    def make_collator(self, model, training: bool):
        """Of photographs, for a whole model or the module of one."""
        whole = self._whole or model
        if not hasattr(whole, "processor"):  # an expert by itself learns from features
            return None
        return RegionCollator(whole, model.targets, self.args.augment if training else "none")

    def measured(self):
        """As `METRICS`, of what this module does, in the frame's unit."""
        whole, routed = super().measured(), isinstance(self.model, GeoRegionModel)
        names = {"loss"} | ({"point_loss", "region_loss"} if routed else set())
        if "labels" in self.model.targets:
            names.add("accuracy")
        if "coordinates" in self.model.targets:
            prefix, unit = "routed_" if routed else "", self.config.unit
            names |= {f"{prefix}{name}_{unit}" for name in ("mean", "median", "p90")}
        return {name: metric for name, metric in whole.items() if name in names}

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Cosine with warm restarts, every `t_0` epochs at first; transformers' own schedules where that is 0.

        A stream has no epochs: it takes transformers' own too.
        """
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
        module = self.accelerator.unwrap_model(self.model)
        names = {RegionRouter: ["logits"], RegionExpert: ["scaled"]}
        names = names.get(type(module), ["logits", "scaled", "coordinates"])
        return RegionOutput(**dict(zip(names, map(torch.from_numpy, arrays), strict=True)))

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs, module = self._named(prediction.predictions), self.accelerator.unwrap_model(self.model)
        truth = prediction.label_ids if isinstance(prediction.label_ids, tuple) else [prediction.label_ids]
        return module.measure(outputs, *map(torch.from_numpy, truth))


def train_together(
    model: GeoRegionModel, train: Dataset, validation: Dataset, args: RegionTrainingArguments, resume=False
) -> dict[str, list[dict]]:
    """Train one tower, the router and all heads at once.

    Returns:
        Phase -> its log history.
    """
    trainer = RegionPhaseTrainer(
        model, _phase(args, "all", validation), train_dataset=train, eval_dataset=validation
    )
    trainer.run(resume)
    for expert in model.experts:
        _require_own_scaler(expert)
    return {"all": trainer.state.log_history}


def train_apart(
    model: GeoRegionModel,
    train: Dataset,
    validation: Dataset,
    args: RegionTrainingArguments,
    regions: Sequence[str],
    router: bool = True,
    resume=False,
) -> dict[str, list[dict]]:
    """Train the experts of these regions one after the other, each on its own rows, and perhaps the router.

    Nothing but the module whose turn it is changes, not even a batch norm's statistics. Experts without a tower
    of their own learn from the shared tower's cached features.

    Returns:
        Phase -> its log history.
    """
    history = {}
    for name in regions:
        expert = model.experts[model.region_number(name)]
        rows = [_of_region(dataset, name) for dataset in (train, validation)]
        phase = _phase(args, f"region-{quote(name, safe='')}", rows[1])
        if expert.tower is None:
            phase.activation_checkpointing = None
            rows = [feature_table(model, dataset, args) if len(dataset) else None for dataset in rows]
        trainer = RegionPhaseTrainer(expert, phase, *rows, model=model)
        trainer.run(resume)
        _require_own_scaler(expert)
        history[f"region {name}"] = trainer.state.log_history
    if router and model.config.num_regions > 1:
        phase = _phase(args, "router", validation)
        trainer = RegionPhaseTrainer(
            model.router_module(), phase, train_dataset=train, eval_dataset=validation, model=model
        )
        trainer.run(resume)
        history["router"] = trainer.state.log_history
    return history


def feature_table(model: GeoRegionModel, dataset: Dataset, args: RegionTrainingArguments) -> TensorTable:
    """The shared tower's features of every photograph, from the cache, with the coordinates."""
    features = cached_features(
        model.tower.to(args.device),
        model.processor,
        [image["path"] if image["bytes"] is None else image for image in dataset["image"][:]],
        cache_dir=args.cache_dir,
        batch_size=args.feature_batch_size,
        num_workers=args.dataloader_num_workers,
        autocast=torch.bfloat16 if args.bf16 else None,
        mode=args.feature_mode,
    )
    return TensorTable(features=features, coordinates=torch.from_numpy(points_of(dataset)))


def _of_region(dataset: Dataset, name: str) -> Dataset:
    return dataset.select(np.flatnonzero(np.array(dataset["region"][:]) == name))


def _require_own_scaler(expert: RegionExpert) -> None:
    if not expert.has_own_scaler():
        raise DataError(
            f"region {expert.config.id2label[expert.number]} was trained on other rows than these: resume with the "
            "data and filters that the run began with, or begin anew without --resume_from_checkpoint"
        )


def _phase(args, name: str, validation) -> RegionTrainingArguments:
    changes: dict = {}
    if args.ddp_find_unused_parameters is None:  # only of the whole model a batch may leave an expert out
        changes["ddp_find_unused_parameters"] = name == "all"
    if not len(validation):  # a region too small to hold anything out: its last weights count
        changes |= {"eval_strategy": "no", "load_best_model_at_end": False}
    return phase_arguments(args, name, "loss", **changes)


def calibrate(model: GeoRegionModel, outputs: RegionOutput, labels, points, router: bool = True) -> None:
    """Fit the router's temperature and the radius on validation photographs and keep them in the config.

    Of a model that was calibrated before, what photographs of some regions cannot tell stays as it is.

    Args:
        outputs: of the whole model on them, no region given.
        labels: (n,) true region numbers.
        points: (n, 2) true points.
        router: fit the temperature too; not where the router stayed as it was.
    """
    config = model.config
    labels, points = torch.as_tensor(labels), torch.as_tensor(points)
    if router:
        config.temperature = round(fit_temperature(outputs.logits.numpy(), labels.numpy()), 6)
    given = given_logits(labels, config.num_regions)
    own = model.locate(given, outputs.scaled)
    errors = frame_distance(own, points, config.frame)
    medians = config.expert_errors or [float(errors.median())] * config.num_regions
    for number in labels.unique().tolist():
        medians[number] = float(errors[labels == number].median())
    config.expert_errors = [max(median, _SMALLEST_ERROR) for median in medians]
    if config.given_factor is not None and len(labels.unique()) < config.num_regions:
        return  # one factor serves all regions: those that were measured now do not speak for the others
    for name, logits in (("given_factor", given), ("routed_factor", outputs.logits)):
        answers = model.locate(logits, outputs.scaled)
        missed = frame_distance(answers, points, config.frame)
        scores = missed / model.expected_error(logits, outputs.scaled, answers)
        setattr(config, name, conformal_quantile(scores.numpy(), config.radius_coverage))


def given_logits(labels: torch.Tensor, regions: int) -> torch.Tensor:
    """(n, regions) logits that are certain of these regions, as the model gives where the region is given."""
    mine = torch.arange(regions) == labels[:, None]
    return torch.where(mine, 0.0, -torch.inf)
