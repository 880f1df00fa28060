"""Two processes take the steps that one takes, and measure the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from geohf.tiles.sample import write_sample

# two optimiser steps: 12 windows in one process, or 6 in each of two
RUN = """
import json, sys
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.run import run_tiles

sample, out, size = sys.argv[1:]
options = TileArguments(data=f"{sample}/tiles.csv", hidden_sizes=[8], validation_share=0.2, loss="mse", target_years=1)
args = TileTrainingArguments(
    output_dir=out, cache_dir=f"{sample}/cache", per_device_train_batch_size=int(size), max_steps=2, optim="sgd",
    learning_rate=0.1, lr_scheduler_type="constant", warmup_steps=0, augment=False, use_cpu=True, disable_tqdm=True,
    eval_strategy="no", save_strategy="no", per_device_eval_batch_size=50,
)
run_tiles(options, args)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    sample = write_sample(folder / "sample", seed=3, size=5)
    (folder / "run.py").write_text(RUN)
    for processes in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
        words = [folder / "run.py", sample, folder / str(processes), 12 // processes]
        done = subprocess.run(
            [sys.executable, *(launch if processes > 1 else []), *map(str, words)],
            capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    return [folder / str(processes) for processes in (1, 2)]


def test_the_weights_are_those_of_one_process(results):
    one, two = (load_file(folder / "model.safetensors") for folder in results)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


def test_predictions_stand_in_the_same_order(results):
    one, two = (folder.joinpath("predictions.csv").read_text().splitlines() for folder in results)
    assert [line.split(",")[:3] for line in one] == [line.split(",")[:3] for line in two]
    assert len(one) == 1 + 64
