"""Losses on numbers worked out by hand, and against the plainest loops."""

import itertools
import math

import numpy as np
import pytest
import torch

from geohf.place.losses import hybrid, info_nce, metre_masks, triplet
from geohf.place.original import RandomBatches, greedy_clusters, original_loss


def unit(rows, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, size, generator=generator), dim=1)


def random_masks(n, seed=0):
    """Symmetric positives and negatives with pairs of neither kind between them."""
    draw = np.random.default_rng(seed).integers(0, 4, (n, n))
    draw = np.triu(draw, 1) + np.triu(draw, 1).T
    off = ~np.eye(n, dtype=bool)
    return torch.from_numpy((draw == 1) & off), torch.from_numpy((draw >= 2) & off)


def plain_info_nce(x, positive, negative, t):
    rows = []
    for i in range(len(x)):
        same = [math.exp(float(x[i] @ x[j]) / t) for j in range(len(x)) if positive[i, j]]
        other = [math.exp(float(x[i] @ x[j]) / t) for j in range(len(x)) if negative[i, j]]
        if same:
            rows.append(-math.log(sum(same) / (sum(same) + sum(other))))
    return sum(rows) / len(rows)


def distances(x):
    return [[math.dist(a, b) for b in x.tolist()] for a in x.tolist()]


def plain_triplet(x, positive, negative, margin, mining):
    d, n = distances(x), range(len(x))
    terms = []
    for i in n:
        same, other = ([j for j in n if mask[i, j]] for mask in (positive, negative))
        if not same or not other:
            continue
        if mining == "batch_hard":
            terms.append(max(d[i][p] for p in same) - min(d[i][j] for j in other))
            continue
        for p in same:
            beyond = [d[i][j] for j in other if d[i][j] > d[i][p]]
            terms.append(d[i][p] - (min(beyond) if beyond else max(d[i][j] for j in other)))
    return sum(max(0.0, term + margin) for term in terms) / len(terms)


# ---- InfoNCE


@pytest.mark.parametrize("seed", range(3))
def test_info_nce_is_its_formula(seed):
    x, (positive, negative) = unit(24, 8, seed), random_masks(24, seed)
    found = info_nce(x, positive, negative, 0.1)
    assert found.item() == pytest.approx(plain_info_nce(x, positive, negative, 0.1), rel=1e-5)


def test_info_nce_falls_to_zero_where_the_original_stops_at_its_floor():
    # four places, each seen twice by the very same descriptor, orthogonal to the others
    x = torch.eye(4).repeat_interleave(2, 0)
    places = torch.arange(4).repeat_interleave(2)
    positive = (places[:, None] == places) & ~torch.eye(8, dtype=torch.bool)
    negative = places[:, None] != places
    assert info_nce(x, positive, negative, 0.07).item() == pytest.approx(0, abs=1e-4)
    # one positive each: log((P + 1) / P) = log 2, however well the model does
    _, parts = original_loss(x, places, negative, 1.0, 0.3, 0.07)
    assert parts["contrastive_loss"].item() == pytest.approx(math.log(2), abs=1e-4)


def test_pairs_of_neither_kind_and_anchors_without_a_positive_change_nothing():
    x, (positive, negative) = unit(12, 8), random_masks(12)
    positive[3] = positive[:, 3] = False
    negative[3] = negative[:, 3] = False
    keep = torch.arange(12) != 3
    alone = info_nce(x[keep], positive[keep][:, keep], negative[keep][:, keep])
    assert info_nce(x, positive, negative).item() == pytest.approx(alone.item(), rel=1e-6)


def test_a_batch_without_positives_gives_zero_and_a_zero_gradient():
    x = unit(6, 4).requires_grad_()
    none = torch.zeros(6, 6, dtype=torch.bool)
    total, parts = hybrid(x, none, ~none & ~torch.eye(6, dtype=torch.bool))
    total.backward()
    assert total.item() == 0
    assert parts["triplet_loss"].item() == 0
    assert x.grad.abs().max() == 0


def test_gradients_stay_finite_for_equal_and_opposite_descriptors():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    places = torch.tensor([0, 0, 1, 1])
    positive = (places[:, None] == places) & ~torch.eye(4, dtype=torch.bool)
    for mining in ("batch_hard", "semi_hard", "half_hard"):
        total, _ = hybrid(x, positive, places[:, None] != places, temperature=0.001, mining=mining)
        (gradient,) = torch.autograd.grad(total, x)
        assert gradient.isfinite().all()


