"""How well states and attributes are told, and whether parts that are missing are seen as missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from geohf.metrics.calibration import expected_calibration_error
from geohf.metrics.directions import HIGHER, LOWER
from geohf.parts.coco_eval import Found, Truths, match, overlaps

MATCH_IOU = 0.5
STATE_NUMBERS = ("state_accuracy", "state_f1", "state_recall")
METRICS = dict.fromkeys((*STATE_NUMBERS, "present_recall", "absent_recall"), HIGHER)
METRICS |= dict.fromkeys(("hallucination", "hallucination_iou", "presence_ece", "state_ece"), LOWER)


def match_states(found: dict[str, np.ndarray], truths: dict[str, np.ndarray], parts: int) -> np.ndarray:
    """(truths,) state of the best detection of the part that overlaps its box by at least 0.5, -1 where it is missed.

    Present and absent parts are matched alike. Detections are dealt out as in COCO's evaluation.
    """
    detections = Found(found["photo"], found["labels"], found["boxes"], found["scores"])
    boxes = Truths(truths["photo"], truths["labels"], truths["boxes"])
    matched = match(detections, boxes, parts, np.array([MATCH_IOU]))[:, 0]
    states = np.full(len(truths["labels"]), -1)
    states[matched[matched >= 0]] = found["states"][matched >= 0]
    return states


def confusion_counts(truth, predicted, states: int) -> np.ndarray:
    """(states, states + 1) counts of truths: row = true state, column = predicted one, -1 in the last column.

    >>> confusion_counts([0, 0, 1], [0, -1, 0], 2).tolist()
    [[1, 0, 1], [1, 0, 0]]
    """
    truth, predicted = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    column = np.where(predicted < 0, states, predicted)
    cells = np.bincount(truth * (states + 1) + column, minlength=states * (states + 1))
    return cells.reshape(states, states + 1)


def state_metrics(confusion, absent_state: int | None = 2) -> dict[str, float]:
    """How well the states of parts that are there are told.

    Args:
        confusion: (states, states + 1) counts: row = true state, column = predicted one, the last column: missed.
        absent_state: its row is left out, since a part that is not there has nothing to match; None: no such state.

    Returns:
        `state_accuracy`: of the parts that were found; `state_f1`: mean over the states that occur of the F1 among the
        parts that were found; `state_recall`: found and told right, of all parts, so that misses count as wrong.
        NaN where there is no part to judge.

    >>> {k: round(v, 3) for k, v in state_metrics([[8, 0, 2], [1, 1, 0]], absent_state=None).items()}
    {'state_accuracy': 0.9, 'state_f1': 0.804, 'state_recall': 0.75}
    """
    confusion = np.asarray(confusion, np.float64)
    present = [state for state in range(len(confusion)) if state != absent_state]
    rows = confusion[present]
    matched, right = rows[:, :-1].sum(), confusion[present, present].sum()
    scores = []
    for state in present:
        if confusion[state].sum():
            hits = confusion[state, state]
            either = rows[:, state].sum() + confusion[state, :-1].sum()
            scores.append(2 * hits / either if either else 0.0)
    return {
        "state_accuracy": _ratio(right, matched),
        "state_f1": float(np.mean(scores)) if scores else float("nan"),
        "state_recall": _ratio(right, rows.sum()),
    }


def state_error(
    found: dict[str, np.ndarray], truths: dict[str, np.ndarray], parts: int, absent_state: int | None = 2
) -> float:
    """How far `state_scores` lie from the share of states that are right, of parts that are there and were found.

    The expected calibration error, 0 to 1; NaN where no part was found.
    """
    boxes = Truths(truths["photo"], truths["labels"], truths["boxes"])
    detections = Found(found["photo"], found["labels"], found["boxes"], found["scores"])
    rows = match(detections, boxes, parts, np.array([MATCH_IOU]))[:, 0]
    states = truths["states"][rows[rows >= 0]]
    own = states != (-1 if absent_state is None else absent_state)
    right, scores = (found["states"][rows >= 0] == states)[own], found["state_scores"][rows >= 0][own]
    return calibration_error(scores, right)


def calibration_error(scores: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error, 0 to 1; NaN of no scores, or of some that are no probabilities.

    >>> calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    if not len(scores) or scores.min() < 0 or scores.max() > 1 + 1e-6:
        return float("nan")
    return expected_calibration_error(scores, right)


def verification_metrics(
    found: dict[str, np.ndarray],
    truths: dict[str, np.ndarray],
    parts: int,
    absent_state: int | None = 2,
    crowds: dict[str, np.ndarray] | None = None,
    unlisted: dict[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Whether detections say of each part rightly that it is there or that it is missing (arXiv 2106.02523).

    A part is said to be there where the photo has a detection of it whose state is not the absent one.

    Args:
        found: detections: `photo`, `labels`, `states` (n,) and `boxes` (n, 4).
        truths: likewise; absent parts with the box where they would be.
        parts: their number.
        crowds: `photo` and `labels` (n,) of parts that are there several times, not told apart.
        unlisted: likewise of parts that are absent, but have no box.

    Returns:
        `hallucination`: share of the absent parts that are said to be there, and `absent_recall`, what it lacks to 1;
        `hallucination_iou`: share of the absent parts where such a detection overlaps the box by at least 0.5;
        `present_recall`: share of the other parts that are said to be there. NaN where there is no such part.
    """
    absent_state = -1 if absent_state is None else absent_state
    claims = found["states"] != absent_state
    claimed = found["photo"][claims] * parts + found["labels"][claims]
    keys = truths["photo"] * parts + truths["labels"]
    absent = truths["states"] == absent_state
    # of several of a part, some may be there: then a detection elsewhere is none of the absent one
    there = keys[~absent]
    if crowds is not None:
        there = np.concatenate([there, crowds["photo"] * parts + crowds["labels"]])
    alone = absent & ~np.isin(keys, there)
    seen = np.isin(keys, claimed)
    imagined = seen[alone]
    if unlisted is not None:
        imagined = np.append(imagined, np.isin(unlisted["photo"] * parts + unlisted["labels"], claimed))
    hallucination = _ratio(imagined.sum(), len(imagined))
    return {
        "hallucination": hallucination,
        "hallucination_iou": _ratio(_overlapped(found, truths, claims, absent, parts), absent.sum()),
        "present_recall": _ratio(seen[~absent].sum(), (~absent).sum()),
        "absent_recall": 1 - hallucination,
    }


