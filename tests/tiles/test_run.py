"""Whole runs: what they leave, what they beat, and that leaks show."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from geohf import DataError, TileSequenceModel
from geohf.recipes import train_tiles
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.sample import write_sample
from geohf.tiles.table import load_tiles


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("tiles") / "sample", seed=1, size=7)


def run(sample, folder, training=None, **options):
    settings = {"data": str(sample / "tiles.csv"), "hidden_sizes": [16]} | options
    args = TileTrainingArguments(
        output_dir=str(folder / "out"),
        cache_dir=str(sample.parent / "cache"),
        cache_workers=1,
        use_cpu=True,
        disable_tqdm=True,
        **{"num_train_epochs": 1, "learning_rate": 5e-3, "per_device_train_batch_size": 32}
        | (training or {}),
    )
    return train_tiles.run(TileArguments(**settings), args)


def test_the_sample_is_the_seeds_layout(sample):
    table = load_tiles(sample / "tiles.csv", sample / "Images", range(2016, 2023))
    assert len(table) == 7 * 64
    assert set(map(tuple, table.sizes.tolist())) == {(31, 31), (31, 32), (32, 31), (32, 32)}
    assert [row.count(None) for row in table.files] == [1, 0, 0, 0, 0, 0, 0]
    assert table.files[0][2] is None
    with rasterio.open(sample / "Images" / "2022" / "1201.tif") as raster:
        pixels = raster.read()
    x0, y0, x1, y1 = table.boxes[64]
    built = (pixels == np.array([196, 40, 27])[:, None, None]).all(0)
    cloud = (pixels == 0).all(0)[y0:y1, x0:x1].mean()
    assert abs(built[y0:y1, x0:x1].mean() - table.values[64, -1, 0]) <= cloud + 1e-6
    growth = np.diff(table.values[..., 0], axis=1)
    assert growth.min() >= 0
    assert growth.mean() > 0.01


@pytest.fixture(scope="module")
def forecast(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecast")
    return folder, run(sample, folder, {"num_train_epochs": 6})


def test_a_forecast_beats_persistence_and_trend_on_held_out_regions(sample, forecast):
    folder, result = forecast
    numbers = result.evaluated.values_by_name
    assert result.data_facts(result.evaluated, "tiles")["split_name"] == "test"
    assert numbers["skill_persistence"] > 0.25
    assert numbers["skill_trend"] > 0.25
    assert numbers["r2_rate"] > 0
    folder = folder / "out"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["eval"] == numbers
    assert metrics["baseline"]["skill_persistence"] == 0
    assert "2021, 2022 (read as years)" in (folder / "README.md").read_text()
    left = {path.name for path in folder.iterdir()}
    assert left >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "metrics_by_region.csv",
        "metrics_by_year.csv",
        "predictions.csv",
        "predictions.geojson",
        "tile_errors.png",
        "filmstrip.png",
        "learning_curves.png",
        "log_history.csv",
        "mosaics",
    }
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    held = {row["region_id"] for row in rows}
    assert len(rows) == metrics["split"]["test"]
    # the saved model says the same from the files themselves
    row = next(r for r in rows if r["label_id"] == "2022" and r["region_id"] != "1200")
    box = tuple(int(n) for n in row["region_coordinates"].strip("()").split(","))
    years = []
    for year in range(2016, 2022):
        with rasterio.open(sample / "Images" / str(year) / f"{row['region_id']}.tif") as raster:
            years.append(raster.read().transpose(1, 2, 0)[box[1] : box[3], box[0] : box[2]])
    model = TileSequenceModel.from_pretrained(folder)
    answer = model.predict([{"frames": years, "last_values": float(row["last_target"])}])[0]
    assert answer.values["target"] == pytest.approx(float(row["predicted_target"]), abs=1e-5)
    assert answer.low["target"] == pytest.approx(float(row["low_target"]), abs=1e-5)
    # mosaic and areas lie where the images lie
    region = min(held)
    with (
        rasterio.open(folder / "mosaics" / f"{region}.tif") as mosaic,
        rasterio.open(sample / "Images" / "2022" / f"{region}.tif") as image,
    ):
        assert (mosaic.transform, mosaic.crs, mosaic.shape) == (image.transform, image.crs, image.shape)
        cells = {
            r["region_coordinates"]: r for r in rows if r["region_id"] == region and r["label_id"] == "2022"
        }
        x0, y0, x1, y1 = (int(n) for n in next(iter(cells)).strip("()").split(","))
        wanted = float(next(iter(cells.values()))["predicted_target"])
        assert mosaic.read(1)[y0:y1, x0:x1] == pytest.approx(wanted, abs=1e-6)
    features = json.loads((folder / "predictions.geojson").read_text())["features"]
    longitude, latitude = np.array(features[0]["geometry"]["coordinates"][0]).T
    assert 8.9 < longitude.min() < longitude.max() < 9.3
    assert 44.9 < latitude.min() < latitude.max() < 45.3


def test_the_saved_model_measures_a_table_as_the_run_did(sample, forecast, tmp_path):
    out = forecast[0] / "out"
    held = pd.read_csv(out / "predictions.csv").region_id.unique()
    frame = pd.read_csv(sample / "tiles.csv")
    frame[frame.region_id.isin(held)].to_csv(tmp_path / "tiles.csv", index=False)
    (tmp_path / "Images").symlink_to(sample / "Images")
    metrics = TileSequenceModel.from_pretrained(out).evaluate(tmp_path / "tiles.csv")
    wanted = pd.read_csv(out / "metrics_by_year.csv").set_index("group").loc[2022]
    for name in ("mae", "r2_rate", "skill_persistence"):
        assert metrics[name] == pytest.approx(wanted[name], rel=1e-4)
    without = frame[frame.region_id.isin(held) & (frame.label_id == 2022)]
    without.to_csv(tmp_path / "tiles.csv", index=False)
    with pytest.raises(DataError, match="has no value before the last label"):
        TileSequenceModel.from_pretrained(out).evaluate(tmp_path / "tiles.csv")


def test_a_finished_run_that_is_resumed_only_measures_again(sample, forecast):
    folder, first = forecast
    weights = (folder / "out" / "model.safetensors").read_bytes()
    again = run(sample, folder, {"num_train_epochs": 6, "resume_from_checkpoint": "true"})
    assert again.evaluated == first.evaluated
    assert (folder / "out" / "model.safetensors").read_bytes() == weights


def test_bad_rows_are_skipped_and_listed(sample, tmp_path):
    frame = pd.read_csv(sample / "tiles.csv")
    frame.loc[(frame.tile_id == frame.tile_id[0]), "region_coordinates"] = "(240, 0, 280, 31)"
    frame.to_csv(tmp_path / "tiles.csv", index=False)
    options = {"data": str(tmp_path / "tiles.csv"), "image_dir": str(sample / "Images")}
    with pytest.raises(DataError, match="tile \\(240, 0, 280, 31\\) reaches out of its image"):
        run(sample, tmp_path, **options)
    run(sample, tmp_path, on_error="skip", split="random", allow_leaks=True, target_years=1, **options)
    skipped = pd.read_csv(tmp_path / "out" / "skipped.csv")
    assert len(skipped) == 1
    assert "reaches out of its image" in skipped.reason[0]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["skipped"] == 1
    assert "these numbers flatter" in (tmp_path / "out" / "README.md").read_text()


def test_several_targets_each_have_their_numbers(sample, tmp_path):
    frame = pd.read_csv(sample / "tiles.csv")
    frame["half"] = 100 - 50 * frame["target"]
    frame.to_csv(tmp_path / "tiles.csv", index=False)
    options = {"data": str(tmp_path / "tiles.csv"), "image_dir": str(sample / "Images")}
    result = run(sample, tmp_path, targets=["target", "half"], target_years=1, **options)
    numbers = result.evaluated.baseline
    assert numbers["half_mae"] == pytest.approx(50 * numbers["target_mae"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| model: half" in card
    frame = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert (frame.low_half < frame.predicted_half).all()


@pytest.mark.slow
def test_the_recipe_says_in_one_line_what_is_wrong(tmp_path):
    recipe = Path(__file__).parents[2] / "recipes" / "train_tiles.py"
    done = subprocess.run(
        [sys.executable, recipe, "--data", tmp_path / "no.csv", "--output_dir", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "no.csv: no such table, and no folder of images either" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_estimate_is_not_a_forecast(sample, forecast, tmp_path):
    estimate = run(sample, tmp_path, {"num_train_epochs": 4}, task="estimate").evaluated
    assert estimate["eval_rmse"] < forecast[1].evaluated["eval_rmse"]
    assert "these numbers are no forecasts" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.case("files-D17")
@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "convgru", "loss": "quantile"},
        {"encoder": "attention", "backbone": "test_resnet", "pretrained": False, "target_years": 1},
        {"target_type": "last-image", "target_years": 1},
        {"predict_change": False, "split": "blocks", "loss": "mae", "peephole": True, "norm": "none"},
    ],
    ids=["gru-quantile", "attention", "last-image", "level-blocks"],
)
def test_other_kinds_of_runs(sample, tmp_path, options):
    result = run(sample, tmp_path, **options)
    numbers = result.evaluated.values_by_name
    assert numbers["psnr" if "target_type" in options else "r2"] > (10 if "target_type" in options else -1)
    assert (tmp_path / "out" / "filmstrip.png").stat().st_size > 1000
    assert "## Use" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.case("files-D16")
def test_real_landsat_mosaics_are_read_as_they_are(shared_data, sample, tmp_path):
    result = run(
        sample,
        tmp_path,
        {"num_train_epochs": 3},
        data=str(shared_data("landsat")),
        target_from="ndvi_fall",
        nir=2,
        red=3,
    )
    assert result.model.config.labels == [str(year) for year in range(1985, 2021, 5)]
    assert result.model.config.bands == 4
    assert result.evaluated["eval_skill_persistence"] > 0.4
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["split"]["how"] == "whole blocks of a region"
    assert metrics["split"]["left_out_for_buffer"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "IMAGES"}, "a folder of images has no targets; say --target_from"),
        ({"task": "forcast"}, "task must be one of forecast, estimate, got 'forcast'"),
        ({"target_from": "ndvi"}, "target_from must be one of ndvi_fall, color_share"),
        ({"target_type": "last-image", "task": "estimate"}, "forecasts"),
        ({"target_years": 9, "split": "random"}, "--allow_leaks"),
        ({"encoder": "attention"}, "--backbone with any timm name"),
        ({"hidden_sizes": [6]}, "hidden_sizes that 4 divides"),
        ({"targets": ["rate"]}, "column 'rate' is missing"),
    ],
)
def test_options_that_cannot_be(sample, tmp_path, options, message):
    options = {k: str(sample / "Images") if v == "IMAGES" else v for k, v in options.items()}
    with pytest.raises(DataError, match=message):
        run(sample, tmp_path, **options)
