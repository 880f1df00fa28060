"""Samples and small runs that the region tests share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.region_models import small_run

from geohf.region.sample import write_sample


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> Callable[[str], Path]:
    """`samples(frame)`: the folder of a sample of 40 photographs a region."""
    folder = tmp_path_factory.mktemp("samples")
    return lambda frame: write_sample(folder / frame, seed=1, size=40, frame=frame)


@pytest.fixture(scope="session")
def separate_run(tmp_path_factory, samples):
    """(folder, result) of a run of three epochs with separate experts in degrees."""
    return small_run(tmp_path_factory.mktemp("separate"), samples("wgs84"), experts="separate", thumbnails=3)


@pytest.fixture(scope="session")
def planar_run(tmp_path_factory, samples):
    """(folder, result) of a run of three epochs with shared experts in the plane."""
    return small_run(
        tmp_path_factory.mktemp("shared"),
        samples("planar"),
        experts="shared",
        frame="planar",
        scaler="minmax",
    )


@pytest.fixture
def photos(samples) -> list[str]:
    """Paths of nine validation photographs, none of them excluded."""
    folder = samples("wgs84")
    left_out = set((folder / "exclude.txt").read_text().split())
    found = sorted((folder / "images_val/images_val").iterdir())
    return [str(path) for path in found if path.name not in left_out][:9]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
