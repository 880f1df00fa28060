"""What a user hands to a Trainer of several phases does what it does in transformers."""

import copy

import numpy as np
import pytest
import torch
from helpers import five_tasks
from helpers.street_models import build_model, patches
from transformers import EarlyStoppingCallback, TrainerCallback

from geohf import GeoStreetTrainer, StreetTrainingArguments
from geohf.errors import DataError


def rows(count=12):
    """Photographs of two states."""
    names = ("Maine", "Texas")
    return [
        {
            "image": image,
            "state": names[i % 2],
            "latitude": 45.3 - 14 * (i % 2),
            "longitude": -69.2 - 30 * (i % 2),
        }
        for i, image in enumerate(patches(3, count))
    ]


def trainer_of(folder, model=None, evaluated=True, kind=GeoStreetTrainer, **given):
    settings = {
        "output_dir": str(folder / "run"), "cache_dir": str(folder / "cache"), "use_cpu": True, "disable_tqdm": True,
        "num_train_epochs": 2, "head_min_steps": 4, "head_epochs": 2, "report_to": "none",
    } | given.pop("settings", {})  # fmt: skip
    if evaluated:
        given["eval_dataset"] = rows(8)
    else:
        settings |= {"eval_strategy": "no", "load_best_model_at_end": False}
    args = StreetTrainingArguments(**settings)
    return kind(model or build_model(hidden_size=8), args, train_dataset=rows(), **given)


class Seen(TrainerCallback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.events.append("begin")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.events.append(sorted(metrics))


def test_callbacks_and_metrics_of_a_user_go_into_every_phase(tmp_path):
    seen = Seen()
    trainer = trainer_of(
        tmp_path,
        callbacks=[seen],
        compute_metrics=lambda found: {"beauty": float(np.mean(found.predictions[0]))},
    )
    trainer.train()
    assert seen.events.count("begin") == 2
    assert all("eval_beauty" in names for names in seen.events if names != "begin")
    assert {row["phase"] for row in trainer.state.log_history} == {"phase1", "phase2"}
    assert set(trainer.evaluate()) >= {"eval_beauty"}


def test_what_is_added_to_a_trainer_that_stands_goes_into_every_phase(tmp_path):
    seen, gone = Seen(), Seen()
    trainer = trainer_of(tmp_path, callbacks=[gone])
    trainer.add_callback(seen)
    trainer.remove_callback(gone)
    trainer.compute_metrics = lambda found: {"beauty": float(np.mean(found.predictions[0]))}
    trainer.train()
    assert seen.events.count("begin") == 2
    assert all("eval_beauty" in names for names in seen.events if names != "begin")
    assert not gone.events


def test_early_stopping_of_a_user_stands_in_place_of_the_trainers_own(tmp_path):
    waiting = {"head_epochs": 6, "num_train_epochs": 6, "early_stopping_patience": 1, "learning_rate": 0.0}
    settings = waiting | {"finetune": "none", "head_min_steps": 1, "metric_for_best_model": "loss"}
    epochs = []
    for name, given in (("own", {}), ("given", {"callbacks": [EarlyStoppingCallback(3)]})):
        trainer = trainer_of(tmp_path / name, settings=settings, **given)
        trainer.train()
        epochs.append(max(row["epoch"] for row in trainer.state.log_history))
    assert epochs == [2, 4]


def test_steps_that_a_user_says_are_those_of_heads_too(tmp_path):
    trainer = trainer_of(tmp_path, settings={"max_steps": 3, "head_min_steps": 40, "finetune": "none"})
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("name", five_tasks.TASKS)
def test_what_would_change_no_loop_is_refused(name, tmp_path):
    trainer = five_tasks.trainer_of(name, tmp_path)
    kind, rows = type(trainer), trainer.train_dataset
    for option in ("compute_loss_func", "preprocess_logits_for_metrics", "optimizer_cls_and_kwargs"):
        with pytest.raises(DataError, match=f"takes no {option}"):
            kind(trainer.model, trainer.args, train_dataset=rows, **{option: lambda *given: None})
    changed = type("Mine", (kind,), {"compute_loss": lambda self, *given, **named: None})
    with pytest.raises(DataError, match=r"Mine.compute_loss would never be called: each phase trains with a"):
        changed(trainer.model, trainer.args, train_dataset=rows)
    loop = type("Loop", (kind.phase_class,), {"compute_loss": changed.compute_loss})
    type("Mine", (kind,), {"phase_class": loop})(trainer.model, trainer.args, train_dataset=rows)


def test_a_loop_of_a_users_own_trains_every_phase(tmp_path):
    losses = []

    class Loop(GeoStreetTrainer.phase_class):
        def compute_loss(self, model, *args, **kwargs):
            losses.append(type(self.accelerator.unwrap_model(model)).__name__)
            return super().compute_loss(model, *args, **kwargs)

    class Mine(GeoStreetTrainer):
        phase_class = Loop

    trainer_of(tmp_path, kind=Mine).train()
    assert {"StreetHead", "GeoStreetModel"} <= set(losses)


@pytest.mark.parametrize("name", [name for name in five_tasks.TASKS if name != "place"])
def test_evaluation_drops_no_row_and_calibration_hears_no_metrics_of_a_user(name, tmp_path):
    """`dataloader_drop_last` is of training alone; twelve rows in batches of eight."""
    own = {"compute_metrics": lambda found, compute_result=True: {"beauty": 1.0}}
    settings = (
        {"dataloader_drop_last": True, "head_batch_size": 4}
        if name == "street"
        else {"dataloader_drop_last": True}
    )
    given = five_tasks.trainer_of(
        name, tmp_path, count=12, per_device_train_batch_size=4, max_steps=1, **settings
    )
    rows = five_tasks.rows_of(name, 12)
    trainer = type(given)(given.model, given.args, train_dataset=rows, eval_dataset=rows, **own)
    trainer.train()
    assert sum(len(next(iter(batch.values()))) for batch in trainer.get_eval_dataloader()) >= 12
    assert trainer.evaluate()["eval_beauty"] == 1
    assert trainer.args.dataloader_drop_last


def test_the_numbers_of_an_evaluation_lie_in_the_runs_folder_for_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    trainer = five_tasks.trainer_of("parts", tmp_path / "run", report_to="tensorboard")
    trainer.evaluate(five_tasks.rows_of("parts"))
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("events.out.*")} == {"run"}


