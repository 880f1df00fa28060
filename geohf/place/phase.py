"""Training the head on cached features, then, where asked, as much of the tower as one likes."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from transformers import EvalPrediction, TrainerCallback

from geohf.data.rows import positions_of
from geohf.data.tensor_table import TensorTable
from geohf.errors import DataError
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.head import PlaceHead
from geohf.place.logs import StepClock
from geohf.place.metrics import RECALLS, place_metrics
from geohf.place.modeling import GeoPlaceModel
from geohf.place.original import RandomBatches, greedy_clusters
from geohf.place.sampler import PlaceSampler
from geohf.place.search import top_k
from geohf.place.splits import PlaceData
from geohf.training.finetuning import unfreeze
from geohf.training.phase import PhaseTrainer, phase_arguments
from geohf.vision.weights import in_eval_mode


class PlacePhaseTrainer(PhaseTrainer):
    """Trains a place model, or its head on features; evaluates by recall.

    Args:
        model: a `GeoPlaceModel`, or a `PlaceHead`.
        train_dataset: a `TensorTable` of features for a head, else a dataset of drives, or a stream of them. A
            stream's batches are rows that follow each other: pictures in the order of the drive, in batches that
            reach further than `negative_m`, have both neighbours and strangers in each.
        eval_dataset: likewise, with first the database and then the queries.
        database_rows: how many rows of `eval_dataset` are the database.
        sampler: gives the order of the training rows; None shuffles them.
    """

    shown_metrics = ("r1", "r5", "r10")
    arguments_class = PlaceTrainingArguments

    def __init__(
        self,
        model=None,
        args=None,
        train_dataset=None,
        eval_dataset=None,
        database_rows: int = 0,
        sampler: PlaceSampler | RandomBatches | None = None,
        data_collator=None,
        **kwargs,
    ):
        self.database_rows, self.sampler = database_rows, sampler
        kwargs.setdefault("compute_metrics", self._metrics)
        super().__init__(
            model, args, data_collator, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs
        )
        self.label_names = ["coordinates"]
        self.clock = StepClock()
        self.add_callback(self.clock)
        if sampler is not None:
            self.add_callback(
                _Epochs(sampler, train_dataset if isinstance(train_dataset, TensorTable) else None)
            )

    def make_collator(self, model, training: bool):
        """Of drives; a head's features come in tables."""
        return None if isinstance(model, PlaceHead) else PlaceCollator(model)

    def measured(self):
        """As `METRICS`, without recalls of more answers than the database has."""
        metrics = super().measured()
        return {n: m for n, m in metrics.items() if not (n[0] == "r" and int(n[1:]) > self.database_rows)}

    def _get_train_sampler(self, train_dataset=None):
        return self.sampler if self.sampler is not None else super()._get_train_sampler(train_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As `PhaseTrainer`; keeps the loss of every batch for the log of batches."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.clock.note(loss, outputs.get("loss_parts") or {})
        return (loss, outputs) if return_outputs else loss

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        descriptors, n = torch.from_numpy(np.asarray(prediction.predictions)), self.database_rows
        points = np.asarray(prediction.label_ids, np.float64)
        k = min(max(RECALLS), n)
        _, ranked = top_k(descriptors[:n], descriptors[n:], k)
        counts = [count for count in RECALLS if count <= k]
        metrics = place_metrics(ranked, points[:n], points[n:], [self.config.positive_m], counts)
        metrics = {name: metrics[name] for name in (*(f"r{count}" for count in counts), "median_m")}
        return {"loss": self._validation_loss(descriptors, points)} | metrics

    def _validation_loss(self, descriptors: torch.Tensor, points: np.ndarray) -> float:
        """The loss of queries among each other and with the database around them, in batches as in training."""
        batch = min(self.args.train_batch_size * self.args.world_size, len(points))
        sampler = PlaceSampler(
            points, max(batch, 4), 2, self.config.positive_m, self.config.negative_m, hard_share=0, seed=0
        )
        rows = torch.tensor(list(sampler)).split(sampler.batch_size)
        head = self.accelerator.unwrap_model(self.model)
        head = head if isinstance(head, PlaceHead) else head.head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses = [float(head.losses(descriptors[r], torch.from_numpy(points[r]))[0]) for r in rows]
        return math.fsum(losses) / len(losses)


class PlaceCollator:
    """Rows of a dataset of drives to a batch of pixels, degrees and headings.

    Args:
        model: gives the processor.
    """

    def __init__(self, model: GeoPlaceModel):
        self.processor = model.processor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": self.processor(rows)["pixel_values"],
            "coordinates": torch.from_numpy(positions_of(rows)),
            "headings": torch.tensor([_number(row.get("heading")) for row in rows]),
        }


