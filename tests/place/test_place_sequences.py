"""Drives answered as a whole: against a chain written out by brute force, and on a real corridor walked twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.corridor import read_corridor
from helpers.place_models import build_model, unit, write_csv, write_pictures
from PIL import Image

from geohf import DataError
from geohf.place.index import PlaceIndex
from geohf.place.metrics import recall_of_ranks
from geohf.place.search import top_k
from geohf.place.sequences import center_descriptors, in_order, match_sequences, split_at_gaps


def drive(frames=12, images=30, start=5, noise=0.5, seed=0):
    """(frames, images) similarities of a drive that moves on by one image per frame."""
    similarity = np.random.default_rng(seed).normal(0, noise, (frames, images))
    similarity[np.arange(frames), start + np.arange(frames)] += 2
    return similarity


def written_out(similarity, borders, steps, jump, temperature):
    """Posterior of every frame given all, by the sum over all paths."""
    z = (similarity - similarity.mean(1, keepdims=True)) / similarity.std(1, keepdims=True)
    likelihood = np.exp(z / temperature)
    q, m = similarity.shape
    band = range(steps[0], steps[1] + 1)
    total = np.zeros((q, m))
    for path in itertools.product(range(m), repeat=q):
        weight = likelihood[0, path[0]]
        for t in range(1, q):
            moved = path[t] - path[t - 1] in band and borders[path[t]] == borders[path[t - 1]]
            weight *= likelihood[t, path[t]] * (moved * (1 - jump) / len(band) + jump / m)
        total[np.arange(q), path] += weight
    return total / total.sum(1, keepdims=True)


@pytest.mark.parametrize("borders", [[0] * 6, [0, 0, 0, 1, 1, 1]])
def test_smoothing_is_the_sum_over_all_paths(borders, monkeypatch):
    similarity = drive(5, 6, start=0, noise=1.0)
    monkeypatch.setattr("geohf.place.chain.Chain.evidence_of", lambda *_: (False, 1.0))
    found = match_sequences(
        similarity, database_sequences=borders, method="smooth", k=6, steps=(-1, 2), jump=0.1, temperature=0.7
    )
    expected = written_out(similarity, borders, (-1, 2), 0.1, 0.7)
    np.testing.assert_allclose(np.take_along_axis(expected, found.rows, 1), found.posterior, rtol=1e-9)
    last = match_sequences(
        similarity, database_sequences=borders, k=6, steps=(-1, 2), jump=0.1, temperature=0.7
    )  # the filter has heard everything at the last frame
    np.testing.assert_allclose(expected[-1][last.rows[-1]], last.posterior[-1], rtol=1e-9)


@pytest.mark.parametrize("method", ["filter", "smooth", "diagonal"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_drive_is_found_in_both_directions(method, backwards):
    similarity, right = drive(20, 40, noise=0.9, seed=3), 5 + np.arange(20)
    if backwards:
        similarity, right = similarity[::-1], right[::-1]
    found = match_sequences(similarity, method=method)
    alone = (similarity.argmax(1) == right).mean()
    assert found.chained.all()
    assert (found.rows[:, 0] == right).mean() > alone + 0.1


def test_drives_do_not_hear_each_other():
    one, two = drive(seed=1), drive(start=12, seed=2)
    names = ["a", "b"] * 12
    both = np.empty((24, 30))
    both[::2], both[1::2] = one, two
    found = match_sequences(both, names, method="smooth")
    for similarity, rows in ((one, slice(0, None, 2)), (two, slice(1, None, 2))):
        single = match_sequences(similarity, method="smooth")
        assert np.array_equal(found.rows[rows], single.rows)
        assert np.array_equal(found.posterior[rows], single.posterior)


def test_an_order_that_says_nothing_leaves_single_frames():
    similarity = np.random.default_rng(0).normal(size=(12, 30))
    short = drive(4)
    for scores in (similarity, short):
        found = match_sequences(scores, method="smooth", k=3)
        assert not found.chained.any()
        assert np.array_equal(found.rows, np.argsort(-scores, 1)[:, :3])


def test_candidates_limit_the_work_and_not_the_answer():
    similarity = drive(20, 400, noise=0.4)
    few = match_sequences(similarity, candidates=50, method="smooth", k=1)
    assert np.array_equal(few.rows[:, 0], 5 + np.arange(20))
    assert np.array_equal(few.rows, match_sequences(similarity, method="smooth", k=1).rows)


def test_centering():
    database, queries = torch.randn(7, 4), torch.randn(5, 4)
    unit = torch.nn.functional.normalize
    base, asked = unit(database), unit(queries)
    mean = base.mean(0)
    names, ten = ["a", "b", "a", "b", "a"], unit(torch.randn(10, 4))
    _, none = center_descriptors(database, queries)
    _, whole = center_descriptors(database, ten, names * 2, "sequence")
    _, online = center_descriptors(database, queries, names, "online")
    moved, shifted = center_descriptors(database, queries, None, "database")
    torch.testing.assert_close(none, asked)
    torch.testing.assert_close(moved, unit(base - mean))
    torch.testing.assert_close(shifted, unit(asked - mean))
    torch.testing.assert_close(whole[2], unit(ten[2] - ten[[0, 2, 4, 5, 7, 9]].mean(0), dim=0))
    torch.testing.assert_close(whole[3], unit(ten[3] - mean, dim=0))  # of four frames
    torch.testing.assert_close(online[2], unit(asked[2] - (10 * mean + asked[0] + asked[2]) / 12, dim=0))


def test_a_mean_of_few_frames_or_of_one_place_is_the_database_s(caplog):
    database, frame = torch.randn(7, 4), torch.randn(1, 4)
    _, expected = center_descriptors(database, frame, None, "database")
    assert not caplog.text
    for count in (1, 4, 6):  # a car that stands
        _, found = center_descriptors(database, frame.expand(count, 4), None, "sequence")
        torch.testing.assert_close(found, expected.expand(count, 4))
    assert caplog.text.count("1 of 1 drives have fewer than 5 frames") == 2


def test_a_database_whose_drives_stand_among_each_other_is_that_of_one_after_the_other():
    similarity = np.concatenate([drive(20, 30, noise=0.5), 0.5 * unit(20, 30).numpy()], 1)
    names = np.repeat(["a", "b"], 30)
    among = np.arange(60).reshape(2, 30).T.ravel()  # as two cameras take them
    plain = match_sequences(similarity, None, names, method="smooth")
    found = match_sequences(similarity[:, among], None, names[among], method="smooth")
    assert plain.chained.all()
    assert np.array_equal(among[found.rows], plain.rows)
    assert found.evidence == pytest.approx(plain.evidence)


def test_gaps_in_time_begin_a_drive_anew():
    times = [0, 10**9, None, 30 * 10**9, 31 * 10**9, 20 * 10**9]
    assert split_at_gaps(["a"] * 6, times).tolist() == ["a"] * 5 + ["a, part 2"]
    assert split_at_gaps(["a", "b", "a"], [0, 10**12, 10**9]).tolist() == ["a", "b", "a"]
    slow = np.array([0, 30, 60, 90, 400, 430]) * 10**9  # seconds: a picture every half minute, and one break
    assert split_at_gaps(["a"] * 6, slow.tolist()).tolist() == ["a"] * 4 + ["a, part 2"] * 2


def test_frames_are_put_in_the_order_of_time():
    rows, drives, parts = in_order(["a", "b", "a", "a"], [30, 5, 20, 10**11])
    assert rows.tolist() == [2, 0, 3, 1]
    assert drives.tolist() == ["a", "a", "a", "b"]
    assert parts.tolist() == ["a", "a", "a, part 2", "b"]
    assert in_order(["a", "a"], [5, None])[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "viterbi"}, "method must be one of filter, smooth, diagonal"),
        ({"k": 31}, "cannot give the 31 best answers: the database holds 30 images"),
        ({"steps": (2, 1)}, "steps must ascend"),
        ({"sequences": ["a"]}, "1 sequences for 12 queries"),
        ({"database_sequences": ["a"]}, "1 database sequences for 30 images"),
        ({"similarity": np.full((12, 30), np.nan)}, "finite matrix"),
    ],
)
def test_options_that_cannot_be(change, message):
    with pytest.raises(DataError, match=message):
        match_sequences(**{"similarity": drive()} | change)
    with pytest.raises(DataError, match="center must be one of"):
        center_descriptors(torch.eye(3), torch.eye(3), center="drive")


def test_a_model_answers_a_drive(tmp_path):
    model, rng = build_model(), np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)) for _ in range(8)]
    points = np.stack([np.linspace(36.0, 36.01, 8), np.full(8, 127.0)], 1)
    index = PlaceIndex.build(model, photos, points)
    answers = model.predict_sequences(photos, index, method="smooth", top_k=2)
    assert [answer.answers[0].image for answer in answers] == index.images
    _, found = index.match(model.encode(photos), 2, "online", method="smooth")
    assert found.chained.all()
    assert [answer.confidence for answer in answers] == pytest.approx(found.posterior[:, 0], rel=1e-6)
    assert [answer.latitude for answer in answers] == pytest.approx(points[:, 0])
    with pytest.raises(DataError, match="there is nothing to predict"):
        model.predict_sequences([], index)


def test_evaluate_hears_the_order_of_time(tmp_path):
    """A second drive through the same pictures, its table not in the order of time."""
    model, poses = build_model(), "camera_id,img_relpath,t_nsec,lat,lon,alt"
    names = [f"{i}.png" for i in range(12)]
    for name, order in (("first", range(12)), ("second", [*range(0, 12, 2), *range(1, 12, 2)])):
        write_pictures(tmp_path / name, names)
        if name == "second":  # nearly the same pictures
            for path in (tmp_path / name).glob("*.png"):
                Image.open(path).point(lambda value: min(value + 2, 255)).save(path)
        rows = [f"front,{name}/{i}.png,{i * 10**9},{36 + i * 1e-3},127,0" for i in order]
        write_csv(tmp_path / name / "poses.csv", poses, *rows)
    alone = model.evaluate(tmp_path)["r1"]
    found = model.evaluate(tmp_path, center="online", method="smooth")
    assert found["r1"] == alone == 1.0
    assert found["queries"] == 12
    with pytest.raises(DataError, match="method must be one of"):
        model.evaluate(tmp_path, method="viterbi")


# ---- a real corridor, walked twice


@pytest.fixture(scope="module")
def corridor(shared_data):
    return read_corridor(shared_data("corridor"))


def matched(database, queries, center, **options):
    database, queries = center_descriptors(database, queries, None, center)
    return match_sequences(queries @ database.T, **options)


def test_corridor_centered(corridor):
    database, queries, matches = corridor
    _, ranked = top_k(*center_descriptors(database, queries, None, "sequence"), 10)
    assert recall_of_ranks(ranked, matches)[1] >= 0.50  # 0.270 as it is


def test_corridor_in_sequence(corridor):
    database, queries, matches = corridor
    recall = recall_of_ranks(matched(database, queries, "online").rows, matches)
    assert recall[1] >= 0.85
    assert recall[5] == 1.0
    assert recall_of_ranks(matched(database, queries, "sequence", method="smooth").rows, matches)[1] >= 0.95
    turned = matched(database, queries[::-1].copy(), "sequence").rows[::-1]
    assert recall_of_ranks(turned, matches)[1] >= 0.85


def test_corridor_is_sure_where_it_is_right(corridor):
    """Recall at 100 % precision: the share of answers above the surest wrong one."""
    database, queries, (offsets, right) = corridor
    found = matched(database, queries, "online")
    hits = [row in right[offsets[i] : offsets[i + 1]] for i, row in enumerate(found.rows[:, 0])]
    wrong = found.posterior[~np.array(hits), 0]
    assert (found.posterior[:, 0] > wrong.max(initial=0)).mean() >= 0.35


def test_corridor_shuffled_falls_back_to_single_frames(corridor):
    database, queries, _ = corridor
    alone = 0
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(queries))
        found = matched(database, queries[order], "sequence")
        if not found.chained.any():
            alone += 1
            ranked = top_k(*center_descriptors(database, queries[order], None, "sequence"), 10)[1]
            assert np.array_equal(found.rows[:, 0], ranked[:, 0])
    assert alone >= 17
