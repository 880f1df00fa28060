"""Refinement within a region: its expert answers the place of the training photographs that look most alike."""

from __future__ import annotations

import logging

import numpy as np
import torch

from geohf.data.tensor_dataset import TensorDictDataset
from geohf.geo import frame_distance
from geohf.region.experts import RegionExpert
from geohf.vision.weights import in_eval_mode

logger = logging.getLogger(__name__)


def refine(expert: RegionExpert, train: TensorDictDataset, validation: TensorDictDataset | None) -> None:
    """Give an expert prototypes of its training photographs, and keep them where they bring validation photographs nearer.

    Both tables hold features, with `coordinates`; without validation photographs the prototypes are kept.
    """
    config, prototypes = expert.config, expert.prototypes
    assert prototypes is not None
    points = train.columns["coordinates"].double().numpy()
    labels = np.zeros(len(points), np.int64)
    before = None if validation is None else _mean_error(expert, validation)
    if not np.isfinite(points).all(1).any():
        return
    prototypes.fit(train.columns["features"], points, labels, config.refine, 0.0, expert.scaler)
    if validation is not None and before is not None:
        name, after = config.id2label[expert.number], _mean_error(expert, validation)
        if not after < before:
            logger.info(
                "region %s: prototypes do not bring validation photographs nearer: they are left out", name
            )
            prototypes.clear()
        else:
            logger.info(
                "region %s: %d prototypes bring validation photographs from %.1f to %.1f m on the mean",
                name, len(prototypes.points), before, after,
            )  # fmt: skip
    counts = list(config.prototypes or [0] * config.num_regions)
    counts[expert.number] = len(prototypes.points)
    config.prototypes = counts


@torch.no_grad()
def _mean_error(expert: RegionExpert, table: TensorDictDataset) -> float:
    features = table.columns["features"].to(expert.scaler_center.device)
    scaled = in_eval_mode(expert)(features=features).scaled.cpu()
    truth = table.columns["coordinates"]
    known = truth.isfinite().all(-1)
    answered = expert.scaler.inverse_transform(scaled.double())
    return float(frame_distance(answered[known], truth[known].double(), expert.config.frame).mean())
