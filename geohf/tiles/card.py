"""The numbers of a tile run in words: for its card and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from geohf.hub.card import data_source
from geohf.metrics.intervals import DRAWS, bootstrap_intervals
from geohf.tiles.arguments import TileArguments
from geohf.tiles.load import TileData
from geohf.tiles.metrics import all_targets
from geohf.tiles.modeling import TileSequenceModel

TITLES = {
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2 of the level",
    "r2_rate": "R2 of the rate",
    "skill_persistence": "skill over persistence",
    "skill_trend": "skill over trend",
    "coverage": "coverage of the interval",
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
}
_HOW = {"region": "whole regions", "blocks": "whole blocks of a region", "random": "tile by tile at random"}
# Fewer regions than this are too few to draw from for an interval: then tiles are drawn.
_REGIONS = 8
RESULTS = ("mae", "r2_rate", "skill_persistence", "psnr")  # for the card's machine-readable part


def summary_rows(stages: Mapping[str, Mapping[str, float]], targets: Sequence[str]) -> list[dict]:
    """A row a way to predict, and a target where there are several, with what a person asks for first."""
    rows = []
    for stage, numbers in stages.items():
        for target in targets if len(targets) > 1 else [""]:
            row = {"": f"{stage}: {target}" if target else stage}
            names = {key: f"{target}_{key}" if target else key for key in TITLES}
            rows.append(row | {TITLES[key]: numbers[name] for key, name in names.items() if name in numbers})
    return rows


def tile_intervals(
    model: TileSequenceModel, data: TileData, values: torch.Tensor, labels: torch.Tensor
) -> dict[str, tuple[float, float]]:
    """The ends of a 95 % interval of each of `RESULTS`, drawn region by region, or tile by tile where regions are few.

    Args:
        values: the model's outputs on the held-out windows.
        labels: images to be predicted; of numbers the windows know the truth.
    """
    windows, config = data.splits[data.held_out], model.config
    if config.head == "image":
        measure = _image_statistics(values, labels, config)
    else:
        middle = model.intervals(values)[0].double().numpy()

        def measure(rows: np.ndarray) -> dict[str, float]:
            part = windows.take(rows)
            numbers = all_targets(config.targets, middle[rows], part.truth, part.last, part.trend)
            return {name: numbers[name] for name in RESULTS if name in numbers}

    return bootstrap_intervals(measure, _groups(data))


def _image_statistics(values, labels, config):
    mean, std = (torch.tensor(part)[:, None, None] for part in (config.band_mean, config.band_std))
    truth, known = labels * std + mean, labels.isfinite()
    span = float(truth[known].max() - truth[known].min()) or 1.0
    error = torch.where(known, (values - labels) * std, 0.0).double()
    squared, absolute, count = (part.sum((1, 2, 3)).numpy() for part in (error**2, error.abs(), known))

    def measure(rows: np.ndarray) -> dict[str, float]:
        n = count[rows].sum()
        psnr = 10 * np.log10(span**2 * n / max(squared[rows].sum(), 1e-300))
        return {"psnr": psnr, "mae": absolute[rows].sum() / n}

    return measure


def _groups(data: TileData) -> np.ndarray:
    """(n,) what each held-out window stands or falls with."""
    rows = data.splits[data.held_out].rows
    regions = data.table.region[rows]
    return regions if len(np.unique(regions)) >= _REGIONS else rows


def card_facts(
    options: TileArguments, seed: int, data: TileData, stages: Mapping[str, Mapping[str, float]]
) -> dict:
    """What the card's template asks for, see `geohf.hub.card.write_card`."""
    raster, windows = data.table.rasters[0], data.splits[data.held_out]
    samples = ", ".join(f"{len(part)} {name}" for name, part in data.splits.items())
    by_region = len(np.unique(_groups(data))) == len(np.unique(data.table.region[windows.rows]))
    facts = data_source(options.data) | {
        "rows": f"{samples} samples of {len(data.table.regions)} regions, {raster.bands} bands of {raster.dtype}",
        "split": _HOW[data.how],
        "validation": True,
        "seed": seed,
        "split_name": data.held_out,
        "measured": len(windows),
        "unit": "samples",
        "interval": f"95 %, bootstrap of {DRAWS} draws over "
        + (
            "regions"
            if by_region
            else "tiles, too narrow where neighbours are alike: held-out regions are few"
        ),
        "baseline": "persistence",
        "baseline_words": "the last image" if "psnr" in stages["model"] else "the last known value",
        "chosen_on_held_out": data.held_out == "validation",
        "leaks": data.how == "random",
        "steps": data.table.steps.unit,
    }
    shown = {key: TITLES[key] for key in RESULTS}
    return {"titles": shown, "data": facts, "stages": summary_rows(stages, data.table.targets)}
