"""One phase of a place model's training: the head on cached features, or as much of the backbone as one likes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from transformers import EvalPrediction, TrainerCallback

from geohf.data.tables import points_of
from geohf.data.tensor_dataset import TensorDictDataset
from geohf.errors import DataError, warn_once
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.drives import headings_of
from geohf.place.head import PlaceHead
from geohf.place.logs import StepClock
from geohf.place.losses import CellClassifier
from geohf.place.metrics import RECALLS, place_metrics
from geohf.place.original import RandomBatches, greedy_clusters
from geohf.place.processing import PlaceCollator
from geohf.place.sampler import PlaceSampler
from geohf.place.search import top_k
from geohf.training.checkpoints import load_tree, save_tree
from geohf.training.phase import PhaseTrainer
from geohf.vision.weights import in_eval_mode

logger = logging.getLogger(__name__)

CLASSIFIER = "classifier.safetensors"  # of a checkpoint
ORDER = "order.safetensors"  # of a checkpoint: the rows of its epoch, where hard places are among them


class PlacePhaseTrainer(PhaseTrainer):
    """Trains a place model, or its head on features; evaluates by recall.

    Args:
        model: a `GeoPlaceModel`, or a `PlaceHead`.
        train_dataset: a `TensorDictDataset` of features for a head, else a dataset or a stream of drives. Batches of a
            stream are rows that follow each other: those that reach further than `negative_m` hold neighbors and strangers.
        eval_dataset: likewise, the `database_rows` of the database before the queries.
        radius_m: meters within which an answer is right; the config's `confidence_m` where None.
        sampler: gives the order of the training rows; None shuffles them.
        classifier: of the loss `cosface`: it learns beside the model, and is kept in checkpoints, but in no model.
    """

    shown_metrics = ("r1", "r5", "r10")
    arguments_class = PlaceTrainingArguments

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        *,
        database_rows: int = 0,
        radius_m: float | None = None,
        sampler: PlaceSampler | RandomBatches | None = None,
        classifier: CellClassifier | None = None,
        **kwargs,
    ):
        self.database_rows, self.radius_m = database_rows, radius_m
        self.sampler, self.classifier = sampler, classifier
        super().__init__(model, args, data_collator, **kwargs)
        self.label_names = ["coordinates"]
        self.clock = StepClock()
        self.add_callback(self.clock)
        if sampler is not None and hasattr(sampler, "set_epoch"):
            table = kwargs.get("train_dataset")
            self.add_callback(_Epochs(sampler, table if isinstance(table, TensorDictDataset) else None))
        if classifier is not None:
            classifier.to(self.args.device)
            self.add_callback(_Classes(classifier))
            if self._shards_its_state:
                raise DataError(
                    "cosface's classes are whole, and the state is spread over devices: take another loss"
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
        """As `PhaseTrainer`, with the classes of `cosface`; keeps the loss of every batch for the log of batches."""
        if model.training and self.classifier is not None:
            inputs = inputs | {"classifier": self.classifier}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.clock.note(loss, outputs.get("loss_parts") or {})
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, *args, **kwargs):
        """As `PhaseTrainer`; the classes of `cosface` learn at the heads' rate, without decay: their length is nothing."""
        optimizer = super().create_optimizer(*args, **kwargs)
        classes = [] if self.classifier is None else [self.classifier.weight]
        if classes and not any(classes[0] is p for group in optimizer.param_groups for p in group["params"]):
            rate = {"lr": self.args.learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group({"params": classes} | rate)
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.classifier is not None and self.args.should_save:
            save_tree(self.classifier.state_dict(), Path(output_dir) / CLASSIFIER)
        drawn = self.sampler
        if not (isinstance(drawn, PlaceSampler) and self.args.should_save):
            return
        if drawn.descriptors is not None and drawn.order is not None:
            order = {"epoch": drawn.epoch, "order": torch.from_numpy(drawn.order)}
            save_tree(order, Path(output_dir) / ORDER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        classes, order = Path(checkpoint) / CLASSIFIER, Path(checkpoint) / ORDER
        if self.classifier is not None:
            if not classes.is_file():  # saved with --save_only_model true
                raise DataError(
                    f"{checkpoint}: holds the model alone, without the classes of cosface that learned beside it; begin without "
                    "--resume_from_checkpoint"
                )
            self.classifier.load_state_dict(load_tree(classes))
        if isinstance(self.sampler, PlaceSampler) and order.is_file():
            drawn = load_tree(order)
            self.sampler.resume(drawn["epoch"], drawn["order"].numpy())

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        descriptors, n = torch.from_numpy(np.asarray(prediction.predictions)), self.database_rows
        points = np.asarray(prediction.label_ids, np.float64)
        k = min(max(RECALLS), n)
        _, ranked = top_k(descriptors[:n], descriptors[n:], k)
        counts = [count for count in RECALLS if count <= k]
        radius_m = self.radius_m or self.config.confidence_m
        metrics = place_metrics(ranked, points[:n], points[n:], [radius_m], counts)
        metrics = {name: metrics[name] for name in (*(f"r{count}" for count in counts), "median_m")}
        return {"loss": self._validation_loss(descriptors, points)} | metrics

    def _validation_loss(self, descriptors: torch.Tensor, points: np.ndarray) -> float:
        """The loss of queries and database in batches as in training; NaN where no two of them are one place."""
        batch = min(self.args.train_batch_size * self.args.world_size, len(points))
        positive_m, negative_m = self.config.positive_m, self.config.negative_m
        try:
            sampler = PlaceSampler(points, max(batch, 4), 2, positive_m, negative_m, hard_share=0, seed=0)
        except DataError:
            warn_once(
                logger,
                "no two validation images lie within positive_m (%g) of each other: there is no validation loss", positive_m,
            )  # fmt: skip
            return math.nan
        rows = torch.tensor(list(sampler)).split(sampler.batch_size)
        head = self.accelerator.unwrap_model(self.model)
        head = head if isinstance(head, PlaceHead) else head.head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses = [float(head.losses(descriptors[r], torch.from_numpy(points[r]))[0]) for r in rows]
        return math.fsum(losses) / len(losses)


class _Classes(TrainerCallback):
    """Clears the gradient of the classes of `cosface`: transformers clears that of the model alone."""

    def __init__(self, classifier: CellClassifier):
        self.classifier = classifier

    def on_step_begin(self, args, state, control, **kwargs):
        self.classifier.zero_grad()


class _Epochs(TrainerCallback):
    """Tells the sampler which epoch begins and, on cached features, how the head sees the images by then."""

    def __init__(self, sampler: PlaceSampler | RandomBatches, table: TensorDictDataset | None):
        self.sampler, self.table = sampler, table

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))
        if self.table is not None and isinstance(self.sampler, PlaceSampler) and self.sampler.hard_share:
            head = getattr(model, "module", model)
            self.sampler.set_descriptors(head_descriptors(head, self.table.columns["features"]))


