"""The Trainer: one gradient however a batch is cut up, honest logs, parameter groups, files without pickle."""

import json
import math

import pytest
import torch
from helpers.training_run import history, make_head, make_table, make_trainer
from safetensors.torch import load_file
from torch import nn

from geohf.data.tensor_dataset import TensorDictDataset
from geohf.errors import DataError
from geohf.street import GeoStreetConfig, GeoStreetModel
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.finetuning import layer_shares
from geohf.training.phase import PhaseTrainer
from geohf.training.phases import FINISHED
from geohf.training.settings import phase_arguments
from geohf.vision.backbones import TimmTowerConfig


def train(folder, **settings):
    trainer = make_trainer(folder, save_strategy="no", load_best_model_at_end=False, **settings)
    trainer.train()
    return trainer


def close(a, b, tolerance=1e-6):
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        torch.testing.assert_close(x, y, atol=tolerance, rtol=tolerance, msg=name)


def close_history(a, b, tolerance=1e-5):
    a, b = history(a), history(b)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        x.pop("epoch"), y.pop("epoch")  # counted in micro-batches
        assert x == pytest.approx(y, rel=tolerance, abs=tolerance)


# The loss


@pytest.mark.parametrize("rows", [40, 43, 41])
def test_accumulation_changes_neither_weights_nor_logs(tmp_path, rows):
    whole = train(tmp_path / "8", rows=rows, logging_strategy="steps", logging_steps=1)
    assert whole.state.global_step == 3 * math.ceil(rows / 8)
    for size, steps in ((2, 4), (4, 2), (1, 8)):
        cut = train(
            tmp_path / f"{size}",
            rows=rows,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            logging_strategy="steps",
            logging_steps=1,
        )
        close(whole.model, cut.model)
        close_history(whole, cut)


def test_the_weights_are_those_of_a_plain_loop(tmp_path):
    trainer = make_trainer(
        tmp_path, num_train_epochs=2, max_grad_norm=0, weight_decay=0.01, train_sampling_strategy="sequential"
    )
    trainer.train()
    head, table = make_head(), make_table(40)
    decay = [p for p in head.parameters() if p.ndim > 1]
    plain = [p for p in head.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, {"params": decay, "weight_decay": 0.01}], lr=3e-3, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: s if s < 1 else 0.5 * (1 + math.cos(math.pi * (s - 1) / 9))
    )
    for _ in range(2):
        for start in range(0, 40, 8):
            optimizer.zero_grad()
            head(**table.__getitems__(range(start, start + 8))).loss.backward()
            optimizer.step()
            schedule.step()
    best = trainer.state.best_model_checkpoint
    if best.endswith("-10"):  # the last step is the best one, so the weights are the last ones
        close(trainer.model, head)
    else:
        pytest.fail(f"the best checkpoint is {best}")


def test_logged_parts_are_means_over_steps_and_add_up_to_the_loss(tmp_path):
    trainer = train(tmp_path, learning_rate=0.0, train_sampling_strategy="sequential", num_train_epochs=2)
    head, table = make_head().train(), make_table(40)
    outputs = [head(**table.__getitems__(range(start, start + 8))) for start in range(0, 40, 8)]
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logs) == 2
    for row in logs:
        assert row["loss"] == pytest.approx(sum(o.loss.item() for o in outputs) / 5, rel=1e-5)
        for name in ("class_loss", "gps_loss"):
            assert row[name] == pytest.approx(sum(o.loss_parts[name].item() for o in outputs) / 5, rel=1e-5)
        assert row["loss"] == pytest.approx(0.8 * row["class_loss"] + 0.2 * row["gps_loss"], rel=1e-5)


def test_a_second_training_logs_parts_of_its_own(tmp_path):
    trainer = train(tmp_path, learning_rate=0.0)
    first = [row["class_loss"] for row in trainer.state.log_history if "class_loss" in row]
    trainer.train()
    second = [row["class_loss"] for row in trainer.state.log_history if "class_loss" in row]
    assert second == pytest.approx(first, rel=0.2)


