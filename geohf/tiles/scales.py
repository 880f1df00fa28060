"""What training rows tell a new model: its bands, steps and sizes, and the scales of its targets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.times import shorten
from geohf.errors import DataError
from geohf.tiles.cache import TilePixels
from geohf.tiles.configuration import FRAMEWISE
from geohf.tiles.dataset import TileRows, TileSequences, as_sequences
from geohf.tiles.grid import pixel_kind
from geohf.tiles.masks import read_frame
from geohf.tiles.processing import given_frames, shows_nothing
from geohf.tiles.reading import Reading
from geohf.tiles.simvp import VIDEO
from geohf.tiles.table import own_resampling
from geohf.tiles.windows import TileWindows, measured_pixels
from geohf.vision.backbones import resolve_backbone

if TYPE_CHECKING:
    from geohf.data.task_data import TaskData
    from geohf.tiles.arguments import TileArguments

logger = logging.getLogger(__name__)
NORMALIZE = ("data", "backbone")
STATISTICS_TILES = 1024  # so many training windows tell the bands' mean and spread
ROUNDING = 1e-12  # of a number: what differs by less is the same, in whatever unit
MOST_WIDER = 100  # times that pixels of the same unit may spread as far
MOST_CLASSES = 32  # more different numbers are a measurement
MODEL_FIELDS = (
    *("hidden_sizes", "kernel_sizes", "peephole", "norm", "translator_blocks", "prediction_length"),
    *("patch_size", "dropout", "loss", "quantiles", "coverage", "max_nodata", "task", "interval_groups"),
)


def config_fields(options: TileArguments, data: TaskData) -> dict[str, Any]:
    """The config of a new model for these rows, but what its frame encoder tells.

    Raises:
        DataError: options that do not go together.
    """
    train, *others = (
        as_sequences(part) for part in (data.train, data.validation, data.test) if part is not None
    )
    image = options.target_type == "last-image"
    fields: dict[str, Any] = {name: getattr(options, name) for name in MODEL_FIELDS}
    fields["head"] = "image" if image else "numbers"
    of_rows = fields_of_table if isinstance(train, TileSequences) else fields_of_rows
    fields |= of_rows(train, options)
    targets = fields.pop("targets")
    if not image:
        own, *asked = (
            part.windows_of(targets) if isinstance(part, TileRows) else part.windows
            for part in (train, *others)
        )
        fields |= {"targets": targets} | target_scales(own, asked, options.predict_change)
    fields |= {"patch_size": 1} if options.encoder in VIDEO else {}
    return fields | {"encoder": options.encoder, "dates": sees_dates(options, train)}


def fields_of_table(train: TileSequences, options: TileArguments) -> dict[str, Any]:
    """Fields of the config that windows of a table tell."""
    table, cache, windows = train.known_table, train.cache, train.windows
    mean, std = band_statistics(cache, windows)
    fields: dict[str, Any] = {
        "image_size": options.image_size or [32, 32],
        "frames": windows.frames.shape[1],
        "labels": table.labels,
        "targets": table.targets,
        "band_mean": mean,
        "band_std": std,
        "nodata": cache.nodata,
        "resampling": options.resampling or own_resampling(table),
        "pixel_kind": pixel_kind(table.rasters[0]),
        "reading": table.reading.as_config(),
        "window": table.window,
    }
    if options.target_type == "last-image" and fields["resampling"] == "nearest":
        logger.warning(
            "%s: the frames hold classes, and their numbers are predicted as measurements: between two classes lies a third",
            table.source,
        )
    resized = options.encoder in FRAMEWISE or (table.sizes != fields["image_size"]).any()
    numbers = class_numbers(cache, windows) if fields["resampling"] == "bicubic" and resized else []
    if numbers:
        shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        logger.warning(
            "%s: the pixels hold the %d numbers %s alone; if these are classes, say --resampling nearest: the mean "
            "of two classes is a third",
            table.source,
            len(numbers),
            shown,
        )
    return fields


def fields_of_rows(train: TileRows, options: TileArguments) -> dict[str, Any]:
    """Fields of the config that a user's own rows tell.

    `pixel_values` are taken as they are: whoever standardized them knows the scales, and a config of his own says them.
    """
    rows = (train.rows[i] for i in range(min(len(train), STATISTICS_TILES)))
    some = [row for row in rows if not shows_nothing(row)]
    if not some:
        raise DataError("no training row shows a frame")
    first = some[0]
    kind = "frames" if "frames" in first else "pixel_values"
    labels = first.get("labels")
    fields: dict[str, Any] = {
        "frames": max(len(row[kind]) for row in some),
        "targets": list(labels) if isinstance(labels, dict) else options.targets or ["target"],
        "nodata": options.nodata,
        "resampling": options.resampling or "bicubic",
    }
    if kind == "pixel_values":
        _, bands, *size = np.shape(first[kind])
        return fields | {"band_mean": [0.0] * bands, "band_std": [1.0] * bands, "image_size": size}
    reading = Reading.from_options(options)
    mean, std = _statistics(_measured(row["frames"], options.nodata, reading) for row in some)
    scales = {"band_mean": mean, "band_std": std, "reading": reading.as_config()}
    return fields | scales | {"image_size": options.image_size or [32, 32]}


def sees_dates(options: TileArguments, train: TileSequences | TileRows) -> bool:
    """Whether a new model sees dates: as `--dates` says, else attention over time does where all rows have dates.

    Raises:
        DataError: `--dates true`, and the rows have none.
    """
    if isinstance(train, TileSequences):
        table = train.known_table
        dated, where = train.windows.dates is not None, f"the labels {shorten(table.labels)} tell none"
        source = f"{table.source}: "
    else:
        names = ("dates", "date") if "frames" in train.rows[0] else ("dates",)
        lacking = [i for i in range(len(train)) if any(train.rows[i].get(name) is None for name in names)]
        dated, source = not lacking, ""
        where = f"row {lacking[0]} has no {' and '.join(names)}" if lacking else ""
    if options.dates and not dated:
        raise DataError(f"{source}--dates true needs dates, and {where}")
    return dated and (options.encoder in FRAMEWISE if options.dates is None else options.dates)


def backbone_scales(name: str, fields: Mapping[str, Any], train: TileSequences | TileRows) -> dict[str, Any]:
    """Mean and spread of the pixels that a backbone was published for, in the place of the training pixels'.

    Published numbers up to 1 are of pixels from 0 to 1, as timm and torchvision have them; of uint8 they are 255 times as
    large. Others are of pixels as they are.

    Raises:
        DataError: it was published for another number of bands, or of what range the pixels are is not known.
    """
    processing, bands = resolve_backbone(name).image_processor, len(fields["band_mean"])
    mean, std = np.array(processing["image_mean"], float), np.array(processing["image_std"], float)
    if len(mean) != bands:
        raise DataError(
            f"--normalize backbone: {name} was published for {len(mean)} bands, and the frames have {bands}; choose them "
            "with --bands, or take --normalize data"
        )
    kind, own = _pixel_type(train), np.array(fields["band_mean"], float)
    if max(mean.max(), std.max()) <= 1:
        if kind == "uint8":
            mean, std = 255 * mean, 255 * std
        elif not (own.min() >= 0 and own.max() <= 1):
            raise DataError(
                f"--normalize backbone: the published mean of {name} is of pixels from 0 to 1, and these are {kind} around "
                f"{max(own, key=abs):.3g}; take --normalize data"
            )
    else:  # reflectance from 0 to 1 or uint8, and a mean of thousands
        wider = float(np.median(std / np.array(fields["band_std"], float)))
        if wider > MOST_WIDER or (kind == "uint8" and mean.max() > 255):
            raise DataError(
                f"--normalize backbone: the published mean of {name} is {mean.max():.3g}, of pixels that spread {wider:.3g} times "
                f"as far as these, around {own.max():.3g}; give pixels in the published unit, or take "
                "--normalize data"
            )
    return {"band_mean": mean.tolist(), "band_std": std.tolist()}


def _pixel_type(train: TileSequences | TileRows) -> str:
    if isinstance(train, TileSequences):
        return str(train.cache.array.dtype)
    frames = train.rows[0].get("frames")
    if frames is None:
        raise DataError("--normalize backbone is of frames, and these rows hold standardized pixel_values")
    return str(next(read_frame(frame)[0].dtype for frame in given_frames(frames)))


def _measured(frames: Any, nodata: float | None, reading: Reading) -> np.ndarray:
    """(n, bands) the pixels of a row's frames that were measured."""
    read = [read_frame(frame, nodata, reading)[:2] for frame in given_frames(frames)]
    return np.concatenate([pixels[~holes] for pixels, holes in read]).astype(np.float64)