@torch.inference_mode()
def head_descriptors(head: PlaceHead, features: torch.Tensor) -> torch.Tensor:
    """The head's descriptors of cached features, (n, d) float32 on the CPU; the head's own mode is left alone."""
    device = next(chain(head.parameters(), head.buffers())).device
    head = in_eval_mode(head)
    return torch.cat([head(part.to(device)).descriptors.cpu() for part in features.split(1024)])


def make_sampler(rows, config, args: PlaceTrainingArguments) -> PlaceSampler:
    """Batches of places from a dataset of drives, the training images.

    Raises:
        DataError: no two images lie within `positive_m`, a `clique_m` beyond it, or a `heading_deg` where no heading is known.
    """
    if args.clique_m is not None and not 0 < args.clique_m <= config.positive_m:
        raise DataError(
            f"clique_m must be above 0 and at most positive_m ({config.positive_m:g}), within which images are of one "
            f"place, got {args.clique_m:g}"
        )
    headings = headings_of(rows)
    _require_headings(headings, config.heading_deg)
    return PlaceSampler(
        points_of(rows),
        args.train_batch_size * args.world_size,
        args.images_per_place,
        config.positive_m if args.clique_m is None else args.clique_m,
        config.negative_m,
        np.array(rows["sequence"][:]),
        headings,
        config.heading_deg,
        args.hard_place_share,
        args.order_seed,
        cliques=args.clique_m is not None,
    )


def _require_headings(headings: np.ndarray, heading_deg: float | None) -> None:
    """Refuse a turn that nothing is held against; a warning, where it is known of some images alone."""
    unknown = int(np.isnan(headings).sum())
    if heading_deg is None or heading_deg >= 180 or not unknown:
        return
    if unknown == len(headings):
        raise DataError(
            f"heading_deg {heading_deg:g}: no training image says which way it looks, so images of one place would look any "
            "way: tables say it in a column 'heading', in degrees clockwise from north; leave it out, or take 180"
        )
    logger.warning(
        "heading_deg: %d of %d training images do not say which way they look: they are of one place with all within positive_m",
        *(unknown, len(headings)),
    )


def head_table(parts: Sequence, features: torch.Tensor, clusters_m: float | None = None) -> TensorDictDataset:
    """The frozen backbone's features of images of drives, with degrees and headings.

    Args:
        parts: datasets of drives, one after the other.
        features: (n, ...) of these images.
        clusters_m: radius of the reference implementation's clusters; None: there are none.
    """
    points, headings = (np.concatenate([of(part) for part in parts]) for of in (points_of, headings_of))
    columns = {"features": features, "coordinates": torch.from_numpy(points)}
    columns["headings"] = torch.from_numpy(headings).float()
    if clusters_m is not None:
        columns["clusters"] = torch.from_numpy(greedy_clusters(points, clusters_m))
    return TensorDictDataset(**columns)
