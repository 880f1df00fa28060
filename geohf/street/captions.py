"""Zero-shot answers: how well captions fit a photograph, by the text model of the CLIP that a street model stands on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geohf.errors import DataError
from geohf.street.answers import StreetPrediction
from geohf.vision.text import load_text_model

if TYPE_CHECKING:
    from geohf.street.head import GeoStreetOutput
    from geohf.street.modeling import GeoStreetModel

logger = logging.getLogger(__name__)


@dataclass
class Captions:
    """Captions that photographs are compared with."""

    texts: list[str]
    vectors: torch.Tensor  # (n, features) of length 1, times CLIP's scale
    classes: bool  # they stand for the model's classes, in their order

    def logits(self, features: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
        """(batch, n) the mean over a place's (batch, views) of how alike each view's features are to each caption."""
        unit = nn.functional.normalize(features.float(), dim=-1)
        mean = torch.where(view_mask[..., None], unit, 0.0).sum(1) / view_mask.sum(1, keepdim=True)
        return mean @ self.vectors.to(mean.device).T


def read_captions(model: GeoStreetModel, captions: str | Sequence[str], text_model: str | None) -> Captions:
    """Captions as the model's photographs are compared with them.

    Args:
        captions: two or more; or one with `{}`, where the name of each class is put.
        text_model: the repo or folder of the CLIP; the backbone's where None.

    Raises:
        DataError: the backbone is no CLIP, or its text model is not found; one caption alone; `{}` in one of several, or
            of a model without classes.
    """
    texts = list(captions) if isinstance(captions, Iterable) and not isinstance(captions, str) else [captions]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"captions are texts, got {captions!r}")
    config = model.config
    named = len(texts) == 1 and "{}" in texts[0]
    if named and not config.num_classes:
        raise DataError("this model has no classes whose names could be put into the caption")
    if len(texts) > 1 and any("{}" in text for text in texts):
        raise DataError("{} stands for the names of the classes in one caption alone, not in one of several")
    if not named and len(texts) < 2:
        raise DataError(
            "captions are compared with each other: give two or more, or one with {} for the classes"
        )
    if len(set(texts)) < len(texts):
        raise DataError("a caption is there twice")
    if config.vision_config.model_type != "clip_vision_model":
        raise DataError(
            "captions need a backbone that is a CLIP of transformers, such as geolocal/StreetCLIP; this one "
            f"({config.backbone_name or config.vision_config.model_type}) has no text model"
        )
    name = text_model or config.backbone_name
    if name is None:
        raise DataError("the backbone began with random weights: no text model belongs to it")
    text = load_text_model(name)
    if text.model.config.projection_dim != config.feature_size:
        raise DataError(
            f"{name}: its captions have {text.model.config.projection_dim} numbers, the model's features {config.feature_size}"
        )
    if not text.is_of(model.tower):
        logger.warning("the backbone's weights are not those of %s any more: captions fit it less", name)
    if named and config.cells:
        example = config.id2label[0]
        logger.warning("the classes are geocells, called such as %r: captions may not fit", example)
    if named:
        texts = [texts[0].replace("{}", config.id2label[i]) for i in range(config.num_classes)]
    return Captions(texts, text.encode(texts) * text.scale, named)


def caption_outputs(
    model: GeoStreetModel, captions: Captions, tensors: Any, test_time: str | None = None
) -> tuple[GeoStreetOutput, torch.Tensor]:
    """The model's outputs on the tensors of a batch, and (batch, captions) how alike each place is to each caption."""
    features = model.view_features(tensors["pixel_values"], tensors["view_mask"], test_time)
    outputs = model.head(features, tensors["view_mask"], tensors["headings"])
    return outputs, captions.logits(features, tensors["view_mask"])


def caption_answers(
    model: GeoStreetModel, captions: Captions, outputs: GeoStreetOutput, logits: torch.Tensor, **options: Any
) -> list[StreetPrediction]:
    """Answers that tell of captions, from what `caption_outputs` returned; the options are those of `decode`.

    Raises:
        DataError: regions of classes that come from captions.
    """
    if captions.classes:
        if options.get("regions"):
            raise DataError("regions were calibrated for the model's own classes, not for captions")
        outputs.logits = logits * model.config.temperature  # which decoding divides by
        # prototypes and ranker were chosen by the trained classes' probabilities
        if model.config.gps_head != "gallery":
            outputs.place = None
    answers = model.decode(outputs, **options)
    if captions.classes:  # neither was calibrated for captions
        return [replace(one, radius_m=None, localizability=None) for one in answers]
    ranked = logits.softmax(-1).sort(descending=True)
    fits = [
        {captions.texts[i]: share for i, share in zip(*row, strict=True)}
        for row in zip(ranked.indices.tolist(), ranked.values.tolist(), strict=True)
    ]
    return [replace(one, captions=fit) for one, fit in zip(answers, fits, strict=True)]
