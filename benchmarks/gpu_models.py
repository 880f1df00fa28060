"""A model of every task and a batch that it learns from, in three sizes, for `gpu.py`: random weights, noise as pictures."""

from __future__ import annotations

import tempfile

import bench_parts
import torch
from torch import nn

from geohf import GeoPlaceModel, GeoRegionModel, GeoStreetModel, TileSequenceModel

# of each task a backbone, the side of its pictures in pixels, and the batch
SIZES: dict[str, dict[str, tuple[str, int, int]]] = {
    "small": {
        "region": ("resnet18", 224, 64),
        "street": ("resnet18", 224, 64),
        "parts": ("resnet18", 320, 8),
        "place": ("resnet18", 224, 64),
        "tiles": ("resnet18", 64, 32),
    },
    "published": {
        "region": ("convnext_small", 224, 32),
        "street": ("vit_large_patch14_clip_336", 336, 16),
        "parts": ("resnet50", 800, 4),
        "place": ("vit_base_patch14_dinov2", 224, 32),
        "tiles": ("vit_base_patch16_224", 224, 8),
    },
    "tiny": {
        "region": ("test_resnet", 32, 6),
        "street": ("test_resnet", 32, 4),
        "parts": ("resnet18", 96, 1),
        "place": ("test_resnet", 32, 4),
        "tiles": ("test_resnet", 32, 2),
    },
}
TASKS = tuple(SIZES["small"])
STEPS = 6  # frames of a tile
CENTERS = [[36.361, 127.361], [36.366, 127.367], [36.371, 127.354]]  # of regions and classes


def make_model(task: str, backbone: str, side: int) -> nn.Module:
    """The task's model, with random weights that answer differently for different pictures."""
    how = {"pretrained": False, "image_size": side}
    names = dict(enumerate("ABC"))
    torch.manual_seed(0)
    if task == "region":
        scalers = [{"center": center, "scale": [0.0015, 0.002]} for center in CENTERS]
        return GeoRegionModel.from_backbone(backbone, id2label=names, scalers=scalers, **how)
    if task == "street":
        classes = {"class_centroids": CENTERS, "class_extents": [[0.01, 0.01]] * 3, "id2label": names}
        box = [36.35, 127.34, 36.38, 127.38]
        return GeoStreetModel.from_backbone(backbone, **classes, gps_box=box, **how)
    if task == "place":
        return GeoPlaceModel.from_backbone(backbone, **how)
    if task == "parts":
        return bench_parts.make_pair(backbone, side)[1]
    model = TileSequenceModel.from_backbone(backbone, frames=STEPS, answers="level", **how)
    nn.init.normal_(model.head[-1].weight)  # it starts at zero, as the baseline
    return model


def make_batch(task: str, side: int, batch: int) -> dict[str, torch.Tensor]:
    """Noise and truths, as the task's `forward` takes them."""
    if task == "parts":
        pixels, truth, _ = bench_parts.make_batch(batch, side)
        return {"pixel_values": pixels, **truth}
    generator = torch.Generator().manual_seed(0)
    if task == "tiles":
        pixels = torch.randn(batch, STEPS, 3, side, side, generator=generator)
        return {"pixel_values": pixels, "labels": torch.randn(batch, 1, generator=generator)}
    pixels, numbers = torch.randn(batch, 3, side, side, generator=generator), torch.arange(batch)
    if task == "place":  # two pictures a place, 11 m apart, and places 1.1 km apart
        latitude = 36.0 + 0.01 * (numbers // 2) + 0.0001 * (numbers % 2)
        points = torch.stack([latitude, torch.full((batch,), 127.0)], -1).double()
        return {"pixel_values": pixels, "coordinates": points}
    points = torch.tensor(CENTERS, dtype=torch.float64)[numbers % 3]
    points = points + 0.001 * torch.randn(batch, 2, generator=generator)
    return {"pixel_values": pixels, "labels": numbers % 3, "coordinates": points}


def answers_of(task: str, outputs) -> torch.Tensor:
    """What is compared of a prediction; of detections the ten best scores, for their order may differ."""
    if task == "parts":
        scores = nn.functional.pad(outputs.scores, (0, 10))
        return scores.sort(dim=1, descending=True).values[:, :10]
    name = {"region": "logits", "street": "logits", "place": "descriptors", "tiles": "predictions"}[task]
    return outputs[name]


def make_clip_pair(tiny: bool, device: str) -> tuple[nn.Module, GeoPlaceModel, int]:
    """CLIP (ViT-B/32, or a tiny one) as sentence-transformers' and as a place model's, and the side of its pictures."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
    small = {"vision_config": layers | {"image_size": 32, "patch_size": 16}, "text_config": layers}
    config = CLIPConfig(**small if tiny else {})
    side = config.vision_config.image_size
    # text is not read, but no folder loads without a tokenizer
    tokenizer = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    sides = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
        CLIPProcessor(CLIPImageProcessor(**sides), tokenizer).save_pretrained(folder)
        theirs = SentenceTransformer(modules=[Transformer(folder)], device=device).eval()
        ours = GeoPlaceModel.from_backbone(folder).to(device)
    return theirs, ours, side
