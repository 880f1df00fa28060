"""Features averaged over a picture and its mirror image or corners."""

import pytest
import torch
from helpers.street_models import build_model, close, flat, patches, spread_out
from PIL import ImageOps

from geohf.errors import DataError
from geohf.street.pipeline import StreetGeolocationPipeline
from geohf.vision.augmentation import variants


@pytest.fixture(scope="module")
def model():
    return spread_out(build_model())


def test_the_mean_of_a_picture_and_its_mirror_image_is_that_of_the_mirror_image(model):
    pictures = patches(5, 4)
    mirrored = [ImageOps.mirror(picture) for picture in pictures]
    plain, other, averaged = (
        model.predict(pictures),
        model.predict(mirrored),
        model.predict(pictures, test_time="flip"),
    )
    again = model.predict(mirrored, test_time="flip")
    for one, two in zip(averaged, again, strict=True):
        assert (one.latitude, one.longitude) == pytest.approx((two.latitude, two.longitude), abs=1e-2)
    assert flat(plain) != flat(other)
    assert flat(averaged) != flat(plain)


def test_a_picture_that_is_its_own_mirror_image_is_answered_as_ever(model):
    pixels = model.processor(patches(6, 2))["pixel_values"]
    pixels = (pixels + pixels.flip(-1)) / 2
    with torch.inference_mode():
        assert torch.equal(model.view_features(pixels, test_time="flip"), model.view_features(pixels))


def test_corners_are_seven_eighths_at_the_size_of_the_whole():
    across = torch.arange(16.0).expand(2, 1, 3, 16, 16)
    several = list(variants(across, "crops"))
    assert [one.shape for one in several] == [across.shape] * 5
    assert torch.equal(several[0], across)
    assert [round(float(one[0, 0, 0, 8].min())) for one in several[1:]] == [0, 2, 0, 2]
    assert [round(float(one[0, 0, 0, 8].max())) for one in several[1:]] == [13, 15, 13, 15]


def test_evaluate_averages_too(model, tmp_path):
    for i, picture in enumerate(patches(5, 3)):
        picture.save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,37,-119,California\n" for i in range(3))
    (tmp_path / "metadata.csv").write_text("file,latitude,longitude,state\n" + rows)
    plain, averaged = (model.evaluate(tmp_path, test_time=kind)["mean_km"] for kind in (None, "crops"))
    assert plain != averaged


def test_the_pipeline_averages_too(model):
    locate = StreetGeolocationPipeline(model=model, image_processor=model.processor)
    pictures = patches(5, 3)
    close(locate(pictures, test_time="flip", batch_size=2), flat(model.predict(pictures, test_time="flip")))
    with pytest.raises(DataError, match="test_time must be one of flip, crops"):
        locate(pictures[0], test_time="flop")


def test_a_mirror_image_tells_no_heading_and_unknown_words_are_refused(model):
    with pytest.raises(DataError, match="a mirror image looks another way"):
        build_model(predict_heading=True).predict(patches(3, 1), test_time="flip")
    with pytest.raises(DataError, match="test_time must be one of flip, crops, got 'flop'"):
        model.predict(patches(3, 1), test_time="flop")
