"""What is seen of a picture: all of it squeezed, its middle, or all of it between bars."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from geohf.errors import DataError
from geohf.place import GeoPlaceConfig, GeoPlaceModel
from geohf.vision.preprocessing import FITS, with_fit
from geohf.vision.processing import GeoImageProcessor

SETTINGS = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}


def stripes() -> Image.Image:
    """96 x 48: its outer quarters are black and white, its middle is gray."""
    pixels = np.full((48, 96, 3), 128, np.uint8)
    pixels[:, :24], pixels[:, 72:] = 0, 255
    return Image.fromarray(pixels)


def row_of(fit: str | None) -> torch.Tensor:
    """The middle row of the prepared stripes, and the first one, in 0..255."""
    processor = GeoImageProcessor(**with_fit(SETTINGS, fit), do_normalize=False)
    pixels = processor.pixel_values([stripes()])[0, 0] * 255
    assert pixels.shape == (32, 32)
    return pixels[[16, 0]].round()


def test_the_whole_picture_is_squeezed_or_padded_and_a_crop_shows_its_middle():
    squeezed, padded, cropped = (row_of(fit) for fit in ("squeeze", "pad", "crop"))
    for pixels in (squeezed[0], squeezed[1], padded[0]):
        assert pixels[[0, 5, 16, 26, 31]].tolist() == [0, 0, 128, 255, 255]
    assert (padded[1] == 0).all()  # above the picture, which is 16 rows high
    assert (
        cropped - 128
    ).abs().max() == 0  # 80 x 40 before the crop: the outer quarters end 4 columns off it
    torch.testing.assert_close(row_of(None), cropped)


def test_a_backbone_that_squeezes_can_be_told_to_crop():
    settings = with_fit({"size": {"height": 32, "width": 32}, "crop_size": SETTINGS["crop_size"]}, "crop")
    assert settings["size"] == {"shortest_edge": 32}


def test_an_unknown_fit_is_refused():
    with pytest.raises(DataError, match="fit must be one of squeeze, crop, pad, got 'stretch'"):
        with_fit(SETTINGS, "stretch")


@pytest.mark.parametrize("fit", FITS)
def test_a_saved_model_sees_what_it_saw(tmp_path, fit):
    torch.manual_seed(0)
    model = GeoPlaceModel.from_backbone("test_resnet", pretrained=False, image_size=32, fit=fit)
    model.save_pretrained(tmp_path)
    loaded, found = GeoPlaceModel.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)
    expected = model.processor(stripes())["pixel_values"]
    torch.testing.assert_close(loaded.processor(stripes())["pixel_values"], expected, rtol=0, atol=0)
    torch.testing.assert_close(found(stripes())["pixel_values"], expected, rtol=0, atol=0)
    with torch.no_grad():
        np.testing.assert_allclose(
            loaded.encode([stripes()])[0], model(expected).descriptors[0].numpy(), atol=1e-6
        )


def test_a_model_of_an_earlier_version_keeps_its_crop_and_its_head():
    config = GeoPlaceConfig.from_dict({"image_processor": SETTINGS, "feature_size": 96})
    assert (config.head, config.descriptor_size) == ("mlp", 256)
    processor = GeoImageProcessor(**config.image_processor, do_normalize=False)
    assert (processor.pixel_values([stripes()])[0, 0, 16] * 255).round().unique().tolist() == [128]
