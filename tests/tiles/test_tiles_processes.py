"""Two processes take the steps that one takes, and measure the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiles_steps import take_steps
from safetensors.torch import load_file

from geohf.tiles.sample import write_sample


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folders of a run of one process, 12 windows a step, and of two, 6 each."""
    folder = tmp_path_factory.mktemp("processes")
    sample = write_sample(folder / "sample", seed=3, size=5)
    take_steps(sample, folder / "1", 12)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    script = Path(__file__).resolve().parents[1] / "helpers" / "tiles_steps.py"
    done = subprocess.run(
        [*launch, script, sample, folder / "2", "6"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [folder / "1", folder / "2"]


def test_the_weights_are_those_of_one_process(results):
    one, two = (load_file(folder / "model.safetensors") for folder in results)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


def test_predictions_stand_in_the_same_order(results):
    one, two = (folder.joinpath("predictions.csv").read_text().splitlines() for folder in results)
    assert [line.split(",")[:3] for line in one] == [line.split(",")[:3] for line in two]
    assert len(one) == 1 + 64
