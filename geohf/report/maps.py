"""Where a model put things and where they were, as one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from importlib import resources
from typing import Any, TextIO

import numpy as np

from geohf.errors import DataError
from geohf.geo import EARTH_RADIUS_M
from geohf.geo.angles import wrap_degrees
from geohf.io import atomic_write, columns, json_text
from geohf.report.paths import check_pairs, outline_rings, view_box
from geohf.report.world import NARROWEST_DEG, encoded_world

LEAST_M = 300e3  # around a single point


def write_map(
    path: str | os.PathLike | TextIO,
    predicted,
    truth=None,
    labels: Sequence[str] | None = None,
    details: Mapping[str, Sequence] | Iterable[Mapping] | None = None,
    radius_m=None,
    outlines: Mapping | str | os.PathLike | None = None,
    title: str = "",
    value: str | None = None,
    splits: Sequence[str] | None = None,
    headings: Sequence[float | None] | None = None,
    regions: Sequence[Mapping[str, Mapping]] | None = None,
    thumbnails: Sequence[str | None] | None = None,
) -> None:
    """Write one HTML file that shows predictions on a map that can be panned, zoomed, filtered and sorted.

    The file holds all it needs: no script, style, font, tile or picture comes from a network. Its content
    security policy lets nothing run but its own script, so no label can. Links to OpenStreetMap are
    followed only when a reader clicks one. Coasts and borders of Natural Earth are part of the file. Coordinates are stored to seven decimals (1 cm);
    a place beyond 85.05 degrees, where Web Mercator ends, is drawn at the edge.

    Args:
        path: the HTML file, replaced only when all of it is written; or an open one.
        predicted: (n, 2) latitude, longitude in degrees.
        truth: (n, 2) likewise, NaN rows where unknown. Points are then colored by their error.
        labels: n names; row numbers by default.
        details: what the panel tells about a point: columns of n values (a dict, a DataFrame) or n dicts.
        radius_m: radius of the circle drawn around the chosen prediction, in meters: one number, or n; no circle is drawn
            where one of them is None.
        outlines: more borders to draw, a GeoJSON path or document, see `geohf.geo.area_from_geojson`.
        title: heading of the page.
        value: name of a numeric column of `details` that colors the points instead of the error.
        splits: n names of the splits that the points belong to. The map opens on the first one, and its numbers
            are those of what is shown; a switch shows the others.
        headings: n degrees clockwise from north, drawn as arrows at the predictions; None or NaN where there is none.
        regions: n dicts of percent -> GeoJSON MultiPolygon, drawn around the chosen prediction in place of its circle;
            an empty one where there are none.
        thumbnails: n small photographs as data URIs, shown beside the chosen place; None where there is none. The file
            then holds these photographs, and whoever gets it sees them.

    Raises:
        DataError: coordinates that are not degrees, lengths that differ, malformed outlines, or a
            `value` that is no numeric column.
    """
    predicted, truth, distance_m = check_pairs(predicted, truth)
    n = len(predicted)
    given = (labels, splits, headings, regions, thumbnails)
    for name, values in zip(("labels", "splits", "headings", "regions", "thumbnails"), given, strict=True):
        if values is not None and len(values) != n:
            raise DataError(f"{len(values)} {name} for {n} points")
    columns_ = columns(details, n, "details")
    every = predicted if truth is None else np.concatenate([predicted, truth])
    rings, radius = _regions(regions), _radius(radius_m, n)
    if n == 1:  # so wide that one sees where on earth, and its circle
        reach = 0.0 if radius is None else 1.2 * float(np.max(radius_m))
        every = np.concatenate([every, _around(predicted[0], max(reach, LEAST_M))])
        corners = [np.array(ring) for polygons in (rings or [{}])[0].values() for p in polygons for ring in p]
        every = np.concatenate([every, *corners])
    data: dict[str, Any] = {
        "points": predicted.round(7),
        "truth": None if truth is None else truth.round(7),
        "distance_km": None if distance_m is None else np.round(distance_m / 1000, 6),
        "labels": None if labels is None else [str(label) for label in labels],
        "details": columns_,
        "radius_m": radius,
        "headings": _headings(headings),
        "regions": rings,
        "value": _value(value, columns_),
        "outlines": [[ring.round(5) for ring in polygon] for polygon in outline_rings(outlines)],
        "views": {
            name: view_box(every[np.tile(of_split, -(-len(every) // n))[: len(every)]])
            for name, of_split in _splits(splits, n).items()
        },
        "splits": None if splits is None else list(splits),
        "world": encoded_world(),
        "narrowest": NARROWEST_DEG,
    }
    data["thumbnails"] = pictures = list(thumbnails) if thumbnails is not None and any(thumbnails) else None
    page = _page(title or "Predictions", json_text(data), "img-src data:; " if pictures else "")
    with atomic_write(path) if isinstance(path, (str, os.PathLike)) else nullcontext(path) as file:
        file.write(page)


def _around(point: np.ndarray, meters: float) -> np.ndarray:
    """(4, 2) the points so far north, south, west and east of a point, within the globe."""
    north = min(np.degrees(meters / EARTH_RADIUS_M), 90.0)
    east = min(north / max(float(np.cos(np.radians(point[0]))), 1e-3), 170.0)
    corners = point + np.array([[north, 0], [-north, 0], [0, -east], [0, east]])
    return np.stack([np.clip(corners[:, 0], -90, 90), wrap_degrees(corners[:, 1])], 1)


def _splits(splits: Sequence[str] | None, n: int) -> dict[str, np.ndarray]:
    """Name -> (n,) which points are shown: each split in order of appearance, and all where there are several."""
    if splits is None:
        return {"all": np.ones(n, bool)}
    names = np.array(splits, object)
    shown = {name: names == name for name in dict.fromkeys(splits)}
    return shown if len(shown) == 1 else shown | {"all": np.ones(n, bool)}


def _radius(radius_m, n: int):
    if radius_m is None or (isinstance(radius_m, Sequence) and None in radius_m):
        return None
    radius = np.asarray(radius_m, dtype=np.float64)
    if radius.shape not in ((), (n,)) or (radius < 0).any():
        raise DataError(f"radius_m: want one number >= 0 or {n} of them, got shape {radius.shape}")
    return radius.round(3)


def _headings(headings) -> np.ndarray | None:
    degrees = np.array([np.nan if heading is None else heading for heading in headings or ()], np.float64)
    return degrees.round(1) if np.isfinite(degrees).any() else None


def _regions(regions) -> list[dict[str, list]] | None:
    """Percent -> polygons as lists of rings of [latitude, longitude], of each point; the widest region first."""
    if not any(regions or ()):
        return None
    return [
        {
            percent: [[[[y, x] for x, y in ring] for ring in polygon] for polygon in area["coordinates"]]
            for percent, area in sorted(of_one.items(), key=lambda one: -float(one[0]))
        }
        for of_one in regions
    ]


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


def _page(title: str, data: str, policy: str) -> str:
    """The page with style, script and data put in; `policy` allows what its own script and style do not need."""
    folder = resources.files("geohf.report")

    def text(name: str) -> str:
        return (folder / name).read_text("utf-8")

    style, script = text("map.css"), "".join(text(f"map_{part}.js") for part in ("geometry", "draw", "panel"))

    def digest(code: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()

    fill = {
        "title": html.escape(title),
        "policy": policy,
        "css": style,
        "js": script,
        "css_hash": digest(style),
        "js_hash": digest(script),
        # Inside a script element only "<" can end it, or open a comment that hides its end.
        "data": data.replace("<", "\\u003c"),
    }
    # One pass, so that a title that contains the name of a placeholder stays a title.
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: fill[match[1]], text("map.html"))
