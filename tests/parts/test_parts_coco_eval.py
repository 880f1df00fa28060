import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from geohf.parts.coco_eval import AREAS, Detections, GroundTruth, MatchedBoxes, match

CORNERS = np.array(
    [[x, y, x + w, y + h] for x in (0, 3) for y in (0, 2) for w in (4, 5) for h in (4, 6)], float
)


def theirs(
    found: Detections, truths: GroundTruth, classes: int, photos: int, crowds: GroundTruth | None = None
) -> np.ndarray:
    """pycocotools' precision (10, 101, classes), all areas, 100 detections."""
    return their_evaluation(found, truths, classes, photos, crowds)["precision"][..., 0, -1]


def their_evaluation(found, truths, classes, photos, crowds=None) -> dict[str, np.ndarray]:
    """pycocotools' `precision` (10, 101, classes, areas, 3) and `recall` (10, classes, areas, 3), NaN where it has -1."""
    whole = truths if crowds is None else GroundTruth(*map(np.concatenate, zip(truths, crowds, strict=True)))
    first_crowd = len(truths.label)

    def sides(box):
        return [float(v) for v in (*box[:2], *(box[2:] - box[:2]))]

    annotations = [
        {"id": i + 1, "image_id": int(p), "category_id": int(c), "bbox": sides(b), "area": float((b[2:] - b[:2]).prod()), "iscrowd": int(i >= first_crowd)}
        for i, (p, c, b) in enumerate(zip(*whole, strict=True))
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(photos)],
            "categories": [{"id": i} for i in range(classes)],
            "annotations": annotations,
            "info": {},
        }
        coco.createIndex()
        results = [
            {"image_id": int(p), "category_id": int(c), "bbox": sides(b), "score": float(s)}
            for p, c, b, s in zip(*found, strict=True)
        ]
        results = coco.loadRes(results) if results else COCO()
        results.dataset = results.dataset or coco.dataset | {"annotations": []}
        results.createIndex()
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    numbers = {name: evaluation.eval[name] for name in ("precision", "recall")}
    return {name: np.where(values < 0, np.nan, values) for name, values in numbers.items()}


def case(
    seed: int, photos: int, classes: int, truths_each, detections: int
) -> tuple[Detections, GroundTruth]:
    """Boxes that overlap a lot, with equal scores and equal overlaps, empty photos, photos without truths."""
    rng = np.random.default_rng(seed)
    busy = rng.random(photos * classes) < 0.7
    counts = np.where(busy, rng.integers(0, truths_each + 1, photos * classes), 0)
    key = np.repeat(np.arange(photos * classes), counts)
    key = key[key // classes != 1] if photos > 2 else key  # photo 1 shows nothing
    truths = GroundTruth(key // classes, key % classes, CORNERS[rng.integers(0, len(CORNERS), len(key))])
    key = np.sort(rng.integers(0, photos * classes, detections))
    key = key[key // classes != 2]  # nothing is found in photo 2
    box = CORNERS[rng.integers(0, len(CORNERS), len(key))] + rng.choice((0, 0, 0.37, 1.1), (len(key), 4))
    order = np.argsort(key // classes, kind="stable")
    return Detections(
        key[order] // classes, key[order] % classes, box[order], rng.integers(0, 6, len(key)) / 7
    ), truths


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([1, 1, 2, 7]),
    st.integers(0, 120),
)
def test_equal_to_pycocotools(seed, photos, classes, truths_each, detections):
    found, truths = case(seed, photos, classes, truths_each, detections)
    ours = MatchedBoxes(found, truths, classes).precision()
    np.testing.assert_allclose(
        ours, theirs(found, truths, classes, photos), rtol=0, atol=1e-12, equal_nan=True
    )


@pytest.mark.case("use-S17")
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 3), st.integers(0, 150), st.integers(1, 4))
def test_equal_to_pycocotools_with_crowds(seed, photos, classes, detections, size):
    found, truths = case(seed, photos, classes, 3, detections)
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    corner = rng.choice((0.0, 1.0, 3.0), (count, 2))
    crowds = GroundTruth(
        rng.integers(0, photos, count),
        rng.integers(0, classes, count),
        np.concatenate([corner, corner + size + rng.choice((0, 2.5), (count, 2))], 1),
    )
    ours = MatchedBoxes(found, truths, classes, crowds).precision()
    expected = theirs(found, truths, classes, photos, crowds)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12, equal_nan=True)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 3, 12]))
