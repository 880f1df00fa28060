"""One loop of training on tile sequences, and the calibration that follows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from geohf.errors import DataError
from geohf.metrics.calibration import conformal_quantile
from geohf.metrics.directions import LOSS
from geohf.tiles.answers import intervals_of
from geohf.tiles.arguments import TileTrainingArguments
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.dataset import bound_to
from geohf.tiles.image_metrics import image_measures
from geohf.tiles.metrics import IMAGE_METRICS, metrics_of, number_measures
from geohf.tiles.processing import TileCollator
from geohf.training.phase import PhaseTrainer


class TilePhaseTrainer(PhaseTrainer):
    """Trains a `TileSequenceModel`; evaluates by the rate and by skill.

    Args:
        model: a `TileSequenceModel`.
        train_dataset: `TileSequences`, rows as `geohf.tiles.processing.batch_of_rows` takes them, or a stream of them.
        eval_dataset: the same, but no stream.
    """

    shown_metrics = ("mae", "r2_rate", "skill_persistence", "psnr")
    arguments_class = TileTrainingArguments

    def _fit(self, model) -> None:
        super()._fit(model)
        self.label_names = ["labels"]
        self.train_dataset = bound_to(self.train_dataset, model.config)
        self.eval_dataset = bound_to(self.eval_dataset, model.config)

    def make_collator(self, model, training: bool):
        """Of whole batches of `TileSequences`, or of single rows."""
        if not training:
            return TileCollator(model.config)
        return TileCollator(model.config, self.args.augment, self.args.frame_dropout)

    def measured(self):
        """As `METRICS`, of images or of the model's targets."""
        return LOSS | (IMAGE_METRICS if self.config.head == "image" else metrics_of(self.config.targets))

    def get_eval_dataloader(self, eval_dataset=None):
        """As `PhaseTrainer`'s; the rows are bound to the model."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = bound_to(eval_dataset, self.config)
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        self._measured_rows = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        """As `get_eval_dataloader`."""
        self._measured_rows = bound_to(test_dataset, self.config)
        return super().get_test_dataloader(self._measured_rows)

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        values, region = gathered(prediction.predictions)
        if self.config.head == "image":
            return image_measures(values, torch.from_numpy(np.asarray(prediction.label_ids)), self.config)
        rows = self._measured_rows
        region = rows.region_numbers(self.config) if region is None else region
        return number_measures(self.config, values, rows.windows, region)


def gathered(predictions: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers gathered of outputs: values, and of a model with clusters whose margins each row has."""
    values, region = predictions if isinstance(predictions, tuple) else (predictions, None)
    return torch.from_numpy(np.asarray(values)), None if region is None else torch.from_numpy(region)


def calibrate(
    config: TileSequenceConfig, values: torch.Tensor, truth: np.ndarray, regions: np.ndarray | None = None
) -> None:
    """Set the interval's margins so that it holds the truth with the config's coverage (split conformal).

    With the quantile loss this is conformalized quantile regression (Romano et al., NeurIPS 2019), whose margin
    may be negative; with the others an interval of constant width. With `interval_groups` "region" each region with
    at least 2 / (1 - coverage) known truths has margins of its own (Mondrian: Vovk et al. 2005), the others the pooled ones.

    Args:
        config: of the model; changed in place.
        values: (n, targets, quantiles) the model's outputs on validation windows.
        truth: (n, targets), NaN where unknown.
        regions: (n,) names, where they are known.
    """
    config.interval_margin = config.region_margins = None
    _, low, high = (x.double().numpy() for x in intervals_of(config, values))
    missed = np.maximum(low - truth, truth - high)  # NaN where the truth is unknown
    config.interval_margin = _margins(missed, config.coverage)
    if config.interval_groups == "none" or config.interval_margin is None:
        config.clusters = None
        return
    if regions is None:
        if config.interval_groups == "cluster":
            return
        raise DataError("--interval_groups region needs rows with a region; validation rows have none")
    margins, names = {}, regions.astype(str)
    for name in np.unique(names).tolist():
        of_region = missed[names == name]
        enough = (np.isfinite(of_region).sum(0) >= round(2 / (1 - config.coverage), 6)).all()
        margins[name] = _margins(of_region, config.coverage) if enough else None
    config.region_margins = {name: own for name, own in margins.items() if own is not None} or None


def _margins(missed: np.ndarray, coverage: float) -> list[float] | None:
    """(targets,) of (n, targets) distances from truths to intervals; None where one has too few."""
    margins = [conformal_quantile(column[np.isfinite(column)], coverage) for column in missed.T]
    known = [margin for margin in margins if margin is not None]
    return known if len(known) == len(margins) else None
