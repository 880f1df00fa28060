"""Which class is taken for which, and whether a probability can be believed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from geohf.errors import DataError
from geohf.metrics.calibration import reliability_bins
from geohf.report.style import EVAL, FAINT, INK, MUTED, TRAIN, drawing


def confusion_counts(truth, predicted, n_classes: int) -> np.ndarray:
    """Confusion matrix (n_classes, n_classes) of counts: row = true, column = predicted class.

    Args:
        truth, predicted: (n,) class indices from 0.

    Raises:
        DataError: lengths that differ, or an index outside 0..n_classes-1; the message names the row.

    >>> confusion_counts([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    truth, predicted = np.asarray(truth).ravel(), np.asarray(predicted).ravel()
    if truth.shape != predicted.shape or not len(truth):
        raise DataError(f"truth has {len(truth)} and predicted {len(predicted)} entries; want the same n > 0")
    for name, index in (("truth", truth), ("predicted", predicted)):
        if index.dtype.kind not in "iu":
            raise DataError(f"{name}: class indices are whole numbers, not {index.dtype}")
        bad = np.flatnonzero((index < 0) | (index >= n_classes))
        if len(bad):
            raise DataError(f"{name}: row {bad[0]} is class {index[bad[0]]}; there are {n_classes}, from 0")
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (truth, predicted), 1.0)
    return counts


def plot_confusion(path: str | os.PathLike, truth, predicted, names: Sequence[str]) -> None:
    """Draw the confusion matrix in percent of the true class; classes without samples stay gray.

    Args:
        path: the PNG file.
        truth, predicted: (n,) indices into `names`.
        names: the classes.

    Raises:
        DataError: as `confusion_counts`.
    """
    plot_confusion_counts(path, confusion_counts(truth, predicted, len(names)), names, names)


def plot_confusion_counts(
    path: str | os.PathLike, counts, rows: Sequence[str], columns: Sequence[str], unit: str = "samples"
) -> None:
    """Draw counts of classes in percent of the true class; classes without samples stay gray.

    Args:
        path: the PNG file.
        counts: (rows, columns): row = true, column = predicted class; more columns than rows where there are
            answers that are no class, as "missed".
        rows, columns: their names; the classes come first among the columns, in the order of the rows.
        unit: what is counted.

    Raises:
        DataError: counts that do not fit the names, or are all zero.
    """
    counts = np.asarray(counts, np.float64)
    if counts.shape != (len(rows), len(columns)) or not counts.sum():
        raise DataError(
            f"counts {counts.shape} are empty or do not fit {len(rows)} rows, {len(columns)} columns"
        )
    n, total = len(columns), counts.sum(axis=1, keepdims=True)
    percent = 100 * np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    size = float(np.clip(0.36 * n, 3.2, 16.0))
    small = 8.5 if n <= 20 else 7.0
    with drawing(path, size + 3.2, size + 1.9) as figure:
        from matplotlib.colors import LinearSegmentedColormap

        shades = ["#ffffff", "#bcd7ea", "#2477b3", "#0b2e4a"]
        colors = LinearSegmentedColormap.from_list("share", shades).with_extremes(bad=FAINT)
        axes = figure.add_subplot()
        image = axes.imshow(np.ma.masked_invalid(percent), cmap=colors, vmin=0, vmax=100)
        axes.set_xticks(range(n), columns, rotation=90 if n > 6 else 30, ha="center" if n > 6 else "right")
        labels = [f"{name} ({count:,})" for name, count in zip(rows, total[:, 0].astype(int), strict=True)]
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(length=0, labelsize=small + 1)
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=FAINT, linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        if n <= 60:  # beyond that a cell is smaller than its number
            centered: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": small}
            for row, column in np.argwhere(percent >= (0.5 if n <= 12 else 2.0)):
                share = percent[row, column]
                axes.text(column, row, f"{share:.0f}", color="white" if share > 45 else INK, **centered)
        # with an answer that is no class, the diagonal alone is not what is right
        mean = f" (mean of the diagonal {np.nanmean(np.diag(percent)):.1f} %)" if n == len(rows) else ""
        axes.set(xlabel=f"predicted{mean}", ylabel=f"true ({unit})", title="Confusion, % of the true class")
        bar = figure.colorbar(image, cax=axes.inset_axes((1.0 + 0.1 / size, 0.0, 0.16 / size, 1.0)))
        bar.outline.set_visible(False)


def plot_reliability(path: str | os.PathLike, probabilities, labels, before=None) -> None:
    """Draw accuracy over confidence, which lie on the diagonal where a model is calibrated.

    Args:
        path: the PNG file.
        probabilities: (n, classes), or (n,) for yes or no, see `geohf.metrics.calibration.reliability_bins`.
        labels: (n,) class indices, or 0 and 1.
        before: the probabilities before calibration, drawn beside them.

    Raises:
        DataError: as `geohf.metrics.calibration.reliability_bins`.
    """
    series = [("before calibration", before, EVAL)] if before is not None else []
    series.append(("after calibration" if series else "model", probabilities, TRAIN))
    with drawing(path, 6.2, 6.6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
        for position, (name, values, color) in enumerate(series):
            confidence, accuracy, counts, ece = reliability_bins(values, labels)
            full = counts > 0
            label = f"{name}, ECE {100 * ece:.1f} %"
            upper.plot(confidence[full], accuracy[full], "o-", markersize=5, color=color, label=label)
            width = 0.9 / len(counts) / len(series)
            left = (np.arange(len(counts)) + 0.05) / len(counts) + position * width
            lower.bar(left, counts / counts.sum() * 100, width, align="edge", color=color)
        binary = np.ndim(probabilities) == 1
        upper.set(ylabel="observed share of yes" if binary else "accuracy", title="Reliability")
        upper.set(xlim=(0, 1), ylim=(0, 1.02))
        upper.legend(loc="upper left")
        across = "probability of yes" if binary else "confidence (largest probability)"
        lower.set(xlabel=across, ylabel="samples, %")
        for axes in (upper, lower):
            axes.grid(True)
