"""A whole run: what it leaves, the Hub, the pipeline, the recipe."""

import csv
import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.region_models import options_of, small_run, table_of
from huggingface_hub import HfApi
from transformers import pipeline

import geohf
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.recipes.running import run_recipe
from geohf.region import GeoRegionModel
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.card import summary_rows
from geohf.region.trainer import GeoRegionTrainer
from geohf.training.parser import GeoArgumentParser

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/train_region.py"
ALWAYS = {
    "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "metrics.json", "log_history.csv",
    "learning_curves.png", "evaluation.csv", "dropped.csv", "dropped.png", "predictions.csv", "confusion.png",
}  # fmt: skip
OF_DEGREES = {"predictions.geojson", "map.html", "error_map.png", "error_cdf.png", "risk_coverage.png"}

FRESH = """
import json, sys
import geohf
from transformers import AutoModel
from dataclasses import asdict
import torch
torch.set_num_threads(int(sys.argv[4]))
heavy = [name for name in ("timm", "datasets", "matplotlib", "sklearn", "pandas") if name in sys.modules]
model = AutoModel.from_pretrained(sys.argv[1])
photos = json.loads(sys.argv[2])
answers = [asdict(a) for r in (None, "3") for a in model.predict(photos, region=r)]
json.dump({"heavy": heavy, "answers": answers, "regions": model.config.label2id}, open(sys.argv[3], "w"))
"""


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def files_of(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


# --- what it leaves ---


def test_a_run_in_degrees_leaves_everything(separate_run):
    folder, _ = separate_run
    assert files_of(folder) == ALWAYS | OF_DEGREES
    left = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert not left & {".pt", ".pth", ".bin", ".pkl", ".joblib"}


def test_a_planar_run_leaves_no_map_of_the_earth(planar_run):
    folder, result = planar_run
    assert files_of(folder) == ALWAYS | {"error_scatter.png"}
    rows = read(folder / "predictions.csv")
    assert all(float(row["predicted_latitude"]) > 180_000 for row in rows)
    assert "distance_units" in rows[0]
    assert result.model.config.scaler == "minmax"


@pytest.mark.parametrize("run", ["separate_run", "planar_run"])
def test_the_numbers_are_those_of_the_predictions(run, request):
    folder, result = request.getfixturevalue(run)
    unit = result.model.config.unit
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = read(folder / "predictions.csv")
    errors = np.array([float(row[f"distance_{unit}"]) for row in rows])
    assert metrics["eval"][f"routed_mean_{unit}"] == pytest.approx(errors.mean())
    assert metrics["eval"][f"routed_p90_{unit}"] == pytest.approx(np.quantile(errors, 0.9))
    points = [
        [[float(row[p + n]) for n in ("latitude", "longitude")] for row in rows] for p in ("", "predicted_")
    ]
    if unit == "m":
        np.testing.assert_allclose(great_circle_m(*map(np.array, points)), errors, atol=1e-6)
    right = np.mean([row["Region_ID"] == row["predicted_region"] for row in rows])
    assert metrics["eval"]["router_accuracy"] == pytest.approx(right)
    assert set(metrics["baseline"]) <= set(metrics["eval"])
    table = read(folder / "evaluation.csv")
    assert [row["region"] for row in table] == ["1", "3", "5", "all"]
    assert sum(int(row["n"]) for row in table[:3]) == len(rows) == metrics["eval"]["n"] == 23


def test_the_map_holds_the_photographs_that_were_asked_for(separate_run):
    page = (separate_run[0] / "map.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3


def test_each_region_and_the_router_have_a_phase_in_the_log(separate_run, planar_run):
    phases = [
        {row["phase"] for row in read(folder / "log_history.csv")} for folder, _ in (separate_run, planar_run)
    ]
    assert phases == [{"region 1", "region 3", "region 5", "router"}, {"all"}]
    losses = [row["point_loss"] for row in read(planar_run[0] / "log_history.csv") if row["point_loss"]]
    assert len(losses) == 3


def test_the_card_shows_the_numbers(separate_run):
    folder, result = separate_run
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: geo-region" in card
    assert "Trained on generated pictures" not in card  # these tables were a user's
    for row in summary_rows(table_of(result), "m"):
        assert f"| {row['region']} " in card
    assert "6 by `mad`" in card
    assert 'model.predict(["photo.jpg"], region="1")' in card
    assert all(f"![{name}]" in card for name in files_of(folder) if name.endswith(".png"))


def test_the_model_is_the_one_that_was_measured(separate_run, samples):
    folder, _ = separate_run
    model = GeoRegionModel.from_pretrained(folder)
    rows = read(folder / "predictions.csv")
    photos = [str(samples("wgs84") / "images_val/images_val" / row["filename"]) for row in rows]
    for answer, row in zip(model.predict(photos), rows, strict=True):
        assert answer.latitude == pytest.approx(float(row["predicted_latitude"]), abs=1e-7)
        assert answer.radius == pytest.approx(float(row["radius_m"]), rel=1e-4)
    for answer, row in zip(model.predict(photos, region=[r["Region_ID"] for r in rows]), rows, strict=True):
        assert answer.longitude == pytest.approx(float(row["given_region_longitude"]), abs=1e-7)


def test_evaluating_the_folder_again_gives_the_same_numbers(separate_run, samples, tmp_path):
    folder, _ = separate_run
    model = GeoRegionModel.from_pretrained(folder)
    reported = json.loads((folder / "metrics.json").read_text())["eval"]
    found = model.evaluate(samples("wgs84"), batch_size=8)
    assert "center_mean_m" not in found
    for name, value in found.items():
        assert value == pytest.approx(reported[name], rel=1e-4), name
    table = shutil.copy(samples("wgs84") / "labels_train.csv", tmp_path)
    change(table, 0, Region_ID="9")
    with pytest.raises(DataError, match="row 2: "):
        model.evaluate(table)


@pytest.mark.parametrize(
    ("run", "columns"), [("separate_run", "latitude radius_m"), ("planar_run", "planar_latitude")]
)
def test_answers_go_into_a_file(run, columns, request, photos, tmp_path):
    model = request.getfixturevalue(run)[1].model
    assert model.predict_to_file(photos[:3], tmp_path / "answers.csv", region="3") == 3
    rows = read(tmp_path / "answers.csv")
    assert set(columns.split()) <= set(rows[0])
    assert [row["region"] for row in rows] == ["3"] * 3
    if run == "planar_run":  # such coordinates have no place on a map of the earth
        with pytest.raises(DataError, match="no places in degrees"):
            model.predict_to_file(photos[:3], tmp_path / "answers.geojson")


# --- the Hub, and the pipeline ---


def test_a_fresh_process_loads_it_by_name(separate_run, photos, hub, tmp_path):
    folder, _ = separate_run
    model = GeoRegionModel.from_pretrained(folder)
    model.push_to_hub("org/geo-region")
    names = set(HfApi().list_repo_files("org/geo-region"))
    assert {"config.json", "model.safetensors", "README.md", "preprocessor_config.json", "map.html"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pkl", ".joblib", ".pt", ".py"))]
    report = tmp_path / "report.json"
    words = ["org/geo-region", json.dumps(photos), str(report), str(torch.get_num_threads())]
    done = subprocess.run([sys.executable, "-c", FRESH, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    expected = [asdict(answer) for region in (None, "3") for answer in model.predict(photos, region=region)]
    assert found["answers"] == expected
    assert found["regions"] == {"1": 0, "3": 1, "5": 2}
    assert found["heavy"] == []


def test_the_pipeline_answers_like_the_model(separate_run, photos):
    folder, _ = separate_run
    model = GeoRegionModel.from_pretrained(folder)
    locate = pipeline("geo-region", model=str(folder))
    expected = [asdict(answer) for answer in model.predict(photos[:3], batch_size=1)]
    assert [locate(path) for path in photos[:3]] == expected
    for found in (locate(photos[:3]), locate(photos[:3], batch_size=2)):
        np.testing.assert_allclose(
            [a["latitude"] for a in found], [a["latitude"] for a in expected], atol=1e-7
        )
    given = locate({"image": photos[0], "region": "5"}, top_k=1)
    assert given["regions"] == [{"name": "5", "probability": 1.0}]


def test_everything_is_found_by_name():
    assert geohf.GeoRegionModel is GeoRegionModel
    assert geohf.GeoRegionTrainer is GeoRegionTrainer
    assert geohf.RegionTrainingArguments is RegionTrainingArguments


# --- the recipe ---


def recipe(folder, *words):
    command = [
        sys.executable,
        str(RECIPE),
        "--use_cpu",
        "true",
        "--output_dir",
        str(folder),
        *map(str, words),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder.parent)


@pytest.mark.slow
def test_the_recipe_runs_without_arguments_but_for_its_size(tmp_path):
    done = recipe(tmp_path / "out", "--sample_size", 40, "--num_train_epochs", 1, "--experts", "shared")
    assert done.returncode == 0, done.stderr
    assert "| constant baseline" in done.stdout
    assert "Open README.md" in done.stdout
    assert "Trained on generated pictures" in (tmp_path / "out/README.md").read_text()
    assert (tmp_path / "region-sample-wgs84/labels_train.csv").is_file()


def words_of(sample, frame):
    options = options_of(sample)
    words = [
        f"--{name}={getattr(options, name)}" for name in ("train_csv", "train_dir", "val_csv", "val_dir")
    ]
    return [
        *words,
        f"--exclude={options.exclude[0]}",
        f"--frame={frame}",
        "--min_rows=10",
        "--use_cpu",
        "true",
    ]


def change(table, row, **cells):
    """Change cells of a row of a table, in place."""
    rows = read(table)
    rows[row] |= cells
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def of_unseen_region(sample):
    change(sample / "labels_val.csv", -1, Region_ID="9")


def without_number(sample):
    change(sample / "labels_train.csv", 3, latitude="nan")


def without_image(sample):
    change(sample / "labels_train.csv", 4, filename="nowhere.jpg")


def twice(sample):
    change(sample / "labels_train.csv", 5, filename=read(sample / "labels_train.csv")[0]["filename"])


@pytest.mark.parametrize(
    ("frame", "declared", "damage", "more", "message"),
    [
        ("planar", "wgs84", None, [], "declare frame='planar'"),
        ("wgs84", "planar", None, [], "declare frame='wgs84'"),
        ("wgs84", "wgs84", of_unseen_region, [], "no training row is of region '9'"),
        ("wgs84", "wgs84", without_number, [], "labels_train.csv, row 5: latitude nan is not finite"),
        ("wgs84", "wgs84", without_image, [], "nowhere.jpg: cannot be read"),
        ("wgs84", "wgs84", twice, [], "stands in rows 2, 7 with different labels"),
        ("wgs84", "wgs84", None, ["--dbscan_eps=0.5"], "leave none of 120 training rows"),
        ("wgs84", "wgs84", None, ["--scaler=quantile"], "scaler must be one of robust, standard, minmax"),
        ("wgs84", "wgs84", None, ["--point_loss=euclidean"], "mse, haversine with frame wgs84"),
        ("wgs84", "wgs84", None, ["--on_error=ignore"], "on_error must be one of raise, skip"),
        ("wgs84", "wgs84", None, ["--radius_coverage=90"], "radius_coverage must be above 0 and below 1"),
        ("wgs84", "wgs84", None, ["--augment=wild"], "augment must be one of none, light, full"),
        ("wgs84", "wgs84", None, ["--num_train_epoch=1"], "did you mean 'num_train_epochs'?"),
        ("planar", "planar", None, ["--config={folder}/own.yaml"], "unknown key 'epochs'"),
    ],
)
def test_every_bad_input_ends_the_recipe(
    samples, tmp_path, frame, declared, damage, more, message, monkeypatch, capsys
):
    sample = shutil.copytree(samples(frame), tmp_path / "sample")
    (tmp_path / "own.yaml").write_text("epochs: 3\n")
    if damage:
        damage(sample)
    words = [f"--output_dir={tmp_path / 'out'}", *(word.format(folder=tmp_path) for word in more)]
    monkeypatch.setattr(sys, "argv", ["train_region.py", *words_of(sample, declared), *words])
    with pytest.raises(SystemExit) as ended:
        run_recipe(runpy.run_path(str(RECIPE))["main"])
    error = capsys.readouterr().err.partition("error: ")[2]
    assert ended.value.code == 2
    assert "Traceback" not in error
    assert message in error
    assert not (tmp_path / "out/model.safetensors").exists()


def test_bad_rows_can_be_left_out(samples, tmp_path):
    sample = shutil.copytree(samples("wgs84"), tmp_path / "sample")
    for damage in (of_unseen_region, without_number, without_image, twice):
        damage(sample)
    run, result = small_run(tmp_path, sample, on_error="skip", experts="shared", num_train_epochs=1)
    rows = read(run / "skipped.csv")
    assert [Path(row["source"]).name for row in rows] == ["labels_train.csv"] * 4 + ["labels_val.csv"]
    assert [row["row"] for row in rows][:4] == ["2", "5", "6", "7"]
    assert json.loads((run / "metrics.json").read_text())["skipped"] == 5
    assert table_of(result)[-1]["n"] == 22


def test_the_seeds_settings_are_read():
    parser = GeoArgumentParser(RegionArguments, RegionTrainingArguments)
    options, args = parser.parse(
        [f"--config={ROOT / 'recipes/configs/region.yaml'}", "--use_cpu", "--t_mult=2"]
    )
    assert (options.backbone, options.scaler, options.experts) == ("convnext_small", "robust", "separate")
    assert (options.mad_threshold, options.dbscan_eps, options.min_rows) == (4.0, 50.0, 20)
    assert (args.learning_rate, args.weight_decay, args.num_train_epochs) == (1e-5, 1e-4, 60)
    assert (args.t_0, args.t_mult, args.eta_min, args.early_stopping_patience) == (10, 2, 0.01, 10)
    assert (args.per_device_train_batch_size, args.dataloader_num_workers, args.augment) == (32, 4, "full")


@pytest.mark.parametrize("changes", [{"augment": "wild"}, {"t_mult": 0}, {"eta_min": 2.0}])
def test_wrong_training_arguments_are_refused(changes, tmp_path):
    with pytest.raises(ValueError, match=r"augment must|t_mult at least"):
        RegionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **changes)


def test_a_backbone_that_nobody_knows_is_refused(samples, tmp_path, hub):
    with pytest.raises(DataError, match="no backbone 'convnext_smal'"):
        small_run(tmp_path, samples("wgs84"), backbone="convnext_smal")
