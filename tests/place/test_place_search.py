"""Search in blocks, recall under both rules, intervals, confidence: against brute force and real photographs."""

import importlib.util

import numpy as np
import pytest
import torch
from helpers.corridor import read_corridor
from helpers.place_models import along, unit

from geohf.errors import DataError
from geohf.geo import great_circle_m, matches_within_m
from geohf.metrics.intervals import mean_interval
from geohf.place import recall_at_n
from geohf.place import search as search_module
from geohf.place.confidence import confidence, evidence, fit_confidence
from geohf.place.metrics import place_metrics, recall_of_ranks, stretches
from geohf.place.search import blockwise_top_k, top_k

# ---- search


@pytest.mark.parametrize("k", [1, 2, 7, 60])
@pytest.mark.parametrize("rows", [13, 32, 100])  # 32: looked through in groups
def test_blocks_give_what_the_whole_matrix_gives(monkeypatch, k, rows):
    monkeypatch.setattr(search_module, "_QUERY_ROWS", 7)
    monkeypatch.setattr(search_module, "_DATABASE_ROWS", rows)
    database, queries = unit(60, 16), unit(23, 16, seed=1)
    expected, order = (queries @ database.T).sort(dim=1, descending=True)
    found, indices = blockwise_top_k(database, queries, k)
    torch.testing.assert_close(found, expected[:, :k])
    assert torch.equal(indices, order[:, :k])


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "equal"])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_later_blocks_are_looked_into_only_where_they_can_be_better(order, k):
    scores = torch.randint(-50, 50, (5, 640), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    if order in ("ascending", "descending"):
        scores = scores.sort(dim=1, descending=order == "descending").values
    elif order == "equal":
        scores[:] = 7
    best, rows = search_module.best_of_blocks(640, lambda part: scores[:, part], k, 64)
    assert torch.equal(best, scores.sort(dim=1, descending=True).values[:, :k])
    assert torch.equal(scores.gather(1, rows), best)
    assert all(len(set(row)) == k for row in rows.tolist())


def test_search_never_holds_the_whole_matrix():
    database, queries = unit(9000, 8), unit(3000, 8, seed=1)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            tensors = [
                t for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, torch.Tensor)
            ]
            largest = max([largest, *(t.numel() for t in tensors)])
            return out

    with Watch():
        blockwise_top_k(database, queries, 5)
    assert largest <= 2**22  # of the 27 million similarities; the inputs are smaller


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_and_blocks_agree():
    database, queries = 3 * unit(500, 32), unit(40, 32, seed=1)
    for ours, theirs in zip(
        blockwise_top_k(unit(500, 32), queries, 9), top_k(database, queries, 9), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.case("files-D19")
@pytest.mark.parametrize(
    ("database", "queries", "k", "message"),
    [
        (unit(5, 4), unit(2, 3), 1, "length 4 and the queries of 3: they come from different models"),
        (unit(5, 4), unit(2, 4), 6, "the 6 best answers: the database holds 5 images"),
        (torch.zeros(2, 4), unit(2, 4), 1, "database: row 0, 1 is zero, or holds NaN"),
        (
            unit(5, 4),
            torch.full((7, 4), torch.nan),
            1,
            "queries: row 0, 1, 2, 3, 4 and 2 more is zero, or holds NaN",
        ),
        (torch.empty(0, 4), unit(2, 4), 1, "n and d above zero"),
        (unit(4), unit(2, 4), 1, r"shape \(n, d\)"),
    ],
)
def test_descriptors_that_cannot_be_searched(database, queries, k, message):
    with pytest.raises(DataError, match=message):
        top_k(database, queries, k)


# ---- recall


def world():
    """A database and queries of random descriptors; a quarter of the queries are far from everything."""
    rng = np.random.default_rng(0)
    database, queries = along(rng.uniform(0, 2000, 80)), along(rng.uniform(0, 2000, 40))
    queries[::4, 1] += 1.0
    return unit(80, 6), unit(40, 6, seed=1), database, queries


@pytest.mark.case("files-D4")
@pytest.mark.parametrize("rule", ["has_match", "all"])
@pytest.mark.parametrize("radius_m", [10.0, 25.0, 100.0])
def test_recall_is_that_of_brute_force(rule, radius_m):
    database, queries, places, asked = world()
    right, counted = dict.fromkeys((1, 3, 80), 0), 0
    for q in range(len(asked)):
        near = {i for i in range(80) if great_circle_m(places[i], asked[q]) <= radius_m}
        if rule == "has_match" and not near:
            continue
        counted += 1
        order = sorted(range(80), key=lambda i: -float(database[i] @ queries[q]))
        for n in right:
            right[n] += bool(near & set(order[:n]))
    found = recall_at_n(database, queries, places, asked, n=(1, 3, 80), radius_m=radius_m, rule=rule)
    assert found == pytest.approx({n: value / counted for n, value in right.items()})
    if rule == "has_match":
        assert found[80] == 1


@pytest.mark.case("files-D5")
def test_equal_frames_of_a_car_that_stands_are_answered_in_their_order():
    database = torch.nn.functional.normalize(torch.ones(20, 4), dim=-1)
    _, ranked = top_k(database, database[:3], 20)
    assert all(sorted(row) == list(range(20)) for row in ranked.tolist())
    points = along(np.zeros(20))
    assert recall_at_n(database, database[:3], points, points[:3]) == {1: 1.0, 5: 1.0, 10: 1.0}


def test_all_metrics_name_rule_and_threshold():
    database, queries, places, asked = world()
    _, ranked = top_k(database, queries, 10)
    metrics = place_metrics(ranked, places, asked, [25.0, 100.0])
    for rule in ("has_match", "all"):
        for radius_m in (25.0, 100.0):
            expected = recall_at_n(database, queries, places, asked, radius_m=radius_m, rule=rule)
            for n in (1, 5, 10):
                assert metrics[f"recall@{n}_{rule}_{radius_m:g}m"] == expected[n]
    assert metrics["r5"] == metrics["recall@5_has_match_25m"] > metrics["recall@5_all_25m"]
    assert metrics["queries"] == 40
    assert metrics["queries_with_match"] == sum(great_circle_m(places, q).min() <= 25 for q in asked)
    assert metrics["median_m"] == np.median(
        [great_circle_m(places[r[0]], q) for r, q in zip(ranked, asked, strict=True)]
    )


def test_a_further_radius_that_no_query_has_a_match_within_stops_nothing():
    base, asked = along(30.0 * np.arange(20)), along(30.0 * np.arange(20) + 14)
    values = place_metrics(np.arange(20)[:, None], base, asked, (25.0, 10.0), (1,))
    assert values["r1"] == values["recall@1_has_match_25m"] == 1.0
    assert np.isnan(values["recall@1_has_match_10m"])
    assert values["recall@1_all_10m"] == 0.0
    with pytest.raises(DataError, match="no query has a database image within the radius"):
        place_metrics(np.arange(20)[:, None], base, asked, (10.0, 25.0), (1,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "best"}, "rule must be one of has_match, all"),
        ({"n": (1, 81)}, "the 81 best answers: the database holds 80"),
        ({"n": (0,)}, "n must be a whole number of at least 1, got 0"),
        ({"points": 39}, "query: 40 descriptors for 39 points"),
        ({"swapped": True}, "no latitude in -90..90"),
        (
            {"elsewhere": True},
            "latitude and longitude swapped in one of the tables, are they in another UTM zone",
        ),
    ],
)
def test_recall_that_cannot_be(change, message):
    database, queries, places, asked = world()
    asked = asked[: change.pop("points", 40)]
    asked = asked[:, ::-1] if change.pop("swapped", False) else asked
    asked = asked + np.array([0, 6.0]) if change.pop("elsewhere", False) else asked  # a zone farther east
    with pytest.raises(DataError, match=message):
        recall_at_n(database, queries, places, asked, **change)


