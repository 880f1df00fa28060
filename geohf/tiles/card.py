"""What the card of a tile run says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from geohf.metrics.intervals import DRAWS
from geohf.metrics.records import CardData, Evaluation
from geohf.tiles.dataset import TileSequences
from geohf.tiles.metrics import CHIEF, chief_baseline
from geohf.tiles.outputs import lead_rows

if TYPE_CHECKING:
    from geohf.tiles.trainer import TileSequenceTrainer

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


def summary_rows(numbers: Mapping[str, Mapping[str, float]], targets: Sequence[str]) -> list[dict]:
    """One row per way to predict, and per target where there are several, with what a person asks for first."""
    rows = []
    for way, metrics in numbers.items():
        for target in targets if len(targets) > 1 else [""]:
            row = {"": f"{way}: {target}" if target else way}
            names = {key: f"{target}_{key}" if target else key for key in TITLES}
            rows.append(row | {TITLES[key]: metrics[name] for key, name in names.items() if name in metrics})
    return rows


def card_data(trainer: TileSequenceTrainer, evaluation: Evaluation) -> CardData:
    """What the template of the tile task asks for, see `model_cards/tiles.md`."""
    rows, baselines = evaluation.dataset, evaluation.details["baselines"]
    chief, image = chief_baseline(baselines), trainer.config.head == "image"
    last = "the last image" if image else "the last known value"
    words = {"persistence": last, "mean": "the mean of the training rows"}
    drawn = unit = "samples"
    facts = {"leaks": False, "steps": None} | trainer.data_facts(evaluation, unit)
    if isinstance(rows, TileSequences) and rows.table is not None:
        table = rows.table
        regions = table.region[rows.windows.rows]
        facts["rows"] += f" of {len(table.regions)} regions, {table.bands} bands of {table.dtype}"
        by_region = len(np.unique(rows.groups())) == len(np.unique(regions))
        few = "tiles, too narrow where neighbors are alike: held-out regions are few"
        drawn = "regions" if by_region else few
    facts |= {
        "interval": f"95 %, bootstrap of {DRAWS} draws over {drawn}",
        "baseline": "persistence" if chief == "persistence" else "constant baseline",
        "baseline_words": words[chief],
    }
    numbers = {**baselines, "model": evaluation.values_by_name}
    context = {"ways": summary_rows(numbers, trainer.config.targets), "leads": lead_rows(evaluation)}
    return CardData({key: TITLES[key] for key in CHIEF}, facts, context)
