"""Matching photographs with positions: galleries, the loss, answers, and the doors that lead to them."""

import json
import math
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.street_models import CLASSES, build_model, patches

from geohf.errors import DataError
from geohf.geo import box, great_circle_m
from geohf.street import GeoStreetConfig
from geohf.street.gallery import gallery_of, gallery_points, grid_points
from geohf.street.head import StreetHead
from geohf.street.matching import MatchHead, move

SMALL = {"location_size": 16, "location_hidden_size": 24, "queue_size": 8, "hidden_size": 24}
ALONE = {"gps_head": "gallery", "classes": False}
PLACES = np.array(
    [[36.8, -119.4], [31.5, -99.3], [64.1, -178.5], [45.3, -69.2], [20.3, -156.4], [36.9, -119.5]]
)


def model_of(gallery=PLACES, seed=0, frame="sphere", **fields):
    model = build_model(seed, location_encoder=frame, **(SMALL | fields))
    if gallery is not None:
        model.head.match.set_gallery(gallery)
    return model.eval()


def match_head(seed=0, **fields):
    torch.manual_seed(seed)
    return MatchHead(
        GeoStreetConfig(feature_size=6, location_encoder="sphere", gps_head="gallery", **(SMALL | fields))
    )


# ---- galleries


def test_a_gallery_is_a_table_or_points_each_once(tmp_path):
    table = tmp_path / "gallery.csv"
    table.write_text("LAT,LON\n48.9,2.4\n-12.5,179.9\n48.9,2.4\n")
    expected = [[48.9, 2.4], [-12.5, 179.9]]
    assert gallery_points(table).tolist() == expected
    assert gallery_points(torch.tensor(expected, dtype=torch.float64)).tolist() == expected
    table.write_text("LAT,LON\n1,2\n")
    assert gallery_points(table).tolist() == [[1, 2]]  # the file was changed
    columns = pd.DataFrame({"lon": [2.4, 179.9], "name": ["a", "b"], "lat": [48.9, -12.5]})
    assert gallery_points(columns).tolist() == expected  # by name, in whatever order
    with pytest.raises(DataError, match="gallery: needs a column 'latitude'"):
        gallery_points(columns.drop(columns="lat"))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("48.9,2.4\n98.9,2.4\n", "row 3: latitude 98.9 is outside -90..90"),
        ("48.9,2.4\n8.9,182.4\n", "row 3: longitude 182.4 is outside -180..180"),
        ("48.9,\n", "row 2: is not finite"),
        ("48.9,2.4\n,nan\nx,1\n", "is 'x', which is not a number"),
    ],
)
def test_a_bad_gallery_is_refused_by_file_and_row(tmp_path, rows, says):
    table = tmp_path / "gallery.csv"
    table.write_text("latitude,longitude\n" + rows)
    with pytest.raises(DataError, match=says) as error:
        gallery_points(table)
    assert str(table) in str(error.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([[math.nan, 2.0]], "position 0: is not finite"),
        ([[1.0, 2.0], [-91.0, 2.0]], "position 1: latitude -91 is outside"),
        ([[1.0, 2.0, 3.0]], r"must be \(n, 2\)"),
        (np.zeros((0, 2)), r"must be \(n, 2\)"),
        ("no/such.csv", "no/such.csv"),
        ("cell", "did you mean 'cells'"),
        ("cells", "no classes"),
        ("train", "only training has these places"),
        ("grid:0", "how many kilometers apart"),
        ("grid", "how many kilometers apart"),
        ("grid:0.01", "more than 2,000,000"),
    ],
)
def test_what_is_no_gallery_is_refused(source, says):
    config = GeoStreetConfig(gps_head="bounded", gps_box=[18.0, 172.0, 72.0, -66.0])
    with pytest.raises(DataError, match=says):
        gallery_of(source, config)


def test_a_grid_is_even_and_crosses_the_antimeridian():
    points = grid_points(60, 170, 70, -170, 50)
    assert (points[:, 0] >= 60).all()
    assert (points[:, 0] <= 70).all()
    assert box(60, 170, 70, -170).contains(points).all()
    nearest = np.sort(great_circle_m(points[:, None], points), axis=1)[:, 1]
    assert nearest.min() > 40_000
    assert nearest.max() < 60_000


# ---- the loss