def test_no_answer_is_never_right():
    """faiss says -1 where it finds fewer than k rows: it is not the last row that is right for the query before."""
    first_alone = np.array([0, 1, 1]), np.array([3])
    assert recall_of_ranks([[3], [-1]], first_alone, n=(1,), rule="all") == {1: 0.5}
    assert recall_of_ranks([[-1], [-1]], (np.zeros(3, int), np.empty(0, int)), n=(1,), rule="all") == {1: 0.0}
    metrics = place_metrics([[3], [-1]], along([0, 500, 1000, 1500]), along([1500, 1500]), n=(1,))
    assert metrics["r1"] == 0.5
    assert np.isnan([metrics["median_m"], metrics["mean_m"]]).all()


def test_real_corridor_by_pixels_alone(shared_data):
    database, queries, matches = read_corridor(shared_data("corridor"))
    _, ranked = top_k(database, queries, 10)
    found = {rule: recall_of_ranks(ranked, matches, rule=rule) for rule in ("has_match", "all")}
    assert [round(value, 3) for value in found["has_match"].values()] == [0.270, 0.532, 0.811]
    assert len(ranked) == 111
    assert found["all"] == found["has_match"]  # every query has a match here


# ---- intervals


def test_interval_draws_whole_sequences():
    rng = np.random.default_rng(0)
    drives = np.repeat(np.arange(40), 25)
    hits = rng.random(40)[drives] < 0.5  # frames of one drive stand or fall together
    low, high = mean_interval(hits, drives)
    lonely = mean_interval(hits, np.arange(1000))
    assert low < hits.mean() < high
    shares = rng.choice(hits.reshape(40, 25).mean(1), (4000, 40)).mean(1)
    assert (low, high) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.03)
    assert high - low > 3 * (lonely[1] - lonely[0])


