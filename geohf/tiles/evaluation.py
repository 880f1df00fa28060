"""How good a tile model is beside persistence and trend, and how wide its intervals must be."""

from __future__ import annotations

import os

import numpy as np
import torch

from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.metrics.calibration import conformal_quantile
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.cutting import build_cache
from geohf.tiles.dataset import TileSequences
from geohf.tiles.grid import require_trained_table
from geohf.tiles.image_metrics import psnr, ssim
from geohf.tiles.images import found_labels
from geohf.tiles.metrics import all_targets, coverage
from geohf.tiles.modeling import TileSequenceModel
from geohf.tiles.table import load_tiles, table_in
from geohf.tiles.windows import TileWindows, make_windows


def evaluate(
    model: TileSequenceModel, data: str | os.PathLike, batch_size: int, on_error: str
) -> dict[str, float]:
    """The measures of a table's tiles at its last label, see `TileSequenceModel.evaluate`."""
    config, image = model.config, model.config.head == "image"
    data = table_in(data)
    images = data.parent / "Images"
    errors, targets = RowErrors(on_error), [] if image else config.targets
    table = load_tiles(
        data, images, found_labels(images), targets=targets, nodata=config.nodata, errors=errors
    )
    require_trained_table(table, config.pixel_kind)
    cache = build_cache(table)
    windows = make_windows(
        table, cache, config.task, config.frames, max_nodata=config.max_nodata, image=image
    )
    dataset = TileSequences(cache, windows, config)
    device, values, labels = model.device, [], []
    for rows in torch.arange(len(dataset)).split(batch_size):
        batch = dataset.__getitems__(rows.tolist())
        labels.append(batch.pop("labels"))
        values.append(
            model(**{name: part.to(device) for name, part in batch.items()}).predictions.float().cpu()
        )
    values, labels = torch.cat(values), torch.cat(labels)
    if image:
        return image_measures(values, labels, config)
    if bool(values.isnan().any()):
        tile = table.tile_ids[windows.rows[int(values.isnan().any((1, 2)).nonzero()[0])]]
        raise DataError(
            f"{data}: tile {tile} has no value before the last label, which the model counts from"
        )
    return number_measures(model, values, windows)


def number_measures(model: TileSequenceModel, values: torch.Tensor, windows: TileWindows) -> dict[str, float]:
    """Every number that is reported for windows.

    Args:
        values: (n, targets, quantiles) the model's outputs on them.

    Returns:
        `all_targets`; `nrmse`, the error in units of each target's spread; and `coverage` where the model is
        calibrated.
    """
    config = model.config
    middle, low, high = (part.double().numpy() for part in model.intervals(values))
    spread = np.array(config.level_std if config.answers == "level" else config.change_std)
    metrics = all_targets(config.targets, middle, windows.truth, windows.last, windows.trend)
    metrics["nrmse"] = float(np.sqrt(np.nanmean(((middle - windows.truth) / spread) ** 2)))
    if config.interval_margin is not None:
        metrics["coverage"] = coverage(low, high, windows.truth)
    return metrics


def number_stages(
    model: TileSequenceModel, values: torch.Tensor, windows: TileWindows
) -> dict[str, dict[str, float]]:
    """The measures of the training mean, persistence, trend and model; a baseline counts where it has an answer."""
    stages = {}
    mean = np.broadcast_to(model.config.level_mean, windows.truth.shape)
    for name, guess in (("mean", mean), ("persistence", windows.last), ("trend", windows.trend)):
        known = np.isfinite(guess)
        if known.any():
            truth = np.where(known, windows.truth, np.nan)
            guess = np.where(known, guess, 0.0)
            stages[name] = all_targets(model.config.targets, guess, truth, windows.last, windows.trend)
    return stages | {"model": number_measures(model, values, windows)}


def image_measures(
    values: torch.Tensor, labels: torch.Tensor, config: TileSequenceConfig
) -> dict[str, float]:
    """PSNR, SSIM and MAE of images in their own unit, with the truth's range as the data range.

    Args:
        values, labels: (n, bands, height, width) standardised; NaN where the truth is not known.

    Returns:
        `psnr`, `mae`, `nrmse` (in spreads of the training pixels), and `ssim` where the images are large enough.
    """
    mean, std = (torch.tensor(x)[:, None, None] for x in (config.band_mean, config.band_std))
    predicted, truth = values * std + mean, labels * std + mean
    known = labels.isfinite()
    span = float(truth[known].max() - truth[known].min()) or 1.0
    metrics = {
        "psnr": psnr(predicted, truth, span),
        "mae": float((predicted - truth)[known].abs().mean()),
        "nrmse": float((values - labels)[known].square().mean().sqrt()),
    }
    return metrics | ({"ssim": ssim(predicted, truth, span)} if min(truth.shape[-2:]) >= 11 else {})


def image_stages(
    values: torch.Tensor, labels: torch.Tensor, last: torch.Tensor, config: TileSequenceConfig
) -> dict[str, dict[str, float]]:
    """The measures of persistence, which is the last seen frame, and of the model, with its skill."""
    stages = {
        "persistence": image_measures(last, labels, config),
        "model": image_measures(values, labels, config),
    }
    errors = [stage["nrmse"] for stage in stages.values()]
    stages["model"]["skill_persistence"] = 1 - (errors[1] / errors[0]) ** 2 if errors[0] > 0 else np.nan
    return stages


def calibrate(model: TileSequenceModel, values: torch.Tensor, truth: np.ndarray) -> None:
    """Set the interval's margins so that it holds the truth with the config's coverage (split conformal).

    With the quantile loss this is conformalised quantile regression (Romano et al., NeurIPS 2019), whose margin
    may be negative; with the others an interval of constant width.

    Args:
        values: the model's outputs on validation windows.
        truth: (n, targets), NaN where unknown.
    """
    none = torch.zeros(len(model.config.targets))
    _, low, high = (x.double().numpy() for x in model.intervals(values, none))
    margins = []
    for k in range(truth.shape[1]):
        known = np.isfinite(truth[:, k])
        missed = np.maximum(low[known, k] - truth[known, k], truth[known, k] - high[known, k])
        margins.append(conformal_quantile(missed, model.config.coverage))
    model.config.interval_margin = None if None in margins else margins
