"""Slices of large photos and mirrored ones: where they lie, how boxes are merged, and that nothing changes without them."""

import itertools

import numpy as np
import pytest
import torch
from helpers.parts_models import PARTS, STATES, build_model, build_query_model
from PIL import Image
from scipy.ndimage import find_objects
from scipy.ndimage import label as connected

from geohf.errors import DataError
from geohf.parts.answers import PartStateOutput
from geohf.parts.configuration import PartStateConfig
from geohf.parts.mirror import mirrored_labels
from geohf.parts.views import (
    Window,
    averaged,
    merged,
    mirrored_columns,
    steps_of_views,
    unmirrored,
    windows_of,
)

SQUARE = 40
COLORS = {(255, 0, 0): 0, (0, 255, 0): 1}  # of wheel and bell


@pytest.mark.parametrize(("width", "height"), [(2000, 1500), (641, 640), (640, 3000), (1281, 700)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_slices_cover_the_photo_and_overlap(width, height, overlap):
    whole, *slices = windows_of(width, height, 640, overlap)
    assert whole == (0, 0, width, height)
    seen = np.zeros((height, width), int)
    for left, top, right, bottom in slices:
        assert (right - left, bottom - top) == (min(640, width), min(640, height))
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    for at in (0, 1):
        starts = sorted({window[at] for window in slices})
        assert all(b - a <= 640 * (1 - overlap) for a, b in itertools.pairwise(starts))


def test_no_slices_of_a_photo_that_is_not_larger():
    assert windows_of(640, 480, 640) == windows_of(640, 480, None) == [(0, 0, 640, 480)]


class FindsSquares(torch.nn.Module):
    """A model that answers with the box of what a view shows of each painted square; in the whole photo it sees none."""

    def __init__(self, **fields):
        super().__init__()
        real = build_model(image_size=[640, 640], **fields)
        self.config, self.processor, self.decode, self.as_read = (
            real.config, real.processor, real.decode, real.as_read,
        )  # fmt: skip
        self.processor.image_mean, self.processor.image_std = [0, 0, 0], [1 / 255] * 3
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values, image_sizes, original_sizes, return_dict=True):
        found = [
            self.squares(view, *size)
            for view, size in zip(pixel_values, original_sizes.tolist(), strict=True)
        ]
        n, longest = len(found), max(len(one) for one in found)
        outputs = PartStateOutput(
            pred_boxes=torch.zeros(n, longest, 4),
            pred_labels=torch.full((n, longest), -1),
            scores=torch.zeros(n, longest),
            state_probs=torch.zeros(n, longest, 3),
            original_sizes=original_sizes,
        )
        for i, one in enumerate(found):
            for j, (box, label, cut) in enumerate(one):
                outputs.pred_boxes[i, j], outputs.pred_labels[i, j] = torch.tensor(box), label
                outputs.scores[i, j] = 0.9 if cut else 0.6  # what is cut is even surer
                outputs.state_probs[i, j, label] = 1
        return outputs

    def squares(self, view, height, width):
        if width > 640:
            return []
        found = []
        for color, label in COLORS.items():
            mask = (view[:, :height, :width].round() == torch.tensor(color)[:, None, None]).all(0).numpy()
            for y, x in find_objects(connected(mask)[0]):
                sides = (x.stop - x.start, y.stop - y.start)
                center = ((x.start + x.stop) / 2 / width, (y.start + y.stop) / 2 / height)
                found.append(
                    ((*center, sides[0] / width, sides[1] / height), label, sides != (SQUARE, SQUARE))
                )
        return found


def planted(model, squares, **options):
    photo = Image.new("RGB", (2000, 1500))
    for left, top, color in squares:
        photo.paste(color, (left, top, left + SQUARE, top + SQUARE))
    prepare, answer = steps_of_views(model, threshold=0.5, **options)
    (found,) = answer(prepare([photo]))
    assert (found.width, found.height) == (2000, 1500)
    return sorted((part.part, part.state, *(round(side) for side in part.box)) for part in found.parts)


RED, GREEN = COLORS


def test_each_square_of_a_large_photo_is_found_once_also_on_seams():
    edges = sorted({window.left for window in windows_of(2000, 1500, 640, 0.2)[2:]} | {640, 1093, 1546})
    rows = sorted({window.top for window in windows_of(2000, 1500, 640, 0.2)[2:]} | {640, 1070})
    squares = {(min(1960, max(0, x - 13)), min(1460, max(0, y - 13)), RED) for x in edges for y in rows}
    squares |= {(300, 300, GREEN), (345, 300, GREEN), (1960, 1460, GREEN)}  # neighbours stay two
    found = planted(FindsSquares(), squares, slice_size=640)
    expected = sorted(
        ("wheel" if color == RED else "bell", STATES[COLORS[color]], x, y, x + SQUARE, y + SQUARE)
        for x, y, color in squares
    )
    assert len(expected) > 20
    assert found == expected
    assert planted(FindsSquares(), squares, slice_size=2000) == []  # the stub is blind for the whole


def test_one_of_each_part_is_kept_last():
    found = planted(
        FindsSquares(one_per_part=True), [(10, 10, RED), (900, 900, RED), (1500, 700, GREEN)], slice_size=640
    )
    assert [part[0] for part in found] == ["bell", "wheel"]


def boxes(*rows, labels=None, scores=None):
    n = len(rows)
    return {
        "boxes": torch.tensor(rows, dtype=torch.float32).reshape(n, 4),
        "labels": torch.tensor(labels or [0] * n),
        "scores": torch.tensor(scores or [0.5] * n),
        "state_probs": torch.eye(3)[:n] if n else torch.zeros(0, 3),
    }


def test_two_of_a_part_in_one_view_stay_two_and_a_cut_one_gives_way():
    whole, part = Window(0, 0, 100, 100), Window(0, 0, 60, 100)
    seen = boxes([10, 10, 90, 90], [20, 20, 50, 50], scores=[0.4, 0.8])
    cut = boxes([10, 10, 60, 90], scores=[0.9])
    found = merged([seen, cut], [whole, part], one_per_part=False)
    assert found["boxes"].tolist() == [[20, 20, 50, 50], [10, 10, 90, 90]]
    assert found["state_probs"].tolist() == [[0, 1, 0], [1, 0, 0]]  # states travel with their box
    other = boxes([10, 10, 60, 90], labels=[1], scores=[0.9])  # of another part
    assert len(merged([seen, other], [whole, part], one_per_part=False)["boxes"]) == 3


SELF = {"labels": [0, 1, 2], "state_probs": [0, 1, 2]}  # names that a mirror leaves alone


def test_mirrored_views_are_averaged():
    seen = boxes([10, 10, 30, 30], [60, 60, 90, 90], scores=[0.8, 0.6])
    mirrored = boxes([70, 10, 88, 30], scores=[0.4])  # in a photo of 100 pixels: 12 to 30
    found = averaged(seen, unmirrored(mirrored, 100, SELF))
    assert found["boxes"].tolist() == [[11, 10, 30, 30], [60, 60, 90, 90]]
    assert found["scores"].tolist() == pytest.approx([0.6, 0.3])
    nothing = averaged(boxes(), boxes())
    assert len(nothing["scores"]) == 0


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (["Left door", "Right door", "LEFT", "RIGHT", "bell", "left lamp"], [1, 0, 3, 2, 4, 5]),
        (["frontLeftDoor", "frontRightDoor", "frontleft", "frontright"], [1, 0, 3, 2]),
        (["wheel_FL", "wheel_FR", "wheel_rl", "wheel_rr", "mirror L", "mirror R"], [1, 0, 3, 2, 5, 4]),
        (["porte gauche", "porte droite", "Tür links", "Tür rechts", "brightleaf"], [1, 0, 3, 2, 4]),
    ],
)
def test_mirrored_names_keep_their_case(names, images):
    assert mirrored_labels(dict(enumerate(names))) == images


