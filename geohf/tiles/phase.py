"""Training on tile sequences."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import default_collate
from transformers import EvalPrediction

from geohf.data.streaming import is_stream
from geohf.data.tensor_table import batch_as_is
from geohf.metrics.directions import LOSS
from geohf.tiles.arguments import TileTrainingArguments
from geohf.tiles.dataset import TileSequences
from geohf.tiles.evaluation import image_measures, number_measures
from geohf.tiles.metrics import IMAGE_METRICS, metrics_of
from geohf.training.phase import PhaseTrainer


class TilePhaseTrainer(PhaseTrainer):
    """Trains a `TileSequenceModel` on `TileSequences`; evaluates by the rate and by skill.

    Args:
        model: a `TileSequenceModel`.
        train_dataset: `TileSequences`, or a stream of `geohf.tiles.streaming.stream_tiles`.
        eval_dataset: `TileSequences`.
    """

    shown_metrics = ("mae", "r2_rate", "skill_persistence", "psnr")
    arguments_class = TileTrainingArguments

    def __init__(self, model=None, args=None, train_dataset=None, eval_dataset=None, **kwargs):
        kwargs.setdefault("compute_metrics", self._metrics)
        kwargs.setdefault("data_collator", default_collate if is_stream(train_dataset) else batch_as_is)
        kwargs.setdefault("eval_collator", batch_as_is)
        super().__init__(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        self.label_names = ["labels"]

    def measured(self):
        """As `METRICS`, of images or of the model's targets."""
        if self.config.head == "image":
            return LOSS | IMAGE_METRICS
        return LOSS | metrics_of(self.config.targets)

    def get_eval_dataloader(self, eval_dataset=None):
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        self._windows = (self.eval_dataset[dataset] if isinstance(dataset, str) else dataset).windows
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        self._windows = test_dataset.windows
        return super().get_test_dataloader(test_dataset)

    def answers(self, dataset: TileSequences) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's predictions and the labels of a whole dataset, on the CPU and on every process."""
        return _tensors(self.predict(dataset))

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        values, labels = _tensors(prediction)
        if model.config.head == "image":
            return image_measures(values, labels, model.config)
        return number_measures(model, values, self._windows)


def _tensors(prediction) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(np.asarray(x)) for x in (prediction.predictions, prediction.label_ids))
