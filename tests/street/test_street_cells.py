"""Cells with levels in the street model: described, saved, trained on all levels, answered by all levels."""

import itertools
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.street_models import build_model as build_state_model
from helpers.street_models import parse, patches
from torch.nn import functional as F

from geohf.errors import DataError
from geohf.geo import cell_soft_targets, great_circle_m, point_soft_targets
from geohf.geo import soft_targets as soft_targets_module
from geohf.street import GeoStreetModel
from geohf.street.arguments import StreetArguments
from geohf.street.cells import cell_numbers, describe_cells
from geohf.street.classes import describe_classes, labels_of
from geohf.street.hierarchy import joint_logarithms, level_tensors, sums_of_levels
from geohf.street.losses import LevelsCrossEntropy, hierarchical_cross_entropy, soft_cross_entropy
from geohf.street.places import place_features

LEVELS = [[0, 0, 1, 1, 2, 3], [0, 0, 1, 1]]  # six cells, four parts, two parts


def places(points, states=None):
    n = len(points)
    columns = {
        "sample_id": [f"id{i}" for i in range(n)],
        "views": [[{"path": f"{i}.jpg", "bytes": None}] for i in range(n)],
        "headings": [[0.0]] * n,
        "state": [None] * n if states is None else list(states),
        "state_idx": [None] * n,
        "latitude": [float(p[0]) for p in points],
        "longitude": [float(p[1]) for p in points],
    }
    return Dataset.from_dict(columns, features=place_features())


def some_points(n=200, seed=0):
    return np.random.default_rng(seed).uniform([40, -5], [55, 25], (n, 2))


def build_model(seed=0, **fields):
    return build_state_model(seed, class_indices=None, **fields)


def tree_model(points, seed=0, **fields):
    return build_model(seed, **describe_classes(places(points), cells="quadtree", cell_points=20), **fields)


# Targets and losses


def test_probabilities_of_parts_are_the_sums_of_their_cells():
    probabilities = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    fine, coarse = sums_of_levels(probabilities, level_tensors(LEVELS))
    p = probabilities.numpy()
    np.testing.assert_allclose(
        fine, np.stack([p[:, 0] + p[:, 1], p[:, 2] + p[:, 3], p[:, 4], p[:, 5]], 1), atol=1e-6
    )
    np.testing.assert_allclose(coarse, np.stack([p[:, :4].sum(1), p[:, 4:].sum(1)], 1), atol=1e-6)


def test_the_loss_of_levels_is_the_mean_of_cross_entropies():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 6, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 3, 5, 2])
    counts = torch.tensor([True, True, True, False])
    targets = F.one_hot(labels, 6).float()
    loss = hierarchical_cross_entropy(logits, targets, counts, level_tensors(LEVELS))
    p, rows = logits.softmax(-1), range(3)
    fine = [[0, 1], [2, 3], [5]]
    coarse = [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5]]
    by_hand = sum(
        -sum(torch.log(p[i, part[i]].sum()) for i in rows) / 3 for part in ([[0], [3], [5]], fine, coarse)
    )
    torch.testing.assert_close(loss, by_hand / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[3] == 0).all()
    assert gradient.isfinite().all()
    assert hierarchical_cross_entropy(logits, targets, counts, []) == soft_cross_entropy(
        logits, targets, counts
    )


def test_a_part_of_no_probability_costs_a_finite_loss():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, -300.0, -300.0]], requires_grad=True)
    loss = hierarchical_cross_entropy(
        logits, F.one_hot(torch.tensor([5]), 6).float(), torch.tensor([True]), level_tensors(LEVELS)
    )
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 5] < 0


def test_the_best_cell_of_all_levels_may_not_be_the_most_probable_one():
    probabilities = torch.tensor([[0.14, 0.14, 0.14, 0.14, 0.40, 0.04]])
    found = joint_logarithms(probabilities, level_tensors(LEVELS))[0].exp()
    parts, continents = [0.28, 0.28, 0.40, 0.04], [0.56, 0.44]
    by_hand = [
        p * parts[LEVELS[0][i]] * continents[LEVELS[1][LEVELS[0][i]]]
        for i, p in enumerate(probabilities[0].tolist())
    ]
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    one = torch.tensor([[0.20, 0.17, 0.17, 0.17, 0.29, 0.0]])
    assert one.argmax() == 4
    assert joint_logarithms(one, level_tensors([[0, 0, 0, 0, 1, 1]]))[0].argmax() == 0


