"""One tiny saved model a task, which all bad inputs share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from geohf.parts.vocabulary import STATES
from geohf.tiles import TileSequenceConfig, TileSequenceModel
from helpers import parts_models, place_models, region_models, street_models


def _tiles_model() -> TileSequenceModel:
    torch.manual_seed(0)
    return TileSequenceModel(
        TileSequenceConfig(
            hidden_sizes=[8],
            image_size=[12, 12],
            patch_size=2,
            frames=2,
            targets=["target"],
            task="forecast",
            answers="change",
            change_mean=[0.1],
            change_std=[0.05],
            level_mean=[0.2],
            level_std=[0.1],
            band_mean=[128.0] * 3,
            band_std=[64.0] * 3,
        )
    )


def _parts_model():
    """One that knows the parts and states of the world's bicycles."""
    return parts_models.build_model(id2label={0: "saddle", 1: "bell"}, id2state=dict(enumerate(STATES)))


BUILDERS = {
    "region": region_models.build_model,
    "street": street_models.build_model,
    "parts": _parts_model,
    "place": place_models.build_model,
    "tiles": _tiles_model,
}


@cache
def saved_model(folder: Path, task: str) -> Path:
    """The task's tiny model, written once."""
    BUILDERS[task]().eval().save_pretrained(folder / task)
    return folder / task
