"""The numbers of a tile run in words: for its card and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from geohf.tiles.arguments import TileArguments
from geohf.tiles.load import TileData

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


def card_facts(options: TileArguments, data: TileData, stages: Mapping[str, Mapping[str, float]]) -> dict:
    """What the card's template asks for, see `geohf.hub.card.write_card`."""
    raster, final = data.table.rasters[0], stages["model"]
    facts = {
        "name": "generated sample" if options.data is None else Path(options.data).stem,
        "split_name": data.held_out,
        "generated": options.data is None,
        "images": f"{len(data.table.regions)} regions, {raster.bands} bands of {raster.dtype}",
        "samples": ", ".join(f"{len(part)} {name}" for name, part in data.splits.items()) + " samples",
        "split": data.how,
        "leaks": data.how == "random",
        "chosen_on_held_out": data.held_out == "validation",
    }
    results = [
        {"type": key, "name": TITLES[key], "value": final[key]}
        for key in RESULTS
        if key in final and np.isfinite(final[key])
    ]
    return {"metrics": summary_rows(stages, data.table.targets), "data": facts, "results": results}
