"""Fixtures of the place task's tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.place_models import parse

from geohf.place.sample import write_sample
from geohf.recipes.train_place import run as run_place


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """The two drives, 240 pictures each."""
    return write_sample(tmp_path_factory.mktemp("sample"), seed=0, size=240)


@pytest.fixture(scope="session")
def drives(sample) -> list[Path]:
    return [sample / name / "poses.csv" for name in ("noon", "dusk")]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, drives) -> SimpleNamespace:
    """A run of both recipes and two seeds on the sample, as a user's files: its result and its folder."""
    folder = tmp_path_factory.mktemp("run")
    options, args = parse(
        *("--train_csv", *drives, "--models", "test_resnet", "--pretrained", "false", "--image_size", 96),
        *("--pooling", "mixvpr", "--mix_channels", 48, "--mix_rows", 6, "--mix_depth", 2, "--seeds", 1, 2),
        *("--positive_m", 10, "--negative_m", 25, "--radii_m", 10, 25, "--block_m", 150),
        *("--validation_share", 0.15, "--test_share", 0.2, "--num_train_epochs", 30),
        *("--output_dir", folder / "place", "--learning_rate", 2e-3),
        *("--cache_dir", folder / "cache", "--thumbnails", 3),
    )
    return SimpleNamespace(
        result=run_place(options, args), folder=folder / "place", options=options, args=args
    )
