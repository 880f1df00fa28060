"""SALAD, BoQ, NetVLAD and SuperVLAD against plain forms of their papers, in numpy and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.place_models import build_model, unit
from helpers.plain_aggregators import plain_boq, plain_salad, unit_rows, weights_of

from geohf.errors import DataError
from geohf.models.configuration import as_data_error
from geohf.place import GeoPlaceModel
from geohf.place.aggregation import SALAD, BoQ, NetVLAD, SuperVLAD
from geohf.place.aggregation.netvlad import k_means
from geohf.place.aggregation.salad import transport
from geohf.vision.pooling import pooled

SALAD_FIELDS = {"pooling": "salad", "clusters": 3, "cluster_dim": 4, "token_dim": 6}
BOQ_FIELDS = {"pooling": "boq", "boq_channels": 16, "boq_queries": 5, "boq_rows": 3}
NETVLAD_FIELDS = {"pooling": "netvlad", "clusters": 3}
SUPERVLAD_FIELDS = {"pooling": "supervlad", "clusters": 2}


def random_start(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return module.eval()


# ---- SALAD


def test_salad_is_its_plain_form():
    module = random_start(SALAD(12, 3, 4, 6))
    tokens = torch.randn(2, 12, 1 + 10)
    found = module(tokens).detach().numpy()
    expected = [plain_salad(weights_of(module), picture) for picture in tokens.double().numpy()]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    linear = random_start(SALAD(12, 3, 4, 6, linear_dim=5))
    assert linear(tokens).shape == (2, 5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_shares_of_a_patch_sum_to_one_and_the_clusters_take_their_mass(scale):
    torch.manual_seed(0)
    shares = transport(scale * torch.randn(2, 8, 40), torch.tensor(1.0))
    assert shares.shape == (2, 9, 40)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 40), atol=1e-3, rtol=0)
    many = transport(torch.randn(2, 8, 40), torch.tensor(1.0), steps=200)
    torch.testing.assert_close(many[:, :8].sum(2), torch.ones(2, 8), atol=1e-3, rtol=0)
    torch.testing.assert_close(many[:, 8].sum(1), torch.full((2,), 32.0), atol=1e-2, rtol=0)


# ---- BoQ


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (128, 2)])
def test_boq_is_its_plain_form(width, heads):
    module = random_start(BoQ(7, width, 5, 2, 3))
    features = torch.randn(2, 7, 4, 5)
    found = module(features).detach().numpy()
    assert found.shape == (2, 3 * width)
    expected = [plain_boq(weights_of(module), picture, heads) for picture in features.double().numpy()]
    np.testing.assert_allclose(unit_rows(found), unit_rows(np.stack(expected)), atol=1e-5)


# ---- NetVLAD


def test_netvlad_is_its_plain_form():
    module = random_start(NetVLAD(6, 3))
    features = torch.randn(2, 6, 3, 4)
    w = weights_of(module)
    for found, picture in zip(module(features).detach().numpy(), features.double().numpy(), strict=True):
        sums = np.zeros((3, 6))
        for place in unit_rows(picture.reshape(6, -1).T):
            scores = np.exp(w["assign.weight"] @ place + w["assign.bias"])
            for cluster, share in enumerate(scores / scores.sum()):
                sums[cluster] += share * (place - w["centers"][cluster])
        np.testing.assert_allclose(found, unit_rows(unit_rows(sums).ravel()), atol=1e-5)


def test_supervlad_is_its_plain_form_and_the_ghost_takes_what_it_likes():
    module = random_start(SuperVLAD(6, 4))
    features = torch.randn(2, 6, 3, 4)
    w = weights_of(module)
    for found, picture in zip(module(features).detach().numpy(), features.double().numpy(), strict=True):
        sums = np.zeros((4, 6))
        for place in unit_rows(picture.reshape(6, -1).T):
            scores = np.exp(w["assign.weight"] @ place)
            for cluster in range(4):  # the fifth is the ghost
                sums[cluster] += scores[cluster] / scores.sum() * place
        np.testing.assert_allclose(found, unit_rows(unit_rows(sums).ravel()), atol=1e-5)
    model = build_model(pooling="supervlad", projection_dim=None)
    assert model.config.clusters == 4
    assert model.config.descriptor_size == 4 * model.config.channels
    assert build_model(pooling="supervlad", projection_dim=None, clusters=2).config.clusters == 2


def test_k_means_finds_what_lies_together():
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    torch.manual_seed(0)
    points = (centers.repeat(50, 1) + 0.1 * torch.randn(150, 2))[torch.randperm(150)]
    found = k_means(points, 3)
    order = torch.cdist(centers, found).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    torch.testing.assert_close(found[order], centers, atol=0.1, rtol=0)


def test_netvlad_begins_with_the_training_places_and_begins_once():
    module = NetVLAD(8, 4)
    maps = unit(30, 2, 3, 8).movedim(-1, 1)
    module.fit(maps)
    places = maps.movedim(1, -1).flatten(0, -2)
    module.requires_grad_(False)
    distances = torch.cdist(places, module.centers).square()
    shares = module.assign(places).softmax(-1)
    assert (shares.argmax(1) == distances.argmin(1)).all()
    nearest = distances.sort(1).values
    ratio = (shares.sort(1).values[:, -1] / shares.sort(1).values[:, -2]).log()
    assert ratio.mean().exp() == pytest.approx(100, rel=1e-3)
    gaps = nearest[:, 1] - nearest[:, 0]
    torch.testing.assert_close(ratio, np.log(100) * gaps / gaps.mean())
    before = module.centers.clone()
    module.fit(maps[:10])
    torch.testing.assert_close(module.centers, before, rtol=0, atol=0)


def test_supervlad_begins_with_the_training_places_and_begins_once():
    module = SuperVLAD(8, 3)
    maps = 5 * unit(30, 2, 3, 8).movedim(-1, 1)
    module.fit(maps)
    weight = module.assign.weight.detach()
    torch.testing.assert_close(weight.norm(dim=1), weight[0].norm().expand(4))  # three clusters and the ghost
    scores = (
        unit_rows(maps.movedim(1, -1).flatten(0, -2).double().numpy()) @ weight.double().numpy().T
    ).tolist()
    best, second = np.array([sorted(row)[:-3:-1] for row in scores]).T
    assert np.exp((best - second).mean()) == pytest.approx(100, rel=1e-3)
    module.fit(maps[:10])
    assert torch.equal(module.assign.weight, weight)


# ---- in the model


@pytest.mark.parametrize(
    ("fields", "size"),
    [(SALAD_FIELDS, 18), (BOQ_FIELDS, 48), (NETVLAD_FIELDS, 3 * 96), (SUPERVLAD_FIELDS, 2 * 96)],
)
def test_a_model_with_it_is_saved_and_learns(fields, size, tmp_path):
    model = build_model(projection_dim=None, **fields).eval()
    assert model.config.descriptor_size == size
    pixels = torch.randn(4, 3, 64, 64)
    points = torch.tensor([[0.0, 0.0], [0.0, 1e-5], [1.0, 0.0], [1.0, 1e-5]], dtype=torch.float64)
    output = model(pixels, points)
    assert output.descriptors.shape == (4, size)
    torch.testing.assert_close(output.descriptors.norm(dim=1), torch.ones(4))
    output.loss.backward()
    for name, parameter in model.head.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        found = GeoPlaceModel.from_pretrained(tmp_path)(pixels).descriptors
    torch.testing.assert_close(found, output.descriptors.detach(), atol=1e-6, rtol=0)


def test_tokens_of_a_tower_without_a_class_token_begin_with_the_mean():
    model = build_model().eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens, grid = (pooled(model.tower, pixels, pool) for pool in ("tokens", "map"))
    torch.testing.assert_close(tokens[..., 0], grid.mean((-2, -1)))
    torch.testing.assert_close(tokens[..., 1:], grid.flatten(2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (SALAD_FIELDS | {"clusters": 64}, "salad needs fewer clusters"),
        (BOQ_FIELDS | {"boq_channels": 100}, "boq_channels must be a multiple of 64"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(DataError, match=message), as_data_error():
        build_model(projection_dim=None, **fields)
