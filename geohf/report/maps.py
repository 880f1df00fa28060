"""Where a model put things and where they were: an HTML map that needs no network, and its PNG sister."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from geohf.errors import DataError
from geohf.geo.distance import great_circle_m
from geohf.report.files import atomic_write, columns, json_text
from geohf.report.outlines import read_outlines
from geohf.report.sphere import check_points, great_circle_path, unwrap_path, view_box, wrap
from geohf.report.style import ERROR_COLOURS, INK, LAND, MUTED, SEA, drawing

_METRES = {"km": 1000.0, "m": 1.0}


def write_map(
    path: str | os.PathLike,
    predicted,
    truth=None,
    labels: Sequence[str] | None = None,
    details: Mapping[str, Sequence] | Iterable[Mapping] | None = None,
    radius_m=None,
    outlines: Mapping | str | os.PathLike | None = None,
    title: str = "",
    value: str | None = None,
) -> None:
    """Write one HTML file that shows predictions on a map that can be panned, zoomed, filtered and sorted.

    The file holds all it needs: no script, style, font, tile or picture comes from a network. Its content
    security policy lets nothing run but its own script, so no label can. Links to OpenStreetMap are
    followed only when a reader clicks one. Coordinates are stored to seven decimals (1 cm).

    Args:
        path: the HTML file, replaced only when all of it is written.
        predicted: (n, 2) latitude, longitude in degrees.
        truth: (n, 2) likewise, NaN rows where unknown. Points are then coloured by their error.
        labels: n names; row numbers by default.
        details: what the panel tells about a point: columns of n values (a dict, a DataFrame) or n dicts.
        radius_m: radius of the circle drawn around the chosen prediction, in metres: one number, or n.
        outlines: borders to draw, see :func:`~geohf.report.outlines.read_outlines`.
        title: heading of the page.
        value: name of a numeric column of ``details`` that colours the points instead of the error.

    Raises:
        DataError: coordinates that are not degrees, lengths that differ, malformed outlines, or a
            ``value`` that is no numeric column.
    """
    predicted, truth, distance_m = _pairs(predicted, truth)
    n = len(predicted)
    columns_ = columns(details, n, "details")
    every = predicted if truth is None else np.concatenate([predicted, truth])
    data: dict[str, Any] = {
        "points": predicted.round(7),
        "truth": None if truth is None else truth.round(7),
        "distance_km": None if truth is None else (distance_m / 1000).round(6),
        "labels": _labels(labels, n),
        "details": columns_,
        "radius_m": _radius(radius_m, n),
        "value": _value(value, columns_),
        "outlines": [[ring.round(5) for ring in polygon] for polygon in read_outlines(outlines)],
        "view": view_box(every),
    }
    with atomic_write(path) as file:
        file.write(_page(title or "Predictions", json_text(data)))


def _pairs(predicted, truth) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    predicted = check_points(predicted, "predicted")
    if truth is None:
        return predicted, None, None
    truth = check_points(truth, "truth", missing_ok=True)
    if len(truth) != len(predicted):
        raise DataError(f"truth has {len(truth)} rows for {len(predicted)} predictions")
    known = ~np.isnan(truth).any(axis=1)
    distance_m = np.full(len(truth), np.nan)
    distance_m[known] = great_circle_m(truth[known], predicted[known])
    return predicted, truth, distance_m


def _labels(labels, n: int) -> list[str] | None:
    if labels is None:
        return None
    labels = [str(label) for label in labels]
    if len(labels) != n:
        raise DataError(f"{len(labels)} labels for {n} points")
    return labels


def _radius(radius_m, n: int):
    if radius_m is None:
        return None
    radius = np.asarray(radius_m, dtype=np.float64)
    if radius.shape not in ((), (n,)) or (radius < 0).any():
        raise DataError(f"radius_m: want one number >= 0 or {n} of them, got shape {radius.shape}")
    return radius.round(3)


def _value(name: str | None, details: dict[str, list]) -> str | None:
    if name is None:
        return None
    column = details.get(name)
    if column is None:
        raise DataError(f"value: no column '{name}' in details; there are {sorted(details)}")
    if not any(v is not None for v in column) or not all(
        v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in column
    ):
        raise DataError(f"value: column '{name}' of details is not numeric")
    return name


def _page(title: str, data: str) -> str:
    """The page with style, script and data put in."""
    folder = resources.files("geohf.report")
    part = {name: (folder / f"map.{name}").read_text("utf-8") for name in ("html", "css", "js")}

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    fill = {
        "title": html.escape(title),
        "css": part["css"],
        "js": part["js"],
        "css_hash": digest(part["css"]),
        "js_hash": digest(part["js"]),
        # Inside a script element only "<" can end it, or open a comment that hides its end.
        "data": data.replace("<", "\\u003c"),
    }
    # One pass, so that a title that contains the name of a placeholder stays a title.
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: fill[match[1]], part["html"])


def error_map_png(
    path: str | os.PathLike,
    predicted,
    truth,
    title: str,
    outlines: Mapping | str | os.PathLike | None = None,
    unit: str = "km",
) -> None:
    """Draw predictions, coloured by error, with a line from each true place, as a PNG for a model card.

    Args:
        path: the PNG file.
        predicted: (n, 2) latitude, longitude in degrees.
        truth: (n, 2) likewise; rows of NaN are left out.
        title: heading of the figure.
        outlines: borders, see :func:`~geohf.report.outlines.read_outlines`.
        unit: ``km`` or ``m``, the unit of the colour bar.

    Raises:
        DataError: coordinates that are not degrees, lengths that differ, no known truth, malformed outlines.
    """
    if unit not in _METRES:
        raise DataError(f"unit: {unit!r} is neither km nor m")
    predicted, truth, distance_m = _pairs(predicted, truth)
    known = np.flatnonzero(~np.isnan(truth).any(axis=1))
    if not len(known):
        raise DataError("truth: no row is known, so there is no error to draw")
    known = known[np.argsort(distance_m[known])]  # the worst on top
    predicted, truth, error = predicted[known], truth[known], distance_m[known] / _METRES[unit]
    polygons = read_outlines(outlines)

    west, south, east, north = view_box(np.concatenate([predicted, truth]))
    middle = (west + east) / 2
    aspect = 1 / np.cos(np.radians(np.clip((south + north) / 2, -75, 75)))
    pad = 0.06 * max(east - west, (north - south) * aspect) + 1e-5
    wide, high = east - west + 2 * pad, (north - south + 2 * pad / aspect) * aspect
    width = 9.0
    height = float(np.clip(width * high / wide, 3.2, 8.0))

    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    def near(path_deg: np.ndarray) -> list[np.ndarray]:
        """The copies, in (x, y), of a path that can be seen; the axes clip what is outside."""
        path_deg = unwrap_path(path_deg)
        copies = [path_deg[:, ::-1] + [turn, 0.0] for turn in (-360.0, 0.0, 360.0)]
        low, top = west - pad, east + pad
        return [copy for copy in copies if copy[:, 0].max() >= low and copy[:, 0].min() <= top]

    with drawing(path, width, height + 0.6) as figure:
        axes = figure.add_subplot()
        axes.set_facecolor(SEA)
        rings = [copy for polygon in polygons for ring in polygon for copy in near(ring)]
        closed = [ring for ring in rings if abs(ring[0, 0] - ring[-1, 0]) < 180]
        axes.add_collection(PolyCollection(closed, facecolors=LAND, edgecolors="none", zorder=1))
        axes.add_collection(LineCollection(rings, colors=MUTED, linewidths=0.5, zorder=2))
        colours = LinearSegmentedColormap.from_list("error", ERROR_COLOURS)
        low, top = (float(q) for q in np.quantile(error, [0.02, 0.98]))
        low = max(low, top / 1e4, 1e-3)
        norm = LogNorm(low, max(top, low * 10))
        lines, line_error = [], []
        for a, b, e in zip(truth, predicted, error, strict=True):
            copies = near(great_circle_path(a, b))
            lines += copies
            line_error += [e] * len(copies)
        faint = float(np.clip(40 / np.sqrt(len(error)) / 4, 0.12, 0.7))
        axes.add_collection(
            LineCollection(
                lines, array=line_error, cmap=colours, norm=norm, linewidths=0.8, alpha=faint, zorder=3
            )
        )
        size = float(np.clip(4000 / len(error), 4, 26))

        def place(points):
            return middle + wrap(points[:, 1] - middle), points[:, 0]

        axes.scatter(
            *place(truth), s=size * 0.8, facecolors="none", edgecolors=INK, linewidths=0.7, zorder=4, label="true"
        )
        dots = axes.scatter(
            *place(predicted),
            s=size,
            c=error,
            cmap=colours,
            norm=norm,
            edgecolors="white",
            linewidths=0.3,
            zorder=5,
            label="predicted",
        )
        axes.set_xlim(west - pad, east + pad)
        axes.set_ylim(max(south - pad / aspect, -90), min(north + pad / aspect, 90))
        axes.set_aspect(aspect, adjustable="datalim" if high / wide < 0.3 else "box")
        axes.xaxis.set_major_formatter(lambda x, _: _degrees(float(wrap(x)), "EW"))
        axes.yaxis.set_major_formatter(lambda y, _: _degrees(y, "NS"))
        axes.grid(color="white", linewidth=0.6, zorder=0)
        axes.set_title(title)
        axes.legend(loc="lower left")
        bar = figure.colorbar(dots, ax=axes, shrink=0.8, pad=0.02, extend="both")
        bar.ax.yaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
        median = float(np.median(error))
        bar.set_label(f"error in {unit} (median {median:,.3g}, n = {len(error):,})")


def _degrees(x: float, sides: str) -> str:
    return f"{abs(x):.6g}°{sides[0] if x > 1e-9 else sides[1] if x < -1e-9 else ''}"
