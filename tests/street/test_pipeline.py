"""`pipeline("street-geolocation", ...)` answers as the model does."""

import copy

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from helpers.street_models import HEADINGS, build_model, close, flat, spread_out
from PIL import Image as PillowImage
from transformers import pipeline

import geohf
from geohf.errors import DataError
from geohf.geo import box
from geohf.street.pipeline import StreetGeolocationPipeline
from geohf.vision.images import ImageError


@pytest.fixture(scope="module")
def model():
    model = spread_out(build_model(heading_aware=True))
    model.config.radius_factor, model.config.radius_floor_m = 1.5, 5000.0
    return model


@pytest.fixture(scope="module")
def locate(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return pipeline("street-geolocation", model=str(folder))


def test_the_pipeline_finds_model_and_processor(locate, model):
    assert isinstance(locate, StreetGeolocationPipeline)
    assert isinstance(locate.model, geohf.GeoStreetModel)
    assert isinstance(locate.image_processor, geohf.GeoStreetImageProcessor)
    assert locate.image_processor.size == model.processor.size


def test_one_image_is_one_dict(locate, model, photos):
    answer = locate(str(photos[0]))
    assert set(answer) == {
        *("latitude", "longitude", "radius_m", "states", "matches", "headings"),
        *("localizability", "regions", "areas", "captions"),
    }
    assert set(answer["states"][0]) == {"name", "probability", "index"}
    close([answer], flat(model.predict(photos[0])))
    assert answer["radius_m"] == pytest.approx(model.predict(photos[0])[0].radius_m, rel=1e-3)
    picture = PillowImage.open(photos[0])
    for form in (picture, np.asarray(picture), photos[0], photos[0].read_bytes()):
        close([locate(form)], [answer])


def test_a_list_is_many_samples(locate, model, photos):
    expected = flat(model.predict(photos))
    close(locate([str(photo) for photo in photos]), expected)
    compass = dict(zip(HEADINGS, photos, strict=False))
    samples = [compass, {"views": photos[:2], "headings": [0.0, 90.0]}, str(photos[5])]
    close(locate(samples), flat(model.predict(samples)))


def test_batches_with_equal_and_with_different_numbers_of_views(locate, model, photos):
    compass = [dict(zip(HEADINGS, photos[i:], strict=False)) for i in range(5)]
    close(locate(compass, batch_size=3), flat(model.predict(compass)))
    mixed = [compass[0], str(photos[5]), {"views": photos[:2], "headings": [0.0, 90.0]}, compass[1]]
    close(locate(mixed, batch_size=2), flat(model.predict(mixed)))


def test_a_dataset_goes_through(locate, model, photos):
    rows = Dataset.from_dict(
        {"image": [{"bytes": p.read_bytes(), "path": None} for p in photos]}, Features(image=Image())
    )
    close(list(locate(rows)), flat(model.predict(photos)))


def test_options_of_a_call(locate, model, photos):
    assert [s["name"] for s in locate(str(photos[0]), top_k=2)["states"]] == [
        s.name for s in model.predict(photos[0], top_k=2)[0].states
    ]
    only = locate([str(photo) for photo in photos], states=["Texas", 18])
    assert {state["name"] for answer in only for state in answer["states"]} == {"Texas", "Maine"}
    inside = locate([str(photo) for photo in photos], area=box(30.0, -110.0, 40.0, -100.0))
    assert all(30 <= a["latitude"] <= 40 and -110 <= a["longitude"] <= -100 for a in inside)
    assert len(locate(str(photos[0]))["states"]) == 5  # options hold for one call


def test_options_of_the_pipeline(model, photos):
    locate = pipeline("street-geolocation", model=model, image_processor=model.processor, states=["Maine"])
    assert [state["name"] for state in locate(str(photos[0]))["states"]] == ["Maine"]


def test_a_model_in_training_mode_answers_as_ever_and_stays_so(model, photos):
    training = copy.deepcopy(model).train()
    locate = StreetGeolocationPipeline(model=training, image_processor=model.processor)
    close([locate(str(photos[0]))], flat(model.predict(photos[0])))
    assert training.head.training


def test_what_cannot_be_is_said(locate, photos, tmp_path):
    with pytest.raises(DataError, match=r"did you mean 'Texas'\?"):
        locate(str(photos[0]), states=["Texs"])
    with pytest.raises(TypeError, match="state"):
        locate(str(photos[0]), state=["Texas"])
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:80])
    with pytest.raises(ImageError, match=r"cut\.png"):
        locate([str(photos[0]), str(tmp_path / "cut.png")])
