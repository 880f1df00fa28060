"""The model: what is frozen, how features are pooled and whitened, and what a save keeps."""

import numpy as np
import pytest
import torch
from place_models import build_model, pictures
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from geohf.errors import DataError
from geohf.place import GeoPlaceConfig, GeoPlaceModel
from geohf.place.aggregation import GeM, MixVPR
from geohf.place.head import PlaceHead, Whitening


def images(n=6, side=64):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pooling", ["tower", "avg", "gem", "mixvpr"])
@pytest.mark.parametrize("projection", [None, 32])
def test_descriptors_have_length_one(pooling, projection):
    model = build_model(pooling=pooling, projection_dim=projection, mix_channels=16, mix_rows=2)
    found = model(images()).descriptors
    assert found.shape == (6, model.config.descriptor_size)
    assert torch.allclose(found.norm(dim=1), torch.ones(6))
    assert (found[0] - found[1]).norm() > 1e-3  # pictures differ


def test_the_class_token_needs_a_tower_that_has_one():
    assert build_model(architecture="test_vit", side=160, pooling="cls")(
        images(2, 160)
    ).descriptors.shape == (2, 256)
    with pytest.raises(ValueError, match="has no class token"):
        build_model(pooling="cls")(images(2))


def test_the_seeds_head():
    head = build_model().head
    kinds = [type(layer) for layer in (*head.project, head.descriptor_norm)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.BatchNorm1d]
    shapes = [
        (layer.in_features, layer.out_features) for layer in head.project if isinstance(layer, nn.Linear)
    ]
    assert shapes == [(96, 48), (48, 256)]
    assert head.project[2].p == 0.1


def test_gem_runs_from_the_average_to_the_maximum():
    features = torch.rand(2, 5, 4, 3) + 0.1
    assert torch.allclose(GeM(1.0)(features), features.mean((2, 3)), atol=1e-6)
    assert torch.allclose(GeM(400.0)(features.double()), features.double().amax((2, 3)), rtol=0.02)


def test_mixvpr_without_mixing_is_two_projections():
    mix = MixVPR([6, 2, 3], depth=1, channels=4, rows=2)
    nn.init.zeros_(mix.mixers[0].out.weight)
    nn.init.zeros_(mix.mixers[0].out.bias)
    features = torch.rand(3, 6, 2, 3)
    flat = features.flatten(2)
    expected = (
        mix.rows.weight @ (mix.channels.weight @ flat + mix.channels.bias[:, None]).mT
        + mix.rows.bias[:, None]
    )
    expected = expected.mT.flatten(1)
    assert torch.allclose(mix(features), nn.functional.normalize(expected, dim=1), atol=1e-6)


def test_mixvpr_sees_where_things_are():
    model = build_model(pooling="mixvpr", projection_dim=None, mix_channels=16)
    features = torch.rand(1, 96, 2, 2)
    turned = features.flip(-1)
    assert (model.head(features).descriptors @ model.head(turned).descriptors.T).item() < 0.99


# ---- frozen by default


def test_the_tower_is_frozen_and_stays_in_eval_mode():
    model = build_model().train()
    assert model.head.training
    assert not any(module.training for module in model.tower.modules())
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(name.startswith("head.") for name in trainable)
    before = {name: tensor.clone() for name, tensor in model.tower.state_dict().items()}
    model(images()).descriptors.sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.tower.state_dict().items())


def test_what_learns_of_the_tower_is_trained_and_the_rest_is_not():
    model = build_model(architecture="test_vit", side=160)
    last = model.tower.timm.blocks[-1]
    last.requires_grad_(True)
    model.train()
    assert last.attn.training
    assert not model.tower.timm.blocks[0].training


def test_patches_must_divide_the_image(tmp_path):
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=98, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    assert GeoPlaceModel.from_backbone(str(tmp_path)).config.feature_size == 32
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 100}, "crop_size": {"height": 100, "width": 100}}'
    )
    with pytest.raises(DataError, match="no multiple of its patches of 14"):
        GeoPlaceModel.from_backbone(str(tmp_path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pooling": "netvlad"},
        {"pooling": "gem"},
        {"mining": "none"},
        {"positive_m": 200.0},
        {"temperature": 0.0},
        {"whitening_dim": 300},
        {"hard_share": 2.0},
    ],
)
def test_settings_that_do_not_go_together(wrong):
    with pytest.raises(Exception, match=r"must|needs"):
        GeoPlaceConfig(**wrong)


# ---- whitening


def test_whitened_descriptors_are_uncorrelated():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(500, 8, generator=generator) @ torch.randn(8, 8, generator=generator) + 3
    whitening = Whitening(8, 4)
    whitening.fit(mixed)
    flat = (mixed - whitening.mean) @ whitening.axes.T
    assert torch.allclose(flat.T @ flat / 500, torch.eye(4), atol=1e-4)
    assert torch.allclose(whitening(mixed).norm(dim=1), torch.ones(500))


def test_whitening_is_saved_with_the_model(tmp_path):
    model = build_model(projection_dim=16)
    before = model(images(40)).descriptors
    model.head.fit_whitening(before, 5)
    expected = model(images(40)).descriptors
    assert expected.shape == (40, 5)
    model.save_pretrained(tmp_path)
    loaded = GeoPlaceModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(images(40)).descriptors, expected)
    half = GeoPlaceModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(half.head.whiten.axes, model.head.whiten.axes)  # never rounded to 3 digits
    assert half.predict(next(pictures(1)))[0].descriptor.dtype == np.float32
    assert loaded.head.remove_whitening() == 5
    assert torch.allclose(loaded(images(40)).descriptors, before)


def test_whitening_needs_enough_descriptors():
    with pytest.raises(
        DataError, match="cannot whiten to 5 dimensions: there are 3 descriptors of length 16"
    ):
        build_model(projection_dim=16).head.fit_whitening(torch.rand(3, 16), 5)


# ---- training


def test_features_are_standardised_once():
    head = build_model().head
    features = torch.randn(200, 96) * 3 + 5
    head.fit_features(features)
    flat = head.standardize(features)
    assert torch.allclose(flat.mean(0), torch.zeros(96), atol=1e-5)
    assert torch.allclose(flat.std(0, correction=0), torch.ones(96), atol=1e-4)
    mean = head.standardize.mean.clone()
    head.fit_features(features + 1)  # a trained head keeps what it was trained with
    assert torch.equal(head.standardize.mean, mean)


def test_the_loss_is_that_of_the_whole_batch_and_its_parts():
    model = build_model(dropout=0.0, mining="batch_hard").train()
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0001], [1.0, 1.0], [1.0, 1.0001]], dtype=torch.float64)
    output = model(images(4), coordinates=points, headings=torch.full((4,), torch.nan))
    total = output.loss_parts["contrastive_loss"] + 0.3 * output.loss_parts["triplet_loss"]
    assert output.loss.item() == pytest.approx(total.item())
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())


def test_a_head_without_anything_to_learn_still_describes():
    head = PlaceHead(GeoPlaceConfig(feature_size=8, projection_dim=None))
    features = torch.rand(3, 8)
    assert torch.allclose(head(features).descriptors, nn.functional.normalize(features, dim=1))