def test_states_and_attributes_of_a_mirrored_view_are_exchanged_too():
    states = {0: "whole", 1: "bent_left", 2: "bent_right", 3: "absent"}
    further = {"color": ["red", "blue"], "side": ["right", "left", "none"]}
    config = PartStateConfig(id2label={0: "saddle"}, id2state=states, attributes=further)
    found = boxes([10, 10, 30, 30]) | {
        "state_probs": torch.tensor([[0.1, 0.6, 0.2, 0.1]]),
        "attribute_probs": torch.tensor([[0.9, 0.1, 0.7, 0.2, 0.1]]),
    }
    back = unmirrored(found, 100, mirrored_columns(config))
    assert back["state_probs"][0].tolist() == pytest.approx([0.1, 0.2, 0.6, 0.1])
    assert back["attribute_probs"][0].tolist() == pytest.approx([0.9, 0.1, 0.2, 0.7, 0.1])


@pytest.mark.parametrize("slice_size", [None, 50])
def test_a_photo_that_shows_one_of_each_part_shows_it_once_mirrored_too(slice_size):
    model = build_model(one_per_part=True)
    for answer in model.predict(
        [noise(i, 90, 60) for i in range(4)], threshold=0.0, tta="flip", slice_size=slice_size
    ):
        names = [part.part for part in answer.parts]
        assert len(names) == len(set(names)) > 0


