"""From scores to decisions that one can stand by: temperatures, thresholds, and bounds on what is missed or imagined.

All of it is fitted on validation photos and kept in the config. The bounds are conformal risk control's (Angelopoulos, Bates,
Fisch, Lei and Schuster, 2024, arXiv 2208.02814): they hold on average over new photos like these.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from geohf.errors import DataError, require_within
from geohf.metrics.calibration import fit_temperature, risk_threshold
from geohf.parts.coco_eval import Detections, GroundTruth, match_and_count
from geohf.parts.state_metrics import (
    MATCH_IOU,
    Table,
    is_there,
    join_photos,
    matched_truths,
    take_rows,
    unlisted_parts,
)

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig

logger = logging.getLogger(__name__)

FEW = 10  # a part with fewer truths takes the threshold of all parts
_EPS = 1e-12


class Presence(NamedTuple):
    """What is said of whole photos.

    Attributes:
        score: (photos, parts) that of the best detection which is not told absent, 0 where there is none.
        there: (photos, parts) 1 where the part is there, 0 where it is absent, -1 where nobody knows.
    """

    score: np.ndarray
    there: np.ndarray

    @property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) the scores of the parts that have one, of which somebody knows whether they are there, and (n,) whether."""
        known = (self.score > 0) & (self.there >= 0)
        return self.score[known], self.there[known]


def with_temperatures(outputs: dict[str, torch.Tensor], config: PartStateConfig) -> dict[str, torch.Tensor]:
    """Outputs with the config's temperatures: `scores`, and `state_probs` (..., states) that sum to 1 again."""
    if "scores" in outputs and config.score_temperature != 1:
        outputs = outputs | {"scores": (outputs["scores"].logit() / config.score_temperature).sigmoid()}
    if "state_probs" in outputs and config.state_temperature != 1:
        powers = outputs["state_probs"] ** (1 / config.state_temperature)
        # where a photo has fewer boxes than the batch's longest list, all are 0
        outputs = outputs | {"state_probs": powers / powers.sum(-1, keepdim=True).clamp(min=_EPS)}
    return outputs


def reset_decisions(config: PartStateConfig) -> None:
    """Forget what was fitted; thresholds that the user gave stay."""
    config.score_temperature = config.state_temperature = 1.0
    config.max_missed = config.max_hallucinated = config.presence_thresholds = None


def require_enough_photos(photos: int, **limits: float | None) -> None:
    """Raise DataError where so few photos cannot promise a limit, or where it is none."""
    require_within("(0, 1)", **limits)
    for name, limit in limits.items():
        if limit is not None and photos < 1 / limit - 1:
            needed = math.ceil(1 / limit - 1 - 1e-9)
            raise DataError(
                f"--{name} {limit:g} needs at least {needed} validation photos, there are {photos}"
            )


def fit_decisions(
    config: PartStateConfig,
    predictions: Sequence[Mapping],
    targets: Sequence[Mapping],
    max_missed: float | None = None,
    max_hallucinated: float | None = None,
) -> None:
    """Fit temperatures and thresholds, and write them into the config.

    Temperatures first, and the thresholds on what they make of the scores. A threshold that the user gave stays.

    Args:
        predictions, targets: of each validation photo, as `PartEvaluator` takes them, with `state_probs`; made with temperatures
            of 1, see `reset_decisions`.
        max_missed: of the parts that are there, the mean share a photo that may be said to be missing.
        max_hallucinated: of the parts that are absent, the mean share a photo that may be said to be there.

    Raises:
        DataError: too few photos for a limit.
    """
    require_enough_photos(len(targets), max_missed=max_missed, max_hallucinated=max_hallucinated)
    tables = joined(predictions, targets)
    config.state_temperature = _state_temperature(config, *tables[:2])
    presence = presence_of(predictions, targets, config.num_labels, config.absent_index)
    scores, there = presence.known
    logits = _logit(scores)
    config.score_temperature = fit_temperature(np.stack([np.zeros_like(logits), logits], 1), there)
    if config.threshold_rule == "given":
        return

    def warmed(scores: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-_logit(scores) / config.score_temperature))

    detections = tables[0] | {"scores": warmed(tables[0]["scores"])}
    score = np.where(presence.score > 0, warmed(presence.score), 0)
    limit = _risk_limits(config, presence._replace(score=score), max_missed, max_hallucinated)
    if limit is None:
        thresholds = part_thresholds(detections, *tables[1:], config.num_labels, config.absent_index)
    else:
        thresholds = np.full(config.num_labels, limit)
    config.presence_thresholds = np.asarray(thresholds, np.float32).tolist()  # as scores are compared


def part_thresholds(
    detections: Table, truths: Table, crowds: Table, parts: int, absent_state: int | None = None
) -> np.ndarray:
    """(parts,) the threshold of each part with the best F1 of its detections at IoU 0.5.

    Parts with fewer than `FEW` truths take the one that is best for all parts together.
    """
    matched, counted, positives = detections_judged(detections, truths, crowds, parts, absent_state)
    scores = detections["scores"]
    whole = best_f1_threshold(scores[counted], matched[counted], int(positives.sum()))
    thresholds = np.full(parts, whole)
    for part in np.flatnonzero(positives >= FEW):
        own = counted & (detections["labels"] == part)
        thresholds[part] = best_f1_threshold(scores[own], matched[own], int(positives[part]))
    return thresholds


