"""Temperatures, thresholds and bounds: against brute force, and held on photos that nobody saw."""

import json

import numpy as np
import pytest
import torch
from helpers.parts_models import TINY, build_model, parse, photos

from geohf.errors import DataError
from geohf.metrics.calibration import risk_threshold
from geohf.parts import PartStateConfig
from geohf.parts.decisions import (
    best_f1_threshold,
    fit_decisions,
    joined,
    part_scores,
    part_thresholds,
    presence_of,
    with_temperatures,
)
from geohf.parts.metrics import predictions_of
from geohf.recipes.train_parts import run as run_parts

PARTS, STATES = {0: "wheel", 1: "bell", 2: "lamp"}, {0: "intact", 1: "damaged", 2: "absent"}


def config(**fields):
    return PartStateConfig(id2label=PARTS, id2state=STATES, image_size=[64, 96], **fields)


def world(count, seed, temperature=1.0, state_temperature=1.0):
    """Photos whose three parts are there as often as their scores say, two thirds of them; logits scaled afterwards."""
    rng = np.random.default_rng(seed)
    box = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], float)
    predictions, targets = [], []
    for _ in range(count):
        logit = rng.normal(0.7, 2.0, 3)
        there = rng.random(3) < 1 / (1 + np.exp(-logit))
        told = rng.normal(0, 1.5, (3, 2))
        told -= np.log(np.exp(told).sum(1, keepdims=True))
        state = (rng.random(3) > np.exp(told[:, 0])).astype(int)
        probability = np.exp(told * state_temperature)
        probability = np.c_[probability / probability.sum(1, keepdims=True), np.zeros(3)]
        predictions.append(
            {"boxes": box, "labels": np.arange(3), "scores": 1 / (1 + np.exp(-logit * temperature))}
            | {"states": probability.argmax(1), "state_probs": probability}
            | {"state_scores": probability.max(1)}
        )
        targets.append(
            {"boxes": box, "labels": np.arange(3), "states": np.where(there, state, 2)}
            | {"iscrowd": np.zeros(3, int)}
        )
    return predictions, targets


def missed_share(predictions, targets, threshold, absent=False):
    """The mean over photos of the share of parts that are there and missed, or absent and seen, written out."""
    shares = []
    for found, truth in zip(predictions, targets, strict=True):
        rows = [i for i in range(3) if (truth["states"][i] == 2) == absent]
        wrong = [(found["scores"][i] >= threshold) == absent for i in rows]
        shares.append(np.mean(wrong) if wrong else 0.0)
    return float(np.mean(shares))


def test_missed_parts_stay_below_the_limit_on_fresh_photos():
    fresh = world(4000, seed=1)
    found = {"max_missed": [], "max_hallucinated": []}
    for draw in range(100):
        for name in found:
            told = config()
            fit_decisions(told, *world(200, seed=10 + draw), **{name: 0.1})
            assert getattr(told, name) == 0.1
            raw = 1 / (
                1 + np.exp(-told.score_temperature * np.log(told.thresholds[0] / (1 - told.thresholds[0])))
            )
            found[name].append(missed_share(*fresh, raw, absent=name == "max_hallucinated"))
    assert 0.07 < np.mean(found["max_missed"]) <= 0.1
    assert 0.07 < np.mean(found["max_hallucinated"]) <= 0.1


def test_a_risk_threshold_is_the_largest_that_holds():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(5, 30))
        rows = rng.integers(0, n, 60)
        scores = np.round(rng.random(60), 1)  # ties, and scores of 0
        limit = float(rng.uniform(0.05, 0.6))

        def risk(t, n=n, rows=rows, scores=scores):
            below = [(scores[rows == row] < t).mean() for row in range(n) if (rows == row).any()]
            return (sum(below) + 1) / (n + 1)

        threshold = risk_threshold(scores, rows, n, limit)
        holding = [t for t in np.unique(scores[scores > 0]) if risk(t) <= limit + 1e-12]
        if not holding:
            assert threshold is None
            continue
        assert risk(threshold) == risk(max(holding))
        assert threshold < max(holding) <= 1


def test_too_few_photos_promise_nothing():
    with pytest.raises(DataError, match=r"--max_missed 0.1 needs at least 9 validation photos, there are 8"):
        fit_decisions(config(), *world(8, 0), max_missed=0.1)
    fit_decisions(config(), *world(9, 0), max_missed=0.1)
    with pytest.raises(DataError, match=r"max_hallucinated must be above 0 and below 1, got 1"):
        fit_decisions(config(), *world(8, 0), max_hallucinated=1)


def test_limits_that_exclude_each_other_keep_the_first(caplog):
    told = config()
    fit_decisions(told, *world(300, 0), max_missed=0.02, max_hallucinated=0.02)
    assert (told.max_missed, told.max_hallucinated) == (0.02, None)
    assert "the first is kept" in caplog.text
    predictions, targets = world(50, 0)
    for found in predictions:  # a lamp is never found
        for key in found:
            found[key] = found[key][:2]
    fit_decisions(told := config(), predictions, targets, max_missed=0.05)
    assert told.max_missed is None
    assert len(set(told.thresholds)) > 1  # those of the best F1
    assert "--max_missed 0.05 cannot be held" in caplog.text


def test_scaled_logits_are_recovered():
    told = config()
    fit_decisions(told, *world(8000, 3, temperature=2.5, state_temperature=1.6))
    assert told.score_temperature == pytest.approx(2.5, rel=0.05)
    assert told.state_temperature == pytest.approx(1.6, rel=0.05)


