"""Metrics equal what is written out by hand or computed by scikit-learn, whatever they are given."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    top_k_accuracy_score,
)

from geohf.metrics.calibration import conformal_quantile, expected_calibration_error, fit_temperature
from geohf.parts.state_metrics import confusion_counts, state_metrics
from geohf.place import recall_at_n
from geohf.street import competition_score
from geohf.street.metrics import street_metrics
from geohf.tiles.metrics import coverage, tile_metrics

seeds = st.integers(0, 2**32 - 1)


def meters(a, b, radius_m=6_371_008.8):
    """The haversine formula, for points that are not antipodes."""
    (lat1, lon1), (lat2, lon2) = np.radians(a), np.radians(b)
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * radius_m * math.asin(min(1.0, math.sqrt(h)))


@pytest.mark.case("files-D4")
@given(seeds, st.integers(10, 40), st.integers(1, 15), st.sampled_from([10.0, 25.0, 100.0]))
def test_recall_is_what_two_loops_count(seed, images, queries, radius_m):
    rng = np.random.default_rng(seed)
    database, asked = rng.normal(size=(images, 6)), rng.normal(size=(queries, 6))
    points, where = (np.array([36.0, 127.0]) + rng.uniform(0, 1e-3, (n, 2)) for n in (images, queries))
    hits = {rule: {n: [] for n in (1, 5, 10)} for rule in ("has_match", "all")}
    for descriptor, place in zip(asked, where, strict=True):
        cosine = [d @ descriptor / np.linalg.norm(d) for d in database]
        ranked = sorted(range(images), key=lambda i: -cosine[i])
        near = {i for i in range(images) if meters(points[i], place) <= radius_m}
        for n in (1, 5, 10):
            right = bool(near & set(ranked[:n]))
            hits["all"][n].append(right)
            if near:
                hits["has_match"][n].append(right)
    assume(hits["has_match"][1])
    for rule, expected in hits.items():
        found = recall_at_n(database, asked, points, where, radius_m=radius_m, rule=rule)
        assert found == pytest.approx({n: np.mean(values) for n, values in expected.items()})


@given(seeds, st.integers(1, 20), st.integers(1, 5))
def test_the_competitions_score_is_what_a_loop_adds_up(seed, n, k):
    rng = np.random.default_rng(seed)
    top5, true = rng.integers(-1, 6, (n, k)), rng.integers(0, 6, n)
    points, truth = (np.stack([rng.uniform(-85, 85, n), rng.uniform(-180, 180, n)], 1) for _ in range(2))
    truth = np.where(rng.random((n, 1)) < 0.5, points + rng.normal(0, 0.5, (n, 2)), truth)
    credit, km = 0.0, 0.0
    for row in range(n):
        for rank, weight in enumerate((1.0, 0.6, 0.4, 0.25, 0.15)[:k]):
            if top5[row, rank] == true[row]:
                credit += weight
                break
        km += meters(points[row], truth[row], 6_371_000.0) / 1000
    expected = 0.7 * credit / n + 0.3 * max(0.0, 1 - km / n / 5000)
    found = competition_score(top5, points, true, truth)
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0 <= found <= 1


@given(seeds, st.integers(1, 30), st.integers(5, 9))
def test_street_shares_are_those_of_scikit_learn(seed, n, classes):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    labels[rng.random(n) < 0.2] = -1
    known = labels >= 0
    assume(known.any())
    found = street_metrics(logits, np.zeros((n, 2)), labels, np.full((n, 2), np.nan))
    kinds = np.arange(classes)
    for k, name in ((1, "top1"), (5, "top5")):
        if k < classes:
            expected = top_k_accuracy_score(labels[known], logits[known], k=k, labels=kinds)
            assert found[name] == pytest.approx(expected)
    probabilities = np.exp(logits[known]) / np.exp(logits[known]).sum(1, keepdims=True)
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels[known]
    gap = 0.0
    for low in np.arange(15) / 15:
        here = (sure >= low) & (sure < low + 1 / 15)
        gap += abs(sure[here].sum() - right[here].sum()) / known.sum()
    assert expected_calibration_error(probabilities, labels[known]) == pytest.approx(gap)
    assert found["ece"] == pytest.approx(gap)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=60),
    st.sampled_from([None, 2]),
)
def test_states_are_judged_as_scikit_learn_judges_them(pairs, absent):
    truth, said = map(np.array, zip(*pairs, strict=True))
    found = state_metrics(confusion_counts(truth, said, 4), absent)
    there = truth != absent
    seen = there & (said >= 0)
    assume(seen.any())
    assert found["state_accuracy"] == pytest.approx(accuracy_score(truth[seen], said[seen]))
    assert found["state_recall"] == pytest.approx((truth == said)[there].mean())
    # over the states that occur, also where every part of one of them was missed
    states = sorted(set(truth[there].tolist()))
    each = f1_score(truth[seen], said[seen], labels=states, average=None, zero_division=0)
    assert found["state_f1"] == pytest.approx(each.mean())


@given(seeds, st.integers(2, 40))
def test_tile_errors_are_those_of_scikit_learn(seed, n):
    rng = np.random.default_rng(seed)
    said, truth, last, trend = rng.normal(rng.normal(0, 100), 1, (4, n))
    truth[rng.random(n) < 0.2], last[rng.random(n) < 0.2] = np.nan, np.nan
    known, both = np.isfinite(truth), np.isfinite(truth) & np.isfinite(last)
    assume(both.sum() > 1)
    found = tile_metrics(said, truth, last, trend)
    assert found["mae"] == pytest.approx(mean_absolute_error(truth[known], said[known]))
    assert found["rmse"] == pytest.approx(mean_squared_error(truth[known], said[known]) ** 0.5)
    assert found["r2"] == pytest.approx(r2_score(truth[known], said[known]), rel=1e-6)
    assert found["r2_rate"] == pytest.approx(r2_score((truth - last)[both], (said - last)[both]), rel=1e-6)
    for name, other, rows in (("persistence", last, both), ("trend", trend, known)):
        ratio = mean_squared_error(truth[rows], said[rows]) / mean_squared_error(truth[rows], other[rows])
        assert found[f"skill_{name}"] == pytest.approx(1 - ratio, rel=1e-6)
    low, high = said - 0.7, said + 0.7
    inside = sum(a <= t <= b for a, t, b in zip(low, truth, high, strict=True))
    assert coverage(low, high, truth) == pytest.approx(inside / known.sum())


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=80), st.floats(0.05, 0.95))
def test_a_conformal_radius_is_the_smallest_that_holds_its_share(scores, share):
    threshold, n = conformal_quantile(np.array(scores), share), len(scores)
    held = [sum(score <= candidate for score in scores) for candidate in sorted(scores)]
    enough = [c for c, h in zip(sorted(scores), held, strict=True) if h >= (n + 1) * share - 1e-9]
    assert threshold == (enough[0] if enough else None)


@given(seeds, st.sampled_from([0.5, 0.8, 0.9]))
def test_a_conformal_radius_holds_its_share_of_new_scores(seed, share):
    """Exchangeable scores: the promise is of the mean over calibrations, here over 400 of 39 scores."""
    rng = np.random.default_rng(seed)
    scores, new = rng.lognormal(3, 2, (400, 39)), rng.lognormal(3, 2, (400, 50))
    held = [(row <= conformal_quantile(known, share)).mean() for known, row in zip(scores, new, strict=True)]
    assert share - 0.02 < np.mean(held) < share + 1 / 40 + 0.02


@given(seeds, st.floats(0.3, 4))
def test_no_temperature_on_a_grid_is_better(seed, stretch):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (300, 5))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=p) for p in chances])

    def loss(t):
        scaled = stretch * logits / t
        log = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        return math.log(t) ** 2 / 600 - log[np.arange(300), labels].mean()

    found = fit_temperature(stretch * logits, labels)
    assert loss(found) <= min(loss(t) for t in np.geomspace(0.06, 19, 60)) + 1e-6
