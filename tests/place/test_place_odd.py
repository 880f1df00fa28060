"""What nobody means to give, and somebody does: an index of one picture, drives that stand, numbers that are none."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, parse, unit, write_csv, write_pictures
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file

from geohf.errors import DataError
from geohf.place import GeoPlaceConfig, PlaceIndex


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, [f"p{i}.png" for i in range(8)])
    return [folder / f"p{i}.png" for i in range(8)]


@pytest.fixture(scope="module")
def model():
    return build_model(pooling="avg", projection_dim=None, seed=1)


@pytest.fixture(scope="module")
def index(model, photos):
    return PlaceIndex.build(model, photos, along(40.0 * np.arange(8)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": True}, "k must be a whole number of at least 1, got True"),
        ({"k": 2.5}, r"k must be a whole number of at least 1, got 2\.5"),
        ({"k": "3"}, "k must be a whole number of at least 1, got '3'"),
        ({"k": None}, "k must be a whole number of at least 1, got None"),
        ({"near": ("a", "b", 3)}, "near must be latitude, longitude and meters above 0"),
        (
            {"near": [(36.0, -115.0, 5.0), (36.0, -115.0)]},
            "near must be latitude, longitude and meters above 0",
        ),
        ({"near": (36.27, -115.0, np.nan)}, "near must be latitude, longitude and meters above 0"),
        ({"near": (-115.0, 36.27, 5.0)}, "latitude and longitude look swapped"),
    ],
)
def test_questions_that_are_none(index, options, message):
    with pytest.raises(DataError, match=message):
        index.search(index.descriptors[:1], **({"k": 1} | options))


@pytest.mark.parametrize("dims", [0, True, 2.5])
def test_lengths_that_are_none(dims):
    with pytest.raises(DataError, match="dims must be a whole number of at least 1"):
        PlaceIndex(unit(9, 8), along(np.arange(9)), list("abcdefghi"), "m", dims=dims)


def test_near_looks_across_the_antimeridian():
    seam = PlaceIndex(unit(3, 8), [[5, 179.9999], [5, -179.9999], [5, 10]], list("abc"), "m")
    _, rows = seam.search(unit(3, 8)[:1], 3, near=(5, 180, 100))
    assert sorted(rows[0].tolist()) == [0, 1]


@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_names_are_text_whatever_they_were(ending, tmp_path):
    index = PlaceIndex(unit(3, 8), along([0, 1, 2]), [Path("a.jpg"), 7, "ü\nb"], "m")
    index.save(tmp_path / f"x.{ending}")
    assert PlaceIndex.load(tmp_path / f"x.{ending}").images == ["a.jpg", "7", "ü\nb"]


def test_drives_of_an_index_are_named_one_by_one(model, photos):
    with pytest.raises(DataError, match="sequences must name the drive of each image, got the text 'abc'"):
        PlaceIndex.build(model, photos[:3], along([0, 1, 2]), sequences="abc")
    index = PlaceIndex(unit(3, 8), along([0, 1, 2]), list("abc"), "m", sequences=np.array([1, 1, 2]))
    assert index.sequences == ["1", "1", "2"]


def test_one_name_of_two_pictures_is_forgotten_twice():
    index = PlaceIndex(unit(3, 8), along([0, 1, 2]), ["a", "a", "b"], "m")
    index.remove("a")
    assert index.images == ["b"]


@pytest.mark.parametrize("rows", [1, 2])
def test_pictures_that_are_indexed_twice_are_named(model, photos, rows, caplog):
    lines = [f"p{i}.png,{a:.7f},{b:.7f}" for i, (a, b) in enumerate(along(40.0 * np.arange(2)))]
    table = write_csv(photos[0].parent / f"twice{rows}.csv", "image,lat,lon", *lines[:rows], lines[0])
    with caplog.at_level(logging.WARNING):
        assert len(PlaceIndex.from_drives(model, table)) == rows + 1
    assert "more than once, and answer so" in caplog.text
    assert "p0.png" in caplog.text
    assert "p1.png" not in caplog.text


def test_a_file_with_fewer_names_than_rows_is_no_index(tmp_path):
    tensors = {"descriptors": unit(2, 8), "points": torch.from_numpy(along([0.0, 1.0]))}
    save_file(tensors, tmp_path / "a.safetensors", {"model": "m", "images": '["a"]', "storage": "float32"})
    with pytest.raises(DataError, match="2 descriptors, 2 points and 1 images"):
        PlaceIndex.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("center", "method"), [("sequence", "filter"), ("online", "smooth"), ("database", None)]
)
def test_a_single_frame_and_a_drive_that_stands_are_answered(model, photos, index, center, method):
    alone = model.predict_sequences(photos[2:3], index, center=center, method=method)
    assert len(alone) == 1
    assert not alone[0].chained
    standing = model.predict_sequences(
        [np.full((50, 50, 3), 90, np.uint8)] * 6, index, center=center, method=method
    )
    assert all(np.isfinite([a.latitude, a.longitude, a.answers[0].similarity]).all() for a in standing)


def test_an_index_of_one_picture_answers_with_it(model, photos):
    one = PlaceIndex.build(model, photos[:1], along([0.0]))
    for answer in (
        model.predict(photos[3], index=one, top_k=1)[0],
        model.predict_sequences(photos[:3], one, top_k=1)[0],
        model.predict_sequences(photos[:3], one, center="database", method=None, top_k=1)[0],
    ):
        assert answer.answers[0].image == str(photos[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heading_deg": float("nan")}, "heading_deg must lie between 0 and 180"),
        ({"heading_deg": -5.0}, "heading_deg must lie between 0 and 180"),
        ({"margin": float("nan")}, "margin must be a number of at least 0"),
    ],
)
def test_settings_that_are_no_numbers_of_their_kind(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        GeoPlaceConfig(feature_size=8, **fields)


@pytest.mark.parametrize("share", ["nan", "2", "-1"])
def test_shares_of_hard_places_that_are_none(share):
    with pytest.raises(DataError, match="hard_place_share must lie between 0 and 1"):
        parse("--hard_place_share", share)


def test_recall_of_no_answers_is_refused_by_its_own_name(model, tmp_path):
    with pytest.raises(DataError, match="recalls must be a whole number of at least 1, got 0"):
        model.evaluate(tmp_path, recalls=[1, 0])
