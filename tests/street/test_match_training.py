"""Matching and headings through the recipe and the Trainer: they learn, resume, and reach the card and the files."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from helpers.street_models import build_model, parse, rows_of
from PIL import Image
from transformers import TrainerCallback

from geohf.data.tensor_dataset import TensorDictDataset
from geohf.errors import DataError
from geohf.recipes.train_street import run
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.phase import StreetPhaseTrainer
from geohf.training.settings import phase_arguments

PLACES = [
    (48.9, 2.4),
    (52.5, 13.4),
    (40.4, -3.7),
    (59.3, 18.1),
    (41.9, 12.5),
    (37.9, 23.7),
    (64.1, -21.9),
    (60.2, 24.9),
]
COLORS = [
    (220, 40, 40),
    (40, 200, 40),
    (40, 60, 220),
    (220, 210, 40),
    (200, 40, 210),
    (40, 200, 210),
    (240, 240, 240),
    (90, 60, 30),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Photographs whose color is the place and whose brighter side lies in the direction of the camera."""
    folder, rng = tmp_path_factory.mktemp("toy"), np.random.default_rng(0)
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    rows = [("image", "latitude", "longitude", "angle")]
    for i, (place, color) in enumerate(zip(PLACES, COLORS, strict=True)):
        for k in range(20):
            angle = int(rng.integers(360))
            ramp = 1 + 0.5 * (x * math.sin(math.radians(angle)) - y * math.cos(math.radians(angle)))
            pixels = np.clip(np.array(color) * ramp[..., None] / 1.3 + rng.normal(0, 4, (40, 40, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}_{k}.png")
            # some rows do not say which way
            rows.append(
                (
                    f"{i}_{k}.png",
                    *np.add(place, rng.normal(0, 1e-4, 2)).round(6),
                    "" if k % 10 == 0 else angle,
                )
            )
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "street"
    options, args = parse(
        *("--data", table, "--backbone", "test_byobnet", "--pretrained", "false", "--image_size", 40, "--max_cells", 0),
        *("--location_encoder", "sphere", "--gps_head", "gallery", "--location_hidden_size", 64, "--queue_size", 32),
        *("--predict_heading", "true", "--finetune", "none", "--head_min_steps", 240, "--output_dir", folder),
        *("--report_to", "none", "--place_radius_m", 0, "--learning_rate", 2e-3),
    )  # fmt: skip
    return run(options, args)


@pytest.mark.slow
def test_the_recipe_learns_places_and_headings(trained):
    values, baseline = trained.evaluated.values_by_name, trained.evaluated.baseline
    assert values["median_km"] < 1
    assert values["within_1_km"] >= 0.9
    assert baseline["median_km"] > 500
    assert values["heading_mean_deg"] < 55 < 75 < baseline["heading_mean_deg"]
    assert values["heading_within_30"] > 0.4
    assert trained.evaluated.predictions[0].radius_m is not None


@pytest.mark.slow
def test_the_run_leaves_headings_and_matches_in_its_files(trained, table):
    folder = trained.run_folder
    rows = rows_of(folder / "predictions.csv")
    assert all(len(json.loads(row["predicted_headings"])) == 1 for row in rows)
    assert any(json.loads(row["headings"]) == [None] for row in rows)
    card = (folder / "README.md").read_text()
    for words in (
        "encoded as `sphere`",
        "which way each view looks",
        "x matching",
        "positions that are saved",
    ):
        assert words in card
    history = (folder / "log_history.csv").read_text()
    assert "match_loss" in history
    assert "heading_loss" in history
    model = trained.model
    numbers = model.evaluate(table)
    assert numbers["within_1_km"] >= 0.9
    assert numbers["heading_mean_deg"] < 45
    assert "top1" not in numbers


def test_a_resumed_run_has_the_same_weights_queue_and_all(tmp_path):
    torch.manual_seed(0)
    n = 40
    columns = {
        "features": torch.randn(n, 1, 96), "view_mask": torch.ones(n, 1, dtype=torch.bool),
        "headings": torch.rand(n, 1) * 360, "labels": torch.full((n,), -100),
        "coordinates": torch.stack([torch.rand(n) * 60, torch.rand(n) * 90], 1).double(),
    }  # fmt: skip

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 8:
                raise KeyboardInterrupt

    def trainer(name, **extras):
        model = build_model(
            0, classes=False, gps_head="gallery", location_encoder="sphere", location_size=16, location_hidden_size=16,
            queue_size=24, predict_heading=True,
        )  # fmt: skip
        args = StreetTrainingArguments(
            output_dir=str(tmp_path / name), max_steps=12, save_steps=6, save_strategy="steps", eval_strategy="no",
            per_device_train_batch_size=16, use_cpu=True, report_to="none", disable_tqdm=True, load_best_model_at_end=False,
        )  # fmt: skip
        return StreetPhaseTrainer(
            model.head, phase_arguments(args, "phase1"), train_dataset=TensorDictDataset(**columns), **extras
        )

    whole = trainer("whole")
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        trainer("cut", callbacks=[Stop()]).run()
    again = trainer("cut")
    again.run(resume=True)
    first, second = whole.model.state_dict(), again.model.state_dict()
    assert not first["match.queue"].isnan().any()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_flags_that_do_not_go_together_are_refused(table, tmp_path):
    for words, says in (
        (("--gps_head", "gallery"), "needs a location_encoder"),
        (("--location_encoder", "globe"), "location_encoder must be one of"),
        (("--location_encoder", "sphere", "--gallery", "no/such.csv"), "no/such.csv"),
        (
            ("--location_encoder", "sphere", "--max_cells", 0, "--gps_head", "gallery", "--gallery", "cells"),
            "no classes",
        ),
    ):
        options, args = parse(
            "--data",
            table,
            "--backbone",
            "test_byobnet",
            "--pretrained",
            "false",
            "--output_dir",
            tmp_path,
            *words,
        )
        with pytest.raises(DataError, match=says):
            run(options, args)
