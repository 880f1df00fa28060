"""What a run leaves for people says what went in."""

import csv
import json
import math
import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features

from geohf.street import StatePrediction, StreetPrediction
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.metrics import competition_score, coverage_of, street_intervals
from geohf.street.outputs import _for_map, write_outputs, write_predictions
from geohf.street.places import place_features
from geohf.street.trainer import GeoStreetTrainer

KM_PER_DEGREE = math.pi * 6371.0088 / 180
NAN = math.nan
TRUTH = [[40.123456, -100.654321], [NAN, NAN], [-17.0, -179.5]]
POINTS = [[41.123456, -100.654321], [50.25, 8.5], [-17.0, 179.5]]


def places(truth=TRUTH, states=("Texas", None, "<b>Fiji</b>")):
    columns = {
        "sample_id": ["a", "7", "</script>c"],
        "views": [[{"path": f"{i}.jpg", "bytes": None}] for i in range(3)],
        "headings": [[0.0]] * 3,
        "state": list(states),
        "state_idx": [None] * 3,
        "latitude": [point[0] for point in truth],
        "longitude": [point[1] for point in truth],
    }
    return Dataset.from_dict(columns, features=place_features())


def predictions(radius_m=(5000.0, 250.5, 40.0), states=True):
    names = ["Maine", "Texas", "Fiji"]
    return [
        StreetPrediction(
            *point, radius, [StatePrediction(name, 0.5, 4), StatePrediction("X", 0.1, 5)] * states
        )
        for point, radius, name in zip(POINTS, radius_m, names, strict=True)
    ]


def page_data(path):
    return json.loads(
        re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', path.read_text(), re.S)[1]
    )


def test_the_table(tmp_path):
    write_predictions(tmp_path, places(), predictions(), ["test", "test", "train"])
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample_id"] for row in rows] == ["a", "7", "</script>c"]
    assert [row["split"] for row in rows] == ["test", "test", "train"]
    assert [[float(row["predicted_latitude"]), float(row["predicted_longitude"])] for row in rows] == POINTS
    assert [float(row["radius_m"]) for row in rows] == [5000.0, 250.5, 40.0]
    assert [row["predicted_state"] for row in rows] == ["Maine", "Texas", "Fiji"]
    assert [row["probability"] for row in rows] == ["0.5"] * 3
    assert [row["state"] for row in rows] == ["Texas", "", "<b>Fiji</b>"]
    assert [float(rows[0][name]) for name in ("latitude", "longitude")] == TRUTH[0]
    assert [rows[1][name] for name in ("latitude", "longitude", "distance_m")] == ["", "", ""]
    assert float(rows[0]["distance_m"]) == pytest.approx(KM_PER_DEGREE * 1000, rel=1e-9)
    along = 2 * math.degrees(math.asin(math.cos(math.radians(17)) * math.sin(math.radians(0.5))))
    assert float(rows[2]["distance_m"]) == pytest.approx(along * KM_PER_DEGREE * 1000, rel=1e-9)


def test_the_geojson(tmp_path, caplog):
    write_predictions(tmp_path, places(), predictions(), ["test", "test", "train"])
    assert not caplog.records  # none of its columns is taken for a user's that is replaced
    features = json.loads((tmp_path / "predictions.geojson").read_text())["features"]
    points = [f for f in features if f["properties"]["kind"] == "prediction"]
    assert [f["geometry"]["coordinates"] for f in points] == [point[::-1] for point in POINTS]
    assert [f["properties"]["sample_id"] for f in points] == ["a", "7", "</script>c"]
    assert [f["properties"]["predicted_state"] for f in points] == ["Maine", "Texas", "Fiji"]
    lines = [f for f in features if f["properties"]["kind"] == "error"]
    assert [f["properties"]["row"] for f in lines] == [0, 2]  # the second place has no truth
    assert lines[0]["geometry"]["coordinates"][0] == pytest.approx(TRUTH[0][::-1], abs=1e-7)
    assert lines[0]["geometry"]["coordinates"][-1] == pytest.approx(POINTS[0][::-1], abs=1e-7)
    assert lines[1]["geometry"]["type"] == "MultiLineString"  # cut where the map ends


def test_the_map(tmp_path):
    write_predictions(tmp_path, places(), predictions(), ["test", "test", "train"])
    data = page_data(tmp_path / "map.html")
    assert data["points"] == POINTS
    assert data["truth"] == [TRUTH[0], [None, None], TRUTH[2]]
    assert data["labels"] == ["a", "7", "</script>c"]
    assert data["radius_m"] == [5000.0, 250.5, 40.0]
    assert data["distance_km"][0] == pytest.approx(KM_PER_DEGREE, abs=1e-5)
    assert data["details"]["predicted_state"] == ["Maine", "Texas", "Fiji"]
    assert data["details"]["state"] == ["Texas", None, "<b>Fiji</b>"]
    assert data["details"]["split"] == ["test", "test", "train"]


def test_places_without_truth_states_or_radius(tmp_path):
    """What prediction alone leaves: no errors, no circles."""
    dataset = places([[NAN, NAN]] * 3, [None] * 3)
    write_predictions(tmp_path, dataset, predictions([None] * 3, states=False), ["test"] * 3)
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {
        row[name] for row in rows for name in ("radius_m", "predicted_state", "distance_m", "latitude")
    } == {""}
    features = json.loads((tmp_path / "predictions.geojson").read_text())["features"]
    assert len(features) == 3
    data = page_data(tmp_path / "map.html")
    assert (data["truth"], data["radius_m"]) == (None, None)
    assert list(data["details"]) == ["split"]


