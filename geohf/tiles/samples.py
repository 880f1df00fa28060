"""What a model is asked: which tile, at which step, having seen which frames and values."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geohf.errors import DataError
from geohf.tiles.cache import TileCache
from geohf.tiles.table import TileTable

logger = logging.getLogger(__name__)

TREND_VALUES = 3  # the trend goes through so many of the last known values


@dataclass
class TileSamples:
    """Tiles at target steps; the frames that may be seen, and what was known before.

    Attributes:
        rows: (n,) index into the table and the cache.
        steps: (n,) the step that the truth belongs to.
        window: (n, frames) steps to see, oldest first; clipped to the table's where masked.
        mask: (n, frames) bool, False for steps before the first, missing years, and frames without data.
        truth: (n, targets) float64, NaN where unknown.
        last: (n, targets) the last known value before the target's step, NaN where there is none.
        trend: (n, targets) the straight line through the last `TREND_VALUES` known values, at the target's step.
    """

    rows: np.ndarray
    steps: np.ndarray
    window: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    last: np.ndarray
    trend: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> TileSamples:
        """Some of the samples, by index or mask."""
        return TileSamples(**{name: column[chosen] for name, column in vars(self).items()})


def make_samples(
    table: TileTable,
    cache: TileCache,
    task: str = "forecast",
    frames: int | None = None,
    target_years: int = 1,
    max_nodata: float = 0.5,
    image: bool = False,
) -> TileSamples:
    """A sample for every tile and each of the last labels whose target is known.

    Args:
        task: `forecast` shows only frames before the target's step, `estimate` also that step's own frame. The
            values known before it are the same for both.
        frames: steps to see; all there are where None.
        target_years: how many of the last labels are targets; each is a sample of its own.
        max_nodata: a frame with a larger share of pixels without data is masked.
        image: the target is the frame itself and not a number; tiles without that frame are left out.

    Raises:
        DataError: no sample is left, or the settings do not go together.
    """
    total = len(table.labels)
    estimate = task == "estimate"
    if image and estimate:
        raise DataError(
            "an image that the model has seen needs no prediction: --target_type last-image forecasts"
        )
    frames = frames or total - (not estimate)
    if not 1 <= target_years < total:
        raise DataError(
            f"target_years must lie between 1 and {total - 1} for {total} labels, got {target_years}"
        )
    steps, rows = np.meshgrid(np.arange(total - target_years, total), np.arange(len(table)), indexing="ij")
    steps, rows = steps.ravel(), rows.ravel()
    window = steps[:, None] - frames + np.arange(frames) + estimate
    seen = window >= 0
    window = window.clip(0)
    usable = table.present[table.region] & (cache.holes <= max_nodata) & (cache.holes < 1)
    mask = seen & usable[rows[:, None], window]
    truth = table.values[rows, steps]
    last, trend = baselines(table.values[rows], steps, step_times(table.labels))
    samples = TileSamples(rows, steps, window, mask, truth, last, trend)
    asked = usable[rows, steps] if image else np.isfinite(truth).any(1)
    good = mask.any(1) & asked
    if not good.any():
        raise DataError(f"{table.source}: no tile has both a frame to see and a target to predict")
    unseen = int((asked & ~mask.any(1)).sum())
    if unseen:
        logger.warning("left out %d samples: none of their frames has data", unseen)
    return samples.take(good)


def step_times(labels: Sequence[str]) -> np.ndarray:
    """The labels as numbers where they are numbers (years), else their positions.

    >>> step_times(["1985", "1990", "2000"]).tolist(), step_times(["dry", "wet"]).tolist()
    ([1985.0, 1990.0, 2000.0], [0.0, 1.0])
    """
    try:
        times = np.array([float(label) for label in labels])
    except ValueError:
        return np.arange(len(labels), dtype=np.float64)
    return times if (np.diff(times) > 0).all() else np.arange(len(labels), dtype=np.float64)


def baselines(values: np.ndarray, steps: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Persistence and trend: what one would say without looking at an image.

    Args:
        values: (n, all steps, targets), NaN where unknown. What lies at `steps` or later is not looked at.
        steps: (n,) the steps to predict.
        times: (all steps,) of the steps.

    Returns:
        The last known value, and the least-squares line through the last `TREND_VALUES` known ones at the
        step's time (the last value where only one is known); both (n, targets), NaN where none is known.

    >>> last, trend = baselines(np.array([[[1.0], [2.0], [4.0]]]), np.array([2]), np.arange(3.0))
    >>> last.item(), trend.item()
    (2.0, 3.0)
    """
    before = np.arange(values.shape[1])[None, :, None] < steps[:, None, None]
    known = before & np.isfinite(values)
    rank = known[:, ::-1].cumsum(1)[:, ::-1]  # 1 for the last known value, 2 for the one before
    last = np.where(known & (rank == 1), values, 0).sum(1)
    used = known & (rank <= TREND_VALUES)
    count = used.sum(1)
    count_or_one = np.maximum(count, 1)
    clock = times[None, :, None] * np.ones_like(values)
    mean_time = np.where(used, clock, 0).sum(1) / count_or_one
    mean = np.where(used, values, 0).sum(1) / count_or_one
    apart = np.where(used, clock - mean_time[:, None], 0)
    spread = (apart**2).sum(1)
    covariance = (apart * np.where(used, values - mean[:, None], 0)).sum(1)
    slope = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0)
    trend = mean + slope * (times[steps][:, None] - mean_time)
    none = count == 0
    return np.where(none, np.nan, last), np.where(none, np.nan, trend)
