"""Training in two phases: the heads on cached features, then the tower with them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import EvalPrediction
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from geohf.data.samples import undecoded
from geohf.data.tables import points_of
from geohf.data.tensor_table import TensorTable
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.metrics.calibration import conformal_quantile, fit_temperature
from geohf.metrics.directions import bare_name
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.classes import labels_of, state_numbers, without_strange_states
from geohf.street.head import GeoStreetOutput, StreetHead
from geohf.street.metrics import CLASS_METRICS, street_metrics
from geohf.street.modeling import GeoStreetModel
from geohf.training.finetuning import unfreeze
from geohf.training.phase import PhaseTrainer, phase_arguments
from geohf.vision.augmentation import RandomAreaCrop
from geohf.vision.features import cached_features

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from datasets import Dataset


class StreetCollator:
    """Rows of a dataset of places to a batch of pixels, labels and coordinates.

    Args:
        model: gives the processor and the classes.
        augment: vary the images, for training.
    """

    def __init__(self, model: GeoStreetModel, augment: bool = False):
        self.processor, self.config = model.processor, model.config
        self.augment = street_augmentation() if augment else None

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        points = np.array([[row.get(name) for name in ("latitude", "longitude")] for row in rows], np.float64)
        states, names = ([row.get(name) for row in rows] for name in ("state", "sample_id"))
        labels = state_numbers(states, points, self.config, names)
        batch = dict(self.processor(rows, augment=self.augment))
        return batch | {"labels": torch.from_numpy(labels), "coordinates": torch.from_numpy(points)}


def street_augmentation():
    """Crops and colour changes. No flips: they mirror signs and the side that people drive on."""
    from torchvision.transforms import v2

    return v2.Compose([RandomAreaCrop(0.72), v2.ColorJitter(0.2, 0.2, 0.2, 0.02)])


class StreetPhaseTrainer(PhaseTrainer):
    """Trains a street model, or its head on features; evaluates by the competition's score.

    Args:
        model: a `GeoStreetModel`, or a `StreetHead`.
        train_dataset, eval_dataset: datasets of places for a model, `TensorTable`s for a head.
    """

    shown_metrics = ("score", "top1", "mean_km")
    class_columns = ("state",)
    arguments_class = StreetTrainingArguments

    def __init__(
        self, model=None, args=None, train_dataset=None, eval_dataset=None, data_collator=None, **kwargs
    ):
        kwargs.setdefault("compute_metrics", self._metrics)
        super().__init__(
            model, args, data_collator, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs
        )
        self.label_names = ["labels", "coordinates"]

    def make_collator(self, model, training: bool):
        """Of places; a head's features come in tables."""
        if isinstance(model, StreetHead):
            return None
        return StreetCollator(model, augment=training and self.args.augment)

    def measured(self):
        """As `METRICS`, without what the model's classes cannot give."""
        lacking = (
            ["score"]
            if self.config.cells
            else []
            if self.config.num_classes
            else [*CLASS_METRICS, "class_loss"]
        )
        return {name: metric for name, metric in super().measured().items() if name not in lacking}

    def outputs(self, dataset) -> GeoStreetOutput:
        """The model's outputs on a whole dataset, on the CPU and on every process."""
        return self._named(self.predict(dataset).predictions)

    def _named(self, predictions) -> GeoStreetOutput:
        arrays = [predictions] if isinstance(predictions, np.ndarray) else list(predictions)
        names = ["logits"] * bool(self.config.num_classes) + ["coordinates"]
        names += ["candidates"] * (self.config.gps_head == "offset")
        return GeoStreetOutput(**dict(zip(names, map(torch.from_numpy, arrays), strict=True)))

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs = self._named(prediction.predictions)
        labels, coordinates = map(torch.from_numpy, prediction.label_ids)
        if self.config.num_classes and not bool((labels >= 0).any()):
            logger.warning("no row of the evaluation names a state: it is measured by the distance alone")
        head = self.accelerator.unwrap_model(self.model)
        head = head if isinstance(head, StreetHead) else head.head
        # over all places at once: the mean of the batches' means would depend on their sizes
        loss, parts = head.losses(
            outputs.logits, outputs.coordinates, outputs.candidates, labels, coordinates
        )
        logits = None if outputs.logits is None else outputs.logits.numpy()
        metrics = street_metrics(
            logits,
            outputs.coordinates.numpy(),
            labels.numpy(),
            coordinates.numpy(),
            scored=not self.config.cells,
        )
        return {"loss": float(loss)} | {name: float(part) for name, part in parts.items()} | metrics