def test_coverage_by_hand():
    truth = np.array([[0.0, 0.5], [0.0, 1.5], [NAN, NAN], [0.0, -1.0]])
    degree_m = KM_PER_DEGREE * 1000
    answers = [
        StreetPrediction(0.0, 0.0, radius, []) for radius in (degree_m, degree_m, 9.0, 1.001 * degree_m)
    ]
    assert coverage_of(answers, truth) == pytest.approx(2 / 3)  # 0.5 and 1 within, 1.5 not, one unknown
    assert coverage_of(answers, np.full((4, 2), NAN)) is None
    assert coverage_of([StreetPrediction(0.0, 0.0, None, [])] * 4, truth) is None


def test_coverage_across_the_antimeridian():
    answers = [StreetPrediction(0.0, 179.9, 25_000.0, [])]
    assert coverage_of(answers, np.array([[0.0, -179.9]])) == 1.0
    assert coverage_of(answers, np.array([[0.0, -179.6]])) == 0.0


def test_the_intervals_of_places():
    rng = np.random.default_rng(0)
    n = 200
    labels, truth = rng.integers(0, 5, n), rng.uniform([30, -110], [45, -80], (n, 2))
    logits, points = rng.normal(size=(n, 8)), truth + rng.normal(0, 3, (n, 2))
    found = street_intervals(logits, points, labels, truth)
    top5 = np.argsort(-logits, 1)[:, :5]
    # the spread of a mean of n rows: 1.96 standard errors to either side
    rows = [competition_score(top5[[i]], points[[i]], labels[[i]], truth[[i]]) for i in range(n)]
    low, high = found["score"]
    assert low < competition_score(top5, points, labels, truth) < high
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(rows) / math.sqrt(n), rel=0.15)
    assert found == street_intervals(logits, points, labels, truth)
    unknown = np.where(np.arange(n) < 100, -1, labels)  # rows without a state count for distances only
    some = street_intervals(logits, points, unknown, truth)
    assert some["mean_km"] == found["mean_km"]
    assert some["top1"][1] - some["top1"][0] > found["top1"][1] - found["top1"][0]
    assert set(street_intervals(None, points, labels, truth)) == {"mean_km", "median_km"}


def test_numbers_of_a_class_label_are_names_in_the_table(street_model, photos, tmp_path):
    features = place_features() | {"state": ClassLabel(names=["Maine", "Texas"])}
    columns = {
        "sample_id": ["a", "b"],
        "views": [[str(photo)] for photo in photos[:2]],
        "headings": [[NAN]] * 2,
        "state": [1, 0],
        "state_idx": [None] * 2,
        "latitude": [31.0, 45.0],
        "longitude": [-99.0, -69.0],
    }
    rows = Dataset.from_dict(columns, features=Features(features))
    args = StreetTrainingArguments(output_dir=tmp_path, use_cpu=True, report_to="none")
    validation = rows.select([0, 1])
    trainer = GeoStreetTrainer(street_model(), args, train_dataset=rows, eval_dataset=validation)
    shown, _, splits = _for_map(trainer, trainer.evaluate(validation), limit=4)
    assert shown["state"] == ["Texas", "Maine"] * 2
    assert splits == ["validation"] * 2 + ["train"] * 2


def test_places_trained_by_their_states_alone_are_measured_without_a_baseline(street_model, photos, tmp_path):
    train = [{"image": str(photo), "state": "Texas"} for photo in photos[:2]]
    rows = [row | {"latitude": 31.0, "longitude": -99.0} for row in train]
    args = StreetTrainingArguments(output_dir=tmp_path, use_cpu=True, report_to="none")
    trainer = GeoStreetTrainer(street_model(), args, train_dataset=train, eval_dataset=rows)
    evaluation = trainer.evaluate()
    assert evaluation["eval_median_km"] >= 0
    write_outputs(trainer, tmp_path, evaluation)
    assert (tmp_path / "error_cdf.png").is_file()


def test_validation_places_are_known_again_in_rows_of_ones_own(street_model, photos, tmp_path):
    points = [(31.0, -99.0, "Texas"), (45.0, -69.0, "Ohio")]
    rows = [
        {"image": str(photo), "latitude": north, "longitude": east, "state": state}
        for photo, (north, east, state) in zip(photos, points, strict=False)
    ]
    args = StreetTrainingArguments(output_dir=tmp_path, use_cpu=True, report_to="none")
    train = rows[:1]
    trainer = GeoStreetTrainer(street_model(), args, train_dataset=train, eval_dataset=rows)
    for given in (None, rows):  # Ohio is no state of the model
        facts = trainer.data_facts(trainer.evaluate(given), "places")
        assert (facts["split_name"], facts["chosen_on_held_out"]) == ("validation", True)
    assert trainer.data_facts(trainer.evaluate(train), "places")["split_name"] == "train"
    facts = trainer.data_facts(trainer.evaluate(list(rows)), "places")
    assert (facts["split_name"], facts["chosen_on_held_out"]) == ("test", False)
