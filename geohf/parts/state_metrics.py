"""How well states and attributes are told, and whether parts that are missing are seen as missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from geohf.metrics.calibration import expected_calibration_error
from geohf.metrics.directions import HIGHER, LOWER
from geohf.parts.coco_eval import Detections, GroundTruth, match, overlaps

Table = dict[str, np.ndarray]  # columns of one length: `photo`, `labels`, `boxes`, `states` and others
MATCH_IOU = 0.5
STATE_NUMBERS = ("state_accuracy", "state_f1", "state_recall")
METRICS = dict.fromkeys((*STATE_NUMBERS, "present_recall", "absent_recall"), HIGHER)
METRICS |= dict.fromkeys(("hallucination", "hallucination_iou", "presence_ece", "state_ece"), LOWER)


def join_photos(photos: Sequence[Mapping], keys: Iterable[str]) -> Table:
    """These columns of all photos, one photo after the other, and the number of each row's `photo`."""
    table = {key: np.concatenate([np.asarray(photo[key]) for photo in photos]) for key in keys}
    return table | {"photo": np.repeat(np.arange(len(photos)), [len(photo["labels"]) for photo in photos])}


def take_rows(table: Table, rows: np.ndarray) -> Table:
    """Some rows of a table, by a mask or by their numbers."""
    return {key: column[rows] for key, column in table.items()}


def is_there(states: np.ndarray, absent_state: int | None) -> np.ndarray:
    """(n,) which states are not the absent one; all of them where the vocabulary has none."""
    return states != (-1 if absent_state is None else absent_state)


def matched_truths(detections: Table, truths: Table, parts: int) -> np.ndarray:
    """(detections,) the truth that each finds at an overlap of at least 0.5, -1 for none.

    Present and absent parts are matched alike. Detections are dealt out as in COCO's evaluation.
    """
    return match(Detections.of(detections), GroundTruth.of(truths), parts, np.array([MATCH_IOU]))[:, 0]


def match_states(detections: Table, truths: Table, parts: int) -> np.ndarray:
    """(truths,) state of the detection that finds each, see `matched_truths`; -1 where it is missed."""
    matched = matched_truths(detections, truths, parts)
    states = np.full(len(truths["labels"]), -1)
    states[matched[matched >= 0]] = detections["states"][matched >= 0]
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
            either = rows[:, state].sum() + confusion[state, :-1].sum()
            scores.append(2 * confusion[state, state] / either if either else 0.0)
    return {
        "state_accuracy": _ratio(right, matched),
        "state_f1": float(np.mean(scores)) if scores else float("nan"),
        "state_recall": _ratio(right, rows.sum()),
    }


def state_error(detections: Table, truths: Table, parts: int, absent_state: int | None = 2) -> float:
    """How far `state_scores` lie from the share of states that are right, of parts that are there and were found.

    The expected calibration error, 0 to 1; NaN where no part was found.
    """
    rows = matched_truths(detections, truths, parts)
    matched, states = take_rows(detections, rows >= 0), truths["states"][rows[rows >= 0]]
    there = is_there(states, absent_state)
    return calibration_error(matched["state_scores"][there], (matched["states"] == states)[there])