ARCHITECTURES = ["faster_rcnn", "rt_detr_v2"]


def noise(seed, width, height):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def told(answer):
    return [(part.part, part.state, part.score, part.state_score, *part.box) for part in answer.parts]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_slices_as_large_as_the_photo_change_nothing(architecture):
    model = detector(architecture)
    photos = [noise(0, 90, 60), noise(1, 50, 70)]
    plain = model.predict(photos, threshold=0.0)
    sliced = model.predict(photos, threshold=0.0, slice_size=90)
    for a, b in zip(plain, sliced, strict=True):
        assert (a.width, a.height, a.missing) == (b.width, b.height, b.missing)
        assert len(told(a)) == len(told(b)) > 0
        for one, other in zip(sorted(told(a)), sorted(told(b)), strict=True):
            assert one[:2] == other[:2]
            assert np.allclose(one[2:], other[2:], atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_real_detectors_see_slices_and_mirrors(architecture, tmp_path):
    model, photo = detector(architecture), noise(2, 200, 130)
    (found,) = model.predict([photo], threshold=0.0, slice_size=64, overlap=0.3, tta="flip")
    assert found.parts
    for part in found.parts:
        left, top, right, bottom = part.box
        assert -1e-3 <= left <= right <= 200 + 1e-3
        assert -1e-3 <= top <= bottom <= 130 + 1e-3
        assert part.part in PARTS.values()
    photo.save(tmp_path / "a.png")
    rows = model.predict_to_file(
        [str(tmp_path / "a.png")], tmp_path / "a.csv", threshold=0.0, slice_size=64, tta="flip"
    )
    assert rows >= len(PARTS)


def test_a_symmetric_photo_is_seen_alike_mirrored():
    model = detector("faster_rcnn")
    half = np.asarray(noise(3, 45, 60))
    photo = Image.fromarray(np.concatenate([half, half[:, ::-1]], 1))
    (found,) = model.predict([photo], threshold=0.0, tta="flip")
    (mirrored,) = model.predict([photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], threshold=0.0, tta="flip")
    assert np.allclose(
        [part.score for part in found.parts], [part.score for part in mirrored.parts], atol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slice_size": 0}, "slice_size must be a whole number of at least 1"),
        ({"slice_size": 64, "overlap": 1.0}, "overlap must be at least 0 and below 1, got 1.0"),
        ({"overlap": 0.5}, "overlap is that of slices: give slice_size"),
        ({"tta": "turn"}, "tta must be one of flip"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(DataError, match=message):
        detector("faster_rcnn").predict([noise(0, 40, 30)], **options)


def detector(architecture):
    return build_model() if architecture == "faster_rcnn" else build_query_model(architecture)
