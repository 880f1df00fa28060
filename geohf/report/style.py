"""One look for all figures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from geohf.io import atomic_write

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1f2933", "#9aa5b1", "#e4e7eb"
SEA, LAND = "#dfe9f0", "#fbfaf6"
TRAIN, EVAL, EXTRA = "#2f6fab", "#d1495b", "#3a9278"
# Series colors that stay apart for color-blind readers (Okabe and Ito's set, darkened for white paper).
SERIES = ["#2f6fab", "#d1495b", "#3a9278", "#c98a1b", "#7a5195", "#5d737e", "#b0578d", "#8a6d3b"]
# Small to large error. Blue to red through yellow is told apart with red-green blindness; map_geometry.js has the same.
_ERROR_COLORS = ["#2477b3", "#52a9b8", "#f2c14e", "#ee7a3a", "#c3203f"]

DPI = 120
_STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": FAINT,
    "legend.fontsize": 9,
}


def error_colors() -> LinearSegmentedColormap:
    """The color map from small to large errors."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("error", _ERROR_COLORS)


@contextmanager
def drawing(path: str | os.PathLike, width: float, height: float, tight: bool = False) -> Iterator[Figure]:
    """A figure of `width` x `height` inches that is written as PNG, 120 dots an inch, when the block ends.

    `tight` fits the picture to what was drawn: labels whose length is not known beforehand are never cut.

    No pyplot: nothing is kept open, no window system is asked, and the caller's own figures are left alone.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(_STYLE):
        # inches; the default glues titles to the edge
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09))
        FigureCanvasAgg(figure)
        yield figure
        with atomic_write(path, binary=True) as file:
            figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight" if tight else None)
