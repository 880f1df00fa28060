"""What the tests of the parts task share: tiny detectors, photos and truths."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from geohf.parts import PartStateModel
from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.sample import SAMPLE_DETECTORS
from geohf.training.parser import GeoArgumentParser

PARTS = {0: "wheel", 1: "bell", 2: "lamp"}
STATES = {0: "intact", 1: "damaged", 2: "absent"}
TINY = {
    "norm": "group",
    "pyramid_channels": 16,
    "image_size": [64, 96],
    "feature_levels": [1, 2, 3],
    "anchor_sizes": [[12], [24], [48], [64]],
    "rpn_pre_nms_top_n_train": 60,
    "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 40,
    "rpn_batch_size_per_image": 32,
    "roi_size": 3,
    "roi_canonical_size": 32,
    "box_hidden_size": 32,
    "box_batch_size_per_image": 16,
    "box_score_threshold": 0.0,
    "box_detections_per_image": 12,
    "state_hidden_size": 16,
}
# so many samples that all anchors and regions are taken: nothing is left to chance
ALL_SAMPLES = {"rpn_batch_size_per_image": 100_000, "box_batch_size_per_image": 100_000, "state_dropout": 0.0}


def build_model(seed: int = 0, spread: float = 20.0, **fields) -> PartStateModel:
    """A detector on a tiny backbone with weights of this seed, its logits spread out so that answers differ."""
    torch.manual_seed(seed)
    fields = {"id2label": PARTS, "id2state": STATES} | TINY | fields
    model = PartStateModel.from_backbone(fields.pop("backbone", "test_resnet"), pretrained=False, **fields)
    with torch.no_grad():
        for layer in (model.roi_heads.box_predictor.cls_score, model.roi_heads.state_head[-1]):
            layer.weight.mul_(spread)
        model.rpn.head.cls_logits.weight.mul_(spread)
    return model.eval()


def photos(count: int = 4, seed: int = 0, size: tuple[int, int] = (48, 64)) -> list[Image.Image]:
    """Photos of colored patches, (height, width)."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return [Image.fromarray(c).resize(size[::-1], Image.Resampling.BICUBIC) for c in colors]


def truths(seed: int = 0, count: int = 2, parts: int = 3) -> dict[str, torch.Tensor]:
    """Padded truths of `count` photos with three parts each, the last of them absent."""
    generator = torch.Generator().manual_seed(seed)
    center = 0.3 + 0.4 * torch.rand(count, parts, 2, generator=generator)
    size = 0.2 + 0.3 * torch.rand(count, parts, 2, generator=generator)
    return {
        "labels": torch.arange(parts).repeat(count, 1),
        "boxes": torch.cat([center, size], -1),
        "states": torch.tensor([0, 1, 2])[:parts].repeat(count, 1),
    }


def parse(*words):
    always = ("--use_cpu", "--disable_tqdm", "true", "--dataloader_num_workers", "0")
    return GeoArgumentParser(PartArguments, PartTrainingArguments).parse([str(w) for w in (*words, *always)])


def build_query_model(
    architecture: str, spread: float = 0.1, detector: dict | None = None, **fields
) -> PartStateModel:
    """One of transformers' detectors with few queries and random weights, in which no two scores are tied."""
    torch.manual_seed(0)
    sample = SAMPLE_DETECTORS[architecture]
    small = {"num_queries": 12, "decoder_layers": 2, "num_denoising": 12, "group_detr": 3}
    own = dict(sample["detector_config"])
    own |= {name: value for name, value in small.items() if name in own} | (detector or {})
    given = {"id2label": PARTS, "id2state": STATES, "image_size": [64, 128], "state_hidden_size": 16}
    given |= {"state_dropout": 0.0, "detector_config": own} | fields
    model = PartStateModel.from_detector(architecture, pretrained=False, **given)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "class_embed" in name or "score_head" in name or "bbox" in name:
                weight.add_(torch.randn_like(weight) * spread)
    return model.eval()