def part_scores(
    config: PartStateConfig, predictions: Sequence[Mapping], targets: Sequence[Mapping]
) -> list[dict[str, float]]:
    """`precision`, `recall` and `f1` of each part's detections at IoU 0.5 and at its `threshold`; NaN where undefined."""
    tables = joined(predictions, targets)
    matched, counted, positives = detections_judged(*tables, config.num_labels, config.absent_index)
    labels, scores = tables[0]["labels"], tables[0]["scores"]
    rows = []
    for part, threshold in enumerate(config.thresholds):
        sure = counted & (labels == part) & (scores >= np.float32(threshold))
        right, said, wanted = int(matched[sure].sum()), int(sure.sum()), int(positives[part])
        row = {"threshold": threshold, "precision": right / said if said else math.nan}
        row["recall"] = right / wanted if wanted else math.nan
        rows.append(row | {"f1": 2 * right / (said + wanted) if said + wanted else math.nan})
    return rows


def detections_judged(
    detections: Table, truths: Table, crowds: Table, parts: int, absent_state: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each detection whether it is right at IoU 0.5 and whether it counts; of each part, how often it is there."""
    there = GroundTruth.of(truths, is_there(truths["states"], absent_state))
    boxes = Detections.of(detections), there, parts, GroundTruth.of(crowds)
    return *match_and_count(*boxes, MATCH_IOU), np.bincount(there.label, minlength=parts)


def best_f1_threshold(scores: np.ndarray, right: np.ndarray, positives: int) -> float:
    """The threshold, between two scores, from which on detections have the best F1; 0.5 where nothing is right.

    One sort, then counts from the best score on; of equal F1 the highest threshold.

    Args:
        scores: (n,) of detections.
        right: (n,) whether each finds a truth of its own.
        positives: truths.

    >>> best_f1_threshold(np.array([0.9, 0.6, 0.4, 0.2]), np.array([True, False, True, False]), 2)
    0.3
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    last = np.flatnonzero(np.diff(scores, append=-1.0))  # equal scores are taken together
    if not len(scores) or not hits[-1]:
        return 0.5
    f1 = 2 * hits[last] / (last + 1 + positives)
    best = last[f1.argmax()]
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float(round((scores[best] + below) / 2, 12))


def presence_of(
    predictions: Sequence[Mapping], targets: Sequence[Mapping], parts: int, absent_state: int | None
) -> Presence:
    """What is said of each part of each photo, and what is true; a crowd is there, in no known number."""
    return presence_in(*joined(predictions, targets), len(targets), parts, absent_state)


def presence_in(
    detections: Table, truths: Table, crowds: Table, photos: int, parts: int, absent_state: int | None
) -> Presence:
    """As `presence_of`, of tables of detections, truths and crowds with the number of each one's `photo`."""
    score, there = np.zeros((photos, parts)), np.full((photos, parts), -1)
    claims = is_there(detections["states"], absent_state)
    np.maximum.at(
        score, (detections["photo"][claims], detections["labels"][claims]), detections["scores"][claims]
    )
    shown = is_there(truths["states"], absent_state)
    listed = take_rows(truths, ~shown)
    absent = unlisted_parts(truths, crowds, photos, parts) if absent_state is None else listed
    there[absent["photo"], absent["labels"]] = 0
    for table in (take_rows(truths, shown), crowds):
        there[table["photo"], table["labels"]] = 1
    return Presence(score, there)


def joined(predictions: Sequence[Mapping], targets: Sequence[Mapping]) -> tuple[Table, Table, Table]:
    """Detections, truths and crowds of all photos, each with its `photo`."""
    told = [key for key in ("boxes", "labels", "scores", "states", "state_probs") if key in predictions[0]]
    truths = join_photos(targets, ("boxes", "labels", "states", "iscrowd"))
    crowd = truths["iscrowd"].astype(bool)
    return join_photos(predictions, told), take_rows(truths, ~crowd), take_rows(truths, crowd)


def _risk_limits(
    config: PartStateConfig, presence: Presence, missed: float | None, hallucinated: float | None
) -> float | None:
    """The threshold for all parts that holds the limits; None where there is none, which is said."""
    lowest, highest = 0.0, None
    photos = len(presence.score)
    if missed is not None:
        rows, parts = np.nonzero(presence.there == 1)
        highest = risk_threshold(presence.score[rows, parts], rows, photos, missed)
        if highest is None:
            logger.warning("--max_missed %g cannot be held: too many parts have no detection at all", missed)
    if hallucinated is not None:
        rows, parts = np.nonzero(presence.there == 0)
        # what is imagined falls as the threshold rises: the same from the other end
        turned = risk_threshold(1 - presence.score[rows, parts], rows, photos, hallucinated)
        if turned is None:
            logger.warning("--max_hallucinated %g cannot be held at any threshold", hallucinated)
        elif highest is not None and 1 - turned > highest:
            told = "--max_missed %g holds below a score of %.3f, --max_hallucinated %g above %.3f: the first is kept"
            logger.warning(told, missed, highest, hallucinated, 1 - turned)
        else:
            config.max_hallucinated, lowest = hallucinated, 1 - turned
    if highest is not None:
        config.max_missed = missed
        return highest
    return lowest if config.max_hallucinated is not None else None


def _state_temperature(config: PartStateConfig, detections: Table, truths: Table) -> float:
    """Fitted on detections that find a truth at IoU 0.5, over the states that a box can have."""
    if not config.tells_states:
        return 1.0
    possible = [i for i in range(config.num_states) if config.absent == "detect" or i != config.absent_index]
    rows = matched_truths(detections, truths, config.num_labels)
    number = np.full(config.num_states, -1)
    number[possible] = np.arange(len(possible))
    right = rows >= 0
    labels = number[truths["states"][rows[right]]]
    return fit_temperature(np.log(detections["state_probs"][right][:, possible].clip(_EPS)), labels)


def _logit(scores: np.ndarray) -> np.ndarray:
    scores = np.clip(scores.astype(np.float64), _EPS, 1 - _EPS)
    return np.log(scores) - np.log1p(-scores)
