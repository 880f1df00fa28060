"""A run that is killed at any moment and resumed ends with the weights of one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from helpers.training_run import batch_of, feature_rows, make_table, make_trainer
from transformers import TrainerCallback

from geohf.data.tensor_dataset import identity_collate
from geohf.training.checkpoints import COMPLETE, last_complete_checkpoint

SCRIPT = Path(__file__).resolve().parents[1] / "helpers" / "training_run.py"
MOMENTS = 5
SCENES = {
    "plain": {"num_train_epochs": 5},
    # saves in the middle of epochs, where the order of rows and the dropout must go on as they were
    "dropout": {
        "num_train_epochs": 2,
        "dropout": 0.3,
        "logging_strategy": "steps",
        "logging_steps": 3,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 3,
        "eval_steps": 3,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
    },
    # learns nothing, so it stops after the third evaluation, and must do so after a resume as well
    "patience": {"num_train_epochs": 9, "learning_rate": 0.0, "early_stopping_patience": 2},
    # saves between evaluations, too, and ends with the last average
    "averaged": {
        "num_train_epochs": 2,
        "ema_decay": 0.9,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    },
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, SCRIPT, "kill", folder, json.dumps(SCENES), str(MOMENTS)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert not done.returncode, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("scene", SCENES)
def test_a_killed_run_resumes_to_the_same_bits(reports, scene):
    reports = [report for report in reports if report["scene"] == scene]
    assert len(reports) == MOMENTS
    assert all(report["killed"] for report in reports)
    assert all(report["equal"] for report in reports), reports
    assert all(report["same_history"] for report in reports), reports


@pytest.mark.parametrize("scene", ["plain", "dropout"])
def test_what_was_trained_is_not_trained_again(reports, scene):
    reports = [report for report in reports if report["scene"] == scene]
    assert reports[0]["steps"] == reports[0]["all_steps"]  # killed before the first checkpoint
    assert any(0 < report["steps"] < report["all_steps"] for report in reports)
    assert reports[-1]["steps"] == 0  # killed when only the finished weights were missing
    steps = [report["steps"] for report in reports]
    assert steps == sorted(steps, reverse=True)


def test_a_resumed_run_waits_no_longer_than_an_uninterrupted_one(reports):
    reports = [report for report in reports if report["scene"] == "patience"]
    assert all(report["steps"] <= report["all_steps"] == 15 for report in reports)


class Stop(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def interrupted(folder, step=13, **settings):
    with pytest.raises(KeyboardInterrupt):
        make_trainer(folder, callbacks=[Stop(step)], **settings).run()


def test_an_incomplete_checkpoint_is_passed_over(tmp_path):
    interrupted(tmp_path, save_total_limit=None)
    assert last_complete_checkpoint(tmp_path).endswith("checkpoint-10")
    (tmp_path / "checkpoint-10" / COMPLETE).unlink()
    assert last_complete_checkpoint(tmp_path).endswith("checkpoint-5")
    resumed, whole = make_trainer(tmp_path), make_trainer(tmp_path / "whole")
    resumed.run(resume=True)
    whole.run()
    for (name, a), (_, b) in zip(
        resumed.model.state_dict().items(), whole.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def noisy(rows):
    batch = batch_of(rows)
    return batch | {"features": batch["features"] + torch.randn_like(batch["features"])}


def test_augmentation_goes_on_within_an_epoch_as_it_would_have(tmp_path):
    settings = {
        "train_dataset": Dataset.from_list(list(feature_rows([make_table(40)]))),
        "data_collator": noisy,
        "eval_collator": identity_collate,
        "per_device_train_batch_size": 4,
        "dropout": 0.3,
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 7,
        "eval_steps": 7,
    }
    interrupted(tmp_path, 8, **settings)
    assert last_complete_checkpoint(tmp_path).endswith("checkpoint-7")  # of five steps an epoch
    resumed = make_trainer(tmp_path, **settings)
    resumed.run(resume=True)
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.run()
    for (name, a), b in zip(
        resumed.model.state_dict().items(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_run_with_workers_says_that_augmentation_goes_on_otherwise(tmp_path, caplog):
    settings = {
        "save_strategy": "steps",
        "eval_strategy": "no",
        "save_steps": 3,
        "load_best_model_at_end": False,
    }
    interrupted(tmp_path, 4, **settings)
    make_trainer(tmp_path, **settings, dataloader_num_workers=1).run(resume=True)
    assert "checkpoint-3 lies within an epoch" in caplog.text


def test_older_checkpoints_go_only_when_a_newer_one_is_whole(tmp_path, monkeypatch):
    import geohf.training.saving as module

    seen = []
    rotate = module.rotate_checkpoints

    def watched(folder, *args, **kwargs):
        seen.append(
            (last_complete_checkpoint(folder), sorted(p.name for p in Path(folder).glob("checkpoint-*")))
        )
        rotate(folder, *args, **kwargs)

    monkeypatch.setattr(module, "rotate_checkpoints", watched)
    trainer = make_trainer(tmp_path, learning_rate=0.0, num_train_epochs=3)
    trainer.run()
    assert [Path(newest).name for newest, _ in seen] == ["checkpoint-5", "checkpoint-10", "checkpoint-15"]
    assert seen[2][1] == ["checkpoint-10", "checkpoint-15", "checkpoint-5"]
    assert trainer.args.save_total_limit == 1
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]  # the best one


def test_a_checkpoint_without_an_optimizer_says_so(tmp_path, caplog):
    make_trainer(tmp_path, num_train_epochs=1, save_only_model=True).run()
    make_trainer(tmp_path, num_train_epochs=2).run(resume=True)
    assert "checkpoint-5 holds the weights alone (save_only_model): the optimizer" in caplog.text
    caplog.clear()
    make_trainer(tmp_path, num_train_epochs=3).run(resume=True)
    assert "weights alone" not in caplog.text


def test_resuming_where_nothing_is_starts_at_the_beginning(tmp_path):
    trainer = make_trainer(tmp_path / "absent", num_train_epochs=1)
    trainer.run(resume=True)
    assert trainer.state.global_step == 5


def test_logged_parts_after_a_resume_are_means_over_the_resumed_steps(tmp_path):
    settings = {"num_train_epochs": 3, "learning_rate": 1e-4}
    interrupted(tmp_path, **settings)
    resumed = make_trainer(tmp_path, **settings)
    resumed.run(resume=True)
    rows = [row for row in resumed.state.log_history if "loss" in row]
    assert len(rows) == 3
    for row in rows:
        assert row["loss"] == pytest.approx(0.8 * row["class_loss"] + 0.2 * row["gps_loss"], rel=1e-4)
