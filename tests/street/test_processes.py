"""The recipe in processes of its own: killed and resumed, and as two processes that share the work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.street_models import FILES, rows_of
from safetensors.torch import load_file

from geohf.street.sample import write_sample

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "train_streetclip.py"
# every process would draw its own dropout; the rest of the recipe is run as it is
WITHOUT_DROPOUT = f"""
import runpy, sys, torch
torch.nn.Dropout.forward = lambda self, x: x
sys.argv[0] = {str(RECIPE)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample"), seed=0, size=2, image_size=48)


def start(command, log):
    """A process whose output goes to a file, with one thread, so that its sums are always the same."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with open(log, "w") as file:
        return subprocess.Popen(
            [str(word) for word in command],
            stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


def finish(process, log):
    try:
        code = process.wait(timeout=300)
    finally:
        end(process)
    assert code == 0, log.read_text()


def end(process):
    """kill -9, and whatever it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# ---- kill -9


def kill_at(process, phase, step, log):
    """Kill the run as soon as this phase has a whole checkpoint of this step or a later one."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        whole = [
            int(path.parent.name.rpartition("-")[2]) for path in phase.glob("checkpoint-*/complete.json")
        ]
        if max(whole, default=0) >= step:
            end(process)
            break
        time.sleep(0.002)
    assert process.returncode == -signal.SIGKILL, log.read_text()
    assert not (phase / "finished.safetensors").exists(), "the phase had ended before the kill"


@pytest.fixture(scope="module")
def interrupted(sample, tmp_path_factory):
    """Folders of an uninterrupted run and of one that was killed in both phases, and the latter's logs."""
    folder = tmp_path_factory.mktemp("resume")

    def command(name):
        return [
            *(sys.executable, RECIPE, "--data", sample, "--backbone", "test_resnet", "--pretrained", "false"),
            *("--image_size", 32, "--output_dir", folder / name, "--cache_dir", folder / f"cache-{name}"),
            *("--use_cpu", "--augment", "true", "--head_min_steps", 400, "--head_epochs", 8),
            *(
                "--num_train_epochs",
                8,
                "--per_device_train_batch_size",
                4,
                "--gradient_accumulation_steps",
                2,
            ),
            *("--backbone_learning_rate", 1e-3, "--early_stopping_patience", 0, "--map_places", 10),
        ]

    logs = [folder / f"{i}.log" for i in range(4)]
    plain, killed = start(command("plain"), logs[0]), start(command("killed"), logs[1])
    resume = [*command("killed"), "--resume_from_checkpoint", "true"]
    phases = folder / "killed" / "checkpoints"
    processes = [plain, killed]
    try:
        kill_at(killed, phases / "phase1", 100, logs[1])
        processes.append(start(resume, logs[2]))
        kill_at(processes[-1], phases / "phase2", 7, logs[2])
        processes.append(start(resume, logs[3]))
        finish(processes[-1], logs[3])
        finish(plain, logs[0])
    finally:
        for process in processes:
            end(process)
    return folder / "plain", folder / "killed", logs


def test_a_killed_run_resumes_to_the_same_weights(interrupted):
    plain, killed, _ = interrupted
    expected, found = (load_file(folder / "model.safetensors") for folder in (plain, killed))
    assert set(expected) == set(found)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    for phase in ("phase1", "phase2"):
        names = [folder / "checkpoints" / phase / "finished.safetensors" for folder in (plain, killed)]
        expected, found = map(load_file, names)
        assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_killed_run_resumes_to_the_same_answers_and_numbers(interrupted):
    plain, killed, _ = interrupted
    for name in ("submission.csv", "predictions.csv", "metrics.json"):
        assert (plain / name).read_bytes() == (killed / name).read_bytes(), name
    stages = json.loads((plain / "metrics.json").read_text())["stages"]
    assert "after phase 2" in stages
    logs = [rows_of(folder / "log_history.csv") for folder in (plain, killed)]
    for a, b in zip(*logs, strict=True):
        for name in (
            "phase",
            "step",
            "loss",
            "class_loss",
            "gps_loss",
            "learning_rate",
            "eval_loss",
            "eval_score",
        ):
            assert a[name] == b[name], (name, a["phase"], a["step"])


# ---- two processes


@pytest.fixture(scope="module")
def shared_out(sample, tmp_path_factory):
    """Folders of a run of one process, and of one of two processes with half the batch each."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "recipe.py"
    script.write_text(WITHOUT_DROPOUT)

    def words(name, processes):
        return [
            *("--data", sample, "--backbone", "test_resnet", "--pretrained", "false", "--image_size", 32),
            *("--output_dir", folder / name, "--cache_dir", folder / f"cache-{name}", "--use_cpu"),
            *("--head_min_steps", 30, "--head_epochs", 3, "--num_train_epochs", 2, "--augment", "false"),
            *("--head_batch_size", 32 // processes, "--per_device_train_batch_size", 8 // processes),
            *("--backbone_learning_rate", 1e-3, "--map_places", 20),
        ]

    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        2,
        "--main_process_port",
        0,
    ]
    logs = [folder / "one.log", folder / "two.log"]
    finish(start([sys.executable, script, *words("one", 1)], logs[0]), logs[0])
    finish(start([sys.executable, *launch, script, *words("two", 2)], logs[1]), logs[1])
    return folder / "one", folder / "two", logs


def near(a, b, where=""):
    if isinstance(a, dict):
        assert set(a) == set(b), where
        for name in a:
            near(a[name], b[name], f"{where}/{name}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            near(x, y, f"{where}/{i}")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4), where
    else:
        assert a == b, where


def test_two_processes_measure_what_one_measures(shared_out):
    one, two, _ = shared_out
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    for found in metrics:
        del found["weights_fingerprint"]  # of weights that are equal but for rounding
    near(*metrics)
    assert list(metrics[0]["stages"])[2] == "after phase 2"
    logs = [rows_of(folder / "log_history.csv") for folder in (one, two)]
    assert len(logs[0]) == len(logs[1])
    names = (
        "loss",
        "class_loss",
        "gps_loss",
        "grad_norm",
        "learning_rate",
        "eval_loss",
        "eval_score",
        "eval_mean_km",
    )
    compared = 0
    for a, b in zip(*logs, strict=True):
        assert (a["phase"], a["step"]) == (b["phase"], b["step"])
        for name in names:
            if a.get(name):
                compared += 1
                assert float(a[name]) == pytest.approx(float(b[name]), rel=2e-3, abs=1e-4), (name, a["step"])
    assert compared > 20


def test_two_processes_train_the_weights_of_one(shared_out):
    one, two, _ = shared_out
    expected, found = (load_file(folder / "model.safetensors") for folder in (one, two))
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-3, atol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_two_processes_write_one_set_of_files(shared_out):
    one, two, logs = shared_out
    assert {path.name for path in two.iterdir() if path.is_file()} == FILES
    assert not [path for path in two.rglob("*") if path.name.endswith(".tmp")]
    states = {path.name for path in (two / "checkpoints").rglob("random_state_*")}
    assert states == {"random_state_0.safetensors", "random_state_1.safetensors"}  # each its own draws
    for name in ("submission.csv", "predictions.csv"):
        assert len(rows_of(one / name)) == len(rows_of(two / name))
    assert [row["sample_id"] for row in rows_of(one / "predictions.csv")] == [
        row["sample_id"] for row in rows_of(two / "predictions.csv")
    ]
    assert logs[1].read_text().count("Everything lies in") == 1  # and one of them speaks