@pytest.mark.parametrize("temperature", [75.0, 300.0])
def test_targets_of_thousands_of_cells_are_those_of_few(temperature, monkeypatch):
    points = np.concatenate([some_points(300), [[-41, 175], [89.9, 0], [45.00001, 5]]])
    labels = torch.tensor([0, 5, 300, 301, 302])
    exact = cell_soft_targets(points, temperature)[labels]
    torch.testing.assert_close(cell_soft_targets(points, temperature, labels), exact, atol=0, rtol=0)
    near = points[labels] + 0.01
    by_point = point_soft_targets(near, points, temperature)
    far = np.array([[-60.0, -120.0]])  # thousands of km from every cell: the nearest ones still count
    from_far = point_soft_targets(far, points, temperature, normalize=True)
    monkeypatch.setattr(soft_targets_module, "MANY_CLASSES", 1)
    for sparse, dense in (
        (cell_soft_targets(points, temperature, labels), exact),
        (point_soft_targets(near, points, temperature), by_point),
        (point_soft_targets(far, points, temperature, normalize=True), from_far),
    ):
        torch.testing.assert_close(sparse.to_dense(), dense, atol=1e-6, rtol=1e-4)
    assert cell_soft_targets(points, 0.01, labels)._nnz() < 20 * len(labels)


def test_the_gradient_of_levels_is_that_of_their_sums():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    rows, cells = torch.tensor([[0, 0, 1, 3, 3, 3], [0, 5, 2, 1, 2, 3]])
    weights = torch.tensor([0.5, 0.2, 1.0, 0.3, 0.3, 0.9], dtype=torch.float64)
    for levels in (LEVELS, []):
        arguments = rows, cells, weights, level_tensors(levels)
        assert torch.autograd.gradcheck(lambda x, a=arguments: LevelsCrossEntropy.apply(x, *a), logits)


@pytest.mark.parametrize("levels", [LEVELS, []])
def test_sparse_targets_have_the_loss_and_gradient_of_autograd(levels):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(7, 6, generator=generator, requires_grad=True)
    targets = torch.rand(7, 6, generator=generator) * (torch.rand(7, 6, generator=generator) < 0.5)
    counts = torch.arange(7) != 2
    p, t = logits.softmax(-1)[counts], targets[counts]
    total = -(t * p.log()).sum()
    for parents, size in level_tensors(levels):
        join = F.one_hot(parents, size).float()
        p, t = p @ join, t @ join
        total = total - (t * p.log()).sum()
    (expected,) = torch.autograd.grad(total / (1 + len(levels)) / 6, logits)
    targets[2] = torch.nan
    loss = hierarchical_cross_entropy(logits, targets.to_sparse(), counts, level_tensors(levels))
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, total / (1 + len(levels)) / 6, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)
    tensors, items = level_tensors(levels), torch.tensor(6)
    halves = [
        hierarchical_cross_entropy(logits[part], targets[part].to_sparse(), counts[part], tensors, items)
        for part in (slice(0, 3), slice(3, 7))
    ]
    torch.testing.assert_close(sum(halves), loss)
    if not levels:
        torch.testing.assert_close(soft_cross_entropy(logits, targets.to_sparse(), counts), loss)


def test_a_shift_of_all_logits_does_not_cost_the_digits_of_the_loss():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(4))
    targets, counts = torch.eye(6)[:4], torch.ones(4, dtype=torch.bool)
    shifted = logits + 2.0**16  # rounded to 2^-7: what is rounded away is no fault of the loss
    exact = F.cross_entropy(shifted.double(), torch.arange(4))
    loss = hierarchical_cross_entropy(shifted, targets.to_sparse(), counts, [])
    torch.testing.assert_close(loss.double(), exact, atol=1e-6, rtol=1e-6)


def test_a_part_whose_probability_underflows_has_no_gradient_of_its_own():
    logits = torch.tensor([[0.0, -200.0, -200.0]], requires_grad=True)
    known, levels = torch.tensor([[0.0, 1.0, 0.0]]), level_tensors([[0, 1, 1]])
    loss = hierarchical_cross_entropy(logits, known, torch.tensor([True]), levels)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(
        gradient, torch.tensor([[0.5, -0.5, 0.0]])
    )  # of the cells alone, half of the mean


# Classes and config


def test_places_of_states_become_cells_where_that_is_asked_for():
    points = some_points()
    data = places(points, ["here"] * 200)
    fields = describe_classes(data, cells="quadtree", cell_points=20)
    assert fields["cells"]
    assert len(fields["class_centroids"]) == 16
    assert len(set(fields["id2label"].values())) == 16
    model = build_model(0, **fields)
    counts = np.bincount(labels_of(data, model.config), minlength=16)
    assert counts.min() >= 12
    away = np.abs(points - np.array(fields["class_centroids"])[labels_of(data, model.config)])
    assert (away <= np.array(fields["class_extents"])[labels_of(data, model.config)]).all()
    nowhere = cell_numbers(np.array([[-80.0, 170.0]]), model.config)
    assert 0 <= nowhere[0] < 16


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "quadtree", "cell_points": 500}, "200 training places make 1 cells.*take fewer --cell_points than 500"),
        ({"kind": "quadtree", "cell_points": 1}, "--cell_points must be at least 2"),
        ({"kind": "polygons"}, "--cells polygons and --polygons FILE.geojson go together"),
        ({"kind": "kmeans", "polygons": "a.geojson"}, "go together"),
        ({"kind": "polygons", "polygons": "missing.geojson"}, "missing.geojson: cannot be read"),
    ],
)  # fmt: skip
def test_cells_that_cannot_be_made_are_refused(options, reason):
    with pytest.raises(DataError, match=reason):
        describe_cells(some_points(), **options)


