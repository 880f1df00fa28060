"""Exact search and recall, against brute force, hand-made cases, and real photographs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import geohf.place.search as search_module
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.place import recall_at_n
from geohf.place.metrics import (
    place_metrics,
    recall_interval,
    recall_of_ranks,
    right_answers,
    stretches,
)
from geohf.place.search import blockwise_top_k, top_k, unit_descriptors


def random_rows(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("rows", [(7, 5), (64, 64), (1024, 4096)])
def test_blocks_give_what_the_whole_matrix_gives(monkeypatch, rows):
    monkeypatch.setattr(search_module, "_QUERY_ROWS", rows[0])
    monkeypatch.setattr(search_module, "_DATABASE_ROWS", rows[1])
    database, queries = (unit_descriptors(random_rows(n, 12, n)) for n in (203, 31))
    cosine = queries.numpy() @ database.numpy().T
    expected = np.argsort(-cosine, axis=1, kind="stable")[:, :9]
    similarity, indices = blockwise_top_k(database, queries, 9)
    assert indices.numpy().tolist() == expected.tolist()
    assert np.allclose(similarity, np.take_along_axis(cosine, expected, 1), atol=1e-6)


def test_no_matrix_of_all_similarities_is_ever_held():
    largest = 0
    ordinary = torch.Tensor.__matmul__

    def watch(a, b):
        nonlocal largest
        found = ordinary(a, b)
        largest = max(largest, found.numel())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", watch)
        blockwise_top_k(
            unit_descriptors(random_rows(9000, 4, 0)), unit_descriptors(random_rows(3000, 4, 1)), 10
        )
    assert 0 < largest <= 1024 * 4096


def test_faiss_and_blocks_agree():
    pytest.importorskip("faiss")
    database, queries = (unit_descriptors(random_rows(n, 16, n)) for n in (500, 40))
    ours, theirs = blockwise_top_k(database, queries, 10), search_module._faiss(database, queries, 10)
    assert (ours[1] == theirs[1]).all()
    assert torch.allclose(ours[0], theirs[0], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_descriptors_that_are_none_are_named(bad):
    rows = random_rows(6, 3, 0)
    rows[4] = bad
    with pytest.raises(DataError, match="queries: row 4 is zero, or holds NaN or infinity"):
        top_k(random_rows(9, 3, 1), rows, 2)
    with pytest.raises(DataError, match="database: row 4"):
        recall_at_n(rows, random_rows(2, 3, 1), np.zeros((6, 2)), np.zeros((2, 2)), n=[1])


def test_impossible_questions_are_refused():
    with pytest.raises(DataError, match=r"length 3 .* 4: they come from different models"):
        top_k(random_rows(9, 3, 0), random_rows(2, 4, 0), 2)
    with pytest.raises(DataError, match="the 10 best answers: the database holds 9 images"):
        recall_at_n(random_rows(9, 3, 0), random_rows(2, 3, 0), np.zeros((9, 2)), np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"shape \(n, d\)"):
        top_k(np.empty((0, 3)), random_rows(2, 3, 0), 1)
    with pytest.raises(DataError, match="5 descriptors for 4 points"):
        recall_at_n(random_rows(5, 3, 0), random_rows(2, 3, 0), np.zeros((4, 2)), np.zeros((2, 2)))


# ---- recall


def east(metres):
    """Points on the equator, so many metres east of (0, 0)."""
    metres = np.asarray(metres, float)
    return np.stack([np.zeros_like(metres), np.degrees(metres / 6371008.8)], -1)


def test_recall_by_hand_under_both_rules():
    database, points = np.eye(4), east([0, 100, 200, 300])
    queries = np.array(
        [
            [0.9, 0.5, 0.0, 0.0],  # at 5 m: right at once
            [0.9, 0.5, 0.1, 0.0],  # at 110 m: the second answer
            [0.9, 0.5, 0.1, 0.0],  # at 224 m: the third answer, 24 m away
            [0.0, 0.0, 0.0, 1.0],  # at 1000 m: nothing there
        ]
    )
    asked = east([5, 110, 224, 1000])
    found = recall_at_n(database, queries, points, asked, n=(3, 1, 2))
    assert found == {1: 1 / 3, 2: 2 / 3, 3: 1.0}
    assert recall_at_n(database, queries, points, asked, n=(1, 3), rule="all") == {1: 0.25, 3: 0.75}
    assert recall_at_n(database, queries, points, asked, n=(3,), radius_m=23) == {
        3: 1.0
    }  # the third has no match
    assert recall_at_n(database, queries, points, asked, n=(3,), radius_m=23, rule="all") == {3: 0.5}


def test_recall_equals_brute_force_on_random_tables():
    rng = np.random.default_rng(3)
    points, asked = (36.0 + rng.uniform(0, 0.002, (n, 2)) for n in (400, 90))
    database, queries = random_rows(400, 6, 1), random_rows(90, 6, 2)
    cosine = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (
        database / np.linalg.norm(database, axis=1)[:, None]
    ).T
    near = great_circle_m(asked[:, None], points[None]) <= 25
    ranked = np.argsort(-cosine, axis=1)
    for rule, counted in (("has_match", near.any(1)), ("all", np.ones(90, bool))):
        expected = {
            n: float(np.mean([near[q, ranked[q, :n]].any() for q in np.flatnonzero(counted)]))
            for n in (1, 5, 10)
        }
        assert recall_at_n(database, queries, points, asked, rule=rule) == pytest.approx(expected)


def test_no_positives_at_all_is_an_error_that_suggests_why():
    arguments = np.eye(3), np.eye(3), east([0, 50, 90]), east([0, 50, 90])[:, ::-1] + 40
    with pytest.raises(DataError, match="swapped in one of the tables, are they in another UTM zone"):
        recall_at_n(*arguments, n=[1])
    assert recall_at_n(*arguments, n=[1], rule="all") == {1: 0.0}
    with pytest.raises(DataError, match="rule must be one of has_match, all, got 'drop'"):
        recall_at_n(*arguments, n=[1], rule="drop")


def test_right_answers_with_empty_matches():
    matches = np.array([0, 2, 2, 3]), np.array([4, 7, 0])
    ranked = [[7, 1], [0, 4], [3, 0]]
    assert right_answers(ranked, matches).tolist() == [[True, False], [False, False], [False, True]]
    nothing = np.zeros(4, int), np.empty(0, int)
    assert not right_answers(ranked, nothing).any()
    with pytest.raises(DataError, match="recall at 5 needs 5 answers"):
        recall_of_ranks(ranked, matches, (5,))


def test_place_metrics_name_rule_and_threshold():
    points, asked = east([0, 100]), east([0, 130, 5000])
    metrics = place_metrics([[0, 1], [1, 0], [1, 0]], points, asked, radii_m=(25.0, 50.0), n=(1, 2))
    assert metrics["r1"] == metrics["recall@1_has_match_25m"] == 1.0
    assert metrics["recall@1_all_25m"] == pytest.approx(1 / 3)
    assert metrics["recall@2_all_50m"] == pytest.approx(2 / 3)
    assert metrics["queries"] == 3
    assert metrics["queries_with_match"] == 1
    assert metrics["median_m"] == pytest.approx(30, abs=1e-6)


# ---- intervals


def test_the_interval_widens_where_neighbours_stand_or_fall_together():
    hits = np.repeat(np.arange(20) % 2 == 0, 50)  # 20 drives of 50 frames, each all right or all wrong
    by_drive = recall_interval(hits, np.repeat(np.arange(20), 50))
    by_frame = recall_interval(hits, np.arange(1000))
    assert by_drive[0] < 0.35 < 0.46 < by_frame[0]
    assert by_frame[1] < 0.54 < 0.65 < by_drive[1]


def test_stretches_follow_each_drive_along_its_way():
    points = np.concatenate([east(np.arange(0, 1000, 50)), east(np.arange(0, 500, 50))])
    names = stretches(points, ["a"] * 20 + ["b"] * 10, length_m=250)
    assert [int((names == f"a {i}").sum()) for i in range(4)] == [5, 5, 5, 5]
    assert names[20] == "b 0"
    assert names[-1] == "b 1"


# ---- real photographs


def test_corridor(shared_data):
    """One corridor walked twice: a plain pixel descriptor gives the recalls that were measured elsewhere."""
    folder = shared_data("corridor")
    truth = json.loads((folder / "ground_truth.json").read_text())

    def pixels(name):
        images = [
            Image.open(path).convert("L").resize((32, 24), Image.Resampling.BILINEAR)
            for path in sorted((folder / name).glob("*.jpg"))
        ]
        flat = np.stack([np.asarray(image, np.float64).ravel() for image in images])
        return (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)

    queries, references = pixels("query"), pixels("ref")
    rows = [sorted(truth[str(i)]) for i in range(len(queries))]
    matches = np.cumsum([0, *map(len, rows)]), np.concatenate(rows)
    _, ranked = top_k(references, queries, 10)
    found = recall_of_ranks(ranked, matches)
    assert {n: round(value, 3) for n, value in found.items()} == {1: 0.270, 5: 0.532, 10: 0.811}
    # the ground truth is two pictures to either side: the same through metres, a picture every 10 m
    walk = east(10.0 * np.arange(len(references)))
    assert recall_at_n(references, queries, walk, walk) == found
