"""Selective prediction: how well a confidence tells right answers from wrong ones, and where to stop answering.

Precision and recall as VPR-Bench has them (Zaffar et al., IJCV 2021), risk and coverage as Geifman and El-Yaniv, Selective
Classification for Deep Neural Networks, NeurIPS 2017. Answers of one confidence stand or fall together.
"""

from __future__ import annotations

import numpy as np


def precision_recall(confidence, correct, possible: int | None = None) -> tuple[np.ndarray, ...]:
    """Of the answers at least as sure as each confidence that occurs, how many are right.

    Args:
        confidence: (n,) numbers, of any scale.
        correct: (n,) bool.
        possible: how many of the n have a right answer at all; None: those that are answered right.

    Returns:
        (t,) confidences, descending; (t,) precision, right ones among those kept; (t,) recall, right ones kept of `possible`.

    >>> [part.tolist() for part in precision_recall([0.9, 0.5, 0.5, 0.1], [True, True, False, False], 4)]
    [[0.9, 0.5, 0.1], [1.0, 0.6666666666666666, 0.5], [0.25, 0.5, 0.5]]
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, bool)
    order = np.argsort(-confidence, kind="stable")
    ordered, right = confidence[order], np.cumsum(correct[order])
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])[: len(ordered)]
    of = max(1, int(correct.sum()) if possible is None else possible)
    return ordered[last], right[last] / (last + 1), right[last] / of


def average_precision(confidence, correct, possible: int | None = None) -> float:
    """Area under the curve of precision over recall, in steps; see `precision_recall`."""
    _, precision, recall = precision_recall(confidence, correct, possible)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def recall_at_precision(confidence, correct, precision: float = 1.0, possible: int | None = None) -> float:
    """The most that is recalled where at least so many of the answers are right; 0 where none is so sure."""
    _, precisions, recall = precision_recall(confidence, correct, possible)
    return float(recall[precisions >= precision].max(initial=0.0))


def risk_curve(confidence, losses) -> np.ndarray:
    """(n,) the mean loss of the k surest answers, k = 1 to n.

    Args:
        confidence: (n,) numbers, of any scale; answers of one confidence count as the mean of them, whatever their order.
        losses: (n,) numbers.

    >>> risk_curve([2, 1, 1], [0.0, 9.0, 3.0]).tolist()
    [0.0, 3.0, 4.0]
    """
    confidence, losses = np.asarray(confidence, np.float64), np.asarray(losses, np.float64)
    values, groups, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    ordered = (np.bincount(groups, losses, len(values)) / counts)[np.sort(groups)]
    return np.cumsum(ordered) / np.arange(1, len(losses) + 1)


def risk_coverage(confidence, correct) -> float:
    """Area under the curve of risk over coverage: the share of wrong answers among the k surest, averaged over k.

    >>> risk_coverage([0.9, 0.5, 0.5, 0.1], [True, True, False, False])  # 0, 1/4, 1/3 and 1/2
    0.2708333333333333
    """
    return float(risk_curve(confidence, ~np.asarray(correct, bool)).mean())


def threshold_for_precision(confidence, correct, precision: float) -> float | None:
    """The lowest confidence from which on at least so many of the answers are right; None where there is none.

    >>> threshold_for_precision([0.9, 0.5, 0.4, 0.1], [True, True, False, False], 0.6)
    0.4
    """
    thresholds, precisions, _ = precision_recall(confidence, correct)
    enough = np.flatnonzero(precisions >= precision)
    return float(thresholds[enough[-1]]) if len(enough) else None
