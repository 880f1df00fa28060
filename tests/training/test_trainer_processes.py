"""Two processes under gloo: the loss, its parts, the weights and the metrics of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.training_run import history, make_trainer
from safetensors.torch import load_file

SCRIPT = Path(__file__).resolve().parents[1] / "helpers" / "training_run.py"
FEW = {
    "num_train_epochs": 2,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "per_device_eval_batch_size": 4,
}
FEW |= {"save_strategy": "no", "load_best_model_at_end": False}
SCENES = {
    # the last step has 3 rows for two processes of 4, so the second has none
    "uneven": FEW | {"per_device_train_batch_size": 4, "rows": 43},
    "one left": FEW | {"per_device_train_batch_size": 4, "rows": 47},
    "accumulated": FEW | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "rows": 45},
    "saved": {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 0.02,
        "metric_for_best_model": "accuracy",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, SCRIPT, "spread", folder, json.dumps(SCENES)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert not done.returncode, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("scene", SCENES)
def test_two_processes_train_what_one_trains(folder, tmp_path, scene):
    settings = SCENES[scene]
    rows = settings["per_device_train_batch_size"] * settings.get("gradient_accumulation_steps", 1) * 2
    settings = settings | {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 1}
    alone = make_trainer(tmp_path, **settings)
    alone.train()
    final = alone.evaluate()
    ranks = [json.loads((folder / f"{scene}-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["processes"] == 2
    weights = [load_file(folder / f"{scene}-{rank}.safetensors") for rank in (0, 1)]
    for name, weight in alone.model.state_dict().items():
        assert torch.equal(weights[0][name], weights[1][name]), name
        torch.testing.assert_close(weights[0][name], weight, atol=2e-6, rtol=1e-5, msg=name)
    expected = history(alone)
    assert any("class_loss" in row for row in expected)
    for rank in ranks:
        assert len(rank["history"]) == len(expected)
        for found, row in zip(rank["history"], expected, strict=True):
            assert found.keys() == row.keys()
            for key in row.keys() - {"epoch", "eval_loss"}:
                assert found[key] == pytest.approx(row[key], rel=1e-4, abs=1e-5), key
        for key in ("eval_accuracy", "eval_mean_km", "eval_rows"):
            assert rank["final"][key] == pytest.approx(final[key], rel=1e-5)
    assert final["eval_rows"] == 19


def test_each_process_keeps_its_own_random_state(folder):
    checkpoint = next((folder / "saved").glob("checkpoint-*"))
    names = {path.name for path in checkpoint.iterdir()}
    assert {"random_state_0.safetensors", "random_state_1.safetensors"} <= names
