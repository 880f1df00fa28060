"""The image processor: the pixels that the published processors give, for images of any kind."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from transformers import CLIPImageProcessor, ViTImageProcessor
from transformers.image_processing_backends import TorchvisionBackend

from geohf.vision.backbones import resolve_backbone
from geohf.vision.images import ImageError
from geohf.vision.processing import GeoImageProcessor
from geohf.vision.towers import build_tower


def photo(width, height):
    y, x = np.mgrid[0:height, 0:width] / 40
    values = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x) * np.cos(y)], -1)
    return Image.fromarray((127 + 120 * values).astype(np.uint8))


@pytest.mark.parametrize(
    "published",
    [
        CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        ViTImageProcessor(size={"height": 32, "width": 32}),
    ],
    ids=lambda p: type(p).__name__,
)
def test_pixels_are_those_of_the_towers_own_processor(tmp_path, published):
    from transformers import ViTConfig

    build_tower(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32)
    ).save_pretrained(tmp_path)
    published.save_pretrained(tmp_path)
    own = GeoImageProcessor(**resolve_backbone(str(tmp_path)).image_processor)
    for size in ((90, 60), (60, 90), (20, 33)):
        expected = published(photo(*size), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(own.pixel_values([photo(*size)]), expected, atol=1e-5, rtol=0)


def test_pixels_are_those_of_timms_own_transform():
    name = "test_resnet.r160_in1k"
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    own = GeoImageProcessor(**resolve_backbone(name).image_processor)
    expected = create_transform(**config)(photo(300, 240))
    found = own.pixel_values([photo(300, 240)])[0]
    assert found.shape == expected.shape
    # Pillow resizes with rounding in between, torchvision without
    assert (found - expected).abs().max() < 3 / 255 / min(config["std"])


@pytest.mark.parametrize("size", [(90, 60), (4200, 1100)], ids=["one block of Pillow's memory", "two blocks"])
def test_pixels_that_are_read_where_they_lie_are_those_of_a_copy(size):
    processor = GeoImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    copied = processor.pixel_values([photo(*size)], augment=lambda image: image)
    assert torch.equal(processor.pixel_values([photo(*size)]), copied)


def test_a_saved_processor_is_found_and_gives_the_same_pixels(tmp_path):
    processor = GeoImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 16, "width": 16}, resample=2
    )
    processor.save_pretrained(tmp_path)
    loaded = GeoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(loaded.pixel_values([photo(50, 40)]), processor.pixel_values([photo(50, 40)]))
    assert (tmp_path / "preprocessor_config.json").is_file()


def test_images_of_different_kinds_and_sizes_make_one_batch(tmp_path):
    path = tmp_path / "a.jpg"
    photo(300, 200).save(path)
    processor = GeoImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    sources = [path, path.read_bytes(), photo(64, 48), np.asarray(photo(33, 70)), Image.new("L", (40, 40))]
    batch = processor.pixel_values(sources)
    assert batch.shape == (5, 3, 32, 32)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch[0], batch[1])


def test_a_decoder_that_shrinks_hardly_changes_the_pixels(tmp_path):
    path = tmp_path / "a.jpg"
    photo(1200, 900).save(path, quality=95)
    processor = GeoImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    drafted, exact = processor.pixel_values([path]), processor.pixel_values([Image.open(path)])
    assert not torch.equal(drafted, exact)
    assert (drafted - exact).abs().mean() < 2 / 255


def test_augmentation_sees_whole_images_before_they_are_resized():
    seen = []

    def augment(image):
        seen.append((tuple(image.shape), image.dtype))
        return torch.zeros_like(image)

    processor = GeoImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    batch = processor.pixel_values([photo(90, 60)], augment=augment)
    assert seen == [((3, 60, 90), torch.uint8)]
    assert torch.equal(batch, torch.full_like(batch, -1.0))


def test_a_broken_image_in_a_batch_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_text("no")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        GeoImageProcessor().pixel_values([photo(40, 40), tmp_path / "broken.jpg"])


@pytest.mark.parametrize(
    "fields", [{}, {"do_center_crop": False}, {"do_resize": False}, {"do_normalize": False}]
)
def test_the_fast_way_gives_the_pixels_of_transformers(fields):
    processor = GeoImageProcessor(
        size={"height": 40, "width": 30}, crop_size={"height": 24, "width": 24}, resample=3, **fields
    )
    pictures = [photo(90, 60)] * 2
    expected = TorchvisionBackend.preprocess(processor, pictures, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor.pixel_values(pictures), expected)
    assert torch.equal(processor(pictures)["pixel_values"], expected)


def test_reduced_decoding_is_kept_and_stays_near_the_exact_pixels(tmp_path):
    photo(1280, 960).save(tmp_path / "a.jpg", quality=95)
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    GeoImageProcessor(**size, reduced_decoding=True).save_pretrained(tmp_path)
    reduced = GeoImageProcessor.from_pretrained(tmp_path)
    pixels = [p.pixel_values([tmp_path / "a.jpg"]) for p in (GeoImageProcessor(**size), reduced)]
    exact = reduced.pixel_values([Image.open(tmp_path / "a.jpg")])
    near, far = ((found - exact).square().mean() for found in pixels)
    assert near < far
    assert 10 * torch.log10(4 / far) > 40  # dB, pixels reach from -1 to 1


def test_a_pillow_that_shows_its_memory_to_nobody_is_read_as_before(monkeypatch):
    processor = GeoImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    shown = processor.pixel_values([photo(90, 60)])
    monkeypatch.delattr(Image.Image, "__arrow_c_array__", raising=False)  # before 11.2
    assert torch.equal(processor.pixel_values([photo(90, 60)]), shown)
