"""Features averaged over a photograph and its mirror image or corners."""

import numpy as np
import pytest
from helpers.region_models import build_model
from PIL import Image, ImageOps

from geohf.errors import DataError
from geohf.region.pipeline import RegionPipeline


def pictures(count):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (count, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((48, 48), Image.Resampling.NEAREST) for one in noise]


def points(answers):
    return np.array([[one.latitude, one.longitude] for one in answers])


@pytest.mark.parametrize("experts", ["shared", "separate"])
def test_a_picture_and_its_mirror_image_get_one_answer(experts):
    model, photos = build_model(experts=experts), pictures(3)
    mirrored = [ImageOps.mirror(photo) for photo in photos]
    for region in (None, "3", ["3", None, "5"]):
        both = [points(model.predict(some, region=region, test_time="flip")) for some in (photos, mirrored)]
        np.testing.assert_allclose(*both, atol=1e-7)
        plain = [points(model.predict(some, region=region)) for some in (photos, mirrored)]
        assert np.abs(plain[0] - plain[1]).max() > 1e-6
        assert np.abs(both[0] - plain[0]).max() > 1e-6
        crops = points(model.predict(photos, region=region, test_time="crops"))
        assert np.abs(crops - plain[0]).max() > 1e-6


def test_evaluate_averages_too(tmp_path):
    model = build_model()
    for i, photo in enumerate(pictures(3)):
        photo.save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,36.37,127.36,3\n" for i in range(3))
    (tmp_path / "a.csv").write_text("filename,latitude,longitude,Region_ID\n" + rows)
    plain, averaged = (
        model.evaluate(tmp_path / "a.csv", test_time=kind)["routed_mean_m"] for kind in (None, "flip")
    )
    assert plain != averaged


def test_the_pipeline_averages_too():
    model, photos = build_model(), pictures(3)
    locate = RegionPipeline(model=model, image_processor=model.processor)
    expected = points(model.predict(photos, test_time="flip"))
    piped = locate([{"image": photo, "region": None} for photo in photos], test_time="flip", batch_size=2)
    np.testing.assert_allclose([[one["latitude"], one["longitude"]] for one in piped], expected, atol=1e-6)
    with pytest.raises(DataError, match="test_time must be one of flip, crops"):
        locate(photos[0], test_time="flop")


def test_a_mirror_image_tells_no_heading():
    with pytest.raises(DataError, match="a mirror image looks another way"):
        build_model(predict_heading=True).predict(pictures(1), test_time="flip")
    assert build_model(predict_heading=True).predict(pictures(1), test_time="crops")[0].heading is not None
