"""A street model's density: fitted on validation places, true to its regions, and through every door."""

import json
import re

import numpy as np
import pytest
import torch
from helpers.street_models import build_model, patches
from PIL import Image

from geohf.errors import DataError
from geohf.geo import area_from_geojson
from geohf.metrics.density import credibilities, density_metrics
from geohf.report.answers import write_answers
from geohf.street import GeoStreetModel
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.density import mixture_of, mixtures_of
from geohf.street.head import GeoStreetOutput
from geohf.street.metrics import measure
from geohf.street.outputs import _plot_uncertainty, with_regions, write_predictions
from geohf.street.phase import calibrate
from geohf.street.trainer import GeoStreetTrainer

CENTROIDS = np.array([[45.0, 0.0], [45.0, 10.0], [50.0, 5.0], [40.0, 179.0]])


def dense_model(**fields):
    described = {
        "class_centroids": CENTROIDS.tolist(),
        "class_extents": [[3.0, 4.0], [3.0, 4.0], [1.0, 1.5], [2.0, 2.0]],
        "class_indices": None,
        "id2label": dict(enumerate("abcd")),
        "gps_box": [35.0, -10.0, 55.0, 179.9],
    }
    return build_model(0, density=True, **described, **fields)


def drawn(n, seed):
    """Outputs whose probabilities and points are right: a place is drawn from what is answered."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(4) * 0.5, n)
    label = np.array([rng.choice(4, p=p) for p in probabilities])
    candidates = CENTROIDS + rng.normal(0, 0.5, (n, 4, 2))
    points = candidates[range(n), label] + rng.normal(0, [0.8, 1.2], (n, 2))
    points[:, 1] = (points[:, 1] + 180) % 360 - 180
    outputs = GeoStreetOutput(
        logits=torch.from_numpy(np.log(probabilities)).float(),
        coordinates=torch.zeros(n, 2),
        candidates=torch.from_numpy(candidates).float(),
    )
    return outputs, label, points


@pytest.fixture(scope="module")
def calibrated():
    model = dense_model()
    calibrate(model, *drawn(400, 0))
    return model


def numbers(model, outputs, points, missed):
    shares = (outputs.logits / model.config.temperature).softmax(-1)
    mixtures = mixtures_of(model.config, shares, outputs.candidates)
    return density_metrics(mixtures, points, missed, model.config.region_masses, "km")


def test_regions_hold_as_many_new_places_as_they_say(calibrated):
    outputs, _, points = drawn(1000, 1)
    shares = (outputs.logits / calibrated.config.temperature).softmax(-1)
    found = numbers(calibrated, outputs, points, np.ones(1000))
    assert found["region_90"] == pytest.approx(0.9, abs=0.03)
    assert found["region_50"] == pytest.approx(0.5, abs=0.06)
    assert found["risk_coverage_km"] == pytest.approx(1.0)
    # the scale that was fitted is better than others on places that it never saw
    for scale in (0.3, 3.0):
        other = mixture_of(
            calibrated.config, shares, outputs.candidates, calibrated.config.density_scale * scale
        )
        assert -float(other.log_prob(torch.from_numpy(points[:, None])).mean()) > found["nll"] + 0.1


def test_the_density_is_the_sum_of_classes_and_of_anywhere(calibrated):
    config, probabilities = calibrated.config, torch.tensor([[0.1, 0.2, 0.7, 0.0]])
    mixture = mixture_of(config, probabilities, torch.from_numpy(CENTROIDS)[None])
    assert float(mixture.weights.sum()) == pytest.approx(1.0)
    assert sorted(mixture.weights[0].tolist()) == pytest.approx([0.0, 0.01, 0.099, 0.198, 0.693])
    sigma = config.density_scale * np.radians(np.sqrt((9 + (4 * np.cos(np.radians(45))) ** 2) / 2))
    assert float(mixture.kappas.max()) > float(mixture.kappas[0, 1]) == pytest.approx(1 / sigma**2)
    mixtures = mixtures_of(config, probabilities, torch.from_numpy(CENTROIDS)[None])
    held = credibilities(mixtures, np.array([[50.0, 5.0]]))
    assert held[0] < 0.01


def test_the_numbers_of_an_evaluation_tell_of_the_density(calibrated):
    outputs, labels, points = drawn(60, 2)
    points[3] = np.nan
    answers = calibrated.decode(outputs)
    found = {
        m.name: m.value for m in measure(calibrated.config, outputs, answers, labels, points, intervals=False)
    }
    assert {"nll", "localizability", "region_50", "region_90", "risk_coverage_km"} <= set(found)
    assert found["localizability"] == pytest.approx(
        np.nanmean(np.delete([a.localizability for a in answers], 3))
    )


def test_risk_falls_where_the_sure_places_are_right(calibrated):
    outputs, _, points = drawn(30, 3)
    shares = (outputs.logits / calibrated.config.temperature).softmax(-1)
    sure = mixture_of(calibrated.config, shares, outputs.candidates).localizability().numpy()
    missed = -sure
    found = numbers(calibrated, outputs, points, missed)
    by_hand = [np.mean(sorted(missed)[: k + 1]) for k in range(30)]
    assert found["risk_coverage_km"] == pytest.approx(np.mean(by_hand))


def test_a_saved_model_draws_the_same_regions(calibrated, tmp_path):
    calibrated.save_pretrained(tmp_path)
    loaded, pictures = GeoStreetModel.from_pretrained(tmp_path), patches(3, 2)
    answers = loaded.predict(pictures, regions=True)
    assert answers == calibrated.predict(pictures, regions=True)
    for answer in answers:
        small, large = (area_from_geojson(answer.regions[name]) for name in ("50", "90"))
        inside = small.nearest(np.array([[answer.latitude, answer.longitude]]))
        assert large.contains(inside).all()
        assert set(calibrated.rows_of(answer)[0]) >= {"localizability", "regions"}
    assert calibrated.predict(pictures)[0].regions == {}
    assert calibrated.predict(pictures, states=["a"])[0].localizability > 0


def test_the_map_of_a_run_draws_the_regions_of_the_first_places(calibrated, tmp_path, monkeypatch):
    monkeypatch.setattr("geohf.street.outputs.DRAWN_REGIONS", 6)
    outputs, _, points = drawn(9, 4)
    predictions = with_regions(calibrated.decode(outputs), calibrated.config, outputs)
    assert predictions[0].regions == calibrated.decode(outputs, regions=True)[0].regions
    names = [str(i) for i in range(9)]
    places = {"sample_id": names, "state": [None] * 9, "latitude": points[:, 0], "longitude": points[:, 1]}
    write_predictions(tmp_path, places, predictions, ["test"] * 9)
    data = re.search(
        r'type="application/json"[^>]*>(.*?)</script>', (tmp_path / "map.html").read_text(), re.S
    )[1]
    shown = json.loads(data)["regions"]
    assert [len(one) for one in shown] == [2] * 6 + [0] * 3
    longitude, latitude = predictions[3].regions["90"]["coordinates"][0][0][5]
    assert shown[3]["90"][0][0][5] == [latitude, longitude]
    _plot_uncertainty(tmp_path, predictions, points)
    for name in ("regions.png", "risk_coverage.png"):
        assert Image.open(tmp_path / name).size > (500, 300)


def test_a_map_of_answers_draws_their_regions(calibrated, tmp_path):
    answers = calibrated.predict(patches(3, 2), regions=True)
    write_answers(tmp_path / "a.html", [row for one in answers for row in calibrated.rows_of(one)])
    data = re.search(r'type="application/json"[^>]*>(.*?)</script>', (tmp_path / "a.html").read_text(), re.S)[
        1
    ]
    assert [sorted(one) for one in json.loads(data)["regions"]] == [["50", "90"]] * 2


def test_without_a_density_there_are_no_regions():
    with pytest.raises(DataError, match="no calibrated density, so it draws no regions"):
        build_model().predict(patches(3, 1), regions=True)
    assert build_model().predict(patches(3, 1))[0].localizability is None
    few = dense_model()
    calibrate(few, *drawn(3, 0))
    assert few.config.density_scale is not None
    assert few.config.region_masses is None
    with pytest.raises(DataError, match="no calibrated density"):
        few.predict(patches(3, 1), regions=True)
    with pytest.raises(Exception, match="density needs gps_head 'vmf', or classes"):
        build_model(classes=False, density=True)


def test_what_was_fitted_to_other_weights_is_forgotten(tmp_path):
    fitted = {"temperature": 2.0, "radius_factor": 3.0, "density_scale": 1.0, "region_masses": [0.5, 0.9]}
    model = build_model(density=True, **fitted)
    outputs = GeoStreetOutput(
        logits=torch.randn(2, 5), coordinates=torch.zeros(2, 2), candidates=torch.zeros(2, 5, 2)
    )
    calibrate(model, outputs, np.full(2, -100), np.full((2, 2), np.nan))  # no validation place has a position
    config = model.config
    assert (config.radius_factor, config.density_scale, config.region_masses) == (None, None, None)
    rows = [{"image": p, "state": "Maine", "latitude": 45.0, "longitude": -69.0} for p in patches(3, 8)]
    few = {"head_min_steps": 1, "head_epochs": 1, "head_batch_size": 8, "finetune": "none"}
    args = StreetTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **few)
    model = build_model(density=True, **fitted)
    GeoStreetTrainer(model, args, train_dataset=rows).train()  # without validation places
    assert (model.config.temperature, model.config.radius_factor) == (1.0, None)
    assert model.predict(patches(3, 1))[0].radius_m is None


def test_classes_without_extents_spread_as_the_head_takes_them():
    fitted = {"density": True, "density_scale": 1.0, "region_masses": [0.5, 0.9]}
    found = [
        build_model(class_extents=extents, **fitted).eval().predict(patches(3, 1), regions=True)
        for extents in (None, [[1.0, 1.0]] * 5)
    ]
    assert found[0] == found[1]
