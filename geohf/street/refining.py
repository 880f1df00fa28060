"""What is fitted on the weights that a training kept: prototypes, and the ranker of candidates; each stays where it helps."""

from __future__ import annotations

import logging

import numpy as np
import torch

from geohf.data.tensor_dataset import TensorDictDataset
from geohf.geo import great_circle_m
from geohf.street.answers import answered_points
from geohf.street.decoding import first_candidates, probabilities_and_matches
from geohf.street.features import head_outputs
from geohf.street.head import GeoStreetOutput
from geohf.street.modeling import GeoStreetModel
from geohf.street.ranker import make_ranker

logger = logging.getLogger(__name__)

LISTED_AT_ONCE = 1024  # places whose candidates are put into order


def forget_refinement(model: GeoStreetModel) -> None:
    """What was fitted belonged to the weights of an earlier training."""
    config = model.config
    if config.prototypes:
        model.head.prototypes.clear()
        config.prototypes = 0
    if config.ranked:
        del model.head.ranker
        config.ranked = False


def refine(
    model: GeoStreetModel,
    train: tuple[torch.Tensor, np.ndarray, np.ndarray],
    validation: tuple[GeoStreetOutput, np.ndarray] | None,
) -> None:
    """Give the model prototypes of its training places, and keep them where they bring validation places nearer.

    Args:
        train: (n, features) what the heads see, (n,) class numbers and (n, 2) degrees of the training places.
        validation: outputs and (m, 2) degrees of the validation places; None: they are kept.
    """
    prototypes, config = model.head.prototypes, model.config
    features, labels, points = train
    if not (np.isfinite(points).all(1) & (labels >= 0)).any():
        logger.warning("prototypes: no training place has a class and a position: left out")
        return
    before = _mean_km(model, validation)
    prototypes.fit(features, points, labels, config.refine)
    config.prototypes = len(prototypes.points)
    if not _nearer(f"{config.prototypes} prototypes", before, _mean_km(model, validation)):
        prototypes.clear()
        config.prototypes = 0


@torch.inference_mode()
def rank(
    model: GeoStreetModel, table: TensorDictDataset, validation: tuple[GeoStreetOutput, np.ndarray] | None
) -> None:
    """Give the model a ranker, and keep it where it brings validation places nearer.

    Args:
        table: the training places' features, see `geohf.street.features.feature_table`.
        validation: see `refine`.
    """
    head, config = model.head, model.config
    known = table.columns["coordinates"].isfinite().all(-1).nonzero()[:, 0].tolist()
    if not known:
        logger.warning("the ranker: no training place has a position: left out")
        return
    lists = []
    for start in range(0, len(known), LISTED_AT_ONCE):
        rows = TensorDictDataset(**table.__getitems__(known[start : start + LISTED_AT_ONCE]))
        outputs = head_outputs(head, rows)
        first = first_candidates(head, outputs, *probabilities_and_matches(head, outputs))
        lists.append((outputs.place, *first, rows.columns["coordinates"].float()))
    before = _mean_km(model, validation)
    with torch.inference_mode(False):
        head.ranker = make_ranker(*(torch.cat(parts).clone() for parts in zip(*lists, strict=True)))
    config.ranked = True
    if not _nearer("the ranker", before, _mean_km(model, validation)):
        del head.ranker
        config.ranked = False


def _mean_km(model: GeoStreetModel, validation: tuple[GeoStreetOutput, np.ndarray] | None) -> float | None:
    """The mean distance of the answers as they are now; None where nothing tells."""
    if validation is None or not (known := np.isfinite(validation[1]).all(1)).any():
        return None
    answered = answered_points(model.decode(validation[0], top_k=1))
    return float(great_circle_m(answered[known], validation[1][known]).mean()) / 1000


def _nearer(what: str, before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return True
    found = "come nearer" if after < before else "do not come nearer, so it is left out"
    logger.info("%s: validation places %s: %.0f to %.0f km on the mean", what, found, before, after)
    return after < before
