"""A moving average of the weights is what a run evaluates, saves and ends with."""

import json

import pytest
import torch
from helpers.training_run import history, make_head, make_trainer
from safetensors.torch import load_file
from transformers import TrainerCallback

from geohf.errors import DataError
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.averaging import RAW, MovingAverage
from geohf.training.checkpoints import load_tree
from geohf.training.phase import PhaseTrainer


class Watch(TrainerCallback):
    """The weights after each step, as the optimizer leaves them."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: weights.detach().clone() for name, weights in model.named_parameters()})


def averaged(start, steps, decay):
    """The average by hand, after each step."""
    means, found = dict(start), []
    for k, weights in enumerate(steps, start=1):
        d = min(decay, (1 + k) / (10 + k))
        means = {name: mean * d + weights[name] * (1 - d) for name, mean in means.items()}
        found.append(means)
    return found


def same(weights, expected):
    for name, mean in expected.items():
        torch.testing.assert_close(weights[name], mean, rtol=1e-5, atol=1e-7)


def test_the_run_ends_with_the_average_of_its_steps(tmp_path):
    start = {name: weights.detach().clone() for name, weights in make_head().named_parameters()}
    watch = Watch()
    ends = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = make_trainer(tmp_path, callbacks=[watch], ema_decay=0.5, num_train_epochs=2, **ends)
    trainer.run()
    assert len(watch.steps) == 10  # 0.18, 0.25 ... 0.5 of the average are kept
    same(trainer.model.state_dict(), averaged(start, watch.steps, 0.5)[-1])
    plain = Watch()
    other = make_trainer(tmp_path / "plain", callbacks=[plain], num_train_epochs=2, **ends)
    other.run()
    for name, weights in other.model.state_dict().items():  # the optimizer never sees it
        assert torch.equal(watch.steps[-1].get(name, weights), weights), name
    assert not all(torch.equal(other.model.state_dict()[name], mean) for name, mean in start.items())


def test_checkpoints_hold_the_average_that_was_evaluated_and_the_raw_weights(tmp_path):
    start = {name: weights.detach().clone() for name, weights in make_head().named_parameters()}
    watch = Watch()
    trainer = make_trainer(
        tmp_path, callbacks=[watch], ema_decay=0.9, save_total_limit=None, load_best_model_at_end=False
    )
    trainer.run()
    means = averaged(start, watch.steps, 0.9)
    losses = {row["step"]: row["eval_loss"] for row in history(trainer) if "eval_loss" in row}
    for step in (5, 10, 15):
        checkpoint = tmp_path / f"checkpoint-{step}"
        weights = load_file(checkpoint / "model.safetensors")
        same(weights, means[step - 1])
        raw = load_tree(checkpoint / RAW)
        assert all(torch.equal(raw[name], weights) for name, weights in watch.steps[step - 1].items())
        head = make_head()
        head.load_state_dict(weights)
        assert make_trainer(tmp_path / "again", model=head).evaluate()["eval_loss"] == losses[step]
    same(trainer.model.state_dict(), means[-1])


def test_statistics_of_batch_norms_are_averaged_and_infinite_buffers_stay():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    model[0].requires_grad_(False)
    average = MovingAverage(0.999)
    average.start(model)
    assert sorted(average.kept) == ["1.bias", "1.running_mean", "1.running_var", "1.weight"]
    model[1].running_mean.fill_(11.0)
    state = type("State", (), {"global_step": 1})
    average.on_step_end(None, state, None)
    with average.shown():
        assert model[1].running_mean.tolist() == pytest.approx([9.0, 9.0])  # 9/11 of 11: d is 2/11
    assert model[1].running_mean.tolist() == [11.0, 11.0]


def test_an_evaluation_before_the_first_step_is_no_best_one(tmp_path):
    """It falls by far: what was random at first would be the best of a metric that shall be small."""
    trainer = make_trainer(tmp_path, eval_on_start=True, learning_rate=3.0, ema_decay=0.9, num_train_epochs=1)
    trainer.run()
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert [row["step"] for row in rows] == [0, 5]
    assert rows[0]["eval_loss"] < rows[1]["eval_loss"]
    assert trainer.best_row() is rows[1]


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_that_is_none_is_refused(tmp_path, decay):
    with pytest.raises(DataError, match="ema_decay must be above 0 and below 1"):
        GeoTrainingArguments(str(tmp_path), use_cpu=True, ema_decay=decay)


def test_a_run_is_not_gone_on_with_another_average(tmp_path):
    make_trainer(tmp_path, ema_decay=0.9, num_train_epochs=1).run()
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["ema_decay"] == 0.9
    with pytest.raises(DataError, match=r"ema_decay was 0\.9, now None"):
        make_trainer(tmp_path, num_train_epochs=2).run(resume=True)


def test_weights_that_are_spread_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(PhaseTrainer, "_shards_its_state", True)
    with pytest.raises(DataError, match="ema_decay averages whole weights"):
        make_trainer(tmp_path, ema_decay=0.9)
