"""The losses against numbers worked out by hand, written-out references, and peers."""

import math

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, unit
from huggingface_hub.errors import StrictDataclassError
from torch.nn.functional import normalize

from geohf.geo import great_circle_m
from geohf.hub.card import write_card
from geohf.place import GeoPlaceConfig, GeoPlaceModel
from geohf.place.head import PlaceHead
from geohf.place.losses import hybrid, info_nce, multi_similarity, pair_masks, triplet
from geohf.place.original import greedy_clusters, original_loss

# unit vectors at these degrees in a plane: distances are 2 sin(angle / 2), cosines cos(angle)
ANGLES = (0, 40, 90, 150, 220)
# 0 and 1 are one place, 2 and 3 another; 4 stands alone and near none
PAIRS = torch.zeros(5, 5, dtype=torch.bool)
PAIRS[[0, 1, 2, 3], [1, 0, 3, 2]] = True
OTHERS = ~PAIRS & ~torch.eye(5, dtype=torch.bool)


def ring(degrees=ANGLES) -> torch.Tensor:
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1).float()


def apart(a, b):
    return 2 * math.sin(math.radians(abs(ANGLES[a] - ANGLES[b])) / 2)


def hinge(a, p, n, margin=0.5):
    return max(0.0, apart(a, p) - apart(a, n) + margin)


def random_batch(n=24, seed=3):
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, 6, (n,), generator=generator)
    same = (place[:, None] == place) & ~torch.eye(n, dtype=torch.bool)
    far = (place[:, None] - place).abs() > 1  # places next to each other are neither
    return unit(n, 8, seed=seed), same, far


# ---- masks


def test_masks_follow_meters_on_both_sides_of_each_radius():
    points = torch.from_numpy(along([0, 24.9, 25.1, 99.9, 100.2]))
    positive, negative = pair_masks(points)
    distance = torch.from_numpy(great_circle_m(points[:, None].numpy(), points[None].numpy()))
    assert torch.equal(positive, (distance <= 25) & ~torch.eye(5, dtype=torch.bool))
    assert torch.equal(negative, distance > 100)
    assert positive[0].tolist() == [False, True, False, False, False]
    assert negative[0].tolist() == [False, False, False, False, True]
    wider, _ = pair_masks(points, positive_m=30, negative_m=50)
    assert wider[0].tolist() == [False, True, True, False, False]


@pytest.mark.case("files-D18")
def test_pairs_that_look_elsewhere_are_neither_and_unknown_headings_match_all():
    points = torch.from_numpy(along([0, 5, 10, 15]))
    headings = torch.tensor([350.0, 20.0, 100.0, torch.nan])
    positive, negative = pair_masks(points, headings=headings, heading_deg=40.0)
    assert positive.int().tolist() == [[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]
    assert not negative.any()
    everyone, _ = pair_masks(points, headings=headings)
    assert everyone.sum() == 12


def test_masks_are_right_across_the_antimeridian():
    points = torch.tensor([[10.0, 179.99995], [10.0, -179.99995]], dtype=torch.float64)
    assert pair_masks(points)[0].tolist() == [[False, True], [True, False]]


# ---- InfoNCE


def test_info_nce_by_hand():
    t = 0.5
    rows = []
    for a in range(4):
        e = [math.exp(math.cos(math.radians(ANGLES[a] - ANGLES[b])) / t) for b in range(5)]
        agree = sum(e[b] for b in range(5) if PAIRS[a, b])
        rows.append(-math.log(agree / (agree + sum(e[b] for b in range(5) if OTHERS[a, b]))))
    assert info_nce(ring(), PAIRS, OTHERS, t).item() == pytest.approx(sum(rows) / 4, rel=1e-5)


def test_info_nce_is_the_written_out_sum_with_its_gradient():
    x, same, far = random_batch()

    def plain(x, t=0.07):
        e = (x @ x.T / t).double().exp()
        rows = -((e * same).sum(1) / (e * (same | far)).sum(1)).log()
        return rows[same.any(1)].mean()

    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = info_nce(a, same, far), plain(b)
    found.backward(), expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_info_nce_of_single_positives_is_ntxent():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    x = unit(12, 6).requires_grad_()
    place = torch.arange(12) // 2
    same = (place[:, None] == place) & ~torch.eye(12, dtype=torch.bool)
    expected = losses.NTXentLoss(temperature=0.07)(x, place)
    found = info_nce(normalize(x, dim=-1), same, place[:, None] != place)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, x)[0] for loss in (found, expected)), atol=1e-5, rtol=1e-4
    )


def test_info_nce_falls_to_zero_where_the_originals_has_a_floor():
    x = torch.eye(4).repeat_interleave(3, 0).requires_grad_()  # four places seen three times each, perfectly
    clusters = torch.arange(4).repeat_interleave(3)
    same = (clusters[:, None] == clusters) & ~torch.eye(12, dtype=torch.bool)
    other = clusters[:, None] != clusters
    assert info_nce(x, same, other).item() < 1e-4
    _, parts = original_loss(x, clusters, other)
    assert parts["contrastive_loss"].item() == pytest.approx(math.log(3 / 2), rel=1e-4)  # log((P + 1) / P)