def test_sizes_and_recalls_are_those_of_pycocotools(seed, photos, classes, truths_each):
    """Boxes of about 32 x 32 and 96 x 96 pixels, some of them exactly, with crowds among them."""
    found, truths = case(seed, photos, classes, truths_each, 40 * photos)
    rng = np.random.default_rng(seed)
    scales = rng.choice((4.0, 8.0, 24.0), photos)
    found = found._replace(box=found.box * scales[found.photo][:, None])
    truths = truths._replace(box=truths.box * scales[truths.photo][:, None])
    count = int(rng.integers(0, 4))
    photo = rng.integers(0, photos, count)
    box = CORNERS[rng.integers(0, len(CORNERS), count)] * scales[photo][:, None]
    crowds = GroundTruth(photo, rng.integers(0, classes, count), box)
    expected = their_evaluation(found, truths, classes, photos, crowds)
    for number, area in enumerate((None, *AREAS.values())):
        ours = MatchedBoxes(found, truths, classes, crowds, area)
        close = {"rtol": 0, "atol": 1e-12, "equal_nan": True}
        np.testing.assert_allclose(ours.precision(), expected["precision"][..., number, -1], **close)
        for place, limit in enumerate((1, 10, 100)):
            np.testing.assert_allclose(ours.recall(limit), expected["recall"][..., number, place], **close)


def test_the_size_of_a_box_on_the_border_belongs_to_both_sides():
    """A found box of 32 x 32 is right among small and among medium ones, and a missed large one is of neither."""
    truths = GroundTruth(np.zeros(2, int), np.zeros(2, int), boxes([0, 0, 32, 32], [50, 0, 150, 100]))
    found = Detections(np.zeros(1, int), np.zeros(1, int), truths.box[:1], np.array([0.5]))
    means = {
        size: MatchedBoxes(found, truths, 1, area=area).precision().mean() for size, area in AREAS.items()
    }
    assert means == {"small": pytest.approx(1), "medium": pytest.approx(1), "large": pytest.approx(0)}


@pytest.mark.parametrize("truths_each", [1, 30])
def test_equal_to_pycocotools_with_more_than_100_detections_of_a_class(truths_each):
    found, truths = case(3, 3, 2, truths_each, 900)
    assert np.bincount(found.photo * 2 + found.label).max() > 110
    ours = MatchedBoxes(found, truths, 2).precision()
    np.testing.assert_allclose(ours, theirs(found, truths, 2, 3), rtol=0, atol=1e-12, equal_nan=True)


