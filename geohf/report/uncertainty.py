"""What a model knows of how good its answers are: regions on maps, and the error of those that it is surest of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.geo.angles import wrap_degrees
from geohf.metrics.selective import risk_curve
from geohf.report.map_png import copies_within, draw_world, label_degrees, map_frame
from geohf.report.paths import check_pairs
from geohf.report.style import INK, MUTED, SERIES, drawing
from geohf.report.tables import format_number
from geohf.report.world import coasts

ACROSS, PANELS = 3, 6  # maps side by side, and in all


def plot_uncertainty(
    folder: Path,
    predicted,
    truth,
    regions: Sequence[Mapping[str, Mapping]],
    sureness: Mapping[str, Sequence[float | None]],
) -> None:
    """How sure answers are: regions.png of a few of them, and risk_coverage.png; each where there is what to draw.

    Args:
        predicted: (n, 2) latitude, longitude in degrees.
        truth: (n, 2) likewise, NaN rows where unknown.
        regions: n dicts of percent -> GeoJSON MultiPolygon, empty ones for answers without.
        sureness: name -> n numbers, the greater the surer, or None; `localizability` stands on the maps of regions.
    """
    located = np.isfinite(truth).all(1)
    known = sureness["localizability"]
    drawn = [i for i, areas in enumerate(regions) if areas and located[i]]
    if drawn:  # from the one that most is known of to the one that least is known of
        drawn.sort(key=lambda i: -(known[i] or 0.0))
        some = [drawn[i] for i in np.unique(np.linspace(0, len(drawn) - 1, PANELS).astype(int))]
        titles = [f"{known[i]:.1f} nats" for i in some]
        plot_regions(folder / "regions.png", predicted[some], truth[some], [regions[i] for i in some], titles)
    numbers = {
        name: np.array(values, np.float64)[located] for name, values in sureness.items() if None not in values
    }
    if numbers and located.any():
        km = great_circle_m(predicted[located], truth[located]) / 1000
        plot_risk_coverage(folder / "risk_coverage.png", km, numbers)


def plot_regions(
    path: str | os.PathLike, predicted, truth, regions: Sequence[Mapping[str, Mapping]], titles: Sequence[str]
) -> None:
    """Draw one map for each prediction: its regions, the darker the smaller, the point, and the true place.

    Args:
        path: the PNG file.
        predicted: (n, 2) latitude, longitude in degrees.
        truth: (n, 2) likewise, NaN rows where unknown.
        regions: n dicts of percent -> GeoJSON MultiPolygon.
        titles: n headings.

    Raises:
        DataError: coordinates that are not degrees, or lengths that differ.
    """
    predicted, truth, _ = check_pairs(predicted, truth)
    if not len(predicted) == len(regions) == len(titles):
        raise DataError(f"{len(regions)} regions and {len(titles)} titles for {len(predicted)} points")
    down = -(-len(predicted) // ACROSS)
    with drawing(path, 3.3 * min(ACROSS, len(predicted)) + 0.2, 3.1 * down + 0.2) as figure:
        for k, (point, true, areas, title) in enumerate(zip(predicted, truth, regions, titles, strict=True)):
            rings = [
                [np.array(ring)[:, ::-1] for polygon in area["coordinates"] for ring in polygon]
                for _, area in sorted(areas.items(), key=lambda one: -float(one[0]))
            ]
            corners = [ring for of_one in rings for ring in of_one]
            west, south, east, north, aspect = map_frame(np.concatenate([[point, true], *corners]))
            axes = figure.add_subplot(down, min(ACROSS, len(predicted)), k + 1)
            draw_world(axes, [], west, east)
            for of_one in rings:
                _fill(axes, of_one, west, east)
            middle = (west + east) / 2
            for (latitude, longitude), marker, color, name in (
                (point, "o", SERIES[1], "predicted"),
                (true, "x", INK, "true"),
            ):
                at = middle + wrap_degrees(longitude - middle)
                axes.plot([at], [latitude], marker, color=color, label=name, markersize=6, zorder=4)
            axes.set(xlim=(west, east), ylim=(south, north), aspect=aspect)
            axes.locator_params(nbins=3)
            label_degrees(axes)
            axes.set_title(title, fontsize=9)
            if not k:
                axes.legend(loc="lower left")


def _fill(axes, rings: list[np.ndarray], west: float, east: float) -> None:
    """One region's rings: holes stay open, and a cut at the antimeridian is no edge."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    copies = [copy for ring in rings for copy in copies_within(ring, west, east)]
    if copies:
        whole = Path.make_compound_path(*(Path(copy, closed=True) for copy in copies))
        axes.add_patch(PathPatch(whole, facecolor=INK, alpha=0.18, linewidth=0, zorder=2))
    edges = [part for ring in rings for line in coasts(ring) for part in copies_within(line, west, east)]
    axes.add_collection(LineCollection(edges, linewidths=0.8, colors=INK, zorder=2.5))


def plot_risk_coverage(
    path: str | os.PathLike, distances_km: Sequence[float], sureness: Mapping[str, Sequence[float]]
) -> None:
    """Draw the mean distance of the answers that are left where only the surest ones are given.

    Args:
        path: the PNG file.
        distances_km: (n,) great-circle errors in km.
        sureness: name -> (n,) numbers, the greater the surer.

    Raises:
        DataError: no distance, one that is not finite, or lengths that differ.
    """
    km = np.asarray(distances_km, np.float64)
    fitting = all(len(values) == len(km) for values in sureness.values())
    if not len(km) or not np.isfinite(km).all() or not fitting:
        raise DataError(
            f"distances_km: want n > 0 finite numbers, and as many of each sureness; got {len(km)}"
        )
    kept = np.arange(1, len(km) + 1)
    with drawing(path, 6.4, 4.2) as figure:
        axes = figure.add_subplot()
        for index, (name, values) in enumerate(sureness.items()):
            risk = risk_curve(values, km)  # a radius that is one for all places says nothing: a level line
            label = f"{name} (mean of the curve {format_number(risk.mean())} km)"
            axes.plot(100 * kept / len(km), risk, color=SERIES[index % len(SERIES)], label=label)
        axes.axhline(km.mean(), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="all answers")
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="answers given, the surest first, %", ylabel="mean distance, km")
        axes.set_title("Error of the surest answers")
        axes.grid(True)
        axes.legend(loc="best")
