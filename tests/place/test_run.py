"""Whole runs: they learn, they leave what a person looks for, and their models live on elsewhere."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from geohf.errors import DataError
from geohf.place import GeoPlaceModel, PlaceIndex
from geohf.place.comparison import comparison_rows
from geohf.place.logs import COLUMNS

FRESH = """
import json, sys
import geohf
import numpy as np
from transformers import AutoImageProcessor, AutoModel, pipeline

repo, photos, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
model = AutoModel.from_pretrained(repo)
np.save(out, model.encode(photos))
answer = pipeline("place-recognition", model=repo)(photos[0])
print(json.dumps([type(model).__name__, type(AutoImageProcessor.from_pretrained(repo)).__name__, len(answer["descriptor"])]))
"""


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_training_beats_the_frozen_tower_and_the_original_recipe(trained):
    _, result = trained
    ours, original = result.runs
    assert ours.method == "ours"
    assert ours.trained.metrics["r5"] > ours.baseline.metrics["r5"] + 0.15
    assert ours.trained.metrics["r5"] > original.trained.metrics["r5"]
    assert ours.trained.metrics["r1_low"] <= ours.trained.metrics["r1"] <= ours.trained.metrics["r1_high"]
    assert [row["stage"] for row in comparison_rows(result.runs)] == [
        "frozen",
        "trained",
        "trained by the original recipe",
    ]


def test_a_run_leaves_everything(trained):
    folder, result = trained
    expected = {
        *("config.json", "model.safetensors", "preprocessor_config.json", "README.md", "metrics.json"),
        *("predictions.csv", "predictions.geojson", "map.html", "index.parquet", "log_history.csv"),
        *("answers.png", "error_cdf.png", "error_map.png", "learning_curves.png", "comparison.csv"),
    }
    assert expected <= {path.name for path in folder.iterdir()}
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".npy")]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["eval"]["r1"] == result.kept.trained.metrics["r1"]
    assert metrics["baseline"]["r1"] == result.kept.baseline.metrics["r1"]
    assert metrics["leaks"] == []
    assert {name for name in metrics["eval"] if name.startswith("recall@1_")} == {
        f"recall@1_{rule}_{m}m" for rule in ("has_match", "all") for m in (10, 25, 50)
    }
    answers = rows_of(folder / "predictions.csv")
    assert len(answers) == metrics["eval"]["queries"]
    right = np.mean([row["right"] == "True" for row in answers])
    assert right == pytest.approx(metrics["eval"]["recall@1_all_25m"])
    assert not any(Path(row["image"]).is_absolute() for row in answers)


def test_the_seeds_logs(trained):
    folder, _ = trained
    logs = sorted((folder / "logs").glob("test_resnet_seed42_2*.csv"))
    assert len(logs) == 1
    rows = rows_of(logs[0])
    assert tuple(rows[0]) == COLUMNS
    by_event = {
        event: [row for row in rows if row["event"] == event] for event in ("batch", "epoch", "validation")
    }
    assert len(by_event["epoch"]) == len(by_event["validation"]) == 12
    of_epoch = [float(row["train_loss"]) for row in by_event["batch"] if 2 < float(row["epoch"]) <= 3]
    assert float(by_event["epoch"][2]["avg_train_loss"]) == pytest.approx(np.mean(of_epoch), rel=1e-5)
    batch = by_event["batch"][0]
    total = float(batch["contrastive_loss"]) + 0.3 * float(batch["triplet_loss"])
    assert float(batch["train_loss"]) == pytest.approx(total, rel=1e-5)
    assert all(
        0 <= float(row["val_r1"]) <= float(row["val_r5"]) <= float(row["val_r10"])
        for row in by_event["validation"]
    )
    summary = rows_of(folder / "logs" / "training_summary.csv")
    assert [row["method"] for row in summary] == ["ours", "original"]
    assert float(summary[0]["best_val_r1"]) == max(float(row["val_r1"]) for row in by_event["validation"])
    assert len(list((folder / "plots").glob("*_plots.png"))) == 2


def test_the_card_states_recall_threshold_rule_and_database(trained):
    folder, result = trained
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "place-recognition"
    assert card.data.eval_results[0].metric_value == result.kept.trained.metrics["r1"]
    for words in (
        "| 25 m      | has_match |",
        "| 25 m      | all",
        "the whole drive noon",
        "95 % interval",
        "found none",
    ):
        assert words in card.text


def test_the_index_of_a_run_finds_its_queries(trained, drives):
    folder, result = trained
    model = GeoPlaceModel.from_pretrained(folder)
    found = result.kept.trained
    answers = rows_of(folder / "predictions.csv")[:4]
    root = drives / "images" / "front_left_center"
    predicted = model.predict([root / row["image"] for row in answers], index=folder / "index.parquet")
    assert [p.answers[0].image for p in predicted] == [row["answer"] for row in answers]
    assert len(PlaceIndex.load(folder / "index.parquet")) == len(found.database)
    confidences = [float(row["confidence"]) for row in answers]
    assert [p.confidence for p in predicted] == pytest.approx(confidences, abs=1e-4)


def test_pushed_and_loaded_by_name_in_a_fresh_process(hub, trained, photos, run_python, tmp_path):
    folder, _ = trained
    model = GeoPlaceModel.from_pretrained(folder)
    model.push_to_hub("org/geo-place")
    files = hub.files("org/geo-place") if hasattr(hub, "files") else None
    out = tmp_path / "descriptors.npy"
    names = [str(photo) for photo in photos]
    said = run_python(FRESH, "org/geo-place", json.dumps(names), out)
    assert json.loads(said.strip().splitlines()[-1]) == [
        "GeoPlaceModel", "GeoPlaceImageProcessor", model.config.descriptor_size
    ]  # fmt: skip
    assert np.abs(np.load(out) - model.encode(names)).max() < 1e-6
    card = ModelCard.load("org/geo-place")
    assert "has_match" in card.text
    assert files is None or not [name for name in files if name.endswith((".py", ".bin", ".parquet"))]


# ---- other ways to run


def test_a_trained_model_is_measured_as_it_is(trained, small_run, drives, tmp_path):
    folder, result = trained
    again = small_run(tmp_path / "again", models=[str(folder)], num_train_epochs=0)
    assert again.kept.trained.metrics == result.kept.trained.metrics
    assert again.kept.history == []


def test_a_frozen_tower_alone_is_measured_without_a_head(trained, small_run, tmp_path):
    result = small_run(tmp_path, num_train_epochs=0, pooling="avg")
    assert result.kept.trained.metrics == result.kept.baseline.metrics
    with pytest.raises(DataError, match="has nothing to learn"):
        small_run(tmp_path, pooling="avg", projection_dim=0)


def test_several_models_and_seeds_in_one_command(small_run, tmp_path):
    result = small_run(
        tmp_path, pooling="gem", projection_dim=32, seeds=[1, 2], num_train_epochs=1, whitening_dim=16
    )
    assert [run.label for run in result.runs] == ["test_resnet_seed1", "test_resnet_seed2"]
    rows = rows_of(tmp_path / "comparison.csv")
    assert [(row["seed"], row["stage"]) for row in rows] == [
        ("", "frozen"),
        ("1", "trained"),
        ("2", "trained"),
    ]
    for run in result.runs:
        loaded = GeoPlaceModel.from_pretrained(tmp_path / "trained_models" / run.label)
        assert loaded.config.descriptor_size == 16
    best = max(result.runs, key=lambda run: run.validation_r1)
    assert result.kept is best


@pytest.mark.parametrize("how", ["last", "lora"])
def test_the_tower_learns_when_asked(small_run, tmp_path, how):
    result = small_run(
        tmp_path,
        models=["test_vit"],
        image_size=160,
        pooling="cls",
        projection_dim=16,
        num_train_epochs=1,
        finetune=how,
        finetune_epochs=1,
        finetune_blocks=1,
        feature_batch_size=128,
    )
    from transformers import set_seed

    from geohf.place.arguments import PlaceArguments
    from geohf.place.experiment import make_model

    set_seed(42)
    start = make_model(
        "test_vit", PlaceArguments(pretrained=False, image_size=160, pooling="cls", projection_dim=16)
    ).tower.state_dict()
    changed = {
        name for name, tensor in result.kept.model.tower.state_dict().items() if not tensor.equal(start[name])
    }
    assert changed
    if how == "last":
        assert not any(".blocks.0." in name for name in changed)
    else:
        assert all(".attn." in name or ".mlp." in name for name in changed)
        assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert {row["phase"] for row in result.kept.history} == {"head", "finetune"}
    assert not any(parameter.requires_grad for parameter in result.kept.model.tower.parameters())


def test_tables_that_cannot_be_used(small_run, drives, tmp_path):
    noon = str(drives / "noon" / "poses.csv")
    with pytest.raises(DataError, match="is a single drive; a second one has to ask"):
        small_run(tmp_path, train_csv=[noon])
    few = drives / "few.csv"
    lines = Path(noon).read_text().splitlines()
    few.write_text("\n".join(lines[:6]))
    with pytest.raises(DataError, match="the 10 best answers: the database holds 5 images"):
        small_run(tmp_path, train_csv=[str(few)], test_csv=[str(drives / "dusk" / "poses.csv")])
    shifted = drives / "far.csv"  # the same drive in another zone
    shifted.write_text("\n".join(line.replace(",-115.", ",-109.") for line in lines))
    with pytest.raises(DataError, match="are they in another UTM zone"):
        small_run(tmp_path, train_csv=[str(drives / "dusk" / "poses.csv")], test_csv=[str(shifted)])
    sparse = drives / "sparse.csv"
    sparse.write_text("\n".join(lines[:1] + lines[1::15]))
    with pytest.raises(DataError, match="no two of the 14 training images lie within 25 m"):
        small_run(tmp_path, train_csv=[str(sparse)], test_csv=[str(drives / "dusk" / "poses.csv")])


def test_the_recipe_says_what_is_wrong_and_ends_with_2(tmp_path):
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "train_place.py"
    done = subprocess.run(
        [sys.executable, recipe, "--train_csv", "nowhere.csv", "--output_dir", tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: nowhere.csv: no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_config_file_of_the_seed_is_valid():
    from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
    from geohf.training.arguments import GeoArgumentParser

    path = Path(__file__).resolve().parents[2] / "recipes" / "configs" / "place.yaml"
    options, args = GeoArgumentParser(PlaceArguments, PlaceTrainingArguments).parse(["--config", str(path)])
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.learning_rate) == (15, 32, 1e-4)
    assert (options.triplet_weight, options.temperature, options.margin) == (0.3, 0.07, 0.5)
    assert args.full_determinism
