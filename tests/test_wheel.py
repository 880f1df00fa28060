"""The wheel and the sdist, built and used as by somebody who has no checkout."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.pages import ROOT, TASKS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        int(importlib.metadata.version("setuptools").split(".")[0]) < 77,
        reason="setuptools reads `license` of pyproject.toml since version 77: pip install -U setuptools",
    ),
]
LEFT_OUT = (
    ".git",
    "outputs",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".venv",
)
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def call(*words: object, cwd: Path, **variables: str) -> str:
    """What a command prints; it knows nothing of the checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist of a copy of this checkout, and the wheel of the sdist."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "copy", symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    call(sys.executable, "-c", BUILD, "build_sdist", folder, cwd=folder / "copy")
    (sdist,) = folder.glob("geohf-*.tar.gz")
    shutil.unpack_archive(sdist, folder)  # before 3.11.4 Python had no filters; the archive is our own
    call(sys.executable, "-c", BUILD, "build_wheel", folder, cwd=folder / sdist.name.removesuffix(".tar.gz"))
    (wheel,) = folder.glob("geohf-*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def geohf_command(built, tmp_path_factory) -> Path:
    """The command `geohf` of an environment with the wheel, which sees the packages of this one behind its own."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    scripts = folder / "bin"
    call(scripts / "python", "-m", "pip", "install", "--no-deps", "--no-index", built[1], cwd=folder)
    (own,) = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "others.pth").write_text("\n".join(others))  # no .pth files of theirs, so no editable geohf
    return scripts / "geohf"


def test_the_wheel_holds_what_a_run_needs_and_the_sdist_what_a_builder_needs(built):
    sdist, wheel = built
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"geohf/recipes/configs/{task}.yaml" for task in TASKS} <= names
    assert {f"geohf/model_cards/{task}.md" for task in TASKS} <= names
    assert {
        "geohf_cli.py", "geohf/model_cards/card.md", "geohf/model_cards/references.bib", "geohf/report/map.html",
        "geohf/recipes/accelerate/ddp.yaml", "geohf/recipes/accelerate/fsdp.yaml", "geohf/recipes/predict.py",
        "geohf/py.typed",
    } <= names  # fmt: skip
    assert {name.split("/")[0].split("-")[0] for name in names} == {"geohf", "geohf_cli.py"}
    with tarfile.open(sdist) as archive:
        held = {
            name.partition("/")[2]: member for name, member in zip(archive.getnames(), archive, strict=True)
        }
    for name in (
        "recipes/configs/street.yaml",
        "recipes/train_streetclip.py",
        "tests/conftest.py",
        "CHANGELOG.md",
    ):
        assert held[name].isfile(), name  # and no link into the tree
    assert not [name for name in held if "__pycache__" in name]


def test_a_package_index_would_take_both(built):
    pytest.importorskip("twine")
    assert "WARNING" not in call(
        sys.executable, "-m", "twine", "check", "--strict", *built, cwd=built[0].parent
    )


def test_train_predict_and_evaluate_without_a_checkout(geohf_command, tmp_path):
    facts = json.loads(call(geohf_command, "env", "--json", cwd=tmp_path))
    assert Path(facts["installed in"]).is_relative_to(geohf_command.parents[1])

    sample = "import sys; from geohf.street.sample import write_sample; write_sample('sample', size=2, image_size=32)"
    call(geohf_command.with_name("python"), "-c", sample, cwd=tmp_path)
    call(
        *(
            geohf_command,
            "train",
            "street",
            "--data",
            "sample",
            "--backbone",
            "test_resnet",
            "--pretrained",
            "false",
        ),
        *("--image_size", 32, "--head_epochs", 1, "--head_min_steps", 2, "--num_train_epochs", 0),
        *("--map_places", 3, "--use_cpu", "true"),
        cwd=tmp_path,
    )
    run = tmp_path / "outputs" / "street"
    assert "geohf train street --data sample" in (run / "README.md").read_text(encoding="utf-8")
    photos = sorted((tmp_path / "sample").rglob("*.jpg"))[:2]
    call(geohf_command, "predict", run, *photos, "--output", "answers.csv", cwd=tmp_path)
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 3
    call(geohf_command, "evaluate", run, "sample", "--output", "metrics.json", cwd=tmp_path)
    assert 0 <= json.loads((tmp_path / "metrics.json").read_text())["score"] <= 1
