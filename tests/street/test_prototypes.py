"""Refinement by prototypes inside the best cells."""

import re

import numpy as np
import pytest
import torch
from helpers.street_models import build_model, parse, patches
from PIL import Image

from geohf.data.tables import points_of
from geohf.geo import box, great_circle_m
from geohf.models.prototypes import Prototypes
from geohf.recipes.train_street import run
from geohf.street import GeoStreetConfig


@pytest.fixture
def fitted():
    """Two classes; the first has two groups of places far apart, the second one."""
    found = Prototypes(0, 2)
    points = np.array([[40.0, 0.0], [40.001, 0.0], [42.0, 0.0], [50.0, 10.0], [np.nan, 0.0]])
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 8.0], [9.0, 9.0], [5.0, 5.0]])
    found.fit(features, points, np.array([0, 0, 0, 1, 0]), most=4)
    return found


def test_prototypes_are_means_of_neighbors(fitted):
    assert len(fitted.points) == 3
    order = fitted.points[:, 0].argsort()
    np.testing.assert_allclose(fitted.points[order], [[40.0005, 0], [42, 0], [50, 10]], atol=1e-3)
    assert fitted.features[order].tolist() == [[1, 0], [0, 8], [9, 9]]
    assert fitted.classes[order].tolist() == [0, 0, 1]
    assert fitted.unit.item() == pytest.approx(0.5)  # (1 + 1 + 0 + 0) / 4


def test_the_nearest_one_of_a_probable_class_is_answered(fitted):
    usual = torch.tensor([[41.0, 0.0]])
    near = fitted.refine(torch.tensor([[0.1, 7.0]]), torch.tensor([[0.9, 0.1]]), usual)
    np.testing.assert_allclose(near, [[42.0, 0.0]], atol=1e-5)
    # scores by hand: log .9 - |(.1, 7) - (1, 0)| / .5 and so on
    place, probabilities = torch.tensor([[8.0, 8.0]]), torch.tensor([[0.999, 0.001]])
    scores = [
        np.log(0.999) - np.hypot(7, 8) / 0.5,
        np.log(0.999) - 8 / 0.5,
        np.log(0.001) - np.hypot(1, 1) / 0.5,
    ]
    best = fitted.refine(place, probabilities, usual)
    order = fitted.points[:, 0].argsort()
    np.testing.assert_allclose(best[0], fitted.points[order][int(np.argmax(scores))])


def test_what_is_ruled_out_is_not_answered(fitted):
    place, usual = torch.tensor([[9.0, 9.0]]), torch.tensor([[41.0, 0.0]])
    best = fitted.refine(place, torch.tensor([[1.0, 0.0]]), usual)
    assert best[0, 0] < 45
    inside = fitted.refine(place, torch.tensor([[0.5, 0.5]]), usual, box(41, -1, 43, 1))
    np.testing.assert_allclose(inside, [[42.0, 0.0]], atol=1e-5)
    assert fitted.refine(place, torch.tensor([[0.5, 0.5]]), usual, box(0, 0, 1, 1)).tolist() == usual.tolist()


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(Exception, match="refine needs classes"):
        GeoStreetConfig(refine=2, gps_head="bounded")


def test_a_model_with_prototypes_is_saved_and_answers_alike(tmp_path):
    model = build_model(refine=2).eval()
    photos = patches(1, 12)
    places = model(**model.processor(photos)).place
    points = np.array(model.config.class_centroids)[np.arange(12) % 5] + np.arange(12)[:, None] * 0.1
    model.head.prototypes.fit(places, points, np.arange(12) % 5, 2)
    model.config.prototypes = len(model.head.prototypes.points)
    answers = model.predict(photos)
    known = model.head.prototypes.points.numpy()
    assert all(np.isclose(known, [a.latitude, a.longitude], atol=1e-4).all(1).any() for a in answers)
    pixels = model.processor(photos)["pixel_values"][:, 0]
    with torch.inference_mode():  # what an exported file tells
        points = model.export_outputs(pixels)["coordinates"].numpy()
    np.testing.assert_allclose(points, [[a.latitude, a.longitude] for a in answers], atol=1e-3)
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).predict(photos) == answers


def test_prototypes_are_kept_or_left_out_by_calibrated_probabilities(tmp_path, caplog):
    rows = ["image,latitude,longitude,state"]
    for i, picture in enumerate(patches(3, 60)):
        picture.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{45 + i % 4},{9 + i % 7},{'abcd'[i % 4]}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    options, args = parse(
        *("--data", tmp_path / "table.csv", "--backbone", "test_resnet", "--pretrained", "false", "--image_size", 32),
        *("--finetune", "none", "--head_min_steps", 40, "--split", "random", "--refine", 4, "--place_radius_m", 0),
        *("--output_dir", tmp_path / "run", "--validation_share", 0.3, "--point_estimate", "mean"),
    )  # fmt: skip
    with caplog.at_level("INFO"):
        trainer = run(options, args)
    told = re.search(r"prototypes: validation places [^\d]*(\d+) to (\d+) km", caplog.text)
    trainer.model.config.prototypes = 0
    assert trainer.model.config.temperature != 1.0
    validation = trainer.eval_dataset
    answers = trainer.model.decode(trainer.outputs(validation))
    found = np.array([[a.latitude, a.longitude] for a in answers])
    assert int(told[1]) == pytest.approx(great_circle_m(found, points_of(validation)).mean() / 1000, abs=0.51)


@pytest.mark.slow
def test_a_fine_position_in_the_picture_is_found_inside_the_cells(tmp_path):
    """Two wide cells; how bright a picture is says where in the cell it was taken, in four places."""
    rng, rows = np.random.default_rng(0), ["image,latitude,longitude,state"]
    for i in range(320):
        state, spot = i % 2, i // 2 % 4
        color = np.array([(220, 60, 60), (60, 60, 220)][state]) * (0.4 + 0.2 * spot)
        pixels = np.clip(color + rng.normal(0, 6, (32, 32, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.png")
        point = np.array([40.0 + 6 * (spot % 2), -100.0 + 25 * state + 9 * (spot // 2)]) + rng.normal(
            0, 1e-3, 2
        )
        rows.append(f"{i}.png,{point[0]:.6f},{point[1]:.6f},{('Left', 'Right')[state]}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    medians = {}
    for most in (0, 8):
        options, args = parse(
            *("--data", tmp_path / "table.csv", "--backbone", "test_resnet", "--pretrained", "false", "--image_size", 32),
            *("--finetune", "none", "--head_min_steps", 60, "--refine", most, "--output_dir", tmp_path / f"run{most}"),
            *("--report_to", "none", "--point_estimate", "top", "--place_radius_m", 0),
        )  # fmt: skip
        trainer = run(options, args)
        answers = trainer.evaluated.predictions
        truth = trainer.evaluated.details["truth"]
        found = np.array([[a.latitude, a.longitude] for a in answers])
        medians[most] = np.median(great_circle_m(found, truth))
    assert trainer.model.config.prototypes == 8
    assert medians[8] < 0.8 * medians[0]
    assert medians[8] < 5000
    assert "prototypes" in (tmp_path / "run8/README.md").read_text()
