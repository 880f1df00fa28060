"""Random changes of training images."""

import pickle

import pytest
import torch

from geohf.street.processing import street_augmentation
from geohf.vision.augmentation import RandomAreaCrop


@pytest.mark.parametrize("ratio", [(1.0, 1.0), (0.8, 1.25)])
def test_a_crop_is_a_window_of_at_least_the_area(ratio):
    image = torch.arange(90 * 120).reshape(1, 90, 120)
    sizes = set()
    for _ in range(200):
        window = RandomAreaCrop(0.7, ratio)(image)
        height, width = window.shape[-2:]
        top, left = divmod(int(window[0, 0, 0]), 120)
        assert torch.equal(window, image[:, top : top + height, left : left + width])
        assert height * width >= 0.68 * 90 * 120  # sides are whole pixels
        assert ratio[0] - 0.03 <= (width / height) / (120 / 90) <= ratio[1] + 0.03
        sizes.add((height, width))
    assert len(sizes) > 10


@pytest.mark.case("use-O12")
def test_workers_that_are_spawned_can_take_it_along():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    copy = pickle.loads(pickle.dumps(street_augmentation()))
    torch.manual_seed(1)
    found = copy(image)
    torch.manual_seed(1)
    assert torch.equal(found, street_augmentation()(image))
    assert found.shape != image.shape