@pytest.mark.parametrize("temperature", [1e-3, 0.07, 10.0])
def test_info_nce_stays_finite_at_any_temperature(temperature):
    x, same, far = random_batch()
    x = torch.cat([x, -x[:1], x[:1]]).requires_grad_()  # rows without any positive
    same, far = (torch.nn.functional.pad(mask, (0, 2, 0, 2)) for mask in (same, far))
    loss = info_nce(x, same, far, temperature)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    assert (x.grad[-2:] == 0).all()


def test_losses_without_a_pair_are_zero_and_have_a_gradient():
    x, none = unit(4, 8).requires_grad_(), torch.zeros(4, 4, dtype=torch.bool)
    total, _ = hybrid(x, none, ~torch.eye(4, dtype=torch.bool))
    total.backward()
    assert total == 0
    assert (x.grad == 0).all()


# ---- triplets


def test_batch_hard_by_hand():
    # nearest negatives: 0 -> 2 (90), 1 -> 2 (50), 2 -> 1 (50), 3 -> 4 (70)
    expected = [hinge(0, 1, 2), hinge(1, 0, 2), hinge(2, 3, 1), hinge(3, 2, 4)]
    found = triplet(ring(), PAIRS, OTHERS, mining="batch_hard")
    assert found.item() == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_semi_hard_by_hand():
    # the nearest negative beyond the positive; anchor 3 has it at 70 degrees, beyond its positive at 60
    expected = [hinge(0, 1, 2), hinge(1, 0, 2), hinge(2, 3, 0), hinge(3, 2, 4)]
    found = triplet(ring(), PAIRS, OTHERS, mining="semi_hard", margin=0.8)
    by_hand = [max(0.0, value + 0.3) for value in (apart(a, p) - apart(a, n) + 0.5 for a, p, n in
               ((0, 1, 2), (1, 0, 2), (2, 3, 0), (3, 2, 4)))]  # fmt: skip
    assert found.item() == pytest.approx(sum(by_hand) / 4, rel=1e-5)
    assert sum(expected) < sum(by_hand)


def test_semi_hard_takes_the_farthest_where_none_lies_beyond():
    x = ring((0, 100, 30, 60))
    same = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    far = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    expected = 2 * math.sin(math.radians(50)) - 2 * math.sin(math.radians(30)) + 0.5
    assert triplet(x, same, far, mining="semi_hard").item() == pytest.approx(expected, rel=1e-5)


def test_half_hard_by_hand():
    noise = torch.zeros(5, 5)
    drawn = {0: 3, 1: 4, 2: 4, 3: 0}
    for anchor, negative in drawn.items():
        noise[anchor, negative] = 1.0
    noise[0, 1] = 2.0  # a positive cannot be drawn
    nearest = {0: 2, 1: 2, 2: 1, 3: 4}
    partner = {0: 1, 1: 0, 2: 3, 3: 2}
    hard = sum(hinge(a, partner[a], nearest[a]) for a in range(4)) / 4
    random = sum(hinge(a, partner[a], drawn[a]) for a in range(4)) / 4
    found = triplet(ring(), PAIRS, OTHERS, hard_share=0.3, noise=noise)
    assert found.item() == pytest.approx(0.3 * hard + 0.7 * random, rel=1e-5)


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard", "half_hard"])
def test_triplets_equal_a_loop_over_anchors(mining):
    x, same, far = random_batch(seed=5)
    d = torch.cdist(x.double(), x.double())
    noise = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    values = []
    for a in range(24):
        positives, negatives = same[a].nonzero()[:, 0].tolist(), far[a].nonzero()[:, 0].tolist()
        if not positives or not negatives:
            continue
        hardest = min(d[a, n] for n in negatives)
        if mining == "batch_hard":
            values.append(max(d[a, p] for p in positives) - hardest + 0.5)
        for p in positives if mining == "semi_hard" else ():
            beyond = [d[a, n] for n in negatives if d[a, n] > d[a, p]]
            values.append(d[a, p] - (min(beyond) if beyond else max(d[a, n] for n in negatives)) + 0.5)
        for p in positives if mining == "half_hard" else ():
            drawn = d[a, max(negatives, key=lambda n: noise[a, n])]
            values.append(
                0.5 * (d[a, p] - hardest + 0.5).clamp(min=0) + 0.5 * (d[a, p] - drawn + 0.5).clamp(min=0)
            )
    expected = torch.stack(values).clamp(min=0).mean().item()
    assert triplet(x, same, far, mining=mining, noise=noise).item() == pytest.approx(expected, rel=1e-4)


