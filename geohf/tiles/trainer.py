"""All the training of the tile task: one phase, and the calibration of its intervals."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geohf.data.streaming import is_stream
from geohf.errors import DataError
from geohf.metrics.records import CardData, Evaluation
from geohf.tiles.answers import TileSequenceOutput
from geohf.tiles.arguments import TileTrainingArguments
from geohf.tiles.card import card_data
from geohf.tiles.dataset import BoundRows, as_sequences, bound_to
from geohf.tiles.features import feature_rows
from geohf.tiles.metrics import baselines_of, measure
from geohf.tiles.outputs import write_outputs
from geohf.tiles.phase import TilePhaseTrainer, calibrate
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

    @staticmethod
    def read_rows(rows):
        """See `as_sequences`."""
        return as_sequences(rows)

    def run_phases(self, resume: bool) -> None:
        if self.args.finetune == "all":
            self.run_phase("train", resume=resume, default_metric="nrmse")
            return
        if not self.config.framewise:
            raise DataError(
                f"--finetune {self.args.finetune} is of a frame encoder (--encoder attention or ltae), and "
                f"{self.config.encoder} has none: it learns as a whole"
            )
        if is_stream(self.train_dataset):
            self.finetune("train", resume, default_metric="nrmse")
            return
        if self.args.finetune != "none":
            require_finetunable(self.model, self.args, len(self.train_dataset))
            self.finetune("train", resume, default_metric="nrmse")
            return
        if self.args.augment:
            logger.info(
                "--finetune none: the frame encoder sees each frame once, so tiles are not turned or mirrored"
            )
        unfreeze(self.model, self.args)
        train, validation = (
            feature_rows(self.model, rows, self.args) for rows in (self.train_dataset, self.eval_dataset)
        )
        self.run_phase("train", train=train, evaluation=validation, resume=resume, default_metric="nrmse")

    def _calibrate(self) -> None:
        if self.config.head != "image" and isinstance(self.eval_dataset, BoundRows):
            outputs = self.outputs(self.eval_dataset)
            rows, config = self.eval_dataset, self.model.config
            regions = rows.region_names() if config.interval_groups != "none" else None
            calibrate(config, outputs.raw, rows.windows.truth, regions)

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """See `GeoTrainer.evaluate`."""
        if eval_dataset is self._validation:
            eval_dataset = None
        return super().evaluate(
            eval_dataset if isinstance(eval_dataset, str) else as_sequences(eval_dataset), *args, **kwargs
        )

    def outputs(self, dataset) -> TileSequenceOutput:
        """The model's outputs on a whole dataset, on the CPU and on every process."""
        if self.args.finetune == "none" and self.config.framewise:
            dataset = feature_rows(self.model, bound_to(dataset, self.config), self.args)
        return TileSequenceOutput(predictions=torch.from_numpy(np.asarray(self.predict(dataset).predictions)))

    def measure(
        self, dataset, outputs: TileSequenceOutput, prefix: str = "eval", intervals: bool = True
    ) -> Evaluation:
        """See `geohf.tiles.metrics.measure`."""
        config, rows, values = self.model.config, bound_to(dataset, self.config), outputs.raw
        outputs.region = rows.region_numbers(config)
        answers = self.model.decode(outputs)
        images = rows.images() if config.head == "image" else None
        train = self.train_dataset.windows if isinstance(self.train_dataset, BoundRows) else None
        baselines = baselines_of(config, rows, train, images)
        found = measure(config, values, rows, baselines, intervals, images)
        return Evaluation(
            found, dataset, answers, prefix, outputs=outputs, baselines=baselines, images=images
        )

    def write_outputs(self, folder: Path, evaluation: Evaluation, **options: Any) -> Mapping[str, Any]:
        """See `geohf.tiles.outputs.write_outputs`."""
        return write_outputs(folder, self, evaluation, **options)

    def card_data(self, evaluation: Evaluation) -> CardData:
        """See `geohf.tiles.card.card_data`."""
        return card_data(self, evaluation)
