"""One recipe in one process and in two that share each batch, and what must be equal of what they leave."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# every process would draw its own dropout; the rest of the recipe is run as it is
SCRIPT = """
import runpy, sys, torch
torch.nn.Dropout.forward = lambda self, x: x
sys.argv[0] = {recipe!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ALWAYS = ("--use_cpu", "--disable_tqdm", "true")


def run_alone(recipe, monkeypatch, name: str, words: Sequence, batch_size: int) -> None:
    """The recipe in this process.

    Args:
        recipe: the fixture of that name.
        batch_size: rows of one optimizer step.
    """
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    done = recipe(name, *words, *ALWAYS, "--per_device_train_batch_size", batch_size)
    assert done.returncode == 0, done.stdout + done.stderr


def run_in_two(folder: Path, name: str, words: Sequence, batch_size: int) -> str:
    """The recipe in two processes under gloo; what they said."""
    script = folder / f"{name}.py"
    script.write_text(SCRIPT.format(recipe=str(RECIPES / f"{name}.py")))
    # --multi_gpu is accelerate's word for several processes on one machine; --use_cpu below makes it gloo
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0)
    words = ("-m", *launch, script, *words, *ALWAYS, "--per_device_train_batch_size", batch_size // 2)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def assert_same_weights(one: Path, two: Path, tolerance: float = 1e-4) -> None:
    expected, found = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


def assert_near(a, b, where: str = "", rel: float = 1e-3) -> None:
    """Equal but for the last digits of the numbers, through all nested values."""
    if isinstance(a, dict):
        assert set(a) == set(b), where
        for name in a:
            assert_near(a[name], b[name], f"{where}/{name}", rel)
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_near(x, y, f"{where}/{i}", rel)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=rel, abs=1e-4), where
    else:
        assert a == b, where


def assert_same_metrics(one: Path, two: Path) -> dict:
    """metrics.json and what it depends on, the calibrated config; gives the numbers of one process."""
    for name in ("metrics.json", "config.json"):
        numbers = [json.loads((folder / name).read_text()) for folder in (one, two)]
        for found in numbers:
            found.pop("weights_fingerprint", None)  # of weights that are equal but for rounding
        assert_near(*numbers, where=name)
    return json.loads((one / "metrics.json").read_text())


def assert_same_losses(one: Path, two: Path, at_least: int) -> None:
    """The training losses, their parts, gradients' norms and evaluations of every logged step."""
    logs = [list(csv.DictReader((folder / "log_history.csv").open())) for folder in (one, two)]
    assert len(logs[0]) == len(logs[1])
    compared = 0
    for a, b in zip(*logs, strict=True):
        assert (a["phase"], a["step"]) == (b["phase"], b["step"])
        for name in a:
            if a[name] and (name.endswith("loss") or name in ("grad_norm", "learning_rate")):
                compared += 1
                assert float(a[name]) == pytest.approx(float(b[name]), rel=2e-3, abs=1e-5), (name, a["step"])
    assert compared >= at_least