def test_triplet_gradient_is_finite_for_identical_pictures():
    x = normalize(torch.ones(4, 3), dim=-1).requires_grad_()
    same = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]).bool()
    far = ~same & ~torch.eye(4, dtype=torch.bool)
    triplet(x, same, far).backward()
    assert x.grad.isfinite().all()


def test_hybrid_is_the_weighted_sum():
    x, same, far = random_batch()
    total, parts = hybrid(x, same, far, contrastive_weight=2.0, triplet_weight=0.5, mining="batch_hard")
    assert parts["contrastive_loss"] == info_nce(x, same, far)
    assert parts["triplet_loss"] == triplet(x, same, far, mining="batch_hard")
    assert total.item() == pytest.approx(
        2 * parts["contrastive_loss"].item() + 0.5 * parts["triplet_loss"].item()
    )


# ---- the reference implementation's labels


def test_greedy_clusters_tear_neighbors_apart():
    points = along([0, 20, 40, 60, 80, 300])
    assert greedy_clusters(points).tolist() == [0, 0, 1, 1, 2, 3]
    positive, _ = pair_masks(torch.from_numpy(points))
    assert positive[1, 2]  # 20 m apart, and of different clusters


# ---- Multi-Similarity


def test_multi_similarity_is_its_loop():
    x, same, far = random_batch()
    s = (x.double() @ x.double().T).tolist()
    total, dropped = 0.0, 0
    for i in range(len(x)):
        positives = [s[i][j] for j in range(len(x)) if same[i, j]]
        negatives = [s[i][j] for j in range(len(x)) if far[i, j]]
        taken = [v for v in positives if negatives and v < max(negatives) + 0.1]
        pushed = [v for v in negatives if positives and v > min(positives) - 0.1]
        dropped += len(positives) + len(negatives) - len(taken) - len(pushed)
        total += math.log(1 + sum(math.exp(-v) for v in taken))
        total += math.log(1 + sum(math.exp(50 * v) for v in pushed)) / 50
    assert dropped > 0
    assert multi_similarity(x.double(), same, far).item() == pytest.approx(total / len(x), abs=1e-6)
    assert multi_similarity(x, same, far).item() == pytest.approx(total / len(x), abs=1e-6)


def test_multi_similarity_has_the_gradient_of_its_values_and_counts_no_pair_between_the_radii():
    x, same, far = random_batch(n=10, seed=5)
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: multi_similarity(rows, same, far, beta=5.0), (x,))
    lone = torch.zeros(10, 10, dtype=torch.bool)
    assert multi_similarity(x, lone, lone).item() == 0  # all pairs lie between the radii
    assert multi_similarity(x, same, lone).item() == 0  # nothing to be mined against


def test_a_model_takes_the_loss_that_its_config_names():
    head = build_model(loss="multi_similarity").eval().head
    x, points = unit(6, 16), torch.from_numpy(along([0.0, 5.0, 300.0, 310.0, 900.0, 905.0]))
    loss, parts = head.losses(x, points)
    assert parts == {}
    assert loss.item() == pytest.approx(multi_similarity(x, *pair_masks(points)).item(), abs=1e-6)


def test_the_matryoshka_loss_is_the_mean_over_the_first_numbers():
    config = GeoPlaceConfig(
        feature_size=12, projection_dim=8, matryoshka_dims=[2, 4], loss="multi_similarity"
    )
    torch.manual_seed(0)
    head = PlaceHead(config).train()
    features, points = torch.randn(16, 12), torch.from_numpy(along(np.repeat([0.0, 300.0, 600.0, 900.0], 4)))
    out = head(features, points)
    same, far = pair_masks(points)
    expected = [multi_similarity(normalize(out.descriptors[:, :dim], dim=1), same, far) for dim in (2, 4, 8)]
    torch.testing.assert_close(out.loss, torch.stack(expected).mean(), atol=1e-6, rtol=0)


def test_a_trained_model_is_cut_to_its_first_numbers(tmp_path):
    model = build_model(projection_dim=8, matryoshka_dims=[2, 4]).eval()
    model.save_pretrained(tmp_path)
    cut = GeoPlaceModel.from_pretrained(tmp_path, truncate_dim=4).eval()
    pictures = torch.randn(3, 3, 64, 64)
    whole = model(pictures).descriptors[:, :4]
    torch.testing.assert_close(cut(pictures).descriptors, normalize(whole, dim=1))
    assert cut.config.descriptor_size == 4
    cut.save_pretrained(tmp_path / "cut")
    again = GeoPlaceModel.from_pretrained(tmp_path / "cut").eval()
    assert torch.equal(again(pictures).descriptors, cut(pictures).descriptors)
    write_card(tmp_path / "cut", "place.md", cut.config)
    assert "Cut to the first 4 numbers" in (tmp_path / "cut" / "README.md").read_text()
    with pytest.raises(StrictDataclassError, match="truncate_dim must be at least 1 and at most 8"):
        GeoPlaceConfig(feature_size=12, projection_dim=8, truncate_dim=9)
