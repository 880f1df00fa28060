"""Training on tile sequences."""

from __future__ import annotations

import numpy as np
import torch
from transformers import EvalPrediction

from geohf.tiles.dataset import TileSequences
from geohf.tiles.image_metrics import psnr, ssim
from geohf.tiles.metrics import all_targets
from geohf.tiles.modeling import TileSequenceModel
from geohf.training.calibration import conformal_quantile
from geohf.training.tensor_table import batch_as_is
from geohf.training.trainer import GeoTrainer


class TileSequenceTrainer(GeoTrainer):
    """Trains a `TileSequenceModel` on `TileSequences`; evaluates by the rate and by skill.

    Args:
        model: a `TileSequenceModel`.
        train_dataset, eval_dataset: `TileSequences`.
    """

    shown_metrics = ("mae", "r2_rate", "skill_persistence", "psnr")

    def __init__(self, model=None, args=None, train_dataset=None, eval_dataset=None, **kwargs):
        self.config = model.config
        kwargs.setdefault("compute_metrics", self._metrics)
        super().__init__(
            model, args, batch_as_is, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs
        )
        self.label_names = ["labels"]

    def get_eval_dataloader(self, eval_dataset=None):
        self._asked = (eval_dataset or self.eval_dataset).samples
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        self._asked = test_dataset.samples
        return super().get_test_dataloader(test_dataset)

    def values(self, dataset: TileSequences) -> torch.Tensor:
        """The model's `values` on a whole dataset, on the CPU and on every process."""
        return torch.from_numpy(np.asarray(self.predict(dataset).predictions))

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        values, labels = (
            torch.from_numpy(np.asarray(x)) for x in (prediction.predictions, prediction.label_ids)
        )
        return measure(self.accelerator.unwrap_model(self.model), values, labels, self._asked)


def measure(
    model: TileSequenceModel, values: torch.Tensor, labels: torch.Tensor, samples
) -> dict[str, float]:
    """Every number that is reported for samples.

    Args:
        values: the model's outputs on them.
        labels: (n, targets), or standardised images.
        samples: `TileSamples`, for the baselines.

    Returns:
        `all_targets`, with `nrmse`, the error in units of each target's spread; for images `psnr`, `ssim` and
        `skill_persistence` have the pixels' range, and persistence is the last seen frame.
    """
    config = model.config
    if config.head == "image":
        return image_measures(values, labels, config)
    predicted = model.intervals(values)[0].double().numpy()
    spread = np.array(config.level_std if config.answers == "level" else config.change_std)
    scaled = (predicted - samples.truth) / spread
    metrics = all_targets(config.targets, predicted, samples.truth, samples.last, samples.trend)
    return metrics | {"nrmse": float(np.sqrt(np.nanmean(scaled**2)))}


def image_measures(values: torch.Tensor, labels: torch.Tensor, config) -> dict[str, float]:
    """PSNR, SSIM and MAE of standardised images, in the images' unit, with the truth's range as the data range."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (config.band_mean, config.band_std))
    predicted, truth = values * std + mean, labels * std + mean
    known = truth[truth.isfinite()]
    span = float(known.max() - known.min()) or 1.0
    error = (values - labels)[labels.isfinite()]
    metrics = {
        "psnr": psnr(predicted, truth, span),
        "mae": float((predicted - truth)[truth.isfinite()].abs().mean()),
        "nrmse": float(error.square().mean().sqrt()),
    }
    return metrics | ({"ssim": ssim(predicted, truth, span)} if min(truth.shape[-2:]) >= 11 else {})


def calibrate(model: TileSequenceModel, values: torch.Tensor, truth: np.ndarray) -> None:
    """Set the interval's margins so that it holds the truth with the config's coverage (split conformal).

    With the quantile loss this is conformalised quantile regression (Romano et al., NeurIPS 2019), whose margin
    may be negative; with the others an interval of constant width.

    Args:
        values: the model's outputs on validation samples.
        truth: (n, targets), NaN where unknown.
    """
    none = torch.zeros(len(model.config.targets))
    _, low, high = (x.double().numpy() for x in model.intervals(values, none))
    margins = []
    for k in range(truth.shape[1]):
        known = np.isfinite(truth[:, k])
        missed = np.maximum(low[known, k] - truth[known, k], truth[known, k] - high[known, k])
        margins.append(conformal_quantile(missed, model.config.coverage))
    model.config.interval_margin = None if None in margins else margins
