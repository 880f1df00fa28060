import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from geohf.errors import DataError
from geohf.parts.evaluator import PartEvaluator, evaluate_detections
from geohf.parts.state_metrics import confusion_counts, state_metrics

INTACT, DAMAGED, ABSENT, OCCLUDED = range(4)
A, B, C, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [90, 90, 99, 99]


def answer(*rows) -> dict:
    """A prediction of (box, part, score, state, state score)."""
    boxes, labels, scores, states, state_scores = zip(*rows, strict=True) if rows else [()] * 5
    return {
        "boxes": boxes,
        "labels": labels,
        "scores": scores,
        "states": states,
        "state_scores": state_scores,
    }


def truth(*rows) -> dict:
    """A target of (box, part, state)."""
    boxes, labels, states = zip(*rows, strict=True) if rows else [()] * 3
    return {"boxes": boxes, "labels": labels, "states": states}


def random_case(seed=0, photos=30, parts=6):
    """Predictions near their truths, some stray, some photos without either; tied scores; an id a photo."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for number in range(photos):
        there = np.flatnonzero(rng.random(parts) < 0.8) if number % 7 else np.zeros(0, int)
        corner = rng.uniform(0, 80, (len(there), 2))
        box = np.concatenate([corner, corner + rng.uniform(8, 20, (len(there), 2))], 1)
        targets.append(
            {
                "boxes": box,
                "labels": there,
                "states": rng.integers(0, 4, len(there)),
                "image_id": f"p{number:02d}",
            }
        )
        chosen = rng.integers(0, max(len(there), 1), 2 * len(there))
        predictions.append(
            {
                "boxes": box[chosen] + rng.normal(0, 1.5, (len(chosen), 4)),
                "labels": np.where(rng.random(len(chosen)) < 0.9, there[chosen] if len(there) else 0, 0),
                "scores": rng.integers(1, 5, len(chosen)) / 5,
                "states": rng.integers(0, 4, len(chosen)),
                "state_scores": rng.integers(1, 4, len(chosen)) / 4,
            }
        )  # fmt: skip
    return predictions, targets


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        first[k] == second[k] or (math.isnan(first[k]) and math.isnan(second[k])) for k in first
    )


# --- by hand ---


def test_all_numbers_by_hand():
    targets = [
        truth((A, 0, INTACT), (B, 1, ABSENT), (C, 2, DAMAGED)),
        truth((A, 0, OCCLUDED), (B, 1, INTACT), (C, 2, ABSENT)),
    ]
    predictions = [
        answer((A, 0, 0.9, INTACT, 1.0), (B, 1, 0.8, INTACT, 1.0), (C, 2, 0.7, INTACT, 1.0)),
        answer((A, 0, 0.6, OCCLUDED, 1.0), (FAR, 2, 0.95, INTACT, 1.0), (B, 1, 0.3, INTACT, 1.0)),
    ]
    found = evaluate_detections(predictions, targets, part_names=["saddle", "bell", "lock"])
    # bell: the best detection is that of an absent one, then comes the right one
    assert found["ap/saddle"] == pytest.approx(1.0)
    assert found["ap/bell"] == pytest.approx(0.5)
    assert found["ap/lock"] == pytest.approx(0.5)
    assert found["map"] == found["map_50"] == found["map_75"] == pytest.approx(2 / 3)
    # (saddle, intact), (saddle, occluded): right; (bell, intact) after a wrong one; (lock, damaged) never told
    assert found["joint_map"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    # four parts are there: both saddles right, the lock's state wrong, the bell below the threshold
    assert found["state_accuracy"] == pytest.approx(2 / 3)
    assert found["state_recall"] == pytest.approx(2 / 4)
    # intact: 1 right, 1 told wrongly, and the missed bell is not among those found; damaged 0; occluded 1
    assert found["state_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    # two parts are absent: both have a detection, one of them at the place
    assert found["hallucination"] == 1.0
    assert found["absent_recall"] == 0.0
    assert found["hallucination_iou"] == 0.5
    assert found["present_recall"] == pytest.approx(3 / 4)


def test_confusion_has_a_column_of_missed_ones():
    evaluator = PartEvaluator(num_parts=3, num_states=4)
    evaluator.add(
        [answer((A, 0, 0.9, DAMAGED, 1), (B, 1, 0.9, INTACT, 1), (FAR, 2, 0.9, INTACT, 1))],
        [truth((A, 0, INTACT), (B, 1, ABSENT), (C, 2, OCCLUDED))],
    )
    assert evaluator.confusion().tolist() == [[0, 1, 0, 0, 0], [0] * 5, [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_an_answer_of_absent_is_no_hallucination():
    targets = [truth((A, 0, ABSENT), (B, 1, INTACT))]
    said = answer((A, 0, 0.9, ABSENT, 1.0), (B, 1, 0.9, ABSENT, 1.0))
    found = evaluate_detections([said], targets)
    assert (found["hallucination"], found["hallucination_iou"], found["absent_recall"]) == (0, 0, 1)
    assert found["present_recall"] == 0
    assert found["state_accuracy"] == 0


def test_a_vocabulary_without_an_absent_state():
    targets = [truth((A, 0, 2), (B, 1, 0))]
    found = evaluate_detections([answer((A, 0, 0.9, 2, 1.0))], targets, absent_state=None)
    assert found["map"] == pytest.approx(0.5)  # state 2 is a state as any other
    assert found["state_recall"] == 0.5
    assert math.isnan(found["hallucination"])
    assert found["present_recall"] == 0.5


def test_of_several_of_a_part_one_may_be_absent():
    targets = [truth((A, 0, INTACT), (B, 0, ABSENT))]
    found = evaluate_detections([answer((A, 0, 0.9, INTACT, 1))], targets)
    assert math.isnan(found["hallucination"])  # the detection is that of the other one
    assert found["hallucination_iou"] == 0
    both = evaluate_detections([answer((A, 0, 0.9, INTACT, 1), (B, 0, 0.8, INTACT, 1))], targets)
    assert both["hallucination_iou"] == 1


def test_joint_precision_ranks_by_both_scores():
    targets = [truth((A, 0, INTACT)), truth()]
    surely_a_part = (FAR, 0, 0.9, INTACT, 0.3)
    surely_intact = (A, 0, 0.6, INTACT, 1.0)
    found = evaluate_detections([answer(surely_intact), answer(surely_a_part)], targets)
    assert found["map"] == pytest.approx(0.5)
    assert found["joint_map"] == pytest.approx(1.0)


def test_threshold_of_the_working_point():
    targets = [truth((A, 0, INTACT), (B, 1, ABSENT))]
    said = answer((A, 0, 0.45, INTACT, 1.0), (B, 1, 0.35, INTACT, 1.0))
    at = {t: evaluate_detections([said], targets, score_threshold=t) for t in (0.3, 0.4, 0.5)}
    assert [at[t]["hallucination"] for t in at] == [1, 0, 0]
    assert [at[t]["present_recall"] for t in at] == [1, 1, 0]
    assert len({at[t]["map"] for t in at}) == 1


def test_macro_f1_and_accuracy_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        true, said = rng.choice([0, 1, 3], 60), rng.integers(0, 4, 60)
        found = state_metrics(confusion_counts(true, said, 4))
        assert found["state_accuracy"] == pytest.approx(accuracy_score(true, said))
        wanted = f1_score(true, said, labels=sorted(set(true)), average="macro", zero_division=0)
        assert found["state_f1"] == pytest.approx(wanted)


def test_nothing_to_count_is_nan():
    found = evaluate_detections([answer()], [truth()], num_parts=2, num_states=4)
    assert all(math.isnan(value) for value in found.values())
    assert {
        "map",
        "map_50",
        "map_75",
        "joint_map",
        "ap/0",
        "ap/1",
        "state_f1",
        "hallucination",
    } <= found.keys()


# --- streams ---


@pytest.mark.parametrize("batch", [1, 4, 30])
def test_neither_batches_nor_order_matter(batch):
    predictions, targets = random_case()
    whole = PartEvaluator(num_parts=6, num_states=4)
    whole.add(predictions, targets)
    order = np.random.default_rng(batch).permutation(len(targets))
    parts = PartEvaluator(num_parts=6, num_states=4)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        parts.add([predictions[i] for i in chosen], [targets[i] for i in chosen])
    assert same(parts.compute(), whole.compute())  # bit for bit, with many ties
    assert np.array_equal(parts.confusion(), whole.confusion())
    assert len(parts) == 30
    parts.reset()
    assert len(parts) == 0
    assert 0 < whole.compute()["map"] < 1


def test_tensors_of_any_type_are_taken():
    predictions, targets = random_case(1, 5)
    tensors = [
        [{k: v if isinstance(v, str) else torch.as_tensor(v).requires_grad_(v.dtype.kind == "f") for k, v in row.items()} for row in rows]
        for rows in (predictions, targets)
    ]  # fmt: skip
    assert same(evaluate_detections(*tensors), evaluate_detections(predictions, targets))
    half = answer((A, 0, 0.5, INTACT, 1.0))
    half["scores"] = torch.tensor([0.5], dtype=torch.bfloat16)
    assert evaluate_detections([half], [truth((A, 0, INTACT))])["map"] == pytest.approx(1)


def change(row, **values):
    return [row | values]


GOOD, TRUE = answer((A, 0, 0.9, INTACT, 1.0)), truth((A, 0, INTACT))


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        ([], [TRUE], "0 predictions for 1 targets"),
        (change(GOOD, scores=[math.nan]), [TRUE], "prediction of photo number 0: scores hold NaN"),
        (change(GOOD, boxes=[[0, 0, math.inf, 1]]), [TRUE], "boxes hold NaN or infinity"),
        (
            change(GOOD, boxes=[[9, 0, 5, 5]]),
            [TRUE],
            r"\[9.0, 0.0, 5.0, 5.0\]; they must be left, top, right",
        ),
        (
            [GOOD],
            change(TRUE, boxes=[[0, 9, 5, 5]]),
            "must be left, top, right, bottom, not left, top, width",
        ),
        (change(GOOD, labels=[2]), [TRUE], "photo number 0: labels hold 2, there are 2 from 0"),
        (change(GOOD, states=[9]), [TRUE], "states hold 9, there are 4 from 0"),
        (change(GOOD, labels=[-1]), [TRUE], "labels hold -1; indices start at 0"),
        (change(GOOD, scores=[0.9, 0.8]), [TRUE], "lengths differ: .*'scores': 2"),
        ([{"boxes": []}], [TRUE], "lacks 'labels'; it has boxes"),
        ([GOOD], change(TRUE, states=[7]), "states hold 7"),
        ([GOOD], change(TRUE, image_id="p.jpg", labels=[-100]), "target of photo p.jpg: labels hold -100"),
    ],
)
def test_what_does_not_fit_is_refused(predictions, targets, message):
    with pytest.raises(DataError, match=message):
        PartEvaluator(num_parts=2, num_states=4).add(predictions, targets)


def test_a_photo_that_comes_twice_is_noticed():
    evaluator = PartEvaluator(2, 4)
    evaluator.add([GOOD] * 2, [TRUE | {"image_id": 3}] * 2)
    with pytest.raises(DataError, match="two targets have the same image_id"):
        evaluator.compute()


CROWDED = truth((A, 0, INTACT), (C, 0, -1), (B, 1, ABSENT)) | {"iscrowd": [0, 1, 0]}


@pytest.mark.case("use-S17", "six-6")
def test_what_is_found_in_a_crowd_is_not_wrong():
    in_crowd, half = [41, 1, 45, 9], [36, 0, 44, 10]  # the second lies in it by half
    said = answer((in_crowd, 0, 0.9, INTACT, 1.0), (A, 0, 0.8, INTACT, 1.0))
    plain = CROWDED | {"iscrowd": [0, 0, 0], "states": [INTACT, INTACT, ABSENT]}
    found, without = (evaluate_detections([said], [target], 2, 4) for target in (CROWDED, plain))
    right = [found[name] for name in ("map", "joint_map", "state_accuracy", "present_recall")]
    assert right == pytest.approx([1, 1, 1, 1])
    assert without["map"] < 0.6
    # at an overlap of 0.5 the half is left out, at higher ones it is a wrong detection before the right one
    some = evaluate_detections(
        [answer((half, 0, 0.9, INTACT, 1.0), (A, 0, 0.8, INTACT, 1.0))], [CROWDED], 2, 4
    )
    assert some["map_50"] == pytest.approx(1)
    assert some["map"] == pytest.approx((1 + 9 * 0.5) / 10)
    other = evaluate_detections([answer((in_crowd, 1, 0.9, INTACT, 1.0))], [CROWDED], 2, 4)
    assert other["hallucination"] == 1  # the crowd is one of another part
    seen = CROWDED | {"labels": [0, 1, 1]}
    assert math.isnan(
        evaluate_detections([answer((in_crowd, 1, 0.9, INTACT, 1.0))], [seen], 2, 4)["hallucination"]
    )


@pytest.mark.case("use-S17", "six-6")
def test_crowds_do_not_depend_on_batches_and_are_drawn_with_their_photos():
    predictions, targets = random_case(4)
    rng = np.random.default_rng(0)
    for target in targets:
        crowd = rng.random(len(target["labels"])) < 0.3
        target["states"] = np.where(crowd, -1, target["states"])
        target["iscrowd"] = crowd
    whole = PartEvaluator(6, 4)
    whole.add(predictions, targets)
    single = PartEvaluator(6, 4)
    for said, true in zip(predictions, targets, strict=True):
        single.add([said], [true])
    assert same(whole.compute(), single.compute())
    once = whole.statistics()(np.arange(30))
    expected = whole.compute()
    assert once == pytest.approx({name: expected[name] for name in once}, abs=1e-12)
    with pytest.raises(DataError, match="lengths differ: states 3, iscrowd 1"):
        whole.add([answer()], [CROWDED | {"iscrowd": [1]}])


def test_drawn_photos_measure_as_if_they_had_been_added_as_often():
    predictions, targets = random_case()
    rng = np.random.default_rng(2)
    for prediction in predictions:  # ties between photos are broken by their order, which copies change
        for name in ("scores", "state_scores"):
            prediction[name] = prediction[name] + rng.uniform(0, 1e-6, len(prediction[name]))
    evaluator = PartEvaluator(6, 4)
    evaluator.add(predictions, targets)
    measure = evaluator.statistics()
    once = measure(np.arange(30))
    whole = evaluator.compute()
    assert once == pytest.approx({name: whole[name] for name in once}, abs=1e-12)
    drawn = np.sort(np.random.default_rng(1).integers(30, size=30))
    again = PartEvaluator(6, 4)
    again.add(
        [predictions[i] for i in drawn],
        [targets[i] | {"image_id": f"{n:02d}"} for n, i in enumerate(drawn)],
    )
    expected = again.compute()
    assert measure(drawn) == pytest.approx({name: expected[name] for name in once}, abs=1e-12)
    assert measure(drawn) != once


def test_scores_are_compared_with_how_often_they_are_right():
    """Of four photos with a detection two show the part, and one of the two states that were found is right."""
    box = [[0, 0, 9, 9]]
    found = [
        {"boxes": box, "labels": [0], "scores": [s], "states": [0], "state_scores": [0.8]}
        for s in (0.9, 0.9, 0.9, 0.1)
    ]
    truths = [{"boxes": box, "labels": [0], "states": [state]} for state in (0, 1, 2, 2)]
    numbers = evaluate_detections(found, truths, num_parts=1, num_states=3)
    # presence: three of 0.9, of which two are there, and one of 0.1, which is not
    assert numbers["presence_ece"] == pytest.approx((3 * (0.9 - 2 / 3) + 0.1) / 4)
    assert numbers["state_ece"] == pytest.approx(0.8 - 0.5)
    logits = [row | {"scores": [3.0]} for row in found]
    assert math.isnan(evaluate_detections(logits, truths, 1, 3)["presence_ece"])
    assert math.isnan(evaluate_detections([], [], 1, 3)["state_ece"])
