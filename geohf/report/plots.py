"""Learning curves, distance curves, planar scatters and what filters dropped, each one PNG."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np

from geohf.errors import DataError
from geohf.report.style import EVAL, EXTRA, FAINT, INK, MUTED, SERIES, TRAIN, drawing, error_colors
from geohf.report.tables import format_number

RADII_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent: Im2GPS's radii

# What transformers writes beside the measurements: the clock, not the model.
_CLOCK = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
_DROPPED_MARKS = ("x", "+", "1", "^", "s", "d")
_NO_CURVE = ("step", "epoch", "phase", "train_loss", "total_flos", "num_input_tokens_seen")


def plot_learning_curves(path: str | os.PathLike, log_history: Sequence[Mapping]) -> None:
    """Draw what a Trainer logged: losses, every part of the loss, learning rate, evaluation metrics.

    Each quantity has its panel over the steps; `x` and `eval_x` share one. A line marks where `"phase"` changes.

    Args:
        path: the PNG file.
        log_history: dicts as in transformers' `TrainerState.log_history`.

    Raises:
        DataError: no row has a step and a number.
    """
    panels = learning_panels(log_history)
    if not panels:
        raise DataError("log_history: no row has a step and a measured number, so there is nothing to draw")
    from matplotlib.ticker import MaxNLocator

    boundaries = phase_boundaries(log_history)
    steps = [step for series in panels.values() for curve in series.values() for step, _ in curve]
    pad = max(0.03 * (max(steps) - min(steps)), 0.5)
    low, high = min(steps) - pad, max(steps) + pad  # all panels side by side on one axis
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    with drawing(path, 4.4 * across + 0.4, 2.9 * down + 0.3) as figure:
        for position, (name, series) in enumerate(panels.items()):
            axes = figure.add_subplot(down, across, position + 1)
            for kind, color in (("train", TRAIN), ("eval", EVAL)):
                if kind not in series:
                    continue
                steps, values = np.array(series[kind], dtype=np.float64).T
                marker = "o" if kind == "eval" or len(steps) < 3 else ""
                color = EXTRA if name in _SCHEDULE else color
                axes.plot(steps, values, color=color, label=kind, marker=marker, markersize=4)
            for step, phase in boundaries:
                _mark(axes, step, phase, (3, -2), va="top")
            axes.set(title=name.replace("_", " "), xlabel="step", xlim=(low, high))
            axes.grid(True)
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
            axes.margins(y=0.12)
            axes.yaxis.set_major_formatter(lambda y, _: format_number(y, 6))
            if len(series) > 1:
                axes.legend(loc="best")


def _mark(axes, x: float, text: str, offset: tuple[int, int], **aligned: str) -> None:
    """A dashed line at x, and what it is, at its upper end."""
    axes.axvline(x, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    placed = {"xycoords": ("data", "axes fraction"), "xytext": offset, "textcoords": "offset points"}
    axes.annotate(text, (x, 1.0), fontsize=8, color="#52606d", **placed, **aligned)


_SCHEDULE = ("learning_rate", "grad_norm")


def learning_panels(log_history: Sequence[Mapping]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """`{quantity: {"train" | "eval": [(step, value), ...]}}`, losses first, then the schedule, then metrics.

    >>> learning_panels([{"loss": 2.0, "step": 10}, {"eval_loss": 1.5, "eval_runtime": 3.1, "step": 10}])
    {'loss': {'train': [(10, 2.0)], 'eval': [(10, 1.5)]}}
    """
    panels: dict[str, dict[str, list]] = {}
    for row in log_history:
        step = row.get("step")
        if not isinstance(step, Real):
            continue
        for key, value in row.items():
            number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            if number and key not in _NO_CURVE and not key.endswith(_CLOCK):
                kind, name = ("eval", key[5:]) if key.startswith("eval_") else ("train", key)
                panels.setdefault(name, {}).setdefault(kind, []).append((step, float(value)))

    def rank(name: str) -> int:
        return 0 if name == "loss" else 1 if name.endswith("_loss") else 2 if name in _SCHEDULE else 3

    return {name: panels[name] for name in sorted(panels, key=rank)}


def phase_boundaries(log_history: Sequence[Mapping]) -> list[tuple[float, str]]:
    """(step at which it begins: the last logged one of the phase before; name) of every phase after the first.

    >>> phase_boundaries([{"step": 5, "phase": 1}, {"step": 10, "phase": 1}, {"step": 15, "phase": 2}])
    [(10, 'phase 2')]
    """
    rows = [row for row in log_history if row.get("phase") is not None and isinstance(row.get("step"), Real)]
    return [
        (old["step"], new["phase"] if isinstance(new["phase"], str) else f"phase {new['phase']:g}")
        for old, new in pairwise(rows)
        if old["phase"] != new["phase"]
    ]


def plot_error_cdf(path: str | os.PathLike, distances_km: Mapping[str, Sequence[float]]) -> None:
    """Draw the share of samples within a distance, over that distance, with the customary radii marked.

    Args:
        path: the PNG file.
        distances_km: name -> (n,) great-circle errors in km. NaN (no truth) is left out.

    Raises:
        DataError: no name, or one without any distance, or a negative one.
    """
    curves = {}
    for name, values in distances_km.items():
        distances = np.asarray(values, dtype=np.float64).ravel()
        distances = np.sort(distances[~np.isnan(distances)])
        if not len(distances) or distances[0] < 0:
            raise DataError(f"distances_km: '{name}' has no distance, or a negative one")
        curves[str(name)] = distances
    if not curves:
        raise DataError("distances_km: nothing to draw")
    lowest = min(float(np.quantile(values, 0.02)) for values in curves.values())
    low = 10 ** np.floor(np.log10(np.clip(lowest, 1e-3, 0.5)))
    # Whole decades, up to half the equator: nothing on earth is farther away.
    farthest = max(float(values[-1]) for values in curves.values())
    high = min(10 ** np.ceil(np.log10(max(farthest, 10 * low))), 20_040.0)
    with drawing(path, 8.2, 4.8) as figure:
        axes = figure.add_subplot()
        for index, (name, distances) in enumerate(curves.items()):
            share = np.arange(1, len(distances) + 1) / len(distances) * 100
            # A step at each sample, from 0 % at the left edge to 100 % at the right one.
            x = np.concatenate([[low], np.maximum(distances, low), [max(high, farthest)]])
            y = np.concatenate([[(distances <= low).mean() * 100], share, [100]])
            label = f"{name} (median {format_number(np.median(distances))} km, n = {len(distances):,})"
            axes.step(x, y, where="post", color=SERIES[index % len(SERIES)], label=label)
        for radius in (radius for radius in RADII_KM if radius <= high):
            _mark(axes, radius, f"{radius} km", (0, 3), ha="center")
        axes.set(xscale="log", xlim=(low, high), ylim=(0, 101))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
        axes.set(xlabel="distance in km, logarithmic", ylabel="samples within, %")
        axes.set_title("Error distance", pad=20)
        axes.grid(True, axis="y")
        axes.legend(loc="best")


def plot_scatter(path: str | os.PathLike, truth, predicted, unit: str) -> None:
    """Draw true and predicted places of a planar frame, x to the right and y up, with the errors as lines.

    Args:
        path: the PNG file.
        truth: (n, 2) in the data's order (latitude, longitude), that is (y, x), in units of the data.
        predicted: (n, 2) likewise.
        unit: name of that unit, for the axes.

    Raises:
        DataError: other shapes, lengths that differ, or values that are not finite.
    """
    truth, predicted = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if truth.shape != predicted.shape or truth.ndim != 2 or truth.shape[1] != 2 or not len(truth):
        raise DataError(f"truth {truth.shape} and predicted {predicted.shape}: want (n, 2) both, n > 0")
    if not (np.isfinite(truth).all() and np.isfinite(predicted).all()):
        raise DataError("truth and predicted: every value must be finite")
    from matplotlib.collections import LineCollection

    error = np.linalg.norm(predicted - truth, axis=1)
    order = np.argsort(error)
    truth, predicted, error = truth[order, ::-1], predicted[order, ::-1], error[order]
    colors = error_colors()
    size = float(np.clip(4000 / len(error), 5, 28))
    with drawing(path, 8.2, 6.4) as figure:
        axes = figure.add_subplot()
        segments = list(np.stack([truth, predicted], axis=1))
        lines = LineCollection(segments, cmap=colors, linewidths=0.8, alpha=0.6)
        lines.set_array(error)
        axes.add_collection(lines)
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 0.8}
        disc: dict[str, Any] = {
            "c": error,
            "cmap": colors,
            "edgecolors": "white",
            "linewidths": 0.3,
            "zorder": 3,
        }
        axes.scatter(truth[:, 0], truth[:, 1], s=size, label="true", **ring)
        dots = axes.scatter(predicted[:, 0], predicted[:, 1], s=size, label="predicted", **disc)
        top = max(float(np.quantile(error, 0.98)), 1e-12)
        for artist in (dots, lines):
            artist.set_clim(0, top)
        axes.set_aspect("equal", adjustable="datalim")
        _plane(axes, "True and predicted places", unit)
        axes.legend(loc="best")
        bar = figure.colorbar(dots, ax=axes, shrink=0.8, pad=0.02, extend="max")
        bar.set_label(f"error in {unit} (median {format_number(np.median(error))}, n = {len(error):,})")


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
                look: dict[str, Any] = {
                    "marker": _DROPPED_MARKS[i % len(_DROPPED_MARKS)],
                    "color": SERIES[i % len(SERIES)],
                }
                label = f"{name}, n = {len(points):,}"
                axes.scatter(points[:, 1], points[:, 0], s=34, linewidths=1.4, label=label, **look)
            if position:
                (south, west), (north, east) = low - edge, high + edge
                axes.set(ylim=(south, north), xlim=(west, east))
            else:
                axes.legend(loc="best")
            _plane(axes, title, unit)


def _plane(axes, title: str, unit: str) -> None:
    """A panel whose axes are the columns of the data, in full."""
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.tick_params(axis="x", rotation=20)
    axes.set(title=title, xlabel=f"longitude column, {unit}", ylabel=f"latitude column, {unit}")
    axes.grid(True, color=FAINT)
