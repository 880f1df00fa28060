"""What is taken of a tower's output: equal to the tower's own tensors, whatever library it is from."""

import pytest
import torch
from transformers import CLIPVisionConfig, Dinov2Config, SiglipVisionConfig

from geohf.vision.backbones import TimmTowerConfig, build_tower
from geohf.vision.pooling import map_size, pooled

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def tower_of(config):
    torch.manual_seed(0)
    return build_tower(config).eval()


@pytest.mark.parametrize(
    ("config", "side", "tokens_before"),
    [
        (Dinov2Config(**SMALL, image_size=56, patch_size=14), 56, 1),
        (CLIPVisionConfig(**SMALL, image_size=64, patch_size=16), 64, 1),
        (SiglipVisionConfig(**SMALL, image_size=64, patch_size=16), 64, 0),
    ],
)
def test_transformers_towers(config, side, tokens_before):
    tower, images = tower_of(config), torch.rand(2, 3, side, side)
    hidden = tower(images).last_hidden_state
    grid = pooled(tower, images, "map")
    assert grid.shape == (2, 32, 4, 4)
    assert torch.equal(grid[:, :, 1, 2], hidden[:, tokens_before + 6])  # row 1, column 2 of four
    assert torch.allclose(pooled(tower, images, "avg"), hidden[:, tokens_before:].mean(1), atol=1e-6)
    if tokens_before:
        assert torch.equal(pooled(tower, images, "cls"), hidden[:, 0])
    else:
        with pytest.raises(ValueError, match="no class token"):
            pooled(tower, images, "cls")
    assert map_size(config, (side, side)) == [32, 4, 4]


def test_timm_towers():
    images = torch.rand(2, 3, 160, 160)
    vit = tower_of(TimmTowerConfig(architecture="test_vit", image_size=160))
    tokens = vit.timm.forward_features(images)
    assert torch.equal(pooled(vit, images, "cls"), tokens[:, 0])
    assert torch.equal(pooled(vit, images, "map")[:, :, 3, 7], tokens[:, 1 + 37])
    net = tower_of(TimmTowerConfig(architecture="test_resnet", image_size=160))
    wide = torch.rand(2, 3, 64, 96)
    assert torch.equal(pooled(net, wide, "map"), net.timm.forward_features(wide))
    assert torch.allclose(pooled(net, wide, "avg"), pooled(net, wide, "tower"), atol=1e-6)
    assert map_size(net.config, (64, 96)) == [96, 2, 3]


def test_an_unknown_way_is_refused():
    net = tower_of(TimmTowerConfig(architecture="test_resnet", image_size=64))
    with pytest.raises(ValueError, match="pool must be one of tower, cls, avg, map"):
        pooled(net, torch.rand(1, 3, 64, 64), "max")
