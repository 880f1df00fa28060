"""All the training of the tile task: one phase, and the calibration of its intervals."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from geohf.data.streaming import is_stream
from geohf.errors import DataError
from geohf.metrics.records import Evaluation
from geohf.tiles.answers import TileSequenceOutput
from geohf.tiles.arguments import TileTrainingArguments
from geohf.tiles.card import card_data
from geohf.tiles.clusters import (
    MOST_ROWS,
    cluster_count,
    cluster_names,
    fit_clusters,
    nearest_clusters,
    states_of,
)
from geohf.tiles.dataset import BoundRows, as_sequences, bound_to
from geohf.tiles.features import feature_rows
from geohf.tiles.metrics import baselines_of, measure
from geohf.tiles.outputs import write_outputs
from geohf.tiles.phase import TilePhaseTrainer, calibrate, gathered
from geohf.training.finetuning import require_finetunable, unfreeze
from geohf.training.trainer import GeoTrainer

logger = logging.getLogger(__name__)


class TileSequenceTrainer(GeoTrainer, TilePhaseTrainer):
    """Trains a tile model, keeps its best checkpoint, and calibrates its intervals.

    Args:
        model: a `TileSequenceModel`.
        train_dataset, eval_dataset: what `geohf.tiles.data.load` gives, or a dataset or list of dicts as
            `geohf.tiles.processing.batch_of_rows` takes them. `train_dataset` may be a stream, see `stream_tiles`.
        The others: as transformers', see `GeoTrainer`.
    """

    phase_class = TilePhaseTrainer
    arguments_class = TileTrainingArguments
    read_rows = staticmethod(as_sequences)
    write_outputs, card_data = write_outputs, card_data

    def run_phases(self, resume: bool) -> None:
        self.config.clusters = None  # of an earlier training
        if self.config.interval_groups == "cluster" and not isinstance(self.train_dataset, BoundRows):
            raise DataError("--interval_groups cluster needs the training rows at hand, not a stream of them")
        if self.args.finetune == "all":
            self.run_phase("train", resume=resume, default_metric="nrmse")
            return
        if not self.config.framewise:
            raise DataError(
                f"--finetune {self.args.finetune} is of a frame encoder (--encoder attention or ltae), and "
                f"{self.config.encoder} has none: it learns as a whole"
            )
        stream = is_stream(self.train_dataset)
        if stream or self.args.finetune != "none":
            if not stream:
                require_finetunable(self.model, self.args, len(self.train_dataset))
            self.finetune("train", resume, default_metric="nrmse")
            return
        if self.args.augment:
            logger.info("--finetune none: each frame is encoded once, so tiles are not turned or mirrored")
        unfreeze(self.model, self.args)
        parts = {"train": self.train_dataset, "evaluation": self.eval_dataset}
        rows = {name: feature_rows(self.model, part, self.args) for name, part in parts.items()}
        self.run_phase("train", **rows, resume=resume, default_metric="nrmse")

    def _encoded(self, rows: Any) -> Any:
        """Rows bound to the model; of a frozen frame encoder with its features."""
        rows = bound_to(rows, self.config)
        frozen = self.args.finetune == "none" and self.config.framewise
        return feature_rows(self.model, rows, self.args) if frozen else rows

    def _clusters_of_validation(self) -> np.ndarray | None:
        """Fit the clusters on training rows; the validation rows' names, None where they are too few."""
        config, model = self.model.config, self.model
        rows = len(self.eval_dataset)
        count = cluster_count(rows, config.coverage)
        if not count:
            logger.warning("%d validation rows are too few for margins by cluster: all have one", rows)
            return None
        train, validation = self._encoded(self.train_dataset), self._encoded(self.eval_dataset)
        states = states_of(model, train, MOST_ROWS)
        if len(states.unique(dim=0)) < count:
            logger.warning(
                "the training rows look alike to the model, so that clusters cannot be told apart: all have one margin"
            )
            return None
        config.clusters = fit_clusters(states, count)
        return np.array(cluster_names(nearest_clusters(config.clusters, states_of(model, validation))))

    def _forget_calibration(self) -> None:
        config = self.model.config
        config.interval_margin = config.region_margins = config.clusters = None

    def _calibrate(self) -> None:
        rows, config = self.eval_dataset, self.model.config
        if self.config.head != "image" and isinstance(rows, BoundRows):
            outputs, regions = self.outputs(rows), None
            if config.interval_groups != "none":
                by_region = config.interval_groups == "region"
                regions = rows.region_names() if by_region else self._clusters_of_validation()
            calibrate(config, outputs.raw, rows.windows.truth, regions)

    def outputs(self, dataset) -> TileSequenceOutput:
        """The model's outputs on a whole dataset, on the CPU and on every process."""
        dataset = self._encoded(dataset)
        values, region = gathered(self.predict(dataset).predictions)
        return TileSequenceOutput(predictions=values, region=region)

    def measure(
        self, dataset, outputs: TileSequenceOutput, prefix: str = "eval", intervals: bool = True
    ) -> Evaluation:
        """See `geohf.tiles.metrics.measure`."""
        config, rows, values = self.model.config, bound_to(dataset, self.config), outputs.raw
        if outputs.region is None:
            outputs.region = rows.region_numbers(config)
        answers = self.model.decode(outputs)
        images = rows.images() if config.head == "image" else None
        train = self.train_rows.windows if isinstance(self.train_rows, BoundRows) else None
        baselines = baselines_of(config, rows, train, images)
        metrics = measure(config, values, rows, baselines, intervals, images, outputs.region)
        details = {"outputs": outputs, "baselines": baselines, "images": images}
        return Evaluation(metrics, dataset, answers, prefix, **details)
