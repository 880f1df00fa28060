"""The street processor: what a sample may be, and the tensors it becomes."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from geohf.errors import DataError, warn_once
from geohf.street import GeoStreetImageProcessor
from geohf.street.processing import split_views
from geohf.vision.images import ImageError

SIDE = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}


@pytest.fixture(scope="module")
def processor():
    return GeoStreetImageProcessor(**SIDE)


def test_samples_with_different_numbers_of_views_share_a_batch(processor, photos):
    batch = processor(
        [
            photos[0],
            {"north": photos[1], "east": None, "south": photos[2], "west": photos[3]},
            [photos[4], photos[5]],
            {"views": [photos[6], None, photos[7]], "headings": [10.0, 20.0, None]},
            {"image": photos[0], "heading": 45},
        ]
    )
    assert batch["pixel_values"].shape == (5, 3, 3, 16, 16)
    assert batch["pixel_values"].dtype == torch.float32
    expected = [[1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert batch["view_mask"].dtype == torch.bool
    assert batch["view_mask"].int().tolist() == expected
    assert not batch["pixel_values"][~batch["view_mask"]].any()
    nan = math.nan
    headings = [[nan, nan, nan], [0, 180, 270], [nan, nan, nan], [10, nan, nan], [45, nan, nan]]
    np.testing.assert_array_equal(batch["headings"].numpy(), np.array(headings, np.float32))
    # every view is what it is alone
    for row, view, photo in ((0, 0, 0), (1, 1, 2), (2, 1, 5), (3, 1, 7), (4, 0, 0)):
        assert torch.equal(batch["pixel_values"][row, view], processor.pixel_values([photos[photo]])[0])


def test_one_sample_alone_is_a_batch_of_one(processor, photos):
    alone = processor(photos[0])
    assert alone["pixel_values"].shape == (1, 1, 3, 16, 16)
    views = dict(zip(("west", "north"), photos, strict=False))
    four = processor(views)
    assert four["headings"].tolist() == [[0.0, 270.0]]  # by compass, whatever the order of the dict
    assert torch.equal(four["pixel_values"][0, 0], processor.pixel_values([photos[1]])[0])


def test_pixels_are_resized_cropped_and_normalized_as_the_settings_say(tmp_path):
    plain = np.zeros((32, 64, 3), np.uint8)
    plain[:, 16:48] = (255, 0, 51)  # the center square; what lies beside it is cropped away
    Image.fromarray(plain).save(tmp_path / "p.png")
    processor = GeoStreetImageProcessor(
        **SIDE, image_mean=[0.5, 0.25, 0.2], image_std=[0.5, 0.25, 0.1], resample=0
    )
    pixels = processor(tmp_path / "p.png")["pixel_values"][0, 0]
    expected = torch.tensor([1.0, -1.0, 0.0])[:, None, None].expand(3, 16, 16)
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)


def test_augmentation_sees_bytes_before_normalization(processor, photos):
    seen = []

    def invert(image):
        seen.append((image.dtype, tuple(image.shape)))
        return 255 - image

    changed = processor([photos[0]], augment=invert)["pixel_values"]
    assert seen == [(torch.uint8, (3, 40, 48))]
    plain = processor([photos[0]])["pixel_values"]
    torch.testing.assert_close(changed, -plain, atol=0.03, rtol=0)  # mean and std are 0.5; resizing rounds


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            {},
            "a sample needs a picture, as 'image'; it has nothing; several views are 'views', or some of north",
        ),
        ({"up": 1}, r"it has up"),
        ({"north": None}, "a sample has no view"),
        ([], "a sample has no view"),
        ({"views": []}, "a sample has no view"),
        ({"views": ["a", "b"], "headings": [1.0]}, "2 views but 1 headings"),
        (["a"] * 9, "a sample has 9 views, at most 8 are possible"),
        ({"north": "a", "East": "b"}, "views are north, east, south, west, and 'East' is none of them"),
        ({"north": "a", "north_east": "b"}, "'north_east' is none of them: give 'views' and 'headings'"),
        ({"views": ["a"], "north": "b"}, "a sample has 'views' and 'north': give all pictures as 'views'"),
        ({"image": "a", "views": ["b"]}, "a sample has 'image' and 'views': give one"),
        (
            {"views": ["a", "b"], "heading": 9.0},
            "2 views and one heading: give 'headings', one for each view",
        ),
        ({"views": "a.jpg"}, "'views' is a list of pictures, got 'a.jpg'"),
        ({"views": 5}, "'views' is a list of pictures, got 5"),
        ({"views": None}, "a sample has no view"),
        ({"views": np.zeros((3, 8, 8))}, r"'views' is a list of pictures, got one of shape \(3, 8, 8\)"),
        ({"views": torch.zeros(8, 8)}, r"'views' is a list of pictures, got one of shape \(8, 8\)"),
        ({"image": "a", "heading": True}, "a heading is degrees clockwise from north, got True"),
        ({"views": ["a"], "headings": ["N"]}, "a heading is degrees clockwise from north, got 'N'"),
    ],
)
def test_samples_that_cannot_be_are_refused(sample, message):
    with pytest.raises(DataError, match=message):
        split_views(sample)


@pytest.mark.parametrize(
    ("sample", "headings"),
    [
        ({"image": "a", "angle": "-10"}, [350.0]),
        ({"views": ["a"], "Heading": 360}, [0.0]),
        ({"views": ["a", "b"], "heading": [90, None]}, [90.0, math.nan]),
        ({"views": ["a", "b"], "heading": math.nan}, [math.nan, math.nan]),
        ({"views": ["a", "b"], "headings": [1, 2], "heading": 5}, [1.0, 2.0]),
        ({"views": ["a"], "headings": 90}, [90.0]),
        ({"views": ["a", "b"], "headings": math.nan}, [math.nan, math.nan]),
        ({"views": ["a"], "heading": torch.tensor(90.0)}, [90.0]),
        ({"views": ["a", "b"], "Headings": [1, 2]}, [1.0, 2.0]),
        ({"image": "a", "headings": [90]}, [90.0]),
        ({"image": "a", "heading": [90]}, [90.0]),
    ],
)
def test_a_heading_is_heard_under_the_names_that_tables_have(sample, headings):
    np.testing.assert_equal(split_views(sample)[1], headings)


def test_a_heading_beside_views_with_a_direction_is_left_out_with_a_word(caplog):
    warn_once.cache_clear()
    assert split_views({"north": "a", "east": "b", "heading": math.nan})[1] == [0.0, 90.0]
    assert not caplog.text
    assert split_views({"north": "a", "east": "b", "heading": 30.0})[1] == [0.0, 90.0]
    assert "a heading beside north, east, south, west is left out" in caplog.text
    warn_once.cache_clear()
    caplog.clear()
    split_views({"north": "a", "east": "b", "headings": [30.0, 120.0]})
    assert "a heading beside north, east, south, west is left out" in caplog.text


def test_eight_views_are_possible_and_missing_ones_do_not_count(processor, photos):
    assert processor([photos])["view_mask"].shape == (1, 8)
    assert len(split_views([*photos, None, None])[0]) == 8


def test_an_error_names_the_file(processor, photos, tmp_path):
    broken = tmp_path / "cut.jpg"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"cut\.jpg: is broken or truncated"):
        processor([photos[0], {"north": photos[1], "west": broken}])
    with pytest.raises(ImageError, match=r"nowhere\.jpg: cannot be read"):
        processor(tmp_path / "nowhere.jpg")


def test_no_sample_at_all_is_refused(processor):
    with pytest.raises(DataError, match="no sample"):
        processor([])


def test_settings_survive_their_file(processor, photos, tmp_path):
    processor.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"preprocessor_config.json"}
    loaded = GeoStreetImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(loaded(photos[0])["pixel_values"], processor(photos[0])["pixel_values"])