READ_PLACES = 1024  # at once, where all are read in order


class FlatViews(Sequence):
    """All views of a dataset of places, one after the other, each read when it is asked for.

    Attributes:
        starts: (places + 1,) where the views of each place begin.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = undecoded(dataset)
        self.starts = np.concatenate([[0], np.cumsum([len(row) for row in dataset["headings"][:]])])
        self.rows = range(int(self.starts[-1]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = copy.copy(self)
            part.rows = self.rows[index]
            return part
        view = self.rows[index]
        place = self._place_of(view)
        return self.dataset[place]["views"][view - self.starts[place]]

    def __iter__(self) -> Iterator[dict]:
        """The views in order; of 100,000 places, reading each by itself takes half a minute."""
        if not self.rows or self.rows.step != 1:
            yield from super().__iter__()
            return
        end = self._place_of(self.rows[-1]) + 1
        for first in range(self._place_of(self.rows[0]), end, READ_PLACES):
            places = range(first, min(first + READ_PLACES, end))
            rows = self.dataset[places.start : places.stop]["views"]
            for start, views in zip(self.starts[places].tolist(), rows, strict=True):
                yield from views[max(0, self.rows.start - start) : max(0, self.rows.stop - start)]

    def _place_of(self, view: int) -> int:
        return int(np.searchsorted(self.starts, view, side="right")) - 1


def feature_table(model: GeoStreetModel, dataset: Dataset, args: StreetTrainingArguments) -> TensorTable:
    """The frozen tower's features of every view of every place, from the cache, with labels and coordinates."""
    views = FlatViews(dataset)
    flat = cached_features(
        model.tower,
        model.processor,
        views,
        cache_dir=args.cache_dir,
        batch_size=args.feature_batch_size,
        num_workers=args.dataloader_num_workers,
        autocast=torch.bfloat16 if args.bf16 else None,
        mode=args.feature_mode,
    )
    counts = torch.from_numpy(np.diff(views.starts))
    width = int(counts.max())
    mask = torch.arange(width) < counts[:, None]
    features = flat.new_zeros(*mask.shape, flat.shape[-1])
    features[mask] = flat
    headings = torch.full(mask.shape, torch.nan)
    headings[mask] = torch.tensor([h for row in dataset["headings"][:] for h in row], dtype=torch.float32)
    return TensorTable(
        features=features,
        view_mask=mask,
        headings=headings,
        labels=torch.from_numpy(labels_of(dataset, model.config)),
        coordinates=torch.from_numpy(points_of(dataset)),
    )


def train_heads(model, train, validation, args, resume=False, **kwargs) -> StreetPhaseTrainer:
    """Phase 1: the heads on the frozen tower's cached features."""
    device = args.device
    model.tower.to(device)
    validation = without_strange_states(validation, model.config, "validation")
    tables = [feature_table(model, dataset, args) for dataset in (train, validation)]
    seen = tables[0].columns
    model.head.standardize.fit(seen["features"][seen["view_mask"]])
    phase = phase_arguments(
        args,
        "phase1",
        num_train_epochs=args.phase1_epochs,
        per_device_train_batch_size=args.phase1_batch_size,
        per_device_eval_batch_size=max(256, args.phase1_batch_size),
        gradient_accumulation_steps=1,
        activation_checkpointing=None,  # the tower does not run
        default_metric=best_metric(model, validation, args),
        **_enough_steps(len(tables[0]), args),
    )
    trainer = StreetPhaseTrainer(model.head, phase, *tables, **kwargs)
    trainer.run(resume)
    return trainer


def _enough_steps(places: int, args) -> dict:
    """Few places make few steps an epoch; on cached features more of them cost nothing.

    Each of the `phase1_epochs` is then stretched to its share of `phase1_min_steps`.
    """
    steps = math.ceil(places / (args.phase1_batch_size * args.world_size)) * args.phase1_epochs
    if steps >= args.phase1_min_steps:
        return {}
    changes: dict = {"max_steps": args.phase1_min_steps}
    for what, steps_strategy in (
        ("eval", IntervalStrategy),
        ("save", SaveStrategy),
        ("logging", IntervalStrategy),
    ):
        if getattr(args, f"{what}_strategy") == "epoch":
            changes[f"{what}_strategy"] = steps_strategy.STEPS
            changes[f"{what}_steps"] = math.ceil(args.phase1_min_steps / args.phase1_epochs)
    return changes


