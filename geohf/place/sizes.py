"""A trained model that sees pictures of another size: trained small, as most published models are, and asked large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geohf.errors import DataError
from geohf.models.settings import settings_refused
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
    vision = config.vision_config
    given = dict(getattr(vision, "model_args", None) or {}), getattr(vision, "image_size", None)
    is_timm = isinstance(model.tower, TimmTower)
    resizes = is_timm and hasattr(model.tower.timm, "set_input_size")
    if resizes:
        vision.model_args = given[0] | {"img_size": [height, width]}
    try:
        shape = map_size(vision, (height, width))
        if resizes:
            model.tower.timm.set_input_size((height, width))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        if resizes:
            vision.model_args = given[0] or None
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{named}: its backbone sees {given[1]} pixels and takes no other size ({reason})"
        ) from None
    if is_timm and height == width:
        vision.image_size = height
    config.image_processor = _at_size(model.processor_settings, height, width)
    if config.feature_map is not None:
        config.feature_map = shape
    with settings_refused():
        config.validate_architecture()
    forget_confidence(config, f"pictures are seen at {height} x {width}")


def _at_size(processing: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    before, size = processing["crop_size"], processing["size"]
    if "shortest_edge" in size:
        scale = max(height, width) / max(before["height"], before["width"])
        size = {"shortest_edge": max(round(scale * size["shortest_edge"]), height, width)}
    elif "height" in size:
        size = {"height": height, "width": width}
    else:
        size = {"max_height": height, "max_width": width}
    return processing | {"size": size, "crop_size": {"height": height, "width": width}}
