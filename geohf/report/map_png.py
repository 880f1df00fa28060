"""The error map as a picture, for a model card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from geohf.errors import DataError
from geohf.geo.angles import wrap_degrees
from geohf.report.paths import check_pairs, great_circle_path, outline_rings, unwrap_path, view_box
from geohf.report.style import INK, LAND, MUTED, SEA, drawing, error_colors
from geohf.report.tables import format_number
from geohf.report.world import NARROWEST_DEG, coasts, world

_METERS = {"km": 1000.0, "m": 1.0}
_WIDTH = 9.0  # inches


def error_map_png(
    path: str | os.PathLike,
    predicted,
    truth,
    title: str,
    outlines: Mapping | str | os.PathLike | None = None,
    unit: str = "km",
) -> None:
    """Draw predictions, colored by error, with the great circle from each true place, as a PNG.

    Coasts and borders of Natural Earth lie under maps of a degree of longitude or more.

    Longitude runs to the right in equal steps, latitude upwards, true to shape in the middle of the map.

    Args:
        path: the PNG file.
        predicted: (n, 2) latitude, longitude in degrees.
        truth: (n, 2) likewise; rows of NaN are left out.
        title: heading of the figure.
        outlines: more borders, a GeoJSON path or document, see `geohf.geo.area_from_geojson`.
        unit: `km` or `m`, the unit of the color bar.

    Raises:
        DataError: coordinates that are not degrees, lengths that differ, no known truth, malformed outlines,
            another unit.
    """
    if unit not in _METERS:
        raise DataError(f"unit: {unit!r} is neither km nor m")
    predicted, truth, distance_m = check_pairs(predicted, truth)
    known = np.flatnonzero(~np.isnan(distance_m))
    if not len(known):
        raise DataError("truth: no row is known, so there is no error to draw")
    known = known[np.argsort(distance_m[known])]  # the worst on top
    predicted, truth, error = predicted[known], truth[known], distance_m[known] / _METERS[unit]
    borders = [ring for polygon in outline_rings(outlines) for ring in polygon]
    west, south, east, north, aspect = map_frame(np.concatenate([predicted, truth]))

    from matplotlib.collections import LineCollection
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = (float(q) for q in np.quantile(error, [0.02, 0.98]))
    high = max(high, 1e-3)
    # errors spread over decades: never less than one, never over four
    low = min(max(low, high / 1e4), high / 10)
    look = {"cmap": error_colors(), "norm": LogNorm(low, high)}
    size = float(np.clip(9000 / len(error), 4, 28))

    # Beside the map stand 1.75 inches of labels and color bar, above and below it 0.8.
    height = (_WIDTH - 1.75) * (north - south) * aspect / (east - west) + 0.8
    with drawing(path, _WIDTH, height, tight=True) as figure:
        axes = figure.add_subplot()
        draw_world(axes, borders, west, east)
        lines, line_errors = [], []
        for a, b, e in zip(truth, predicted, error, strict=True):
            copies = copies_within(unwrap_path(great_circle_path(a, b)), west, east)
            lines += copies
            line_errors += [e] * len(copies)
        alpha = float(np.clip(10 / np.sqrt(len(error)), 0.12, 0.8))
        axes.add_collection(
            LineCollection(lines, array=line_errors, linewidths=0.9, alpha=alpha, zorder=3, **look)
        )
        middle = (west + east) / 2
        for points, style in (
            (truth, {"facecolors": "none", "edgecolors": INK, "linewidths": 0.8, "label": "true"}),
            (predicted, {"c": error, "edgecolors": "white", "linewidths": 0.3, "label": "predicted", **look}),
        ):
            dots = axes.scatter(
                middle + wrap_degrees(points[:, 1] - middle), points[:, 0], s=size, zorder=4, **style
            )
        axes.set(xlim=(west, east), ylim=(south, north), aspect=aspect)
        axes.locator_params(axis="x", nbins=5)  # long labels of a small map side by side
        label_degrees(axes)
        axes.grid(color=MUTED, linewidth=0.4, alpha=0.5)
        axes.set_title(title)
        axes.legend(loc="lower left")
        # Inside the axes' own box, so that the bar is as high as the map and takes none of its room.
        bar = figure.colorbar(dots, cax=axes.inset_axes((1.02, 0.0, 0.025, 1.0)), extend="both")
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.yaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
        bar.ax.yaxis.set_minor_locator(NullLocator())
        median = format_number(float(np.median(error)), 3)
        bar.set_label(f"error in {unit} (median {median}, n = {len(error):,})")


def map_frame(points: np.ndarray) -> tuple[float, float, float, float, float]:
    """West, south, east, north of the picture in degrees, and how long a degree of latitude is in longitudes.

    The picture is at most 1.1 times as high, and at least 0.36 times as high, as wide.
    """
    west, south, east, north = view_box(points)
    aspect = 1 / float(np.cos(np.radians(np.clip((south + north) / 2, -75, 75))))
    pad = 0.06 * max(east - west, (north - south) * aspect) + 1e-6
    west, east = west - pad, east + pad
    south, north = south - pad / aspect, north + pad / aspect
    high, wide = (north - south) * aspect, east - west
    more_wide, more_high = max(0.0, high / 1.1 - wide) / 2, max(0.0, 0.36 * wide - high) / 2 / aspect
    west, east = west - more_wide, east + more_wide
    if east - west > 360:
        west, east = (west + east) / 2 - 180, (west + east) / 2 + 180
    return west, max(south - more_high, -90.0), east, min(north + more_high, 90.0), aspect


def draw_world(axes, borders: list[np.ndarray], west: float, east: float) -> None:
    """Land, lakes, coasts and borders where the map is wide enough for them, and the user's own borders."""
    from matplotlib.collections import LineCollection, PolyCollection

    lines: list[tuple[list[np.ndarray], float, str, Any]] = [(borders, 0.7, "#7b8794", "-")]
    axes.set_facecolor(LAND)
    if east - west >= NARROWEST_DEG:
        layers = world()
        axes.set_facecolor(SEA)
        for layer, hole in (("land", SEA), ("lakes", LAND)):
            faces, fills = [], []
            for rings in layers[layer]:
                for index, ring in enumerate(rings):
                    copies = copies_within(ring, west, east)
                    faces += copies
                    fills += [hole if index else (LAND if layer == "land" else SEA)] * len(copies)
            # edges in the color of the face: else the cut at the antimeridian shows
            axes.add_collection(PolyCollection(faces, facecolors=fills, edgecolors=fills, linewidths=0.3))
        shores = [part for rings in layers["land"] for ring in rings for part in coasts(ring)]
        shores += [ring for rings in layers["lakes"] for ring in rings]
        lines = [
            ([line for (line,) in layers["states"]], 0.4, MUTED, (0, (3, 2))),
            ([line for (line,) in layers["countries"]], 0.6, MUTED, "-"),
            (shores, 0.5, "#8ba3b8", "-"),
            *lines,
        ]
    for paths, width, color, style in lines:
        copies = [copy for path in paths for copy in copies_within(path, west, east)]
        axes.add_collection(
            LineCollection(copies, linewidths=width, colors=color, linestyles=style, zorder=1.5)
        )


def copies_within(path: np.ndarray, west: float, east: float) -> list[np.ndarray]:
    """The copies of a path, in (x, y), that reach between west and east; the axes clip the rest."""
    copies = [path[:, ::-1] + [turn, 0.0] for turn in (-360.0, 0.0, 360.0)]
    return [copy for copy in copies if copy[:, 0].max() >= west and copy[:, 0].min() <= east]


def label_degrees(axes) -> None:
    """Write degrees with their sides at the ticks of a map."""
    axes.xaxis.set_major_formatter(lambda x, _: _degree_label(float(wrap_degrees(x)), "EW"))
    axes.yaxis.set_major_formatter(lambda y, _: _degree_label(y, "NS"))


def _degree_label(x: float, sides: str) -> str:
    """A tick label; 180° belongs to both sides."""
    side = "" if abs(x) < 1e-9 or abs(x) == 180 else sides[0] if x > 0 else sides[1]
    return f"{abs(x):.9g}°{side}"
