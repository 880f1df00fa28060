"""Tiles to look at: a map of errors over their images, and strips of frames."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from geohf.errors import DataError
from geohf.report.style import MUTED, drawing, error_colors
from geohf.report.tables import format_number

MAX_PANELS = 12


def plot_tile_errors(
    path: str | os.PathLike,
    boxes,
    errors,
    regions: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    unit: str,
) -> None:
    """Draw every region's tiles in the color of their error; at most 12 regions, those with most tiles first.

    Args:
        path: the PNG file.
        boxes: (n, 4) xmin, ymin, xmax, ymax in pixels, y downwards.
        errors: (n,) at least zero.
        regions: (n,) names.
        sizes: name -> (height, width) of the region's image.
        unit: of the errors, for the legend.

    Raises:
        DataError: there is no tile, or an error is not finite.
    """
    boxes, errors, of_region = np.asarray(boxes, float), np.asarray(errors, float), np.asarray(regions)
    if not len(boxes) or not np.isfinite(errors).all():
        raise DataError("tile errors: want at least one tile, and finite errors")
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    names, counts = np.unique(of_region, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")][:MAX_PANELS]
    across = min(4, len(names))
    down = -(-len(names) // across)
    top = float(np.quantile(errors, 0.98)) or 1.0
    with drawing(path, 2.6 * across + 1.6, 2.7 * down + 0.3) as figure:
        panels = []
        for position, name in enumerate(names):
            axes = figure.add_subplot(down, across, position + 1)
            here = of_region == name
            patches = [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes[here]]
            tiles = PatchCollection(patches, cmap=error_colors(), edgecolor="white", linewidth=0.4)
            tiles.set_array(errors[here])
            tiles.set_clim(0, top)
            axes.add_collection(tiles)
            height, width = sizes[str(name)]
            axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
            axes.set_title(f"{name}: mean {format_number(errors[here].mean(), 3)}", fontsize=9)
            panels.append(axes)
        bar = figure.colorbar(tiles, ax=panels, shrink=0.8, pad=0.02, extend="max")
        bar.set_label(f"error in {unit} (n = {len(errors):,})")


def plot_filmstrip(
    path: str | os.PathLike, strips: Sequence[tuple[str, Sequence[np.ndarray | None]]], columns: Sequence[str]
) -> None:
    """Draw sequences of frames as rows, a masked one as an empty box.

    Args:
        path: the PNG file.
        strips: (title, frames): frames (height, width, bands). The first three bands are shown as red, green and
            blue, fewer as gray. Pictures (uint8, three bands) keep their colors; of others each band is stretched
            from its 2nd to its 98th percentile over all strips.
        columns: a heading for each frame.

    Raises:
        DataError: there is no strip.
    """
    if not strips:
        raise DataError("filmstrip: no sequence to draw")
    low, high = _stretch([frame for _, frames in strips for frame in frames if frame is not None])
    with drawing(path, 1.15 * len(columns) + 2.4, 1.3 * len(strips) + 0.3) as figure:
        for row, (title, frames) in enumerate(strips):
            for column, frame in enumerate(frames):
                axes = figure.add_subplot(len(strips), len(columns), row * len(columns) + column + 1)
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set(visible=True, color=MUTED)
                if frame is not None:
                    axes.imshow(np.nan_to_num(np.clip((_shown(frame) - low) / (high - low), 0, 1)))
                if row == 0:
                    axes.set_title(columns[column], fontsize=9)
                if column == 0:
                    axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)


def plot_occlusion(
    path: str | os.PathLike, moved: np.ndarray, rows: Sequence[str], columns: Sequence[str], unit: str
) -> None:
    """Draw how far answers move without a band of a frame: a row per frame, a column per band.

    Args:
        path: the PNG file.
        moved: (rows, columns) at least zero, NaN where it is not known.
        rows, columns: their names.
        unit: of the answers.
    """
    with drawing(path, 0.75 * len(columns) + 2.4, 0.4 * len(rows) + 1.4) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(moved, cmap=error_colors(), vmin=0, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.set(xlabel="taken away", ylabel="frame, in steps from the answer")
        for (row, column), value in np.ndenumerate(moved):
            if np.isfinite(value):
                axes.text(column, row, format_number(float(value), 2), ha="center", va="center", fontsize=8)
        figure.colorbar(image).set_label(f"mean change of the answer, {unit}")


def _shown(frame: np.ndarray) -> np.ndarray:
    return frame[..., :3] if frame.shape[-1] >= 3 else frame[..., :1].repeat(3, -1)


def _stretch(frames: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(3,) the values that become black and full color."""
    if all(frame.shape[-1] == 3 and frame.dtype == np.uint8 for frame in frames):
        return np.zeros(3), np.full(3, 255.0)
    values = np.concatenate([_shown(frame).reshape(-1, 3) for frame in frames]).astype(np.float64)
    values = values[np.isfinite(values).all(1)]
    low, high = np.percentile(values, [2, 98], axis=0) if len(values) else (np.zeros(3), np.ones(3))
    return low, np.where(high > low, high, low + 1)