# ---- triplets


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard"])
@pytest.mark.parametrize("seed", range(3))
def test_triplet_is_its_formula(mining, seed):
    x, (positive, negative) = unit(20, 4, seed), random_masks(20, seed)
    expected = plain_triplet(x, positive, negative, 0.3, mining)
    assert triplet(x, positive, negative, 0.3, mining).item() == pytest.approx(expected, rel=1e-4)


def test_half_hard_takes_the_nearest_negative_and_the_one_that_the_lot_names():
    angles = torch.tensor([0.0, 0.4, 1.0, 2.0, 3.0])  # on a circle, so that distances are 2 sin(angle / 2)
    x = torch.stack([angles.cos(), angles.sin()], 1)
    positive = torch.zeros(5, 5, dtype=torch.bool)
    positive[0, 1] = True
    negative = torch.zeros(5, 5, dtype=torch.bool)
    negative[0, 2:] = True
    lottery = torch.zeros(5, 5)
    lottery[0, 3] = 1.0
    near, hard, drawn = (2 * math.sin(angle / 2) for angle in (0.4, 1.0, 2.0))
    expected = 0.5 * max(0, near - hard + 1.5) + 0.5 * max(0, near - drawn + 1.5)
    found = triplet(x, positive, negative, 1.5, "half_hard", 0.5, lottery)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert triplet(x, positive, negative, 1.5, "half_hard", 1.0, lottery).item() == pytest.approx(
        near - hard + 1.5
    )


def test_an_unknown_mining_is_refused():
    with pytest.raises(ValueError, match="batch_hard"):
        triplet(unit(4, 2), *random_masks(4), mining="hardest")


def test_hybrid_is_the_weighted_sum():
    x, masks = unit(16, 8), random_masks(16)
    total, parts = hybrid(x, *masks, 2.0, 0.25, mining="batch_hard", margin=0.2)
    assert parts["contrastive_loss"].item() == info_nce(x, *masks).item()
    expected = 2 * parts["contrastive_loss"] + 0.25 * triplet(x, *masks, 0.2, "batch_hard")
    assert total.item() == pytest.approx(expected.item())


# ---- who is whose neighbour


def test_metre_masks_across_the_antimeridian():
    points = torch.tensor(
        [[0.0, 179.9999], [0.0, -179.9999], [0.0, 179.9994], [0.0, 0.0]], dtype=torch.float64
    )
    positive, negative = metre_masks(points, 25, 100)  # 22 m, 56 m and half the world
    assert positive.nonzero().tolist() == [[0, 1], [1, 0]]
    assert negative.nonzero().tolist() == [[0, 3], [1, 3], [2, 3], [3, 0], [3, 1], [3, 2]]


def test_headings_make_positives_into_neither():
    points = torch.zeros(4, 2, dtype=torch.float64)
    headings = torch.tensor([350.0, 20.0, 180.0, math.nan])
    positive, negative = metre_masks(points, headings=headings, heading_deg=40)
    assert {tuple(pair) for pair in positive.nonzero().tolist()} == {
        *itertools.permutations((0, 1, 3), 2), (2, 3), (3, 2)
    }  # fmt: skip
    assert not negative.any()


def test_greedy_clusters_tear_neighbours_apart():
    route = np.stack([np.zeros(2000), np.arange(2000) * 4.99 / 111_195], 1)  # a picture every 5 m
    labels = greedy_clusters(route, 25.0)
    pairs = np.array([(i, j) for i in range(1900) for j in range(i + 1, i + 6)])
    # a cluster holds 6 pictures in a row: of their 30 near pairs with later ones 15 stay together
    assert (labels[pairs[:, 0]] != labels[pairs[:, 1]]).mean() == pytest.approx(0.5, abs=0.01)


def test_random_batches_are_whole_and_new_every_epoch():
    batches = RandomBatches(10, 4, seed=1)
    first = list(batches)
    batches.set_epoch(1)
    assert len(first) == len(set(first)) == len(batches) == 8
    assert first != list(batches)
