import pickle

import numpy as np
import pytest
import torch

from geohf.errors import DataError
from geohf.parts.augment import make_augmentation
from geohf.parts.vocabulary import BIKE_PARTS


def picture(boxes, height=40, width=60):
    """Black, with a box of another brightness for each."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        image[:, y0:y1, x0:x1] = 60 + 40 * number
    return image


BOXES = [[4, 5, 14, 17], [30, 20, 55, 36], [20, 2, 28, 9]]


def extents(image, value):
    rows, columns = np.nonzero(image[0].numpy() == value)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_flip_moves_boxes_with_their_pixels_and_keeps_their_order():
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    image, moved, keep = make_augmentation(flip=1.0, jitter=0, crop=0)(picture(BOXES), boxes)
    assert (image.dtype, tuple(image.shape), type(image)) == (torch.uint8, (3, 40, 60), torch.Tensor)
    assert moved.tolist() == [[60 - x1, y0, 60 - x0, y1] for x0, y0, x1, y1 in BOXES]
    assert keep.tolist() == [0, 1, 2]  # a front wheel stays one: nothing is exchanged
    for number, box in enumerate(moved.tolist()):
        assert extents(image, 60 + 40 * number) == box


def test_a_crop_cuts_boxes_with_their_pixels():
    augment = make_augmentation(flip=0.5, jitter=0, crop=0.6)
    torch.manual_seed(0)
    dropped = 0
    for _ in range(60):
        image, moved, keep = augment(picture(BOXES), torch.tensor(BOXES, dtype=torch.float32))
        height, width = image.shape[-2:]
        assert 40 * 0.4 - 1 <= height <= 40
        assert 60 * 0.4 - 1 <= width <= 60
        assert len(moved) == len(keep) >= 1
        for number, box in zip(keep.tolist(), moved.tolist(), strict=True):
            assert extents(image, 60 + 40 * number) == box
            x0, y0, x1, y1 = BOXES[number]
            assert (box[2] - box[0]) * (box[3] - box[1]) >= 0.5 * (x1 - x0) * (y1 - y0)
        dropped += 3 - len(keep)
    assert dropped > 10


def test_jitter_changes_colors_and_no_box():
    image = torch.randint(60, 200, (3, 20, 20), dtype=torch.uint8)
    boxes = torch.tensor([[1.5, 2.25, 7.75, 9.0]])
    torch.manual_seed(1)
    changed, moved, keep = make_augmentation(flip=0, jitter=0.3, crop=0)(image, boxes)
    assert torch.equal(moved, boxes)
    assert keep.tolist() == [0]
    assert 3 < (changed.float() - image.float()).abs().mean() < 60


def test_without_anything_nothing_changes():
    image, boxes = picture(BOXES), torch.tensor(BOXES, dtype=torch.float32)
    changed, moved, _ = make_augmentation(0, 0, 0)(image, boxes)
    assert torch.equal(changed, image)
    assert torch.equal(moved, boxes)


def test_photos_without_boxes():
    augment = make_augmentation(1.0, 0.2, 0.5)
    image, boxes, keep = augment(picture([]), torch.zeros(0, 4))
    assert boxes.shape == (0, 4)
    assert keep.shape == (0,)
    assert image.shape[0] == 3


def test_the_same_seed_gives_the_same_photo_in_a_worker_too():
    augment = make_augmentation()
    results = []
    for way in (augment, pickle.loads(pickle.dumps(augment))):
        torch.manual_seed(5)
        results.append(way(picture(BOXES), torch.tensor(BOXES, dtype=torch.float32)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_names_of_sides_forbid_a_flip():
    make_augmentation(part_names=BIKE_PARTS)
    make_augmentation(part_names=["bright_lamp", "front_wheel"])
    with pytest.raises(DataError, match=r"'mirror_left' tells left from right, which .* set flip to 0"):
        make_augmentation(part_names=["hood", "mirror_left"])
    make_augmentation(flip=0, part_names=["mirror_left"])


@pytest.mark.parametrize("arguments", [{"flip": 1.5}, {"jitter": -0.1}, {"crop": 1.0}])
def test_numbers_out_of_range(arguments):
    with pytest.raises(DataError, match="must be from 0 to"):
        make_augmentation(**arguments)
