"""A region model's density: fitted on validation photographs, true to its regions, and through every door."""

import json
import re

import numpy as np
import pytest
import torch
from helpers.region_models import WGS84, build_model, small_run
from PIL import Image

from geohf import GeoRegionModel
from geohf.errors import DataError
from geohf.geo import area_from_geojson, great_circle_m
from geohf.region.arguments import RegionArguments
from geohf.region.calibration import calibrate
from geohf.region.decoding import both_answers, weighted_points
from geohf.region.density import mixture_of
from geohf.region.experts import RegionOutput
from geohf.region.metrics import measure
from geohf.region.pipeline import RegionPipeline
from geohf.report.answers import write_answers


def pictures(count):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (count, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((48, 48), Image.Resampling.NEAREST) for one in noise]


def drawn(n, seed):
    """Outputs whose probabilities are right and whose points miss by 20, 30 and 40 m along each axis."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(3, 0.3), n)
    labels = np.array([rng.choice(3, p=p) for p in probabilities])
    scaled = rng.normal(0, 0.5, (n, 3, 2))
    centers, scales = (np.array([one[name] for one in WGS84]) for name in ("center", "scale"))
    truth = centers[labels] + scales[labels] * scaled[range(n), labels]
    meters = rng.normal(0, 1, (n, 2)) * np.array([20.0, 30.0, 40.0])[labels, None]
    truth += meters / 111_195 / np.stack([np.ones(n), np.cos(np.radians(truth[:, 0]))], 1)
    outputs = RegionOutput(
        logits=torch.from_numpy(np.log(probabilities)).float(), scaled=torch.from_numpy(scaled).float()
    )
    return outputs, labels, truth


@pytest.fixture(scope="module")
def calibrated():
    model = build_model(density=True)
    calibrate(model.config, *drawn(600, 0))
    return model


def test_regions_hold_as_many_new_photographs_as_they_say(calibrated):
    config = calibrated.config
    outputs, labels, truth = drawn(1000, 1)
    answers = both_answers(config, outputs, labels, truth)
    found = {m.name: m.value for m in measure(config, answers, intervals=False)}
    for name in ("routed", "given"):
        assert found[f"{name}_region_90"] == pytest.approx(0.9, abs=0.03)
        assert found[f"{name}_region_50"] == pytest.approx(0.5, abs=0.06)
        assert found[f"{name}_risk_coverage_m"] <= found[f"{name}_mean_m"] + 1
    assert found["given_nll"] < found["routed_nll"]
    assert found["given_localizability"] > found["routed_localizability"]
    # the scale that was fitted is better than others on photographs that it never saw
    points, weights = weighted_points(config, *outputs.routed())
    for scale in (0.3, 3.0):
        other = mixture_of(config, points, weights, config.density_scale * scale)
        surprise = -float(other.log_prob(torch.from_numpy(truth[:, None])).mean())
        assert surprise > found["routed_nll"] + 0.1


def test_each_expert_is_spread_by_its_own_error(calibrated):
    config = calibrated.config
    mixture = mixture_of(config, *weighted_points(config, torch.zeros(1, 3), torch.zeros(1, 3, 2)))
    assert mixture.weights[0].tolist() == pytest.approx([0.33, 0.33, 0.33, 0.01])
    sigma_m = (6_371_008.8 / mixture.kappas[0, :3].sqrt()).numpy()
    # medians of two-dimensional normal distributions of 20, 30 and 40 m, times one scale for all
    np.testing.assert_allclose(sigma_m / sigma_m[0], [1.0, 1.5, 2.0], rtol=0.2)
    assert 15 < sigma_m[0] < 30
    assert float(mixture.kappas[0, 3]) == 0.0


def test_a_saved_model_draws_the_same_regions(calibrated, tmp_path):
    calibrated.save_pretrained(tmp_path / "model")
    loaded, photos = GeoRegionModel.from_pretrained(tmp_path / "model"), pictures(2)
    answers = loaded.predict(photos, credible_regions=True)
    assert answers == calibrated.predict(photos, credible_regions=True)
    given = calibrated.predict(photos, region="3", credible_regions=True)
    for answer in given:
        small, large = (area_from_geojson(answer.credible_regions[name]) for name in ("50", "90"))
        at = np.array([[answer.latitude, answer.longitude]])
        assert small.contains(at).all()
        assert large.contains(at).all()
        corners = np.concatenate([ring for rings in large.polygons for ring in rings])
        assert great_circle_m(corners, at).max() < 200
    assert calibrated.predict(photos)[0].credible_regions == {}
    row = calibrated.rows_of(answers[0])[0]
    assert row["credible_regions"] == answers[0].credible_regions
    assert row["localizability"] > 15
    locate = RegionPipeline(model=loaded, image_processor=loaded.processor)
    piped = locate(photos[0], credible_regions=True)
    assert piped["credible_regions"].keys() == {"50", "90"}


def shown(page):
    return json.loads(re.search(r'type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.S)[1])


def test_a_map_of_answers_draws_their_regions_and_takes_names_of_regions_for_none(calibrated, tmp_path):
    for drawn_too, expected in ((True, ["50", "90"]), (False, None)):
        answers = calibrated.predict(pictures(2), credible_regions=drawn_too)
        write_answers(tmp_path / "a.html", [row for one in answers for row in calibrated.rows_of(one)])
        regions = shown(tmp_path / "a.html")["regions"]
        assert regions is None if expected is None else [sorted(one) for one in regions] == [expected] * 2


def test_without_a_density_there_are_no_regions():
    with pytest.raises(DataError, match="no calibrated density, so it draws no credible regions"):
        build_model().predict(pictures(1), credible_regions=True)
    few = build_model(density=True)
    calibrate(few.config, *drawn(3, 0))
    assert few.config.density_scale is not None
    assert few.config.routed_masses is None
    assert few.predict(pictures(1))[0].localizability is not None
    with pytest.raises(DataError, match="no calibrated density"):
        few.predict(pictures(1), credible_regions=True)
    with pytest.raises(DataError, match="density needs frame wgs84"):
        RegionArguments(density=True, frame="planar")
    with pytest.raises(Exception, match="routed_masses must be two numbers between 0 and 1"):
        build_model(density=True, routed_masses=[0.5])
    with pytest.raises(Exception, match="density_scale must be above 0"):
        build_model(density=True, density_scale=-1.0)
    with pytest.raises(Exception, match="density needs frame wgs84"):
        build_model(density=True, frame="planar")


def test_a_run_with_a_density_leaves_its_numbers_plots_and_card(tmp_path, samples, monkeypatch):
    monkeypatch.setattr("geohf.region.outputs.DRAWN_REGIONS", 4)
    small = {"experts": "shared", "density": True, "num_train_epochs": 1}
    folder, trainer = small_run(tmp_path, samples("wgs84"), **small)
    found = json.loads((folder / "metrics.json").read_text())["eval"]
    assert {"routed_nll", "routed_region_50", "routed_region_90", "given_region_90"} <= set(found)
    for name in ("regions.png", "risk_coverage.png"):
        assert Image.open(folder / name).size > (500, 300)
    assert any(shown(folder / "map.html")["regions"])
    assert "localizability" in (folder / "predictions.csv").read_text().splitlines()[0]
    card = (folder / "README.md").read_text()
    assert "credible_regions=True" in card
    assert "![regions.png](regions.png)" in card
    photo = trainer.evaluated.dataset["image"][0]["path"]
    trainer.model.predict_to_file(photo, tmp_path / "a.jsonl", credible_regions=True)
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert row["credible_regions"].keys() == {"50", "90"}