class Plain(nn.Module):
    """A model that knows nothing of `loss_items`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(16, 1)

    def forward(self, features, labels=None, coordinates=None):
        loss = self.linear(features.mean(1)).squeeze(-1).square().mean()
        return {"loss": loss, "loss_parts": {"square": loss}}


def test_a_model_without_counts_is_averaged_over_its_micro_batches(tmp_path):
    runs = [
        train(
            tmp_path / f"{size}",
            model=Plain(),
            eval_strategy="no",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
        )
        for size in (8, 2)
    ]
    close(runs[0].model, runs[1].model)
    for run in runs:
        for row in run.state.log_history:
            if "loss" in row:
                assert row["square"] == pytest.approx(row["loss"], rel=1e-5)
    close_history(*runs)


def test_a_batch_without_anything_to_learn_from_is_an_error(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train_dataset = TensorDictDataset(features=torch.zeros(8, 2, 16))
    with pytest.raises(DataError, match="gave no loss"):
        trainer.train()


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path, strategy):
    trainer = make_trainer(
        tmp_path, save_strategy=strategy, eval_strategy=strategy, save_steps=1, eval_steps=1
    )
    table = make_table(40)
    table.columns["features"][7] = math.inf
    trainer.train_dataset = table
    with pytest.raises(DataError, match="the loss is nan at step"):
        trainer.run()
    for checkpoint in tmp_path.glob("checkpoint-*"):
        from safetensors.torch import load_file

        weights = load_file(checkpoint / "model.safetensors")
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_evaluation_does_not_leak_into_the_logged_parts(tmp_path):
    often = train(tmp_path / "a", eval_strategy="steps", eval_steps=2)
    never = train(tmp_path / "b", eval_strategy="no")
    parts = [[row["gps_loss"] for row in t.state.log_history if "gps_loss" in row] for t in (often, never)]
    assert parts[0] == pytest.approx(parts[1], rel=1e-6)


def test_the_gradients_norm_is_logged_where_it_is_clipped_only(tmp_path):
    clipped, free = train(tmp_path / "a", max_grad_norm=1.0), train(tmp_path / "b", max_grad_norm=0.0)
    assert all("grad_norm" in row for row in clipped.state.log_history if "loss" in row)
    assert not any("grad_norm" in row for row in free.state.log_history)


# The optimizer


def test_the_tower_learns_at_its_own_rate_and_only_matrices_decay(tmp_path):
    config = GeoStreetConfig(
        vision_config=TimmTowerConfig(architecture="test_resnet"),  # batch norms, which have weights too
        feature_size=96,
        hidden_size=16,
        gps_hidden_size=8,
        class_centroids=[[47.0, 8.0], [46.0, 7.0]],
        fusion="weighted",
    )
    model = GeoStreetModel(config)
    model.tower.timm.conv1.requires_grad_(False)
    args = GeoTrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        learning_rate=1e-2,
        backbone_learning_rate=1e-6,
        weight_decay=0.1,
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    optimizer = PhaseTrainer(model, args).create_optimizer()
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(settings)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in settings
            continue
        rate, decay = settings[id(parameter)]
        assert rate == (1e-6 if name.startswith("tower.") else 1e-2), name
        assert decay == (0.1 if parameter.ndim > 1 else 0.0), name


def test_each_block_of_the_tower_learns_slower_than_the_one_behind_it(tmp_path):
    torch.manual_seed(0)
    tower = nn.Module()
    tower.embed, tower.blocks = nn.Linear(2, 2), nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    tower.norm = nn.LayerNorm(2)
    model = nn.Module()
    model.tower, model.head = tower, nn.Linear(2, 2)
    shares = layer_shares(model, 0.5)
    expected = {"embed": 1 / 8, "blocks.0": 1 / 4, "blocks.1": 1 / 2, "blocks.2": 1.0, "norm": 1.0}
    for name, share in expected.items():
        assert [shares[id(p)] for p in tower.get_submodule(name).parameters()] == [share] * 2, name
    assert not {*map(id, model.head.parameters())} & {*shares}
    assert layer_shares(model, 1.0) == layer_shares(model.head, 0.5) == {}
    model.tower.embed.requires_grad_(False)
    settings = {"use_cpu": True, "eval_strategy": "no", "load_best_model_at_end": False, "layer_decay": 0.5}
    args = GeoTrainingArguments(str(tmp_path), learning_rate=1.0, backbone_learning_rate=0.1, **settings)
    optimizer = PhaseTrainer(model, args).create_optimizer()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        rate = 1.0 if name.startswith("head") else 0.1 * shares[id(parameter)]
        assert rates.get(id(parameter)) == (None if "embed" in name else pytest.approx(rate)), name
    with pytest.raises(DataError, match="layer_decay must be above 0 and at most 1"):
        GeoTrainingArguments(str(tmp_path), use_cpu=True, layer_decay=1.5)


# Phases and files


def test_a_run_leaves_no_pickle(tmp_path):
    trainer = make_trainer(tmp_path, load_best_model_at_end=True, save_total_limit=None)
    trainer.run()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(list(tmp_path.glob("checkpoint-*"))) == 3
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        if path.suffix == ".safetensors":
            load_file(path)  # raises for a zip, as torch.save writes, and for a pickle
        else:
            json.loads(path.read_text(encoding="utf-8"))


def test_a_finished_phase_is_loaded_and_not_trained_again(tmp_path):
    first = make_trainer(tmp_path)
    first.run()
    second = make_trainer(tmp_path)
    second.training_step = None  # would fail
    second.run(resume=True)
    for (name, a), (_, b) in zip(
        first.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert second.state.log_history == first.state.log_history


def test_a_new_run_starts_anew_and_leaves_other_files_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    first = make_trainer(tmp_path)
    first.run()
    second = make_trainer(tmp_path, model=make_head(seed=5), num_train_epochs=1)
    second.run()
    assert second.state.global_step == 5
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]
    assert (tmp_path / FINISHED).is_file()


def test_the_best_weights_are_kept_at_the_end(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=4, learning_rate=0.3, metric_for_best_model="accuracy")
    trainer.run()
    scores = [row["eval_accuracy"] for row in trainer.state.log_history if "eval_accuracy" in row]
    assert trainer.evaluate()["eval_accuracy"] == pytest.approx(max(scores))
    assert trainer.best_score() == pytest.approx(max(scores))


def test_early_stopping_waits_as_long_as_it_was_told(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=9, learning_rate=0.0, early_stopping_patience=2)
    trainer.run()
    assert trainer.state.epoch == 3  # the first evaluation is the best, two more are no better


def test_phase_arguments_have_a_folder_of_their_own_and_leave_the_runs_alone(tmp_path):
    args = GeoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, num_train_epochs=9)
    phase = phase_arguments(args, "phase1", num_train_epochs=2, learning_rate=0.5)
    assert phase.output_dir == str(tmp_path / "checkpoints" / "phase1")
    assert (phase.num_train_epochs, phase.learning_rate) == (2, 0.5)
    assert (args.output_dir, args.num_train_epochs, args.learning_rate) == (str(tmp_path), 9, 1e-3)
    assert not phase.push_to_hub
    assert phase_arguments(args, "x", save_strategy="no").load_best_model_at_end is False
    with pytest.raises(AttributeError, match="no training argument 'epochs'"):
        phase_arguments(args, "x", epochs=3)
