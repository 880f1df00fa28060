"""Fixtures of the street task's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.street_models import build_model, patches, spread_out


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[Path]:
    """Eight different photographs, 48 x 40."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"p{i}.png" for i in range(8)]
    for path, picture in zip(paths, patches(7, 8), strict=True):
        picture.save(path)
    return paths


@pytest.fixture
def street_model() -> Callable:
    """`street_model(seed=0, **config_fields)`, see `build_model`."""
    return lambda seed=0, **fields: spread_out(build_model(seed, **fields))
