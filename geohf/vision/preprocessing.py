"""How images are prepared for towers of transformers: as their repos say, or as their kind was trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.image_utils import SizeDict

from geohf.errors import DataError
from geohf.vision.repos import reason_of

logger = logging.getLogger(__name__)

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
# how the published weights of these types were fed: (mean, std), shortest side, crop
FED = {
    "dinov2": (IMAGENET, 256, 224),
    "dinov2_with_registers": (IMAGENET, 256, 224),
    "dinov3_vit": (IMAGENET, 224, 224),
    "dinov3_convnext": (IMAGENET, 224, 224),
    "convnext": (IMAGENET, 256, 224),
    "convnextv2": (IMAGENET, 256, 224),
    "resnet": (IMAGENET, 256, 224),
    "swin": (IMAGENET, None, None),
    "swinv2": (IMAGENET, None, None),
    "deit": (IMAGENET, 256, 224),
    "vit_mae": (IMAGENET, None, None),
    "vit_msn": (IMAGENET, None, None),
    "clip_vision_model": (CLIP, None, None),
}


def default_processing(name: str, config: PreTrainedConfig) -> dict:
    """How images are prepared for a tower whose repo does not say it."""
    (mean, std), shortest, crop = FED.get(config.model_type, (([0.5] * 3, [0.5] * 3), None, None))
    size = getattr(config, "image_size", None) or 224
    size = size if isinstance(size, int) else size[0]
    if crop and size < crop:  # none of the published ones
        shortest = crop = None
    logger.warning(
        "%s: has no preprocessor_config.json; its images are taken at %d pixels with mean %s and std %s",
        *(name, crop or size, mean, std),
    )
    return {
        "size": {"shortest_edge": shortest or size},
        "crop_size": {"height": crop or size, "width": crop or size},
        "resample": 3,
        "image_mean": mean,
        "image_std": std,
    }


def published_processing(name: str, folder: Path, config: PreTrainedConfig) -> dict:
    """How images are prepared for a transformers tower, as keyword arguments of an image processor."""
    from transformers import AutoImageProcessor

    if not (folder / "preprocessor_config.json").is_file():
        return default_processing(name, config)
    size = getattr(config, "image_size", None) or 224
    processing: dict[str, Any] = {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    try:
        published = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: its preprocessor_config.json cannot be used: {reason_of(error)}") from None
    for key in processing:
        value = getattr(published, key, None)
        if value is not None:
            processing[key] = int(value) if key == "resample" else _plain(value)
    if not getattr(published, "do_center_crop", False) and "height" in processing["size"]:
        # a tower that squeezes its images takes them squeezed
        processing["crop_size"] = {k: processing["size"][k] for k in ("height", "width")}
    return processing


def _plain(value):
    # a SizeDict is no Mapping and yields pairs
    return dict(value) if isinstance(value, (Mapping, SizeDict)) else list(value)
