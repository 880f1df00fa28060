"""Which points a filter kept, and which it dropped."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from geohf.errors import DataError
from geohf.report.style import FAINT, MUTED, SERIES, drawing

_MARKS = ["x", "+", "1", "^", "s", "d"]


def plot_dropped(path: str | os.PathLike, kept, dropped: Mapping[str, np.ndarray], unit: str) -> None:
    """Draw kept points and what each filter dropped: on the left everything, on the right where points are kept.

    Args:
        path: the PNG file.
        kept: (n, 2) latitude and longitude, that is (y, x).
        dropped: filter -> (k, 2) points.
        unit: of the axes, such as `degrees`.

    Raises:
        DataError: other shapes, or nothing is kept.
    """
    kept = np.asarray(kept, np.float64)
    dropped = {name: np.asarray(points, np.float64) for name, points in dropped.items()}
    if not len(kept) or any(p.ndim != 2 or p.shape[1] != 2 for p in (kept, *dropped.values())):
        raise DataError("kept and dropped points must be (n, 2), and some must be kept")
    low, high = kept.min(0), kept.max(0)
    edge = np.maximum(0.12 * (high - low), 1e-9)
    with drawing(path, 11.0, 5.0) as figure:
        for position, title in enumerate(("All rows", "Where rows are kept")):
            axes = figure.add_subplot(1, 2, position + 1)
            axes.scatter(kept[:, 1], kept[:, 0], s=6, color=MUTED, label=f"kept, n = {len(kept):,}")
            for i, (name, points) in enumerate(dropped.items()):
                axes.scatter(
                    points[:, 1],
                    points[:, 0],
                    s=34,
                    marker=_MARKS[i % len(_MARKS)],
                    color=SERIES[i % len(SERIES)],
                    linewidths=1.4,
                    label=f"{name}, n = {len(points):,}",
                )
            if position:
                axes.set_ylim(low[0] - edge[0], high[0] + edge[0])
                axes.set_xlim(low[1] - edge[1], high[1] + edge[1])
            else:
                axes.legend(loc="best")
            axes.ticklabel_format(useOffset=False, style="plain")
            axes.tick_params(axis="x", rotation=20)
            axes.set_xlabel(f"longitude column, {unit}")
            axes.set_ylabel(f"latitude column, {unit}")
            axes.set_title(title)
            axes.grid(True, color=FAINT)