def test_an_optimizer_of_a_user_trains_the_model_and_not_the_head_alone(tmp_path):
    model = build_model(hidden_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    tower = {name: tensor.clone() for name, tensor in model.tower.state_dict().items()}
    trainer = trainer_of(tmp_path, model, optimizers=(optimizer, None))
    trainer.train()
    assert all(torch.equal(tensor, model.tower.state_dict()[name]) for name, tensor in tower.items())
    assert set(trainer.histories) == {"phase1", "phase2"}


def test_the_model_that_was_handed_over_is_the_trained_one(tmp_path):
    for finetune in ("none", "all"):
        model = build_model(hidden_size=8)
        trainer = trainer_of(tmp_path / finetune, model, settings={"finetune": finetune})
        trainer.train()
        assert trainer.model is model
        assert not model.training
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_validation_the_last_weights_are_the_model_and_nothing_is_calibrated(tmp_path, caplog):
    trainer = trainer_of(tmp_path, evaluated=False)
    with caplog.at_level("INFO"):
        trainer.train()
    assert "nothing is calibrated" in caplog.text
    config = trainer.model.config
    assert (config.temperature, config.radius_factor) == (1.0, None)
    assert trainer.evaluate(rows(8)).baseline["mean_km"] > 0


def test_a_run_goes_on_in_its_own_folder(tmp_path):
    first = trainer_of(tmp_path)
    first.train()
    again = trainer_of(tmp_path)
    again.train(resume_from_checkpoint=True)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert again.model.config.temperature == first.model.config.temperature
    with pytest.raises(DataError, match="a run goes on in its own output_dir"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(tmp_path / "elsewhere"))


def test_a_run_goes_on_from_its_last_checkpoint_alone(tmp_path):
    trainer_of(tmp_path, settings={"save_total_limit": 3}).train()
    older, last = sorted((tmp_path / "run/checkpoints/phase2").glob("checkpoint-*"))
    with pytest.raises(
        DataError, match=rf"the last whole checkpoint of each phase, here .*{last.name}; say true"
    ):
        trainer_of(tmp_path, settings={"save_total_limit": 3}).train(resume_from_checkpoint=str(older))
    trainer_of(tmp_path, settings={"save_total_limit": 3}).train(resume_from_checkpoint=str(last))
    trainer_of(tmp_path, settings={"save_total_limit": 3}).train(resume_from_checkpoint=str(last.parent))
    (last / "complete.json").unlink()
    (older / "complete.json").unlink()
    with pytest.raises(DataError, match="is no whole checkpoint"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(last))


def test_a_second_training_begins_with_the_weights_of_the_first(tmp_path):
    trainer = five_tasks.trainer_of("place", tmp_path, cache_dir=str(tmp_path / "cache"), warmup_steps=0)
    trainer.train()
    assert not trainer.frozen
    ours = []

    class Begun(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            ours.append(trainer.frozen_descriptors(trainer.train_dataset))

    trainer.add_callback(Begun())
    tower = copy.deepcopy(trainer.model.tower)
    trainer.train()
    fresh = five_tasks.trainer_of("place", tmp_path / "fresh", cache_dir=str(tmp_path / "cache"))
    fresh.model.tower.load_state_dict(tower.state_dict())
    assert torch.equal(ours[0], fresh.frozen_descriptors(fresh.train_dataset))


@pytest.mark.parametrize("name", ["region", "place", "parts", "tiles"])
def test_numbers_of_training_rows_are_not_told_as_those_of_test_rows(name, tmp_path):
    trainer = five_tasks.trainer_of(name, tmp_path, count=12, cache_dir=str(tmp_path / "cache"))
    facts = trainer.data_facts(trainer.evaluate(trainer.train_dataset), "rows")
    assert (facts["split_name"], facts["rows"], facts["trained_on_held_out"]) == (
        "train",
        "12 train rows",
        True,
    )
    facts = trainer.data_facts(trainer.evaluate(five_tasks.rows_of(name)), "rows")
    assert (facts["split_name"], facts["trained_on_held_out"]) == ("test", False)
    rows = five_tasks.rows_of(name, 12)
    both = type(trainer)(trainer.model, trainer.args, train_dataset=rows, eval_dataset=rows)
    facts = both.data_facts(both.evaluate(), "rows")
    assert (facts["split_name"], facts["trained_on_held_out"]) == ("train", True)


def test_there_must_be_something_to_train_on(tmp_path):
    args = StreetTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, eval_strategy="no", load_best_model_at_end=False
    )
    with pytest.raises(DataError, match="give the Trainer a train_dataset"):
        GeoStreetTrainer(build_model(), args).train()


@pytest.mark.parametrize("name", five_tasks.TASKS)
def test_what_no_trainer_can_work_with_is_refused_before_the_work(name, tmp_path):
    trainer = five_tasks.trainer_of(name, tmp_path)
    sets = {"near": trainer.train_dataset, "far": trainer.train_dataset}
    with pytest.raises(DataError, match=r"holds several sets \(near, far\)"):
        type(trainer)(trainer.model, trainer.args, train_dataset=trainer.train_dataset, eval_dataset=sets)
    with pytest.raises(DataError, match="weights are bfloat16, and a Trainer works on float32"):
        five_tasks.trainer_of(name, tmp_path, five_tasks.TASKS[name].make().to(torch.bfloat16))
    half = five_tasks.TASKS[name].make()
    list(half.modules())[-1].half()  # a part of the head alone
    with pytest.raises(DataError, match="weights are float16, and a Trainer works on float32"):
        five_tasks.trainer_of(name, tmp_path, half)


@pytest.mark.parametrize("finetune", ["none", "all"])
def test_weights_that_a_user_froze_stay_so_or_are_told_of(tmp_path, caplog, finetune):
    """In a second training, too; where --finetune says that they learn, it wins with a word."""
    model = build_model()
    model.tower.requires_grad_(False)
    count, before = len(list(model.tower.parameters())), [p.clone() for p in model.tower.parameters()]
    trainer_of(tmp_path, model, settings={"finetune": finetune}).train()
    after = list(model.tower.parameters())
    same = all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert same == (finetune == "none")
    assert [p.requires_grad for p in after] == [finetune == "all"] * count
    assert (f"{count} weights came with requires_grad False" in caplog.text) == (finetune == "all")
    assert all(p.requires_grad for p in model.head.parameters())