def calibration_error(scores: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error, 0 to 1; NaN of no scores, or of some that are no probabilities.

    >>> calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    if not len(scores) or scores.min() < 0 or scores.max() > 1 + 1e-6:
        return float("nan")
    return expected_calibration_error(scores, right)


def verification_metrics(
    detections: Table,
    truths: Table,
    parts: int,
    absent_state: int | None = 2,
    crowds: Table | None = None,
    unlisted: Table | None = None,
) -> dict[str, float]:
    """Whether detections say of each part rightly that it is there or that it is missing (arXiv 2106.02523).

    A part is said to be there where the photo has a detection of it whose state is not the absent one.

    Args:
        detections: `photo`, `labels`, `states` (n,) and `boxes` (n, 4).
        truths: likewise; absent parts with the box where they would be.
        parts: their number.
        crowds: `photo` and `labels` (n,) of parts that are there several times, not told apart.
        unlisted: likewise of parts that are absent, but have no box.

    Returns:
        `hallucination`: share of the absent parts that are said to be there, and `absent_recall`, what it lacks to 1;
        `hallucination_iou`: share of the absent parts where such a detection overlaps the box by at least 0.5;
        `present_recall`: share of the other parts that are said to be there. NaN where there is no such part.
    """
    claims, absent = is_there(detections["states"], absent_state), ~is_there(truths["states"], absent_state)
    claimed = _keys(detections, parts)[claims]
    keys = _keys(truths, parts)
    # of several of a part, some may be there: then a detection elsewhere is none of the absent one
    there = keys[~absent] if crowds is None else np.append(keys[~absent], _keys(crowds, parts))
    alone = absent & ~np.isin(keys, there)
    seen = np.isin(keys, claimed)
    imagined = seen[alone]
    if unlisted is not None:
        imagined = np.append(imagined, np.isin(_keys(unlisted, parts), claimed))
    hallucination = _ratio(imagined.sum(), len(imagined))
    return {
        "hallucination": hallucination,
        "hallucination_iou": _ratio(_overlapped(detections, truths, claims, absent, parts), absent.sum()),
        "present_recall": _ratio(seen[~absent].sum(), (~absent).sum()),
        "absent_recall": 1 - hallucination,
    }


def unlisted_parts(truths: Table, crowds: Table, photos: int, parts: int) -> Table:
    """`photo` and `labels` of the parts that photos do not show: where no state says absent, those without a box."""
    shown = np.append(_keys(truths, parts), _keys(crowds, parts))
    keys = np.setdiff1d(np.arange(photos * parts), shown)
    return {"photo": keys // parts, "labels": keys % parts}


def _keys(table: Table, parts: int) -> np.ndarray:
    """(n,) a number for each pair of photo and part."""
    return table["photo"] * parts + table["labels"]


def _overlapped(detections: Table, truths: Table, claims: np.ndarray, absent: np.ndarray, parts: int) -> int:
    """How many absent parts a claim overlaps."""
    rows, claiming = np.flatnonzero(absent), np.flatnonzero(claims)
    keys = _keys(truths, parts)[rows]
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    claimed = _keys(detections, parts)[claiming]
    low, high = (np.searchsorted(keys, claimed, side) for side in ("left", "right"))
    repeats = high - low  # a pair for every claim and every absent part of its key
    claim = np.repeat(claiming, repeats)
    offset = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    row = rows[np.repeat(low, repeats) + offset]
    hit = overlaps(detections["boxes"][claim], truths["boxes"][row]) >= MATCH_IOU
    return len(np.unique(row[hit]))


def _ratio(part, whole) -> float:
    return float(part / whole) if whole else float("nan")


def match_attributes(detections: Table, truths: Table, parts: int) -> np.ndarray:
    """(truths, attributes) the value told of each, -1 where the part is missed; matched as in `match_states`."""
    columns = detections["attributes"].T
    return np.stack([match_states(detections | {"states": column}, truths, parts) for column in columns], 1)


def attribute_metrics(
    told: np.ndarray, truths: Table, attributes: Mapping[str, Sequence[str]], absent_state: int | None
) -> dict[str, float]:
    """`state_accuracy/NAME`, `state_f1/NAME` and `state_recall/NAME` of each attribute, over its own values, see `state_metrics`.

    What nobody labeled counts for nothing, nor does a part that is absent.

    Args:
        told: see `match_attributes`.
        truths: `states` (n,) and `attributes` (n, attributes), below 0 where unlabeled.
    """
    there = is_there(truths["states"], absent_state)
    numbers: dict[str, float] = {}
    for column, (name, values) in enumerate(attributes.items()):
        true = truths["attributes"][:, column]
        known = there & (true >= 0)
        confusion = confusion_counts(true[known], told[known, column], len(values))
        metrics = state_metrics(confusion, absent_state=None)
        numbers |= {f"{key}/{name}": value for key, value in metrics.items()}
    return numbers