def unlisted_parts(
    truths: dict[str, np.ndarray], crowds: dict[str, np.ndarray], photos: int, parts: int
) -> dict[str, np.ndarray]:
    """`photo` and `labels` of the parts that photos do not show: where no state says absent, those without a box."""
    shown = [table["photo"] * parts + table["labels"] for table in (truths, crowds)]
    keys = np.setdiff1d(np.arange(photos * parts), np.concatenate(shown))
    return {"photo": keys // parts, "labels": keys % parts}


def _overlapped(found, truths, claims, absent, parts) -> int:
    """How many absent parts a claim overlaps."""
    rows, detections = np.flatnonzero(absent), np.flatnonzero(claims)
    keys = truths["photo"][rows] * parts + truths["labels"][rows]
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    claimed = found["photo"][detections] * parts + found["labels"][detections]
    low, high = (np.searchsorted(keys, claimed, side) for side in ("left", "right"))
    repeats = high - low  # a pair for every claim and every absent part of its key
    detection = np.repeat(detections, repeats)
    offset = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    row = rows[np.repeat(low, repeats) + offset]
    hit = overlaps(found["boxes"][detection], truths["boxes"][row]) >= MATCH_IOU
    return len(np.unique(row[hit]))


def _ratio(part, whole) -> float:
    return float(part / whole) if whole else float("nan")


def match_attributes(found: dict[str, np.ndarray], truths: dict[str, np.ndarray], parts: int) -> np.ndarray:
    """(truths, attributes) the value told of each, -1 where the part is missed; matched as in `match_states`."""
    columns = found["attributes"].T
    return np.stack([match_states(found | {"states": column}, truths, parts) for column in columns], 1)


def attribute_metrics(
    told: np.ndarray,
    truths: dict[str, np.ndarray],
    attributes: Mapping[str, Sequence[str]],
    absent_state: int | None,
) -> dict[str, float]:
    """`state_accuracy/NAME`, `state_f1/NAME` and `state_recall/NAME` of each attribute, over its own values, see `state_metrics`.

    What nobody labeled counts for nothing, nor does a part that is absent.

    Args:
        told: see `match_attributes`.
        truths: `states` (n,) and `attributes` (n, attributes), below 0 where unlabeled.
    """
    there = truths["states"] != (-1 if absent_state is None else absent_state)
    numbers: dict[str, float] = {}
    for column, (name, values) in enumerate(attributes.items()):
        true = truths["attributes"][:, column]
        known = there & (true >= 0)
        confusion = confusion_counts(true[known], told[known, column], len(values))
        found = state_metrics(confusion, absent_state=None)
        numbers |= {f"{key}/{name}": value for key, value in found.items()}
    return numbers
