"""How images are prepared for towers of transformers: as their repos say, or as their kind was trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedConfig

from geohf.errors import DataError, require_choice
from geohf.vision.repos import reason_of

logger = logging.getLogger(__name__)

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
FITS = ("squeeze", "crop", "pad")
CONVNEXT_SQUEEZED = 384
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
    """How images are prepared for a backbone whose repo does not say it."""
    (mean, std), shortest, crop = FED.get(config.model_type, (([0.5] * 3, [0.5] * 3), None, None))
    size = getattr(config, "image_size", None) or 224
    size = size if isinstance(size, int) else size[0]
    if crop and size < crop:  # none of the published ones
        shortest = crop = None
    logger.warning(
        "%s: has no preprocessor_config.json; its images are taken at %d pixels with mean %s and std %s",
        *(name, crop or size, mean, std),
    )
    return _settings(shortest or size, crop or size, mean, std)


def _settings(shortest: int, crop: int, mean: list[float], std: list[float]) -> dict[str, Any]:
    """Keyword arguments of an image processor that takes a square of a picture."""
    sizes = {"size": {"shortest_edge": shortest}, "crop_size": {"height": crop, "width": crop}}
    return sizes | {"resample": 3, "image_mean": mean, "image_std": std}


def published_processing(name: str, folder: Path, config: PreTrainedConfig) -> dict:
    """How images are prepared for a transformers tower, as keyword arguments of an image processor."""
    from transformers import AutoImageProcessor

    if not (folder / "preprocessor_config.json").is_file():
        return default_processing(name, config)
    size = getattr(config, "image_size", None) or 224
    processing = _settings(size, size, [0.5] * 3, [0.5] * 3)
    try:
        published = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: its preprocessor_config.json cannot be used: {reason_of(error)}") from None
    for key in processing:
        value = getattr(published, key, None)
        if value is not None:
            kind: Any = int if key == "resample" else dict if "size" in key else list
            processing[key] = kind(value)  # a SizeDict yields pairs
    cropped = getattr(published, "do_center_crop", False)
    edge, share = processing["size"].get("shortest_edge"), getattr(published, "crop_pct", None)
    if edge and share:  # the middle of a larger picture; from a side on ConvNeXt takes all of it, squeezed
        square = {"height": edge, "width": edge}
        larger = {"shortest_edge": int(edge / share)}
        processing["size"] = larger if cropped or edge < CONVNEXT_SQUEEZED else square
        processing["crop_size"] = processing["crop_size"] if cropped else square
    elif not cropped and "height" in processing["size"]:
        # a backbone that squeezes its images takes them squeezed
        processing["crop_size"] = {k: processing["size"][k] for k in ("height", "width")}
    if not getattr(published, "do_normalize", True):
        bands = len(processing["image_mean"])
        processing |= {"image_mean": [0.0] * bands, "image_std": [1.0] * bands}
    if not _alike(published, processing):
        logger.warning(
            "%s: its own %s prepares images in a way that is not known here; its features are not those of the published model",
            name,
            type(published).__name__,
        )
    return processing


def _alike(published: Any, processing: dict) -> bool:
    """Whether a published processor makes of a picture what ours makes of it with these settings."""
    from geohf.vision.processing import GeoImageProcessor

    y, x = np.indices((300, 400))
    picture = Image.fromarray(np.stack([x * 255 // 400, y * 255 // 300, (x + y) % 256], -1).astype(np.uint8))
    try:
        theirs = published(picture, return_tensors="pt")["pixel_values"]
        ours = GeoImageProcessor(**processing).pixel_values([picture])
    except Exception:  # theirs asks for a text, or ours for another size, which a user may yet give
        return True
    return theirs.shape == ours.shape and float((theirs - ours).abs().mean()) < 0.05


def with_fit(processing: dict, fit: str | None) -> dict:
    """The settings of an image processor that bring a picture to the input's sides (`crop_size`) in another way.

    Args:
        processing: keyword arguments of an image processor, with `size` and `crop_size`.
        fit: `squeeze` takes the whole picture, its ratio of sides changed; `crop` its middle, as towers were mostly
            trained; `pad` the whole picture between black bars; None leaves the settings as they are.

    Raises:
        DataError: an unknown way.

    >>> with_fit({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, "squeeze")["size"]
    {'height': 224, 'width': 224}
    """
    if fit is None:
        return processing
    require_choice(FITS, fit=fit)
    height, width = processing["crop_size"]["height"], processing["crop_size"]["width"]
    size = {
        "squeeze": {"height": height, "width": width},
        "crop": {"shortest_edge": processing["size"].get("shortest_edge") or max(height, width)},
        "pad": {"max_height": height, "max_width": width},
    }[fit]
    return processing | {"size": size}
