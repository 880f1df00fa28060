"""Average precision as COCO defines it, in NumPy: the numbers of pycocotools, without a loop over photos.

Photos, parts and thresholds are matched side by side: first the best detection of every part in every photo, then
the second best, and so on. Source of the rules: cocoapi, `PythonAPI/pycocotools/cocoeval.py`, bounding boxes with
crowds; the area of a truth is that of its box.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100  # of a class in a photo
# least and largest area of a box in square pixels
AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

_BLOCK = 1 << 20  # comparisons at once


class GroundTruth(NamedTuple):
    """Boxes to be found: photo (n,), label (n,) and box (n, 4) xyxy."""

    photo: np.ndarray
    label: np.ndarray
    box: np.ndarray

    @classmethod
    def of(cls, table: Mapping[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> GroundTruth:
        """These rows of a table of columns `photo`, `labels` and `boxes`."""
        return cls(table["photo"][rows], table["labels"][rows], table["boxes"][rows])


class Detections(NamedTuple):
    """Boxes that were found, of one photo after the other: as `GroundTruth`, and score (n,)."""

    photo: np.ndarray
    label: np.ndarray
    box: np.ndarray
    score: np.ndarray

    @classmethod
    def of(cls, table: Mapping[str, np.ndarray]) -> Detections:
        """A table of columns `photo`, `labels`, `boxes` and `scores`."""
        return cls(table["photo"], table["labels"], table["boxes"], table["scores"])


class MatchedBoxes:
    """Detections dealt out to truths once, for the numbers of all photos and of photos drawn with replacement.

    Args:
        detections: of equal scores the one that stands first counts as the better one.
        truths: any number of a class in a photo.
        classes: their number; labels go from 0.
        crowds: regions with many of a class that were not told apart (`iscrowd`). A detection that finds no truth
            and lies in one of its class counts neither as right nor as wrong.
        area: least and largest area in square pixels of the truths that are asked for, both included. A detection that finds
            one of the others, or finds nothing and is no such box itself, counts neither as right nor as wrong.
    """

    def __init__(
        self,
        detections: Detections,
        truths: GroundTruth,
        classes: int,
        crowds: GroundTruth | None = None,
        area: tuple[float, float] | None = None,
    ):
        self.detections, self.classes = detections, classes
        ranking = _rank(detections, classes)
        judged = _judged(detections, truths, classes, crowds, IOU_THRESHOLDS, ranking, area)
        self.matched, self.counted, self.truths = judged
        self.order, rows, rank = ranking
        self.rank = np.full(len(detections.score), MAX_DETECTIONS)
        self.rank[rows] = rank

    def precision(self, counts: np.ndarray | None = None) -> np.ndarray:
        """(10 overlaps, 101 recalls, classes) float64 precision, NaN for a class without truths.

        Args:
            counts: (photos,) int, how often each photo counts; once each where None.
        """
        rows, labels = self.order, self.truths.label
        if counts is not None:
            rows = np.repeat(self.order, counts[self.detections.photo[self.order]])
            labels = np.repeat(labels, counts[self.truths.photo])
        ends = np.searchsorted(self.detections.label[rows], np.arange(self.classes + 1))
        wanted = np.bincount(labels, minlength=self.classes)
        curves = np.full((len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), self.classes), np.nan)
        for label in np.flatnonzero(wanted):
            chosen = rows[ends[label] : ends[label + 1]]
            curves[:, :, label] = _curves(self.matched[chosen].T, self.counted[chosen].T, int(wanted[label]))
        return curves

    def recall(self, detections: int = MAX_DETECTIONS) -> np.ndarray:
        """(10 overlaps, classes) share of the truths that the best so many detections of a class in a photo find."""
        right = self.matched & (self.rank < detections)[:, None]
        hits = [np.bincount(self.detections.label, column, self.classes) for column in right.T]
        wanted = np.bincount(self.truths.label, minlength=self.classes)
        return np.divide(hits, wanted, out=np.full((right.shape[1], self.classes), np.nan), where=wanted > 0)


def match_and_count(
    detections: Detections, truths: GroundTruth, classes: int, crowds: GroundTruth, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """(detections,) whether each finds a truth at an overlap, and whether it counts: what lies in a crowd does not."""
    levels, ranking = np.array([threshold]), _rank(detections, classes)
    matched, counted, _ = _judged(detections, truths, classes, crowds, levels, ranking)
    return matched[:, 0], counted[:, 0]


def _judged(
    detections: Detections,
    truths: GroundTruth,
    classes: int,
    crowds: GroundTruth | None,
    thresholds,
    ranking,
    area=None,
) -> tuple[np.ndarray, np.ndarray, GroundTruth]:
    """(detections, thresholds) whether each is right and whether it counts, and the truths that are asked for.

    A detection takes a truth that is not asked for, or a crowd, only where it finds no other.
    """
    asked = _within(truths.box, area)
    wanted, others = (GroundTruth(*(column[rows] for column in truths)) for rows in (asked, ~asked))
    matched = match(detections, wanted, classes, thresholds, ranking) >= 0
    crowd = np.zeros(len(others.label), bool)
    if crowds is not None:
        others = GroundTruth(*map(np.concatenate, zip(others, crowds, strict=True)))
        crowd = np.append(crowd, np.ones(len(crowds.label), bool))
    left = ~(matched | (match(detections, others, classes, thresholds, ranking, ~matched, crowd) >= 0))
    return matched, matched | (left & _within(detections.box, area)[:, None]), wanted


def _within(boxes: np.ndarray, area: tuple[float, float] | None) -> np.ndarray:
    """(boxes,) whether each has such an area."""
    if area is None:
        return np.ones(len(boxes), bool)
    sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (sizes >= area[0]) & (sizes <= area[1])


def match(
    detections: Detections,
    truths: GroundTruth,
    classes: int,
    thresholds: np.ndarray,
    ranking: tuple[np.ndarray, ...] | None = None,
    open_: np.ndarray | None = None,
    crowd: np.ndarray | None = None,
) -> np.ndarray:
    """Which truth each detection finds at each overlap, -1 for none.

    A detection takes the free truth of its class and photo that it overlaps most, the later one of equals; better
    detections choose first, and of a class in a photo no more than 100 do.

    Args:
        ranking: see `_rank`, where it is known.
        open_: (detections, thresholds) which of them are to find one; None: all.
        crowd: (truths,) which of them are never taken, however many find them.

    Returns:
        (detections, thresholds) int64 row numbers of the truths.
    """
    result = np.full((len(detections.score), len(thresholds)), -1)
    key = _group(truths, classes)
    truth_order = np.argsort(key, kind="stable")
    groups, first, counts = _runs(key[truth_order])
    if not len(groups) or not len(result):
        return result
    _, rows, rank = ranking or _rank(detections, classes)
    keys = _group(detections, classes)[rows]
    group = np.searchsorted(groups, keys).clip(0, len(groups) - 1)
    known = groups[group] == keys
    rows, group, rank = rows[known], group[known], rank[known]
    single = (counts[group] == 1) & (open_ is None)
    result[rows[single]] = _match_single(
        detections.box[rows[single]], truths.box, truth_order[first[group[single]]], thresholds
    )
    # groups of about as many truths share a block, which is padded to the largest of them
    size = np.ceil(np.log2(counts)).astype(int)[group]
    for exponent in np.unique(size[~single]):
        here = size == exponent
        members, ranked = (truth_order, first, counts), (rows[here], group[here], rank[here])
        _match_block(detections, truths, members, ranked, thresholds, result, open_, crowd)
    return result


def _match_single(boxes, truth_boxes, truth, thresholds) -> np.ndarray:
    """(detections, thresholds) truths, where every group has one truth and detections stand group by group.

    A detection that reaches the first n thresholds finds the truth at those of them that none before it reached.
    """
    if not len(truth):
        return np.zeros((0, len(thresholds)), np.int64)
    reached = np.searchsorted(thresholds, overlaps(boxes, truth_boxes[truth]), side="right")
    offset = (len(thresholds) + 1) * np.cumsum(np.r_[0, truth[1:] != truth[:-1]])
    best = np.maximum.accumulate(reached + offset)
    taken = np.r_[0, best[:-1]] - offset  # negative: by another group
    column = np.arange(len(thresholds))
    return np.where((column >= taken[:, None]) & (column < reached[:, None]), truth[:, None], -1)


def _match_block(detections, truths, members, ranking, thresholds, result, open_, crowd) -> None:
    """Fill in `result` for groups of some truths each, the best detections of all groups first."""
    (truth_order, first, counts), (rows, group, rank) = members, ranking
    present, slot = np.unique(group, return_inverse=True)
    widest = int(counts[present].max())
    column = np.arange(widest)
    step = max(1, _BLOCK // (widest * len(thresholds)))
    for start in range(0, len(present), step):
        chosen = present[start : start + step]
        inside = np.flatnonzero((slot >= start) & (slot < start + step))
        inside = inside[np.argsort(rank[inside], kind="stable")]
        real = column < counts[chosen][:, None]
        truth = truth_order[np.where(real, first[chosen][:, None] + column, 0)]
        free = np.repeat(real[:, :, None], len(thresholds), 2)
        ends = np.searchsorted(rank[inside], np.arange(rank[inside].max() + 2))
        for low, high in pairwise(ends):
            turn = inside[low:high]
            places = slot[turn] - start
            boxes, others = detections.box[rows[turn]][:, None], truths.box[truth[places]]
            overlap, here = overlaps(boxes, others), free[places]
            if crowd is not None:
                overlap = np.where(crowd[truth[places]], overlaps(boxes, others, of_first=True), overlap)
            if open_ is not None:
                here &= open_[rows[turn]][:, None]
            overlap = overlap[:, :, None]
            value = np.where(here & (overlap >= thresholds), overlap, -1.0)
            best = widest - 1 - value[:, ::-1].argmax(1)
            hit, threshold = np.nonzero(value.max(1) >= 0)
            at = best[hit, threshold]
            free[places[hit], at, threshold] = False if crowd is None else crowd[truth[places[hit], at]]
            result[rows[turn[hit]], threshold] = truth[places[hit], at]


def overlaps(first: np.ndarray, second: np.ndarray, of_first: bool = False) -> np.ndarray:
    """Intersection over union of (..., 4) xyxy boxes, broadcast, rounded as in cocoapi's `bbIou`.

    Args:
        of_first: over the area of the first box instead, as for crowds.
    """
    (x0, y0, x1, y1), (u0, v0, u1, v1) = np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0)
    width, height, other_width, other_height = x1 - x0, y1 - y0, u1 - u0, v1 - v0
    # cocoapi adds the size to the corner again, which may differ from xmax in the last digit
    shared = np.maximum(np.minimum(x0 + width, u0 + other_width) - np.maximum(x0, u0), 0)
    shared = shared * np.maximum(np.minimum(y0 + height, v0 + other_height) - np.maximum(y0, v0), 0)
    whole = width * height if of_first else width * height + other_width * other_height - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


def _curves(matched: np.ndarray, counted: np.ndarray, wanted: int) -> np.ndarray:
    """(overlaps, 101) precisions of (overlaps, detections from the best to the worst), of those that count."""
    curves = np.zeros((len(matched), len(RECALL_THRESHOLDS)))
    # so many right ones reach each recall
    needed = np.searchsorted(np.arange(wanted + 1) / wanted, RECALL_THRESHOLDS, side="left")
    for curve, row, counts in zip(curves, matched, counted, strict=True):
        at = np.flatnonzero(row[counts])
        precision = np.arange(1.0, len(at) + 1) / (at + 1 + np.spacing(1))
        # the best precision from there on; between right detections it only falls
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        reached = needed <= len(at) if len(at) else np.zeros(len(needed), bool)
        curve[reached] = precision[np.maximum(needed[reached] - 1, 0)]
    return curves


def _rank(detections: Detections, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows class by class from the best score, of equals as they stand; rows group by group likewise, and their rank.

    A group is a class in a photo; what ranks below its best 100 is left out.
    """
    order = np.argsort(-detections.score, kind="stable")
    narrow = np.uint16 if classes <= 1 << 16 else np.int64  # 16 bits are sorted by radix
    order = order[np.argsort(detections.label[order].astype(narrow), kind="stable")]
    keys = _group(detections, classes)[order]
    by_group = np.argsort(keys, kind="stable")
    _, start, counts = _runs(keys[by_group])
    rank = np.arange(len(keys)) - np.repeat(start, counts)
    if len(rank) and rank.max() >= MAX_DETECTIONS:
        kept = np.empty(len(keys), bool)
        kept[by_group] = rank < MAX_DETECTIONS
        return order[kept], order[by_group[rank < MAX_DETECTIONS]], rank[rank < MAX_DETECTIONS]
    return order, order[by_group], rank


def _group(boxes: Detections | GroundTruth, classes: int) -> np.ndarray:
    return boxes.photo * classes + boxes.label


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of sorted keys: the different ones, where each begins, and how many there are."""
    start = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    return keys[start], start, np.diff(np.r_[start, len(keys)])
