"""Windows: what a model is asked of which tile at which step, having seen which frames and values."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from geohf.errors import DataError, require_at_least
from geohf.tiles.cache import TilePixels
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.dates import days_of, frame_dates
from geohf.tiles.frames import can_be_seen
from geohf.tiles.table import TileTable

logger = logging.getLogger(__name__)

TREND_VALUES = 3  # the trend goes through so many of the last known values


@dataclass
class TileWindows:
    """Tiles at target steps; the frames that may be seen, and what was known before.

    Attributes:
        rows: (n,) index into the table and the cache.
        steps: (n,) the step that the truth belongs to, the first one where several frames are predicted.
        frames: (n, length) steps to see, oldest first; clipped to the table's where masked.
        mask: (n, length) bool, False for steps before the first, missing years, and frames without data.
        truth: (n, targets) float64, NaN where unknown.
        last: (n, targets) the last known value before the target's step, NaN where there is none.
        trend: (n, targets) the straight line through the last `TREND_VALUES` known values, at the target's step.
        dates: (n, length + 1, 2) of the frames and the answer, see `geohf.tiles.dates.frame_dates`; None where labels
            tell no dates.
    """

    rows: np.ndarray
    steps: np.ndarray
    frames: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    last: np.ndarray
    trend: np.ndarray
    dates: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> TileWindows:
        """Some of the windows, by index or mask."""
        columns = {name: column for name, column in vars(self).items() if column is not None}
        return TileWindows(**{name: column[chosen] for name, column in columns.items()})


def make_windows(
    table: TileTable,
    cache: TilePixels,
    task: str = "forecast",
    frames: int | None = None,
    target_years: int = 1,
    max_nodata: float = 0.5,
    image: bool = False,
    may_be_none: bool = False,
    answered: int = 1,
) -> TileWindows:
    """A window for every tile and each of the last labels whose target is known.

    Args:
        task: `forecast` shows only frames before the target's step, `estimate` also that step's own frame. The
            values known before it are the same for both.
        frames: steps to see; all there are where None.
        target_years: how many of the last labels are targets; each is a window of its own.
        max_nodata: a frame with a larger share of pixels without data is masked.
        image: the target is the frame itself and not a number; tiles without that frame are left out.
        may_be_none: of a part of a table, no window at all is no error.
        answered: steps that an image model predicts, the window's own and those after it; one of them at least must be there.

    Raises:
        DataError: no window is left, or the settings do not go together.
    """
    total = len(table.labels)
    estimate = task == "estimate"
    if image and estimate:
        raise DataError(
            "an image that the model has seen needs no prediction: --target_type last-image forecasts"
        )
    most = total - answered
    if not 1 <= answered < total:
        raise DataError(
            f"prediction_length must lie between 1 and {total - 1} for {total} labels, got {answered}"
        )
    length = total - (not estimate) * answered if frames is None else frames
    require_at_least(1, frames=length)
    if not 1 <= target_years <= most:
        more = f" and a prediction_length of {answered}" if answered > 1 else ""
        raise DataError(
            f"target_years must lie between 1 and {most} for {total} labels{more}, got {target_years}"
        )
    asked_steps = np.arange(most - target_years + 1, most + 1)
    steps, rows = np.repeat(asked_steps, len(table)), np.tile(np.arange(len(table)), target_years)
    seen = steps[:, None] - length + np.arange(length) + estimate
    clipped = seen.clip(0)
    usable = can_be_seen(cache.holes, max_nodata)  # a missing year is all holes
    mask = (seen >= 0) & usable[rows[:, None], clipped]
    truth = table.values[rows, steps]
    last, trend = baselines(table.values[rows], steps, table.steps.times)
    days = days_of(table.steps)
    shown = np.c_[clipped, steps]
    dates = None if days is None else frame_dates(*(part[shown] for part in days))
    windows = TileWindows(rows, steps, clipped, mask, truth, last, trend, dates)
    ahead = steps[:, None] + np.arange(answered)
    asked = usable[rows[:, None], ahead].any(1) if image else np.isfinite(truth).any(1)
    good = mask.any(1) & asked
    if not good.any() and not may_be_none:
        raise DataError(
            f"{table.source}: no tile has both a frame to see and a target to predict; {unmeasured(table, cache)}"
        )
    unseen = int((asked & ~mask.any(1)).sum())
    if unseen:
        logger.warning("left out %d windows: none of their frames has data", unseen)
    return windows.take(good)


def windows_of(
    table: TileTable, cache: TilePixels, config: TileSequenceConfig, may_be_none: bool = False
) -> TileWindows:
    """The windows that a trained model answers, see `make_windows`."""
    asked: dict[str, Any] = {"image": config.head == "image", "answered": config.prediction_length}
    asked |= {"frames": config.frames, "max_nodata": config.max_nodata}
    return make_windows(table, cache, config.task, may_be_none=may_be_none, **asked)


def measured_pixels(cache: TilePixels, windows: TileWindows) -> Iterator[np.ndarray]:
    """Of each window the pixels that may be seen and were measured, (n, bands)."""
    for row, frames, seen in zip(windows.rows, windows.frames, windows.mask, strict=True):
        yield cache.tile(row, frames[seen])[~cache.tile_mask(row, frames[seen])]


def unmeasured(table: TileTable, cache: TilePixels) -> str:
    """Words on how many pixels were not measured, and why."""
    named = {value for raster in table.rasters for value in raster.nodata if value is not None}
    if table.nodata is not None:
        named.add(table.nodata)
    text = f"{cache.holes.mean():.1%} of the pixels count as not measured"
    if not named:
        return text
    values = " or ".join(f"{value:g}" for value in sorted(named))
    return f"{text}, where they hold the nodata value {values} (gdal_edit.py -unsetnodata takes it from a header)"


def baselines(values: np.ndarray, steps: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Persistence and trend of targets: what one would say of a tile without looking at an image.

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
