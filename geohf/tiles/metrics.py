"""How good predictions are, beside what one would say without looking: persistence and trend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.metrics.directions import HIGHER, LOWER, MetricInfo
from geohf.metrics.intervals import bootstrap_intervals, share_interval
from geohf.metrics.records import Metric, join_metrics
from geohf.tiles.answers import intervals_of
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.image_metrics import image_measures, image_statistics

if TYPE_CHECKING:
    from geohf.tiles.dataset import BoundRows
    from geohf.tiles.windows import TileWindows

# of one target; of several, each under its target's name, and those without a unit as their mean, too
UNIT = MetricInfo(False, "unit of the target")
SHARES = {"r2": HIGHER, "r2_rate": HIGHER, "skill_persistence": HIGHER, "skill_trend": HIGHER}
LEVEL_METRICS = {"mae": UNIT, "rmse": UNIT}
NUMBER_METRICS = LEVEL_METRICS | SHARES | {"nrmse": LOWER}
IMAGE_METRICS = {"psnr": MetricInfo(True, "dB"), "ssim": HIGHER, "mae": UNIT, "nrmse": LOWER}
# of several frames each
IMAGE_METRICS |= {f"lead_*_{name}": metric for name, metric in IMAGE_METRICS.items()}


def metrics_of(targets: Sequence[str]) -> dict[str, MetricInfo]:
    """What `all_targets` measures of these targets, and `nrmse`."""
    if len(targets) < 2:
        return NUMBER_METRICS
    each = {f"{t}_{name}": metric for t in targets for name, metric in (LEVEL_METRICS | SHARES).items()}
    return SHARES | {"nrmse": LOWER} | each


CHIEF = ("mae", "r2_rate", "skill_persistence", "psnr")  # that intervals are drawn of, and cards name first
METRICS = NUMBER_METRICS | IMAGE_METRICS | metrics_of(["*", "*"])


def tile_metrics(predicted, truth, last=None, trend=None) -> dict[str, float]:
    """Errors of the level and of the rate, and the skill over the baselines, for one target.

    The rate is the difference to the last known value. A level that hardly changes makes every R2 of the level
    look good; R2 of the rate and the skill, 1 - MSE / MSE(baseline), do not.

    Args:
        predicted, truth: (n,); rows whose truth is NaN do not count.
        last, trend: (n,) what persistence and the trend would have said; NaN where they cannot.

    Returns:
        `mae`, `rmse`, `r2`; `r2_rate`, `skill_persistence` and `skill_trend` over the rows that have the baseline.

    >>> m = tile_metrics([2.0, 4.0], [2.0, 5.0], last=[1.0, 3.0])
    >>> m["mae"], m["skill_persistence"], m["r2_rate"]
    (0.5, 0.8, -1.0)
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    known = np.isfinite(truth)
    if not known.any():
        return {}
    error = (predicted - truth)[known]
    metrics = {
        "mae": np.abs(error).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "r2": r2_score(predicted[known], truth[known]),
    }
    for name, baseline in (("persistence", last), ("trend", trend)):
        if baseline is None:
            continue
        baseline = np.asarray(baseline, np.float64)
        both = known & np.isfinite(baseline)
        if both.any():
            theirs = ((baseline - truth)[both] ** 2).mean()
            ours = ((predicted - truth)[both] ** 2).mean()
            metrics[f"skill_{name}"] = 1 - ours / theirs if theirs > 0 else np.nan
            if name == "persistence":
                metrics["r2_rate"] = r2_score((predicted - baseline)[both], (truth - baseline)[both])
    return {name: float(value) for name, value in metrics.items()}