def test_the_loss_is_the_written_out_formula():
    head = match_head(noise_m=0.0, queue_noise_m=0.0).train()
    torch.manual_seed(3)
    embeddings = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    points = torch.tensor(PLACES[:3])
    earlier = torch.tensor(PLACES[3:5])
    with torch.no_grad():
        head.queue[:2] = earlier.float()
    bank = head.encode(torch.cat([points, earlier]).float()).detach()
    cosines = head.logit_scale.exp().item() * (embeddings @ bank.T).double()
    expected = np.mean(
        [-math.log(math.exp(row[i]) / sum(map(math.exp, row))) for i, row in enumerate(cosines.tolist())]
    )
    assert head.loss(embeddings, points).item() == pytest.approx(expected, rel=1e-5)
    # the batch went into the queue, the latest first
    np.testing.assert_allclose(head.queue[:5], np.concatenate([PLACES[:3], PLACES[3:5]]), rtol=1e-6)
    assert head.queue[5:].isnan().all()


def test_rows_without_a_position_count_for_nothing():
    head = match_head(noise_m=0.0).eval()
    torch.manual_seed(3)
    embeddings = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1).requires_grad_()
    points = torch.tensor(PLACES[:4])
    points[2] = math.nan
    kept = [0, 1, 3]
    loss = head.loss(embeddings, points)
    assert loss.item() == pytest.approx(head.loss(embeddings[kept], points[kept]).item(), rel=1e-4)
    loss.backward()
    assert embeddings.grad[2].abs().sum() == 0
    assert head.loss(embeddings, torch.full((4, 2), math.nan)).item() == 0


def test_a_position_within_the_noise_is_no_negative():
    torch.manual_seed(3)
    embeddings = torch.nn.functional.normalize(torch.randn(2, 16), dim=-1)
    points = torch.tensor([[48.0, 2.0], [48.001, 2.0]])  # 111 m apart
    assert match_head(noise_m=150.0).eval().loss(embeddings, points).item() == 0
    assert match_head(noise_m=100.0).eval().loss(embeddings, points).item() > 0


def test_loss_and_answers_are_the_same_under_autocast():
    head = match_head(noise_m=0.0).eval()
    places = torch.tensor(PLACES, dtype=torch.float32)
    head.set_gallery(np.concatenate([PLACES, PLACES + 0.001]))
    embeddings = head.encode(places + 0.0004)
    plain = head.loss(embeddings, places), head.matches(embeddings, k=2)
    with torch.autocast("cpu", torch.bfloat16):
        half = head.loss(embeddings, places), head.matches(embeddings, k=2)
    assert torch.equal(half[0], plain[0])
    assert torch.equal(half[1].points, plain[1].points)


def test_noise_has_its_size_in_meters_everywhere():
    torch.manual_seed(0)
    points = torch.tensor([[70.0, 179.999]], dtype=torch.float64).repeat(20_000, 1)
    moved = move(points, torch.full((20_000,), 500.0))
    away = great_circle_m(points, moved)
    assert away.square().mean().sqrt().item() == pytest.approx(500 * math.sqrt(2), rel=0.03)
    assert (moved[:, 1].abs() <= 180).all()


def test_one_step_lowers_the_loss_and_every_parameter_learns():
    torch.manual_seed(0)
    config = GeoStreetConfig(
        feature_size=6, location_encoder="spherical_harmonics", gps_head="gallery", **SMALL
    )
    head = StreetHead(config).train()
    features, points = torch.randn(6, 2, 6), torch.tensor(PLACES)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-5)
    before = head.eval()(features, coordinates=points).loss
    head.train()(features, coordinates=points).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    optimizer.step()
    assert head.eval()(features, coordinates=points).loss < before
    assert head.count_loss_items({"coordinates": points})["match_loss"] == 6


# ---- answers


def test_answers_are_the_best_of_the_gallery():
    model, photos = model_of(**ALONE), patches(3, 4)
    answers = model.predict(photos, top_k=3)
    output = model(**model.processor(photos))
    assert output.coordinates is None
    bank = torch.nn.functional.normalize(model.head.match.location(torch.tensor(PLACES)), dim=-1)
    expected = (model.head.match.logit_scale.exp() * output.embeddings @ bank.T).softmax(-1)
    for answer, row in zip(answers, expected, strict=True):
        best = row.argsort(descending=True)[:3]
        assert [m.probability for m in answer.matches] == pytest.approx(row[best].tolist(), rel=1e-4)
        found = np.array([[m.latitude, m.longitude] for m in answer.matches])
        np.testing.assert_allclose(found, PLACES[best], rtol=1e-6)
        assert (answer.latitude, answer.longitude) == (found[0, 0], found[0, 1])
        assert answer.states == []


