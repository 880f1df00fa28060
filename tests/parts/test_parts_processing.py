"""From photographs of any kind to tensors, and from outputs back to their pixels."""

import io

import numpy as np
import pytest
import torch
from helpers.parts_models import build_model
from PIL import Image
from transformers import AutoImageProcessor

from geohf.errors import DataError
from geohf.parts import PartImageProcessor
from geohf.parts.answers import PartStateOutput
from geohf.parts.processing import fitted_size
from geohf.vision.images import ImageError

SIZE = {"height": 64, "width": 96}


def processor(**fields):
    return PartImageProcessor(size=SIZE, image_mean=[0.0] * 3, image_std=[1.0] * 3, **fields)


def test_a_photo_keeps_its_shape_and_lies_in_the_upper_left_corner():
    red = Image.new("RGB", (300, 100), (255, 0, 0))
    batch = processor()(red)
    assert batch["pixel_values"].shape == (1, 3, 64, 96)
    assert batch["image_sizes"].tolist() == [[32, 96]]
    assert batch["original_sizes"].tolist() == [[100, 300]]
    assert (batch["pixel_values"][0, 0, :32] == 1).all()
    assert (batch["pixel_values"][0, 1:] == 0).all()
    assert (batch["pixel_values"][0, 0, 32:] == 0).all()


def test_small_photos_are_enlarged_and_thin_ones_keep_a_pixel():
    assert fitted_size((16, 16), (64, 96)) == (64, 64)
    assert fitted_size((1, 5000), (64, 96)) == (1, 96)
    assert fitted_size((5000, 1), (64, 96)) == (64, 1)


def test_pixels_are_normalized_by_the_models_own_numbers():
    batch = PartImageProcessor(size=SIZE)(Image.new("RGB", (96, 64), (255, 0, 51)))
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    assert batch["pixel_values"][0, :, 10, 10].tolist() == pytest.approx(expected, abs=1e-5)


def photo_bytes(image, **options):
    file = io.BytesIO()
    image.save(file, **({"format": "JPEG"} | options))
    return file.getvalue()


def test_photos_of_every_kind_are_seen_alike():
    gray = Image.fromarray(np.tile(np.linspace(0, 255, 96, dtype=np.uint8), (64, 1)))
    rgb = gray.convert("RGB")
    plain = processor()(rgb)["pixel_values"]
    kinds = {
        "gray": gray,
        "cmyk": rgb.convert("CMYK"),
        "16 bit": Image.fromarray(np.asarray(gray).astype(np.uint16) * 257),
        "array": np.asarray(rgb),
        "tensor": torch.from_numpy(np.asarray(rgb).copy()).permute(2, 0, 1),
        "png": photo_bytes(rgb, format="PNG"),
        "row": {"image": {"bytes": photo_bytes(gray, format="PNG"), "path": None}, "parts": []},
    }
    for name, source in kinds.items():
        found = processor()([source])["pixel_values"]
        torch.testing.assert_close(found, plain, atol=0.01, rtol=0, msg=name)


def test_photos_are_turned_as_their_exif_says():
    image = Image.new("RGB", (60, 40), "white")
    image.paste((0, 0, 0), (0, 0, 30, 40))  # the stored left is the upright top
    exif = Image.Exif()
    exif[0x0112] = 6
    batch = processor()(photo_bytes(image, exif=exif, quality=95))
    assert batch["original_sizes"].tolist() == [[60, 40]]
    height, width = batch["image_sizes"][0].tolist()
    upright = batch["pixel_values"][0, 0, :height, :width]
    assert upright[: height // 2 - 4].mean() < 0.05
    assert upright[height // 2 + 4 :].mean() > 0.95


def test_what_is_no_photo_is_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"broken\.jpg: is not an image"):
        processor()([broken])
    with pytest.raises(DataError, match="no photo"):
        processor()([])


OUTPUTS = PartStateOutput(
    pred_boxes=torch.tensor([[[0.5, 0.25, 1.0, 0.5], [0.25, 0.5, 0.5, 0.5]], [[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0]]]),
    pred_labels=torch.tensor([[1, 0], [2, -1]]),
    scores=torch.tensor([[0.9, 0.4], [0.6, 0.0]]),
    state_probs=torch.tensor([[[0.2, 0.8], [0.6, 0.4]], [[0.3, 0.7], [0.0, 0.0]]]),
)  # fmt: skip


def test_boxes_come_back_in_pixels_of_the_photos():
    found = processor().post_process_object_detection(OUTPUTS, 0.3, [(100, 200), (50, 40)])
    assert found[0]["boxes"].tolist() == [[0, 0, 200, 50], [0, 25, 100, 75]]
    assert found[1]["boxes"].tolist() == [[10, 12.5, 30, 37.5]]
    assert [parts["labels"].tolist() for parts in found] == [[1, 0], [2]]
    assert [parts["states"].tolist() for parts in found] == [[1, 0], [1]]
    assert found[0]["state_scores"].tolist() == pytest.approx([0.8, 0.6])
    assert found[0]["state_probs"].shape == (2, 2)


def test_a_threshold_and_shares_instead_of_pixels():
    found = processor().post_process_object_detection(OUTPUTS)
    assert [len(parts["scores"]) for parts in found] == [1, 1]
    assert found[0]["boxes"].tolist() == [[0, 0, 1, 0.5]]
    with pytest.raises(ValueError, match="1 target sizes for 2 images"):
        processor().post_process_object_detection(OUTPUTS, target_sizes=[(1, 1)])


def test_the_processor_is_found_by_its_name(tmp_path):
    build_model(image_size=[64, 96], image_processor={"image_mean": [0.1, 0.2, 0.3]}).save_pretrained(
        tmp_path
    )
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is PartImageProcessor
    assert (again.size["height"], again.size["width"]) == (64, 96)
    assert list(again.image_mean) == [0.1, 0.2, 0.3]
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    expected = build_model(image_processor={"image_mean": [0.1, 0.2, 0.3]}).processor([image])
    assert torch.equal(again([image])["pixel_values"], expected["pixel_values"])
