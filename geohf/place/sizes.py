"""A trained model that sees pictures of another size: trained small, as most published models are, and asked large."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from geohf.errors import DataError
from geohf.models.configuration import as_data_error
from geohf.place.confidence import forget_confidence
from geohf.vision.pooling import map_size
from geohf.vision.timm_towers import TimmTower

if TYPE_CHECKING:
    from geohf.place.modeling import GeoPlaceModel


def see_at(model: GeoPlaceModel, height: int, width: int) -> None:
    """Bring a model, its config and its processor to pictures of another size, in the way that they were fitted to before.

    Position embeddings of timm's transformers are interpolated once, by timm; DINOv2 of transformers does it in every pass.
    Statistics of features stay those of the training, and a confidence that was fitted is forgotten, with a warning.

    Raises:
        DataError: a backbone that takes no other size, or a pooling that is made for its map.
    """
    config = model.config
    named = f"{model.name_or_path or config.backbone_name or 'the model'}: pictures of {height} x {width}"
    if config.pooling == "mixvpr":
        raise DataError(f"{named}: the pooling mixvpr is made for its map, and takes no other size")
    is_timm = isinstance(model.tower, TimmTower)
    resizes = is_timm and hasattr(model.tower.timm, "set_input_size")
    changed = copy.deepcopy(config)  # nothing is changed of a model that is refused
    vision = changed.vision_config
    if resizes:
        vision.model_args = dict(vision.model_args or {}) | {"img_size": [height, width]}
    try:
        changed.feature_map = shape = map_size(vision, (height, width))
        with as_data_error():
            changed.validate_architecture()
        if resizes:
            model.tower.timm.set_input_size((height, width))
    except DataError as error:
        raise DataError(f"{named}: {error}") from None
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        seen = getattr(vision, "image_size", None)
        raise DataError(
            f"{named}: its backbone sees {seen} pixels and takes no other size ({reason})"
        ) from None
    if resizes:
        config.vision_config.model_args = vision.model_args
    if is_timm and height == width:
        config.vision_config.image_size = height
    config.image_processor = _at_size(model.processor_settings, height, width)
    if config.feature_map is not None:
        config.feature_map = shape
    forget_confidence(config, f"pictures are seen at {height} x {width}")


def _at_size(processing: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    before, size, crop = processing["crop_size"], processing["size"], {"height": height, "width": width}
    if "shortest_edge" in size:
        scale = max(height, width) / max(before["height"], before["width"])
        size = {"shortest_edge": max(round(scale * size["shortest_edge"]), height, width)}
    else:
        size = crop if "height" in size else {"max_height": height, "max_width": width}
    return processing | {"size": size, "crop_size": crop}