def test_stretches_follow_a_drive():
    names = stretches(along([0, 100, 240, 260, 500, 510, 0, 300]), ["a"] * 6 + ["b"] * 2, length_m=250)
    assert names.tolist() == ["a 0", "a 0", "a 0", "a 1", "a 2", "a 2", "b 0", "b 1"]


# ---- confidence


def test_evidence_is_the_gap_to_the_best_answer_from_elsewhere():
    points = np.stack([along([0, 20, 500]), along([0, 10, 20])])
    found = evidence([[0.9, 0.8, 0.6], [0.9, 0.7, 0.4]], points, apart_m=100)
    np.testing.assert_allclose(found, [[0.9, 0.3], [0.9, 0.5]])


def test_confidence_is_calibrated_and_declines_where_it_cannot_be():
    rng = np.random.default_rng(0)
    seen = rng.uniform(0, 1, (4000, 2))
    truth = 1 / (1 + np.exp(-(2 * seen[:, 0] + 6 * seen[:, 1] - 4)))
    weights = fit_confidence(seen, rng.random(4000) < truth)
    assert np.abs(confidence(seen, weights) - truth).mean() < 0.03
    assert fit_confidence(seen[:20], np.arange(20) % 2) is None
    assert fit_confidence(seen, np.ones(4000)) is None


def test_matches_and_ranks_must_belong_together():
    with pytest.raises(DataError, match=r"\(q, k\) for 2 queries"):
        recall_of_ranks([[0]], matches_within_m(along([0]), along([0, 1]), 5.0), n=(1,))
    with pytest.raises(DataError, match="recall at 10 needs 10 answers a query, got 1"):
        recall_of_ranks([[0]], matches_within_m(along([0]), along([0]), 5.0))


@pytest.mark.parametrize("n", [(1.5,), "12", (True,), (0,), ()])
def test_recall_is_at_whole_numbers(n):
    """Of 1.5 answers it was that of one, and of "12" that of one and of two."""
    rows, points = unit(4, 8), along([0, 100, 200, 300])
    with pytest.raises(DataError, match="n must be"):
        recall_at_n(rows, rows, points, points, n=n)
