"""The world that bad inputs are tried in."""

import pytest
from helpers.bad_world import World


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folder of the tasks' saved models."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def world(tmp_path, models, recipe, monkeypatch):
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # what falls beside its place falls here
    return World(tmp_path, models, recipe)
