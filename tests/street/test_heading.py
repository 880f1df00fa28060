"""Which way a camera looked: the head, its loss, its numbers, and the map's arrows."""

import json
import math
import re

import numpy as np
import pytest
import torch
from helpers.street_models import build_model, patches

from geohf.metrics.headings import constant_heading, heading_errors, heading_metrics
from geohf.models.heading import degrees_of_directions, heading_loss
from geohf.report.maps import write_map
from geohf.street.answers import StreetPrediction
from geohf.street.outputs import write_predictions


def vectors(degrees):
    at = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([at.sin(), at.cos()], -1)


def test_359_and_1_are_two_degrees_apart():
    assert heading_errors([359.0, 1.0, 0.0, -170.0], [1.0, 359.0, 180.0, 170.0]).tolist() == [2, 2, 180, 20]
    loss = heading_loss(vectors([359.0]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(1 - math.cos(math.radians(2)), abs=1e-6)
    assert heading_loss(vectors([90.0]), torch.tensor([270.0])).item() == pytest.approx(2)


def test_metrics_by_hand_and_rows_without_an_angle():
    found = heading_metrics(
        [[5.0, 200.0], [90.0, 300.0]], [[355.0, 180.0], [math.nan, 60.0]]
    )  # 10, 20, -, 120
    assert found == {
        "heading_mean_deg": pytest.approx(50),
        "heading_median_deg": pytest.approx(20),
        "heading_within_10": pytest.approx(1 / 3),
        "heading_within_30": pytest.approx(2 / 3),
    }
    assert heading_metrics([1.0], [math.nan]) == {}
    assert heading_errors([constant_heading([350.0, 355, 20, math.nan])], [355.0]) <= 5
    assert degrees_of_directions(vectors([0.0, 90, 181, 359.5])).tolist() == pytest.approx(
        [0, 90, 181, 359.5], abs=1e-3
    )


def test_headings_learn_and_rows_without_one_count_for_nothing():
    head = build_model(predict_heading=True).head.eval()
    torch.manual_seed(0)
    features = torch.randn(3, 2, head.config.feature_size)
    headings = torch.tensor([[359.0, math.nan], [math.nan, math.nan], [10.0, 200.0]])
    output = head(features, headings=headings, labels=torch.tensor([0, 1, 2]))
    assert output.directions.shape == (3, 8, 2)
    torch.testing.assert_close(output.directions[:, :2].norm(dim=-1), torch.ones(3, 2))
    assert output.directions[:, 2:].isnan().all()
    cosines = [
        torch.dot(output.directions[i, j], vectors([headings[i, j].item()])[0])
        for i, j in ((0, 0), (2, 0), (2, 1))
    ]
    assert output.loss_parts["heading_loss"].item() == pytest.approx(
        np.mean([1 - c.item() for c in cosines]), rel=1e-5
    )
    batch = {"labels": torch.tensor([0, 1, 2]), "headings": headings}
    assert head.count_loss_items(batch)["heading_loss"] == 3
    output.loss_parts["heading_loss"].backward()
    assert all(p.grad.abs().sum() > 0 for p in head.direct.parameters())
    nothing = head(features, headings=torch.full((3, 2), math.nan), labels=torch.tensor([0, 1, 2]))
    assert nothing.loss_parts["heading_loss"].item() == 0


def test_the_input_heading_does_not_leak_into_the_answer():
    head = build_model(predict_heading=True, heading_aware=True).head.eval()
    features = torch.randn(2, 4, head.config.feature_size)
    a, b = (head(features, headings=torch.full((2, 4), float(h))).directions for h in (0, 90))
    assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_answers_name_a_heading_for_each_view_that_is_there():
    model, photos = build_model(predict_heading=True).eval(), patches(3, 3)
    one, three, gap = model.predict([photos[0], {"views": photos}, {"north": photos[1], "south": None}])
    assert [len(answer.headings) for answer in (one, three, gap)] == [1, 3, 1]
    assert all(0 <= degrees < 360 for degrees in three.headings)
    assert three.headings[0] == pytest.approx(one.headings[0], abs=1e-3)
    assert model.rows_of(one)[0]["heading"] == one.headings[0]
    assert model.rows_of(three)[0]["headings"] == three.headings
    assert build_model().predict(photos[:1])[0].headings == []


def test_negative_headings_are_headings():
    rows = build_model(predict_heading=True).processor([{"image": patches(3, 1)[0], "heading": -90.0}])
    assert rows["headings"].tolist() == [[270.0]]


def test_the_map_draws_an_arrow_where_there_is_one_view(tmp_path):
    answers = [
        StreetPrediction(48.0, 2.0, None, [], headings=[359.0]),
        StreetPrediction(49.0, 2.0, None, [], headings=[0.0, 90.0]),
    ]
    places = {
        "sample_id": ["a", "b"], "state": [None] * 2, "latitude": [48.0, 49.0], "longitude": [2.0, 2.1],
        "headings": [[1.0], [0.0, math.nan]],
    }  # fmt: skip
    write_predictions(tmp_path, places, answers, ["test"] * 2)
    page = (tmp_path / "map.html").read_text()
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert data["headings"] == [359, None]
    table = (tmp_path / "predictions.csv").read_text()
    assert "[359.0],[1.0]" in table
    assert '"[0.0, 90.0]","[0.0, null]"' in table
    with pytest.raises(Exception, match="1 headings for 2 points"):
        write_map(tmp_path / "m.html", [[1.0, 2.0], [3.0, 4.0]], headings=[1.0])
