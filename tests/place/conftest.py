"""Fixtures of the place task's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from place_models import pictures

from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.run import run_place
from geohf.place.sample import write_sample


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[Path]:
    """Twelve different photographs."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"p{i}.png" for i in range(12)]
    for path, picture in zip(paths, pictures(12), strict=True):
        picture.save(path)
    return paths


@pytest.fixture(scope="session")
def drives(tmp_path_factory) -> Path:
    """The built-in sample, 200 pictures a drive along a loop of a kilometre."""
    return write_sample(tmp_path_factory.mktemp("drives") / "sample", seed=0, size=200)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One feature cache for all runs."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def small_run(drives, cache):
    """`small_run(folder, **arguments)`: a run on the sample's drives with a tiny tower."""
    options = set(PlaceArguments.__dataclass_fields__)

    def run(folder, **arguments):
        settings = {
            "train_csv": [str(drives / name / "poses.csv") for name in ("noon", "dusk")],
            "models": ["test_resnet"],
            "pretrained": False,
            "image_size": 96,
            "pooling": "mixvpr",
            "mix_depth": 1,
            "mix_channels": 64,
            "block_m": 120.0,
            "validation_share": 0.2,
            "test_share": 0.2,
            "negative_m": 60.0,
            "methods": ["ours"],
            "num_train_epochs": 12,
            "disable_tqdm": True,
            "use_cpu": True,
            "cache_dir": str(cache),
        } | arguments
        training = {name: settings.pop(name) for name in list(settings) if name not in options}
        return run_place(
            PlaceArguments(**settings), PlaceTrainingArguments(output_dir=str(folder), **training)
        )

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_run):
    """(the folder, the result) of one run with both methods."""
    folder = tmp_path_factory.mktemp("runs") / "place"
    return folder, small_run(folder, methods=["ours", "original"])