def finetune(
    model, train, validation, args, resume=False, **kwargs
) -> tuple[GeoStreetModel, StreetPhaseTrainer]:
    """Phase 2: the heads and as much of the tower as `args.finetune` says.

    The model as phase 1 left it is saved first: adapters belong to it.

    Returns:
        (the model with adapters merged, the trainer).
    """
    base = base_folder(args)
    validation = without_strange_states(validation, model.config, "validation")
    if args.should_save:
        model.save_pretrained(base)
    if args.finetune == "lora":
        model.name_or_path = str(base)  # peft writes it into the adapter, as the model that it belongs to
    trained = unfreeze(model, args)
    phase = phase_arguments(args, "phase2", best_metric(model, validation, args))
    trainer = StreetPhaseTrainer(trained, phase, train, validation, **kwargs)
    trainer.run(resume)
    if args.finetune == "lora":
        if trainer.is_world_process_zero():
            trained.save_pretrained(Path(args.output_dir) / "adapter")
        model = trained.merge_and_unload()
    return model.requires_grad_(True).eval(), trainer


def base_folder(args) -> Path:
    """Where `finetune` saves the model as phase 1 left it."""
    return Path(args.output_dir) / "checkpoints" / "phase1" / "model"


def best_metric(model: GeoStreetModel, validation: Dataset, args) -> str:
    """The best checkpoint is chosen by the score; by the mean distance where no validation place has one.

    Raises:
        DataError: another one was asked for, which needs what no validation place has.
    """
    labelled, located = labels_of(validation, model.config) >= 0, np.isfinite(points_of(validation)).all(1)
    asked = bare_name(args.asked_metric or "")
    needs = ["states"] * (asked in CLASS_METRICS and not labelled.any())
    needs += ["positions"] * (asked.endswith(("_km", "geoscore", "gps_loss", "score")) and not located.any())
    if needs:
        raise DataError(
            f"metric_for_best_model {args.asked_metric!r} needs {' and '.join(needs)}, which no validation place has"
        )
    return "score" if (labelled & located).any() and not model.config.cells else "mean_km"


def calibrate(
    model: GeoStreetModel, outputs: GeoStreetOutput, labels: np.ndarray, points: np.ndarray
) -> None:
    """Fit the temperature and the radius on validation places and keep them in the config.

    Args:
        outputs: of the model on the validation places.
        labels: (n,) class numbers, negative where unknown.
        points: (n, 2) true degrees, NaN where unknown.
    """
    config, head = model.config, model.head.cpu()
    probabilities = None
    if outputs.logits is not None:
        config.temperature = round(fit_temperature(outputs.logits.numpy(), labels), 6)
        probabilities = (outputs.logits / config.temperature).softmax(-1)
    answers = outputs.coordinates
    if outputs.candidates is not None:
        answers = head.estimate(probabilities, outputs.candidates)
    located = np.isfinite(points).all(1)
    if not located.any():
        return
    missed = great_circle_m(answers.double().numpy()[located], points[located])
    spread = head.spread_m(probabilities, outputs.candidates, answers).numpy()[located]
    config.radius_floor_m = float(np.median(missed))
    config.radius_factor = conformal_quantile(
        missed / (spread + config.radius_floor_m), config.radius_coverage
    )


@torch.inference_mode()
def head_outputs(head: StreetHead, table: TensorTable, batch_size: int = 1024) -> GeoStreetOutput:
    """The head's outputs on a table of features, on the CPU."""
    device = next(head.parameters()).device
    head.eval()
    batches = []
    for start in range(0, len(table), batch_size):
        rows = table.__getitems__(range(start, min(start + batch_size, len(table))))
        inputs = (rows[name].to(device) for name in ("features", "view_mask", "headings"))
        batches.append(head(*inputs))
    names = [name for name, value in batches[0].items() if isinstance(value, torch.Tensor)]
    return GeoStreetOutput(**{name: torch.cat([batch[name] for batch in batches]).cpu() for name in names})


def place_outputs(model: GeoStreetModel, dataset: Dataset, args, frozen: bool) -> GeoStreetOutput:
    """The model's outputs on a dataset of places, on the CPU and on every process.

    Args:
        frozen: the tower is as it was when its features were cached; they are used then.
    """
    if frozen:
        return head_outputs(model.head, feature_table(model, dataset, args))
    return StreetPhaseTrainer(
        model, phase_arguments(args, "", eval_strategy="no", save_strategy="no")
    ).outputs(dataset)