def r2_score(predicted, truth) -> float:
    """The share of the truth's variance that is explained; NaN where the truth is constant.

    >>> r2_score([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    total = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((predicted - truth) ** 2).sum() / total) if total > 0 else float("nan")


def all_targets(names: Sequence[str], predicted, truth, last, trend) -> dict[str, float]:
    """`tile_metrics` of every target (arrays (n, targets)): plain names for one, `name_metric` for several.

    With several targets the plain names hold the mean over targets of what has no unit: R2 and skill.
    """
    each = [tile_metrics(predicted[:, k], truth[:, k], last[:, k], trend[:, k]) for k in range(len(names))]
    if len(names) == 1:
        return each[0]
    pairs = zip(names, each, strict=True)
    whole = {f"{name}_{key}": value for name, metrics in pairs for key, value in metrics.items()}
    shares = {key: [metrics[key] for metrics in each if key in metrics] for key in SHARES}
    return whole | {key: float(np.mean(values)) for key, values in shares.items() if values}


def metrics_by(groups, names: Sequence[str], predicted, truth, last, trend) -> list[dict]:
    """A row of `all_targets` for each group, with its `group` and number of `samples`."""
    groups, rows = np.asarray(groups), []
    for group in np.unique(groups).tolist():
        here = groups == group
        numbers = all_targets(names, predicted[here], truth[here], last[here], trend[here])
        rows.append({"group": group, "samples": int(here.sum())} | numbers)
    return rows


def coverage_by(groups, targets: Sequence[str], low, high, truth) -> list[dict]:
    """A row for each group and target: how many truths its intervals hold, within Wilson's 95 %, and how wide they are.

    Args:
        groups: (n,) names.
        low, high, truth: (n, targets); truths that are NaN do not count.
    """
    groups, rows = np.asarray(groups), []
    for group in np.unique(groups).tolist():
        for k, target in enumerate(targets):
            here = (groups == group) & np.isfinite(truth[:, k])
            if not here.any():
                continue
            held = (low[here, k] <= truth[here, k]) & (truth[here, k] <= high[here, k])
            ends = share_interval(held) or (np.nan, np.nan)
            row = {"group": group, "target": target, "samples": int(here.sum()), "coverage": held.mean()}
            width = {"mean_width": (high - low)[here, k].mean()}
            rows.append(row | {"coverage_low": ends[0], "coverage_high": ends[1]} | width)
    return rows


def coverage(low, high, truth) -> float:
    """The share of known truths within their interval."""
    low, high, truth = (np.asarray(x, np.float64) for x in (low, high, truth))
    known = np.isfinite(truth)
    return float(((low <= truth) & (truth <= high))[known].mean())


def number_measures(
    config: TileSequenceConfig, values: torch.Tensor, windows: TileWindows, region: torch.Tensor | None = None
) -> dict[str, float]:
    """Every number that is reported for windows.

    Args:
        values: (n, targets, quantiles) the model's outputs on them.
        region: (n,) whose margins their intervals have, see `region_numbers`.

    Returns:
        `all_targets`; `nrmse`, the error in units of each target's spread; and `coverage` where the model is
        calibrated.
    """
    middle, low, high = (part.double().numpy() for part in intervals_of(config, values, region))
    spread = np.array(config.level_std if config.answers == "level" else config.change_std)
    metrics = all_targets(config.targets, middle, windows.truth, windows.last, windows.trend)
    error = ((middle - windows.truth) / spread)[np.isfinite(windows.truth)]
    metrics["nrmse"] = float(np.sqrt((error**2).mean()))
    if config.interval_margin is not None:
        metrics["coverage"] = coverage(low, high, windows.truth)
    return metrics


def baselines_of(
    config: TileSequenceConfig,
    dataset: BoundRows,
    train: TileWindows | None = None,
    images: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> dict[str, dict[str, float]]:
    """Name -> the numbers of what looks at no image: `mean`, `persistence`, `trend`; each where it has an answer.

    Args:
        dataset: what is measured.
        train: the training windows, whose mean is said of every tile; the config's where None.
        images: what `dataset.images()` gives, where it was read already.
    """
    if config.head == "image":
        labels, last = images or dataset.images()
        same = last if labels.ndim == last.ndim else last[:, None].expand_as(labels)
        return {"persistence": image_measures(same, labels, config)}
    windows, numbers = dataset.windows, {}
    mean = config.level_mean if train is None else np.nanmean(train.truth, 0)
    guesses = {"mean": np.broadcast_to(mean, windows.truth.shape), "persistence": windows.last}
    for name, guess in (guesses | {"trend": windows.trend}).items():
        known = np.isfinite(guess)
        if known.any():
            truth = np.where(known, windows.truth, np.nan)
            guess = np.where(known, guess, 0.0)
            numbers[name] = all_targets(config.targets, guess, truth, windows.last, windows.trend)
    return numbers


def chief_baseline(baselines: Mapping[str, Mapping[str, float]]) -> str:
    """The one that the model is told beside: persistence, or the mean where no last value is known."""
    return "persistence" if "persistence" in baselines else "mean"


def measure(
    config: TileSequenceConfig,
    values: torch.Tensor,
    dataset: BoundRows,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    intervals: bool = True,
    images: tuple[torch.Tensor, torch.Tensor] | None = None,
    region: torch.Tensor | None = None,
) -> list[Metric]:
    """The numbers of a model's outputs, their intervals, and the baseline's.

    Args:
        config: of the model.
        values: its outputs on the dataset, see `TileSequenceOutput.predictions`.
        baselines: see `baselines_of`; None: there is none.
        intervals: draw 95 % intervals of `CHIEF`, region by region, or tile by tile where regions are few.
        images: see `baselines_of`.
        region: (n,) whose margins the rows' intervals have, see `region_numbers`.
    """
    baseline = {} if baselines is None else baselines[chief_baseline(baselines)]
    if config.head == "image":
        labels, _ = images or dataset.images()
        metrics, statistics = image_measures(values, labels, config), image_statistics(values, labels, config)
        for name, theirs in baseline.items():  # of all frames, and of each that is predicted
            if name.endswith("nrmse"):
                skill = 1 - (metrics[name] / theirs) ** 2 if theirs > 0 else np.nan
                metrics[name.replace("nrmse", "skill_persistence")] = skill
    else:
        windows, middle = dataset.windows, intervals_of(config, values)[0].double().numpy()
        metrics = number_measures(config, values, windows, region)

        def statistics(rows: np.ndarray) -> dict[str, float]:
            part = windows.take(rows)
            numbers = all_targets(config.targets, middle[rows], part.truth, part.last, part.trend)
            return {name: numbers[name] for name in CHIEF if name in numbers}

    ends = bootstrap_intervals(statistics, dataset.groups()) if intervals else {}
    return join_metrics(metrics, ends, baseline)
