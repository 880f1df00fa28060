"""Indices on disk, and the answers that they give."""

import math
from dataclasses import asdict

import numpy as np
import pyarrow.parquet
import pytest
import torch
from place_models import build_model
from transformers import pipeline

from geohf.errors import DataError
from geohf.place import PlaceIndex
from geohf.place.confidence import confidence, evidence, fit_confidence


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def points():
    return np.stack([36.0 + np.arange(12) * 1e-3, np.full(12, 127.0)], 1)


@pytest.fixture(scope="module")
def index(model, photos, points):
    return PlaceIndex.build(model, photos, points)


@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_an_index_is_saved_whole(index, tmp_path, ending):
    path = tmp_path / f"places.{ending}"
    index.save(path)
    loaded = PlaceIndex.load(path)
    assert torch.equal(loaded.descriptors, index.descriptors)
    assert loaded.points.tolist() == index.points.tolist()
    assert (loaded.images, loaded.model) == (index.images, index.model)


def test_a_parquet_index_is_an_ordinary_table(index, tmp_path, points):
    index.save(tmp_path / "places.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "places.parquet")
    assert table.column_names == ["image", "latitude", "longitude", "descriptor"]
    assert table["latitude"].to_pylist() == points[:, 0].tolist()
    assert np.linalg.norm(table["descriptor"][0].as_py()) == pytest.approx(1, abs=1e-5)


def test_each_photograph_finds_itself_first(model, index, photos, points, tmp_path):
    path = tmp_path / "places.safetensors"
    index.save(path)
    answers = model.predict(photos, batch_size=5, index=path, top_k=3)
    for photo, point, answer in zip(photos, points, answers, strict=True):
        assert (answer.latitude, answer.longitude) == tuple(point)
        assert answer.answers[0].image == str(photo)
        assert answer.answers[0].similarity == pytest.approx(1, abs=1e-5)
        assert [a.similarity for a in answer.answers] == sorted(
            (a.similarity for a in answer.answers), reverse=True
        )
        assert answer.confidence is None  # never fitted
        assert answer.spread_m > 100
    alone = model.predict(photos[0])[0]
    assert alone.answers == []
    assert alone.latitude is None
    assert np.allclose(alone.descriptor, index.descriptors[0], atol=1e-6)


def test_the_pipeline_gives_the_same(model, index, photos, tmp_path):
    model.save_pretrained(tmp_path)
    index.save(tmp_path / "places.parquet")
    ask = pipeline("place-recognition", model=str(tmp_path))
    (found,) = ask([str(photos[3])], index=str(tmp_path / "places.parquet"), top_k=2)
    (expected,) = model.predict([photos[3]], index=index, top_k=2)
    assert np.allclose(found.pop("descriptor"), expected.descriptor, atol=1e-6)
    expected = asdict(expected)
    expected.pop("descriptor")
    assert found["answers"] == [
        answer | {"similarity": pytest.approx(answer["similarity"], abs=1e-6)}
        for answer in expected.pop("answers")
    ]
    assert {name: found[name] for name in expected} == expected
    assert len(ask(str(photos[0]))["descriptor"]) == 256


def test_an_index_of_another_model_is_refused(index, photos):
    with pytest.raises(DataError, match="built with another model, or before this one was trained further"):
        build_model(seed=1).predict(photos[0], index=index)
    with pytest.raises(DataError, match="descriptors of length 256 and this model gives 32"):
        build_model(projection_dim=32).predict(photos[0], index=index)


def test_bad_indices_and_questions(model, index, photos, points, tmp_path):
    with pytest.raises(DataError, match="the 13 best answers: the database holds 12 images"):
        model.predict(photos[0], index=index, top_k=13)
    with pytest.raises(DataError, match="no such index"):
        PlaceIndex.load(tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"ends in \.safetensors or \.parquet"):
        index.save(tmp_path / "places.npz")
    for ending in ("safetensors", "parquet"):
        (tmp_path / f"bad.{ending}").write_bytes(b"no index")
        with pytest.raises(DataError, match=f"bad.{ending}: is no place index"):
            PlaceIndex.load(tmp_path / f"bad.{ending}")
    with pytest.raises(DataError, match="no images to index"):
        PlaceIndex.build(model, [], np.empty((0, 2)))
    with pytest.raises(DataError, match="latitude 127 is outside"):
        PlaceIndex.build(model, photos, points[:, ::-1])
    with pytest.raises(DataError, match="12 descriptors, 11 points and 12 images"):
        PlaceIndex(index.descriptors, points[:-1], index.images, index.model)


# ---- confidence


def test_the_gap_is_to_the_best_answer_from_elsewhere():
    near, far = [36.0, 127.0], [36.1, 127.0]
    found = evidence([[0.9, 0.8, 0.5], [0.9, 0.8, 0.7]], [[near, near, far], [near, near, near]], apart_m=100)
    assert found == pytest.approx(np.array([[0.9, 0.4], [0.9, 0.2]]))


def test_confidence_is_calibrated_on_what_it_was_fitted_on():
    rng = np.random.default_rng(0)
    seen = np.stack([rng.uniform(0.3, 1, 4000), rng.uniform(0, 0.5, 4000)], 1)
    truth = 1 / (1 + np.exp(-(4 * seen[:, 0] + 9 * seen[:, 1] - 5)))
    right = rng.random(4000) < truth
    weights = fit_confidence(seen, right)
    assert np.abs(confidence(seen, weights) - truth).max() < 0.08


def test_too_little_to_fit_gives_no_confidence():
    seen = np.random.default_rng(0).random((100, 2))
    assert fit_confidence(seen[:20], np.arange(20) % 2 == 0) is None
    assert fit_confidence(seen, np.ones(100, bool)) is None


def test_a_fitted_confidence_is_answered(index, photos):
    fitted = build_model(confidence_weights=[2.0, 3.0, -1.0])
    assert fitted.fingerprint() == index.model  # weights alone make a model
    (answer,) = fitted.predict(photos[0], index=index, top_k=5)
    gap = answer.answers[0].similarity - answer.answers[1].similarity  # all places lie 111 m apart
    expected = 1 / (1 + math.exp(-(2 * answer.answers[0].similarity + 3 * gap - 1)))
    assert answer.confidence == pytest.approx(expected, abs=1e-9)
