"""Small place models and pictures for the tests."""

import numpy as np
import torch
from PIL import Image

from geohf.place import GeoPlaceConfig, GeoPlaceModel
from geohf.vision.backbones import TimmTowerConfig
from geohf.vision.pooling import map_size


def build_model(seed=0, architecture="test_resnet", side=64, **fields):
    """A tiny model with random weights; its batch norm has statistics of its own."""
    torch.manual_seed(seed)
    tower = TimmTowerConfig(architecture=architecture, image_size=side)
    if fields.get("pooling", "tower") != "tower":
        fields["feature_map"] = map_size(tower, (side, side))
    processing = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    size = {"test_resnet": 96, "test_vit": 64}[architecture]
    config = GeoPlaceConfig(vision_config=tower, feature_size=size, image_processor=processing, **fields)
    model = GeoPlaceModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.head.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model


def pictures(n, seed=0, side=72):
    """Different pictures with coarse structure."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        yield coarse.resize((side, side), Image.Resampling.BICUBIC)
