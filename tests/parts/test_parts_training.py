"""Training: what is logged, what does not depend on batches or processes, what stops it, and going on after a kill."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import parts_processes
from helpers.parts_models import ALL_SAMPLES, build_model, parse
from safetensors.torch import load_file
from torch.optim.lr_scheduler import ReduceLROnPlateau

from geohf.errors import DataError
from geohf.parts.data import load_parts, split_parts
from geohf.parts.evaluator import evaluate_detections
from geohf.parts.losses import LOSS_PARTS
from geohf.parts.metrics import dataset_targets
from geohf.parts.phase import PartPhaseTrainer
from geohf.parts.processing import PartCollator, post_process
from geohf.parts.vocabulary import names_of
from geohf.training.settings import phase_arguments


@pytest.fixture(scope="module")
def splits(bikes):
    return split_parts(load_parts(bikes)[0]["train"], validation=0.25, test=0)


def bike_model(splits, **fields):
    parts, states = names_of(splits["train"])
    return build_model(id2label=parts, id2state=states, one_per_part=True, spread=1.0, **fields)


def trainer_for(splits, folder, *words, model=None, **kwargs):
    _, args = parse("--output_dir", folder, "--augment", "false", *words)
    model = model or bike_model(splits, **ALL_SAMPLES)
    return PartPhaseTrainer(
        model, args, train_dataset=splits["train"], eval_dataset=splits["validation"], **kwargs
    )


def numbers(metrics):
    """What was measured of the model, not of the clock."""
    return {n: v for n, v in metrics.items() if not n.endswith(("runtime", "second", "time"))}


def test_every_part_of_the_loss_is_logged_and_map_is_measured_as_it_trains(splits, tmp_path):
    trainer = trainer_for(splits, tmp_path, "--num_train_epochs", 2, "--learning_rate", 1e-3)
    trainer.train()
    history = trainer.state.log_history
    trained = [row for row in history if "loss" in row]
    measured = [row for row in history if "eval_loss" in row]
    assert len(trained) == len(measured) == 2
    for row in trained:
        parts = [row[name] for name in LOSS_PARTS]
        assert row["loss"] == pytest.approx(sum(parts[:4]) + 0.5 * parts[4], rel=1e-3)
    for row in measured:
        parts = [row[f"eval_{name}"] for name in LOSS_PARTS]
        assert row["eval_loss"] == pytest.approx(sum(parts[:4]) + 0.5 * parts[4], rel=1e-5)
        assert 0 <= row["eval_map"] <= 1
        assert "eval_ap/saddle" in row
        assert "eval_hallucination" in row
    assert trained[1]["loss"] < trained[0]["loss"]
    assert measured[1]["eval_loss"] < measured[0]["eval_loss"]


def test_numbers_do_not_depend_on_the_size_of_a_batch_and_are_those_of_the_evaluator(splits, tmp_path):
    model, validation = bike_model(splits), splits["validation"]
    found = []
    for size in (1, 4, 6):
        trainer = trainer_for(splits, tmp_path, "--per_device_eval_batch_size", size, model=model)
        found.append(trainer.detect(validation))
    first, predictions = found[0]
    for metrics, _ in found[1:]:
        assert set(metrics) == set(first)
        for name, value in numbers(first).items():
            assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), name
    collate, by_hand = PartCollator(model), []
    with torch.inference_mode():
        for row in validation:
            batch = collate([row])
            names = ("pixel_values", "image_sizes", "original_sizes")
            by_hand += post_process(
                model(**{name: batch[name] for name in names}), 0.0, batch["original_sizes"]
            )
    config = model.config
    targets = dataset_targets(validation, config)
    expected = evaluate_detections(by_hand, targets, config.num_labels, config.num_states)
    assert expected["map"] == pytest.approx(first["map"], abs=1e-6)
    assert expected["joint_map"] == pytest.approx(first["joint_map"], abs=1e-6)
    assert [len(p["labels"]) for p in predictions] == [len(p["labels"]) for p in by_hand]
    again, _ = trainer.detect(validation)
    assert again["loss"] == found[-1][0]["loss"]


def test_accumulated_batches_train_as_one(splits, tmp_path):
    weights = []
    for size, steps in ((6, 1), (2, 3)):
        trainer = trainer_for(
            splits, tmp_path / str(size), "--per_device_train_batch_size", size, "--gradient_accumulation_steps", steps,
            "--max_steps", 2, "--optim", "sgd", "--learning_rate", 0.01, "--max_grad_norm", 0, "--warmup_steps", 0,
            "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false",
        )  # fmt: skip
        trainer.train()
        weights.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-3, atol=1e-5, msg=name)


def test_a_loss_that_is_not_finite_stops_and_names_the_photos(splits, tmp_path):
    trainer = trainer_for(splits, tmp_path, "--per_device_train_batch_size", 6)
    bad = splits["train"][4]["image_id"]
    collate = trainer.data_collator

    def spoiled(rows):
        batch = collate(rows)
        for i, name in enumerate(batch["image_ids"]):
            if name == bad:
                batch["pixel_values"][i] = math.nan
        return batch

    trainer.data_collator = spoiled
    with pytest.raises(DataError, match=rf"not finite at step \d for 1 of 6 photos of a batch \({bad}\)"):
        trainer.train()


def test_the_rate_falls_when_the_chosen_metric_no_longer_improves(splits, tmp_path):
    for metric, mode in (("loss", "min"), ("map", "max")):
        words = (
            "--lr_scheduler_type",
            "reduce_lr_on_plateau",
            "--lr_scheduler_kwargs",
            '{"factor": 0.5, "patience": 3}',
        )
        trainer = trainer_for(splits, tmp_path, *words, "--metric_for_best_model", metric)
        trainer.create_optimizer_and_scheduler(10)
        scheduler = trainer.lr_scheduler
        assert isinstance(scheduler, ReduceLROnPlateau)
        assert (scheduler.mode, scheduler.factor, scheduler.patience) == (mode, 0.5, 3)
        assert {group["lr"] for group in trainer.optimizer.param_groups} == {1e-3}


def test_published_weights_learn_at_a_lower_rate(splits, tmp_path):
    model = bike_model(splits)
    model.config.backbone_name = "fasterrcnn_resnet50_fpn"
    trainer = trainer_for(splits, tmp_path, model=model)
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {1e-4}


def test_boxes_follow_the_augmentation_and_trust_the_annotations(splits):
    def mirror(photo, boxes):
        width = photo.shape[-1]
        moved = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        return photo.flip(-1), moved[1:], torch.arange(1, len(boxes))

    model, rows = bike_model(splits), [splits["train"][i] for i in range(2)]
    plain, changed = PartCollator(model, trust=True)(rows), PartCollator(model, mirror, trust=True)(rows)
    for i, row in enumerate(rows):
        n = len(row["parts"]) - 1
        torch.testing.assert_close(changed["boxes"][i, :n, 0], 1 - plain["boxes"][i, 1 : n + 1, 0])
        torch.testing.assert_close(changed["boxes"][i, :n, 1:], plain["boxes"][i, 1 : n + 1, 1:])
        assert changed["labels"][i, :n].tolist() == row["parts"][1:]
        assert changed["weights"][i, :n].tolist() == pytest.approx(row["trust"][1:])
        assert (changed["labels"][i, n:] == -100).all()
    assert plain["image_ids"] == [row["image_id"] for row in rows]
    assert "weights" not in PartCollator(model)(rows)


def test_a_run_that_stopped_goes_on_to_the_same_weights(splits, tmp_path):
    def run(folder, resume=False, stop=None):
        torch.manual_seed(0)
        model = bike_model(splits, state_dropout=0.2)
        trainer = trainer_for(
            splits, folder, "--num_train_epochs", 3, "--per_device_train_batch_size", 6, model=model
        )
        trainer.args = phase_arguments(trainer.args, "train")
        if stop:
            evaluate = trainer._evaluate

            def killed(*args, **kwargs):
                if trainer.state.epoch >= stop:
                    raise KeyboardInterrupt
                return evaluate(*args, **kwargs)

            trainer._evaluate = killed
        trainer.run(resume)
        return load_file(Path(trainer.args.output_dir) / "finished.safetensors")

    expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop=2)
    found = run(tmp_path / "cut", resume=True)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_two_processes_train_and_measure_as_one(bikes, tmp_path):
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    script = Path(parts_processes.__file__)
    command = [sys.executable, *launch, script, tmp_path / "two", bikes, "2"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parts_processes.main(tmp_path / "one", bikes, "4")
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert one["photos"] == two["photos"] == 7  # which two processes cannot share evenly
    for name, value in numbers(one["metrics"]).items():
        assert two["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True), name
    logged = [next(row for row in report["history"] if "loss" in row) for report in (one, two)]
    for name in ("loss", *LOSS_PARTS):
        assert logged[1][name] == pytest.approx(logged[0][name], rel=1e-3)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