def test_another_gallery_and_an_area_restrict_the_answers(tmp_path):
    model, photos = model_of(**ALONE), patches(3, 5)
    table = tmp_path / "gallery.csv"
    table.write_text("lat,lon\n10,20\n11,21\n-30,60\n")
    answers = model.predict(photos, gallery=table, top_k=5)
    assert all(len(answer.matches) == 3 for answer in answers)
    inside = model.predict(photos, gallery=table, area=box(5, 15, 15, 25))
    assert {(a.latitude, a.longitude) for a in inside} <= {(10, 20), (11, 21)}
    assert all(sum(m.probability for m in a.matches) == pytest.approx(1, abs=1e-5) for a in inside)
    with pytest.raises(DataError, match="no position of the gallery lies within the area"):
        model.predict(photos, area=box(5, 15, 15, 25))


def test_beside_classes_the_gallery_is_asked_for_and_leaves_the_rest_alone():
    model, photos = model_of(radius_factor=2.0, radius_floor_m=1000.0), patches(3, 4)
    usual, asked = model.predict(photos), model.predict(photos, gallery="cells")
    cells = {tuple(point) for point in CLASSES["class_centroids"]}
    for a, b in zip(usual, asked, strict=True):
        assert not a.matches
        assert a.radius_m > 0
        assert b.radius_m is None  # it was calibrated for the other way of answering
        assert (b.latitude, b.longitude) in cells
        assert a.states == b.states
    with pytest.raises(DataError, match="states restrict the classes"):
        model.predict(photos, gallery="cells", states=["Texas"])


def test_a_model_that_does_not_match_says_so():
    with pytest.raises(DataError, match="looks in no gallery"):
        build_model().predict(patches(3, 1), gallery=PLACES)
    with pytest.raises(DataError, match="no gallery of its own"):
        model_of(None, **ALONE).predict(patches(3, 1))


def test_a_gallery_is_encoded_once_for_these_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path))
    model, photos, count = model_of(**ALONE), patches(3, 3), []
    hook = model.head.match.location.register_forward_hook(lambda *_: count.append(1))
    for _ in range(3):
        model.predict(photos)
    assert len(count) == 1
    large = grid_points(20, -120, 50, -70, 60)
    assert len(large) > 4096
    model.predict(photos, gallery=large)
    assert len(count) == 3  # in two parts
    assert len(list((tmp_path / "galleries").iterdir())) == 1
    fresh = deepcopy(model)
    fresh.head.match._encoded = MatchHead(model.config)._encoded
    again = fresh.predict(photos, gallery=large)
    assert len(count) == 3  # from the disk
    assert again == model.predict(photos, gallery=large)
    with torch.no_grad():
        model.head.match.location.scales[0].layers[0].weight.mul_(1.5)
    assert model.predict(photos, gallery=large) != again
    assert len(count) == 5
    hook.remove()


def test_save_and_load_in_a_fresh_process_and_half_precision(tmp_path, run_python):
    model, photos = model_of(**ALONE), patches(3, 2)
    model.save_pretrained(tmp_path / "model")
    photos[0].save(tmp_path / "a.png")
    expected = model.predict(tmp_path / "a.png")[0]
    found = run_python(
        f"""
        import json
        from dataclasses import asdict
        import torch
        import geohf
        from transformers import AutoModel, pipeline
        model = AutoModel.from_pretrained("model")
        answers = [asdict(model.predict("a.png")[0])]
        answers += [pipeline("street-geolocation", model="model")("a.png", gallery={PLACES[:2].tolist()}, top_k=1)]
        half = AutoModel.from_pretrained("model", dtype=torch.bfloat16)
        kept = half.head.match
        assert kept.gallery.dtype == kept.location.scales[0].frequencies.dtype == torch.float32, kept.gallery.dtype
        assert kept.image[0].weight.dtype == torch.bfloat16
        answers += [asdict(half.predict("a.png")[0])]
        print(json.dumps(answers))
        """,
        cwd=tmp_path,
    )
    first, piped, half = json.loads(found.splitlines()[-1])
    assert first["latitude"] == expected.latitude
    assert [m["probability"] for m in first["matches"]] == pytest.approx(
        [m.probability for m in expected.matches], rel=1e-5
    )
    assert len(piped["matches"]) == 1
    assert [piped["latitude"], piped["longitude"]] in PLACES[:2].tolist()
    assert np.isclose(PLACES, [half["latitude"], half["longitude"]]).all(1).any()


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(Exception, match="needs a location_encoder"):
        GeoStreetConfig(gps_head="gallery")
    with pytest.raises(Exception, match="must be at least 0"):
        GeoStreetConfig(queue_size=-1)
