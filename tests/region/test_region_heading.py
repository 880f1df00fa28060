"""Which way a photograph looks: read from the table, learned by the router's tower, told in every answer."""

import csv
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.region_models import build_model
from PIL import Image

from geohf.errors import DataError
from geohf.recipes.train_region import make_parser, run
from geohf.region.processing import RegionCollator
from geohf.region.rows import as_photos, headings_of, load_region_table


def paint(angle: float, rng) -> Image.Image:
    """Gray, brighter towards the direction of the camera."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    ramp = x * math.sin(math.radians(angle)) - y * math.cos(math.radians(angle))
    pixels = 120 + 60 * ramp[..., None] + rng.normal(0, 4, (32, 32, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("headings"), np.random.default_rng(0)
    rows = [("filename", "latitude", "longitude", "Region_ID", "angle")]
    for i in range(120):
        angle = float(rng.uniform(-180, 180))
        paint(angle, rng).save(folder / f"{i}.png")
        point = np.array([36.37, 127.36]) + rng.normal(0, 1e-4, 2)
        rows.append((f"{i}.png", *point.round(7), "3", ("", "none", round(angle, 1))[min(i, 2)]))
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


def test_angles_are_read_from_tables_and_own_rows(table):
    model = build_model(predict_heading=True)
    read = load_region_table(table)
    headings = headings_of(read, model.config)
    assert np.isnan(headings[:2]).all()  # an empty cell, and one that is no number
    assert ((headings[2:] >= 0) & (headings[2:] < 360)).all()
    rows = [{"image": "a.png", "region": "3", "latitude": 1.0, "longitude": 2.0, "angle": -90}]
    assert headings_of(as_photos(rows), model.config).tolist() == [270.0]
    assert headings_of(as_photos([{**rows[0], "angle": None, "heading": 5}]), model.config).tolist() == [5.0]
    assert headings_of(read, build_model().config) is None


@pytest.mark.parametrize("more", [{"angle": -90.0}, {"heading": None, "Compass": 270.0}])
def test_headings_of_datasets_and_streams_have_the_names_that_those_of_lists_have(table, more):
    model = build_model(predict_heading=True)
    image = str(table.parent / "0.png")
    row = {"filename": "a", "image": image, "region": "3", "latitude": 1.0, "longitude": 2.0}
    assert headings_of(as_photos(Dataset.from_list([row | more])), model.config).tolist() == [270.0]
    assert RegionCollator(model, ["headings"])([row | more])["headings"].tolist() == [270.0]
    with pytest.raises(DataError, match="row a: a heading is degrees clockwise from north, got 'west'"):
        headings_of(as_photos(Dataset.from_list([row | {"heading": "west"}])), model.config)


def test_rows_without_an_angle_count_for_nothing():
    model = build_model(predict_heading=True).eval()
    pixels, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 0])
    points = torch.tensor(model.scaler.center[[0, 1, 0]])
    headings = torch.tensor([359.0, math.nan, 10.0])
    output = model(pixels, labels=labels, coordinates=points, headings=headings)
    torch.testing.assert_close(output.directions.norm(dim=-1), torch.ones(3))
    at = torch.deg2rad(headings)
    cosines = output.directions[:, 0] * at.sin() + output.directions[:, 1] * at.cos()
    assert output.loss_parts["heading_loss"].item() == pytest.approx(
        1 - cosines[[0, 2]].mean().item(), rel=1e-5
    )
    counts = model.count_loss_items({"labels": labels, "coordinates": points, "headings": headings})
    assert counts["heading_loss"] == 2
    router = model.router_module()
    alone = router(pixels, labels=labels, headings=headings)
    torch.testing.assert_close(alone.loss_parts["heading_loss"], output.loss_parts["heading_loss"])
    torch.testing.assert_close(alone.directions, output.directions)
    assert "heading_loss" not in build_model()(pixels, labels=labels, coordinates=points).loss_parts


def test_answers_tell_the_heading_with_the_region_given_or_not():
    model, photo = build_model(predict_heading=True).eval(), paint(30.0, np.random.default_rng(0))
    routed, given = model.predict(photo)[0], model.predict(photo, region=model.config.regions[0])[0]
    assert 0 <= routed.heading < 360
    assert given.heading == pytest.approx(routed.heading, abs=1e-3)
    assert model.rows_of(routed)[0]["heading"] == routed.heading
    assert build_model().predict(photo)[0].heading is None
    assert "heading" not in build_model().rows_of(build_model().predict(photo)[0])[0]


def test_mirrored_pictures_look_another_way(table, tmp_path):
    with pytest.raises(DataError, match="augment full mirrors"):
        train(table, tmp_path, "--augment", "full")


def train(table, folder, *words):
    words = [
        *("--train_csv", table, "--output_dir", folder / "run", "--predict_heading", "true", "--backbone", "test_resnet"),
        *("--pretrained", "false", "--image_size", 32, "--dbscan_eps", 0, "--num_train_epochs", 25, "--report_to", "none"),
        *("--use_cpu", "--disable_tqdm", "true", "--early_stopping_patience", 0, *words),
    ]  # fmt: skip
    return run(*make_parser().parse([str(word) for word in words]))


@pytest.mark.slow
@pytest.mark.parametrize("experts", ["separate", "shared"])
def test_the_recipe_learns_headings(table, tmp_path, experts):
    trainer = train(table, tmp_path, "--experts", experts, "--augment", "none")
    values, baseline = trainer.evaluated.values_by_name, trainer.evaluated.baseline
    assert values["heading_mean_deg"] < 30 < 60 < baseline["heading_mean_deg"]
    assert values["heading_within_30"] > 0.6
    with open(tmp_path / "run/predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(0 <= float(row["predicted_heading"]) < 360 for row in rows)
    assert '"headings":[' in (tmp_path / "run/map.html").read_text()
    assert "which way the photograph looks" in (tmp_path / "run/README.md").read_text()