def target_scales(train: TileWindows, others: Sequence[TileWindows], predict_change: bool) -> dict[str, Any]:
    """Mean and spread of the training windows' levels and changes, and which of them the head shall answer with.

    Args:
        others: windows that will be measured on.
    """
    slope = np.array([_slope(*pair) for pair in zip(train.last.T, train.truth.T, strict=True)])
    change = train.truth - slope * train.last
    if not predict_change or not np.isfinite(change).any():
        answers = "level"
    else:
        lacking = (np.isfinite(part.truth) & ~np.isfinite(part.last) for part in (train, *others))
        answers = "both" if any(part.any() for part in lacking) else "change"
    scales: dict = {"answers": answers, "last_slope": slope.tolist()}
    for name, values in (("level", train.truth), ("change", change)):
        if np.isfinite(values).any(0).all():
            spread, size = np.nanstd(values, 0), np.nanmax(np.abs(train.truth), 0)
            scales[f"{name}_mean"] = np.nanmean(values, 0).tolist()
            scales[f"{name}_std"] = np.where(spread > ROUNDING * size, spread, 1.0).tolist()
    return scales


def _slope(last: np.ndarray, truth: np.ndarray) -> float:
    """Of the least-squares line from last values to the truth; 1 where they do not tell."""
    known = np.isfinite(last) & np.isfinite(truth)
    last, truth = last[known], truth[known]
    if len(last) < 2 or last.std() <= ROUNDING * np.abs(last).max():
        return 1.0
    return float(((last - last.mean()) * (truth - truth.mean())).mean() / np.var(last))


