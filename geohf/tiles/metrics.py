"""How good predictions are, beside what one would say without looking: persistence and trend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geohf.metrics.directions import HIGHER, LOWER, MetricInfo

# of one target; of several, each under its target's name, and those without a unit as their mean, too
UNIT = MetricInfo(False, "unit of the target")
SHARES = {"r2": HIGHER, "r2_rate": HIGHER, "skill_persistence": HIGHER, "skill_trend": HIGHER}
NUMBER_METRICS = {"mae": UNIT, "rmse": UNIT} | SHARES | {"nrmse": LOWER}
IMAGE_METRICS = {"psnr": MetricInfo(True, "dB"), "ssim": HIGHER, "mae": UNIT, "nrmse": LOWER}


def metrics_of(targets: Sequence[str]) -> dict[str, MetricInfo]:
    """What `all_targets` measures of these targets, and `nrmse`."""
    if len(targets) < 2:
        return NUMBER_METRICS
    each = {
        f"{t}_{name}": metric for t in targets for name, metric in NUMBER_METRICS.items() if name != "nrmse"
    }
    return SHARES | {"nrmse": LOWER} | each


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
    whole = {
        f"{name}_{key}": value
        for name, metrics in zip(names, each, strict=True)
        for key, value in metrics.items()
    }
    for key in ("r2", "r2_rate", "skill_persistence", "skill_trend"):
        values = [metrics[key] for metrics in each if key in metrics]
        if values:
            whole[key] = float(np.mean(values))
    return whole


def metrics_by(groups, names: Sequence[str], predicted, truth, last, trend) -> list[dict]:
    """A row of `all_targets` for each group, with its `group` and number of `samples`."""
    groups, rows = np.asarray(groups), []
    for group in np.unique(groups).tolist():
        here = groups == group
        numbers = all_targets(names, predicted[here], truth[here], last[here], trend[here])
        rows.append({"group": group, "samples": int(here.sum())} | numbers)
    return rows


def coverage(low, high, truth) -> float:
    """The share of known truths within their interval."""
    low, high, truth = (np.asarray(x, np.float64) for x in (low, high, truth))
    known = np.isfinite(truth)
    return float(((low <= truth) & (truth <= high))[known].mean())