def _number(value) -> float:
    """A cell of a row that may lack it."""
    return math.nan if value is None else float(value)


class _Epochs(TrainerCallback):
    """Tells the sampler which epoch begins and, on cached features, how the head sees the images by then."""

    def __init__(self, sampler: PlaceSampler, table: TensorTable | None):
        self.sampler, self.table = sampler, table

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))
        if self.table is not None and self.sampler.hard_share:
            head = getattr(model, "module", model)
            self.sampler.set_descriptors(head_descriptors(head, self.table.columns["features"]))


@torch.inference_mode()
def head_descriptors(head: PlaceHead, features: torch.Tensor, batch_size: int = 1024) -> torch.Tensor:
    """The head's descriptors of cached features, (n, d) float32 on the CPU; the head's own mode is left alone."""
    device = next(chain(head.parameters(), head.buffers())).device
    head = in_eval_mode(head)
    return torch.cat([head(part.to(device)).descriptors.cpu() for part in features.split(batch_size)])


def make_sampler(data: PlaceData, config, args: PlaceTrainingArguments) -> PlaceSampler:
    """Batches of places from the training rows."""
    return PlaceSampler(
        data.points[data.train],
        args.train_batch_size * args.world_size,
        args.images_per_place,
        config.positive_m,
        config.negative_m,
        data.sequences[data.train],
        data.headings[data.train],
        config.heading_deg,
        args.hard_place_share,
        args.seed,
    )


def train_head(
    model: GeoPlaceModel,
    features: torch.Tensor,
    data: PlaceData,
    args: PlaceTrainingArguments,
    method: str = "ours",
    name: str = "head",
    resume: bool = False,
) -> PlacePhaseTrainer:
    """Train the head on the frozen tower's features of all images.

    Args:
        features: (n, ...) of the images of `data`, see `geohf.vision.features.cached_features`.
        method: `ours`, or `original` for the seed's own recipe, see `geohf.place.original`.
        name: of the folder of its checkpoints.

    Returns:
        The trainer, whose model is the head with the best epoch's weights.

    Raises:
        DataError: no two training images lie within `positive_m`, or the head has nothing to learn.
    """
    if not any(True for _ in model.head.parameters()):
        raise DataError(
            f"the pooling {model.config.pooling!r} without a projection has nothing to learn; --num_train_epochs 0 "
            "measures it as it is"
        )
    rows = torch.from_numpy(data.train)
    columns = {
        "features": features[rows],
        "coordinates": torch.from_numpy(data.points[data.train]),
        "headings": torch.from_numpy(data.headings[data.train]).float(),
    }
    sampler = make_sampler(
        data, model.config, args
    )  # also where it is not used: it refuses tables without pairs
    if method == "original":
        columns["clusters"] = torch.from_numpy(
            greedy_clusters(data.points[data.train], model.config.positive_m)
        )
        sampler = RandomBatches(len(data.train), sampler.batch_size, args.seed)
    model.head.fit_features(columns["features"])
    asked = torch.from_numpy(np.concatenate([data.database, data.validation]))
    table = TensorTable(features=features[asked], coordinates=torch.from_numpy(data.points[asked]))
    trainer = PlacePhaseTrainer(
        model.head,
        phase_arguments(args, name, "r1", activation_checkpointing=None, **_measured_on(data)),
        TensorTable(**columns),
        table if len(data.validation) else None,
        len(data.database),
        sampler,
    )
    trainer.run(resume)
    return trainer


def finetune(
    model: GeoPlaceModel, data: PlaceData, args: PlaceTrainingArguments, name: str, resume: bool = False
) -> tuple[GeoPlaceModel, PlacePhaseTrainer]:
    """Train the head on with as much of the tower as `args.finetune` says.

    Returns:
        (the model with adapters merged, the trainer).
    """
    trained = unfreeze(model, args)
    phase = phase_arguments(
        args,
        f"{name}-{args.finetune}",
        "r1",
        num_train_epochs=args.finetune_epochs,
        **_measured_on(data),
    )
    asked = np.concatenate([data.database, data.validation])
    trainer = PlacePhaseTrainer(
        trained,
        phase,
        data.images.select(data.train),
        data.images.select(asked) if len(data.validation) else None,
        len(data.database),
        make_sampler(data, model.config, args),
    )
    trainer.run(resume)
    if args.finetune == "lora":
        if trainer.is_world_process_zero():
            trained.save_pretrained(Path(args.output_dir) / "adapter")
        model = trained.merge_and_unload()
    model.tower.requires_grad_(False)
    return model.eval(), trainer


def _measured_on(data: PlaceData) -> dict:
    """Without validation the last epoch is the best one."""
    return {} if len(data.validation) else {"eval_strategy": "no", "load_best_model_at_end": False}