def band_statistics(cache: TilePixels, windows: TileWindows) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every band over what training windows may see.

    Returns:
        Two lists of `bands` floats; a constant band has the spread 1.

    Raises:
        DataError: all bands are constant.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(windows))[:STATISTICS_TILES])
    return _statistics(part.astype(np.float64) for part in measured_pixels(cache, windows.take(chosen)))


def _statistics(parts: Iterable[np.ndarray]) -> tuple[list[float], list[float]]:
    """Of pixels (n, bands) that come in parts."""
    sums: Any = 0
    for values in parts:
        sums = sums + np.stack([np.full(len(values.T), len(values)), values.sum(0), (values**2).sum(0)])
    count, total, squares = sums
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    varies = std > 1e-7 * np.abs(mean)  # which the difference of two sums of squares tells, in whatever unit
    if not varies.any():
        same = ", ".join(f"{value:g}" for value in mean)
        raise DataError(f"all training pixels are the same in every band ({same}): there is nothing to see")
    return mean.tolist(), np.where(varies, std, 1.0).tolist()


def class_numbers(cache: TilePixels, windows: TileWindows) -> list[int]:
    """The numbers that training pixels hold, where these are whole, of one band, and so few that they may be classes."""
    if cache.array.shape[-1] > 1 or cache.array.dtype.kind not in "iu":
        return []
    numbers: set[int] = set()
    for pixels in islice(measured_pixels(cache, windows), STATISTICS_TILES):
        numbers.update(np.unique(pixels).tolist())
        if len(numbers) > MOST_CLASSES:
            return []
    return sorted(numbers)
