"""Fixtures of the parts task's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from geohf.parts.sample import write_sample


@pytest.fixture(scope="session")
def bikes(tmp_path_factory) -> Path:
    """A folder of 24 painted bicycles, 96 pixels wide, in the layout of DelftBikes."""
    return write_sample(tmp_path_factory.mktemp("bikes") / "sample", seed=0, size=24, width=96)