def test_the_sweep_of_thresholds_equals_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, positives = int(rng.integers(1, 40)), int(rng.integers(20, 30))
        scores = np.round(rng.random(n) * 0.9 + 0.05, 1 if n % 2 else 6)
        right = rng.random(n) < scores
        right[np.flatnonzero(right)[positives:]] = False

        def f1(t, scores=scores, right=right, positives=positives):
            return 2 * right[scores >= t].sum() / ((scores >= t).sum() + positives)

        best = max(f1(t) for t in scores)
        assert f1(best_f1_threshold(scores, right, positives)) == pytest.approx(best, abs=1e-12)


def test_parts_with_few_truths_take_the_threshold_of_all():
    predictions, targets = world(60, 5)
    for truth in targets[4:]:
        truth["states"] = np.where(truth["labels"] == 2, 2, truth["states"])
    tables = joined(predictions, targets)
    thresholds = part_thresholds(*tables, 3, 2)
    found, truth, crowds = tables
    keep = found["labels"] == 0
    own = {k: v[keep] for k, v in found.items()}, {k: v[truth["labels"] == 0] for k, v in truth.items()}
    assert thresholds[0] == part_thresholds(*own, crowds, 3, 2)[0]
    assert thresholds[0] != thresholds[1] != thresholds[2]
    right = (truth["states"] != 2)[np.lexsort((found["labels"], found["photo"]))]
    assert thresholds[2] == best_f1_threshold(found["scores"], right, int(right.sum()))


def test_numbers_of_each_part_are_those_of_its_threshold():
    predictions, targets = world(40, 6)
    told = config(presence_thresholds=[0.3, 0.6, 1.0])
    rows = part_scores(told, predictions, targets)
    said = np.array([found["scores"][1] >= 0.6 for found in predictions])
    there = np.array([truth["states"][1] != 2 for truth in targets])
    assert rows[1]["precision"] == (said & there).sum() / said.sum()
    assert rows[1]["recall"] == (said & there).sum() / there.sum()
    assert np.isnan(rows[2]["precision"])
    assert rows[2]["recall"] == 0


def test_crowds_are_there_and_what_nobody_tells_is_not_judged():
    predictions, targets = world(2, 7)
    targets[0]["iscrowd"] = np.array([1, 0, 0])
    targets[1] = {key: value[:1] for key, value in targets[1].items()}
    presence = presence_of(predictions, targets, 3, 2)
    assert presence.there[0, 0] == 1
    assert presence.there[1, 1:].tolist() == [-1, -1]
    assert presence_of(predictions, targets, 3, None).there[1, 1:].tolist() == [0, 0]


def test_outputs_decode_with_the_temperatures_and_thresholds_of_the_config(tmp_path):
    model = build_model(one_per_part=True)
    batch = model.prepare(photos(2))
    with torch.no_grad():
        raw = model(**batch)
        model.config.score_temperature, model.config.state_temperature = 2.0, 3.0
        warm = model(**batch)
    known = raw.pred_labels >= 0
    torch.testing.assert_close(warm.scores[known], (raw.scores[known].logit() / 2).sigmoid())
    wanted = (raw.state_probs[known].log() / 3).softmax(-1)
    torch.testing.assert_close(warm.state_probs[known], wanted)
    assert not warm.scores[~known].any()
    assert with_temperatures({}, model.config) == {}
    scores = predictions_of(warm, model.config)[0]
    limit = float(np.median(scores["scores"]))
    model.config.presence_thresholds = [limit, 1.0, 0.0]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    answer = again.decode(warm)[0]
    expected = [
        (PARTS[int(label)], float(score))
        for label, score in zip(scores["labels"], scores["scores"], strict=True)
        if score >= np.float32([limit, 1.0, 0.0])[label]
    ]
    assert [part.part for part in answer.parts] == [part for part, _ in expected]
    assert [part.score for part in answer.parts] == pytest.approx([score for _, score in expected])
    assert {part.part for part in again.decode(warm, threshold=0.0)[0].parts} >= {p for p, _ in expected}


def test_the_trainer_fits_what_the_model_then_does(bikes, tmp_path):
    words = ("--data", bikes, "--output_dir", tmp_path / "out", "--backbone", "test_resnet", "--max_steps", 2)
    words += ("--pretrained", "false", "--config_overrides", json.dumps(TINY), "--overlays", 0)
    words += ("--validation_share", 0.5)
    trainer = run_parts(*parse(*words, "--max_missed", 0.4))
    told = trainer.model.config
    assert len(told.presence_thresholds) == 22
    assert told.score_temperature != 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "precision" in card
    if told.max_missed is not None:
        assert "at most 0.4 are said to be missing" in card.replace("\n", " ")
    with pytest.raises(DataError, match=r"--max_missed 0.01 needs at least 99 validation photos"):
        run_parts(*parse(*words, "--max_missed", 0.01))
    with pytest.raises(DataError, match="exclude each other"):
        run_parts(*parse(*words, "--max_missed", 0.4, "--presence_threshold", 0.6))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"presence_thresholds": [0.5]}, "presence_thresholds must be 3 numbers from 0 to 1"),
        ({"score_temperature": 0.0}, "must be above 0"),
    ],
)
def test_a_config_that_cannot_be(fields, message):
    with pytest.raises(Exception, match=message):
        config(**fields)