def test_equal_to_pycocotools_for_float32_boxes_of_photographs():
    rng = np.random.default_rng(0)
    photos, classes = 60, 22
    key = np.flatnonzero(rng.random(photos * classes) < 0.8)
    corner, size = rng.uniform(0, 900, (len(key), 2)), rng.uniform(5, 300, (len(key), 2))
    truths = GroundTruth(
        key // classes,
        key % classes,
        np.concatenate([corner, corner + size], 1).astype(np.float32).astype(float),
    )
    near = np.sort(rng.integers(0, len(key), 3000))
    box = truths.box[near] + rng.normal(0, 12, (3000, 4)).astype(np.float32)
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    scores = rng.random(3000).astype(np.float32).astype(float)
    found = Detections(key[near] // classes, key[near] % classes, box, scores)
    ours = MatchedBoxes(found, truths, classes).precision()
    np.testing.assert_allclose(
        ours, theirs(found, truths, classes, photos), rtol=0, atol=1e-12, equal_nan=True
    )
    assert 0.02 < np.nanmean(ours) < 0.9


def test_blocks_give_the_same(monkeypatch):
    found, truths = case(1, 9, 3, 7, 200)
    whole = MatchedBoxes(found, truths, 3).precision()
    monkeypatch.setattr("geohf.parts.coco_eval._BLOCK", 100)
    np.testing.assert_array_equal(MatchedBoxes(found, truths, 3).precision(), whole)


def boxes(*rows) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


def test_precision_by_hand():
    """Best to worst: right, wrong, right, of three truths; recall reaches 2/3."""
    truth = boxes([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10])
    truths = GroundTruth(np.zeros(3, int), np.zeros(3, int), truth)
    found = Detections(
        np.zeros(3, int),
        np.zeros(3, int),
        np.concatenate([truth[:1], [[70, 0, 80, 10]], truth[1:2]]),
        np.array([0.9, 0.8, 0.7]),
    )
    precision = MatchedBoxes(found, truths, 1).precision()[0, :, 0]
    assert precision[:34] == pytest.approx(1.0)  # up to a recall of 1/3
    assert precision[34:67] == pytest.approx(2 / 3)
    assert precision[67:] == pytest.approx(0.0)


def test_matching_takes_the_best_overlap_and_the_better_detection_first():
    truths = GroundTruth(np.zeros(2, int), np.zeros(2, int), boxes([0, 0, 10, 10], [0, 0, 10, 8]))
    found = Detections(
        np.zeros(3, int), np.zeros(3, int), boxes([0, 0, 10, 8], [0, 0, 10, 10], [0, 0, 10, 9]), np.array([0.2, 0.9, 0.5])
    )  # fmt: skip
    matched = match(found, truths, 1, np.array([0.5, 0.95]))
    assert matched[:, 0].tolist() == [-1, 0, 1]  # the third takes what is left before the first may choose
    assert matched[:, 1].tolist() == [1, 0, -1]


def test_of_truths_that_overlap_equally_the_later_one_is_taken():
    """So the second detection, which fits only that one, finds nothing, as in pycocotools."""
    truths = GroundTruth(np.zeros(2, int), np.zeros(2, int), boxes([0, 0, 10, 10], [4, 0, 14, 10]))
    found = Detections(
        np.zeros(2, int), np.zeros(2, int), boxes([2, 0, 12, 10], [4, 0, 14, 10]), np.array([0.9, 0.8])
    )
    assert match(found, truths, 1, np.array([0.5]))[:, 0].tolist() == [1, -1]
    ours = MatchedBoxes(found, truths, 1).precision()
    np.testing.assert_allclose(ours, theirs(found, truths, 1, 1), rtol=0, atol=1e-12)


def test_only_the_best_100_of_a_class_in_a_photo_count():
    truths = GroundTruth(np.zeros(1, int), np.zeros(1, int), boxes([0, 0, 10, 10]))
    box = boxes(*[[50, 50, 60, 60]] * 100, [0, 0, 10, 10])
    found = Detections(np.zeros(101, int), np.zeros(101, int), box, np.linspace(1, 0, 101))
    assert MatchedBoxes(found, truths, 1).precision().max() == 0
    fewer = Detections(*(column[1:] for column in found))
    assert MatchedBoxes(fewer, truths, 1).precision() == pytest.approx(1 / 100)


def test_classes_without_truths_are_nan_and_nothing_at_all_is_nan():
    none = GroundTruth(np.zeros(0, int), np.zeros(0, int), boxes())
    found = Detections(np.zeros(1, int), np.ones(1, int), boxes([0, 0, 1, 1]), np.array([0.5]))
    assert np.isnan(MatchedBoxes(found, none, 2).precision()).all()
    empty = Detections(*none, np.zeros(0))
    assert np.isnan(MatchedBoxes(empty, none, 2).precision()).all()
    one = GroundTruth(np.zeros(1, int), np.zeros(1, int), boxes([0, 0, 1, 1]))
    assert (MatchedBoxes(empty, one, 1).precision() == 0).all()