def test_a_word_that_names_no_cells_is_refused():
    with pytest.raises(DataError, match="cells must be one of kmeans, quadtree, polygons, got 'quad'"):
        parse("--cells", "quad")


def test_a_config_whose_tree_has_other_cells_is_refused():
    fields = describe_classes(places(some_points()), cells="quadtree", cell_points=20)
    fields["class_centroids"] = fields["class_centroids"][:-1]
    fields["class_extents"] = fields["class_extents"][:-1]
    fields["id2label"].popitem()
    with pytest.raises(Exception, match="cell_tree has another number of cells than the 15 classes"):
        build_model(0, **fields)


def test_a_model_of_a_tree_is_saved_and_loaded(tmp_path):
    points = some_points()
    model = tree_model(points, point_estimate="hierarchical")
    model.save_pretrained(tmp_path)
    loaded = GeoStreetModel.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["cell_tree"]["levels"]
    assert (labels_of(places(points), loaded.config) == labels_of(places(points), model.config)).all()
    pictures = patches(3, 4)
    for a, b in zip(model.predict(pictures), loaded.predict(pictures), strict=True):
        assert a == b


def test_the_answer_of_all_levels_is_the_candidate_of_the_best_cell():
    model = tree_model(some_points(), point_estimate="hierarchical")
    with torch.inference_mode():
        output = model(model.processor(patches(3, 6))["pixel_values"])
    probabilities = output.logits.softmax(-1).numpy()
    levels = model.config.cell_tree["levels"]
    assert levels
    for row, p in enumerate(probabilities):
        score, part, own = np.log(p), p, np.arange(len(p))
        for parents in levels:
            part = np.bincount(parents, part)
            own = np.array(parents)[own]
            score = score + np.log(part[own])
        best = output.candidates[row, int(score.argmax())]
        torch.testing.assert_close(output.coordinates[row], best)


def test_the_loss_of_a_model_goes_over_all_levels():
    points = some_points()
    model = tree_model(points, smoothing="none", gps_weight=0.0, class_weight=1.0)
    labels = torch.from_numpy(labels_of(places(points[:3]), model.config))
    pixels = model.processor(patches(3, 3))["pixel_values"]
    with torch.no_grad():
        output = model(pixels, labels=labels, coordinates=torch.from_numpy(points[:3]))
    p, own = output.logits.softmax(-1), labels.numpy()
    losses = [-np.log(p[range(3), own].numpy())]
    for parents in model.config.cell_tree["levels"]:
        part = np.stack([np.bincount(parents, row) for row in p.numpy()])
        p, own = torch.from_numpy(part), np.array(parents)[own]
        losses.append(-np.log(part[range(3), own]))
    assert float(output.loss) == pytest.approx(float(np.mean([np.mean(loss) for loss in losses])), rel=1e-5)


def test_thousands_of_cells_are_trained_and_answered_without_a_matrix_of_all(monkeypatch):
    points = some_points(9000)
    fields = describe_classes(places(points), cells="quadtree", cell_points=8)
    assert len(fields["class_centroids"]) > 1024
    model = build_model(0, **fields)
    asked = []
    make = model.head._make_constant
    monkeypatch.setattr(model.head, "_make_constant", lambda name: asked.append(name) or make(name))
    pixels = model.processor(patches(3, 2))["pixel_values"]
    labels = torch.from_numpy(labels_of(places(points[:2]), model.config))
    output = model(pixels, labels=labels, coordinates=torch.from_numpy(points[:2]))
    output.loss.backward()
    assert not {"distances_m", "soft_targets"} & set(asked)
    # the medoid, written out over the most probable cells
    p = output.logits.detach().softmax(-1).numpy()
    centroids = np.array(fields["class_centroids"])
    for row in range(2):
        top = np.argsort(-p[row])[:64]
        expected = [sum(p[row, b] * great_circle_m(centroids[a], centroids[b]) for b in top) for a in top]
        best = output.candidates[row, int(top[np.argmin(expected)])]
        assert float(great_circle_m(best.detach().double(), output.coordinates[row].double())) < 1.0


def test_names_of_crowded_cells_stay_different():
    points = np.array([[50 + 1e-4 * i, 8 + 1e-4 * j] for i, j in itertools.product(range(8), range(8))])
    names = describe_cells(points, "quadtree", cell_points=8)[2]["id2label"].values()
    assert len(set(names)) == len(names) > 8


def test_polygons_without_their_cells_are_refused():
    with pytest.raises(DataError, match="--polygons goes with --cells polygons"):
        StreetArguments(polygons="a.geojson")


def test_one_geocell_for_all_places_gets_a_word(caplog):
    city = np.random.default_rng(0).normal([48.85, 2.35], 0.03, (50, 2))
    labels, _, fields = describe_cells(city)
    assert (set(labels.tolist()), len(fields["id2label"])) == ({0}, 1)
    assert "all training places lie in one geocell, which tells nothing" in caplog.text
