"""Boxes follow their pixels through every change of a photo, and never leave it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.parts_models import build_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from geohf.parts.augment import make_augmentation
from geohf.parts.processing import fitted_size, post_process

sides = st.integers(8, 60)


@st.composite
def photos_with_a_box(draw):
    """(height, width, a box of whole pixels in it)."""
    height, width = draw(sides), draw(sides)
    x = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    return height, width, [x[0], y[0], x[1], y[1]]


def painted(height, width, box) -> torch.Tensor:
    """Gray, but for the box."""
    photo = torch.full((3, height, width), 100, dtype=torch.uint8)
    photo[:, box[1] : box[3], box[0] : box[2]] = 255
    return photo


def bounds(photo: torch.Tensor) -> list[int]:
    """The box around all that is not gray."""
    y, x = torch.nonzero(photo[0] > 100, as_tuple=True)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


@given(photos_with_a_box(), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.3, 0.7]), st.integers(0, 99))
def test_a_box_stays_around_its_pixels_when_a_photo_is_mirrored_and_cropped(scene, flip, crop, seed):
    height, width, box = scene
    torch.manual_seed(seed)
    augment = make_augmentation(flip=flip, jitter=0, crop=crop)
    photo, boxes, kept = augment(painted(height, width, box), torch.tensor([box]).float())
    assert kept.tolist() == [0]  # the only box is never cropped away
    assert boxes[0].tolist() == bounds(photo)
    seen = (photo[0] > 100).sum()
    assert seen == (boxes[0, 2] - boxes[0, 0]) * (boxes[0, 3] - boxes[0, 1])
    assert photo.min() >= 100  # nothing from outside the photo
    assert seen >= 0.5 * (box[2] - box[0]) * (box[3] - box[1])


@given(photos_with_a_box())
def test_mirrored_twice_is_as_it_was(scene):
    height, width, box = scene
    augment = make_augmentation(flip=1.0, jitter=0, crop=0)
    once, mirrored, _ = augment(painted(height, width, box), torch.tensor([box]).float())
    assert mirrored[0].tolist() == [width - box[2], box[1], width - box[0], box[3]]
    twice, back, _ = augment(once, mirrored)
    assert torch.equal(twice, painted(height, width, box))
    assert back[0].tolist() == box


@given(photos_with_a_box(), st.integers(1, 5))
def test_boxes_come_back_from_a_resized_photo(scene, scale):
    """As shares of the photo a box is the same at any size; in the photo's own pixels it is where it was."""
    height, width, box = scene
    shares = np.array(box) / [width, height, width, height]
    center = (shares[:2] + shares[2:]) / 2
    outputs = SimpleNamespace(
        pred_boxes=torch.tensor([[[*center, *(shares[2:] - shares[:2])]]]),
        pred_labels=torch.tensor([[0]]),
        scores=torch.tensor([[0.9]]),
        state_probs=torch.tensor([[[1.0, 0.0]]]),
    )
    for factor in (1, scale):
        size = torch.tensor([[height * factor, width * factor]])
        (found,) = post_process(outputs, target_sizes=size)
        assert found["boxes"][0].tolist() == pytest.approx([factor * side for side in box], abs=1e-3)


@given(st.integers(1, 5000), st.integers(1, 5000), st.tuples(st.integers(32, 800), st.integers(32, 800)))
def test_a_photo_fits_and_keeps_its_shape(height, width, limit):
    h, w = fitted_size((height, width), limit)
    assert 1 <= h <= limit[0]
    assert 1 <= w <= limit[1]
    assert h == limit[0] or w == limit[1]  # it could not be larger
    assume(min(h, w) > 1)
    assert abs(h / height - w / width) <= 0.5 / height + 0.5 / width + 1e-9  # but for whole pixels


@pytest.fixture(scope="module")
def detector():
    return build_model()


@settings(max_examples=12)
@given(sides, sides, st.integers(0, 99))
def test_every_answer_lies_inside_its_photo(detector, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    (answer,) = detector.predict([Image.fromarray(pixels)], threshold=0.0)
    assert answer.parts
    for part in answer.parts:
        x0, y0, x1, y1 = part.box
        assert -1e-4 <= x0 < x1 <= width + 1e-3
        assert -1e-4 <= y0 < y1 <= height + 1e-3
