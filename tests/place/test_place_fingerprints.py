"""Descriptors compare only where weights, their type and what they see of a picture are the same."""

import json
import logging

import numpy as np
import pytest
from helpers.place_models import along, build_model, write_pictures

from geohf.errors import DataError
from geohf.place import GeoPlaceModel, PlaceIndex
from geohf.place.fingerprints import require_same_model
from geohf.vision.preprocessing import with_fit

SEES = [
    (
        {"size": {"height": 96, "width": 96}, "crop_size": {"height": 96, "width": 96}},
        "crop_size .*'height': 64",
    ),
    (
        {"size": {"shortest_edge": 64}},
        "size {'height': 64, 'width': 64} in the index and {'shortest_edge': 64} here",
    ),
    (
        {"image_mean": [0.4, 0.4, 0.4]},
        r"image_mean \[0.5, 0.5, 0.5\] in the index and \[0.4, 0.4, 0.4\] here",
    ),
    ({"do_normalize": False}, "do_normalize True in the index and False here"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, [f"p{i}.png" for i in range(7)])
    return [folder / f"p{i}.png" for i in range(7)]


def seeing(**settings) -> GeoPlaceModel:
    model = build_model(pooling="avg", projection_dim=None)
    model.config.image_processor = model.config.image_processor | settings
    return model


@pytest.mark.parametrize(("settings", "message"), SEES)
@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_a_convolutional_model_that_sees_otherwise_is_refused(settings, message, ending, photos, tmp_path):
    path = tmp_path / f"area.{ending}"
    PlaceIndex.build(seeing(), photos, along(40.0 * np.arange(7))).save(path)
    assert seeing().predict(photos[0], index=path)[0].answers[0].image == str(photos[0])
    with pytest.raises(DataError, match=f"saw pictures in another way: .*{message}.*build it anew"):
        seeing(**settings).predict(photos[0], index=path)


def test_the_way_of_decoding_is_no_other_picture_and_a_saved_model_is_the_same(photos, tmp_path):
    model = seeing()
    index = PlaceIndex.build(model, photos, along(40.0 * np.arange(7)))
    assert seeing(reduced_decoding=True).predict(photos[0], index=index)
    model.save_pretrained(tmp_path)
    again = GeoPlaceModel.from_pretrained(tmp_path)
    assert again.fingerprint() == model.fingerprint() == index.model
    again.config.image_processor = with_fit(again.processor_settings, "crop")
    with pytest.raises(DataError, match="size"):
        again.predict(photos[0], index=index)


def test_another_pooling_of_the_same_weights_is_refused(photos):
    index = PlaceIndex.build(build_model(projection_dim=None), photos, along(40.0 * np.arange(7)))
    with pytest.raises(DataError, match="pooling tower in the index and avg here"):
        seeing().predict(photos[0], index=index)


@pytest.mark.parametrize("words", [1, 2])
def test_an_index_of_an_earlier_version_loads_with_a_warning(words, photos, caplog):
    model = seeing()
    index = PlaceIndex.build(model, photos[:4], along(40.0 * np.arange(4)))
    index.model = " ".join(index.model.split(" ")[:words])
    with caplog.at_level(logging.WARNING):
        assert model.predict(photos[0], index=index, top_k=3)[0].answers
    assert "does not say how its pictures were made ready" in caplog.text
    index.add(PlaceIndex.build(model, photos[4:], along(40.0 * np.arange(4, 7))))
    assert len(index) == 7


def test_indexes_that_saw_otherwise_do_not_become_one(photos):
    one, other = (
        PlaceIndex.build(model, photos[part], along(40.0 * np.arange(7))[part])
        for model, part in ((seeing(), slice(4)), (seeing(do_normalize=False), slice(4, 7)))
    )
    with pytest.raises(DataError, match="do_normalize"):
        one.add(other)


def test_what_differs_first_is_told():
    sight = json.dumps({"pooling": "avg"})
    with pytest.raises(DataError, match="built in float32 and this model is in bfloat16"):
        require_same_model(f"a float32 {sight}", f"b bfloat16 {sight}")
    with pytest.raises(DataError, match="another model"):
        require_same_model(f"a float32 {sight}", f"b float32 {sight}")
    require_same_model("a float32", f"a float32 {sight}")
