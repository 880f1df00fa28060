"""Checkpoints of place recognition as their authors published them, as geohf models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from geohf.errors import require_choice
from geohf.models.published import fill_published
from geohf.models.settings import settings_refused
from geohf.place.configuration import GeoPlaceConfig
from geohf.place.layouts import LAYOUTS
from geohf.vision.preprocessing import IMAGENET
from geohf.vision.repos import read_tensors

if TYPE_CHECKING:
    from geohf.place.modeling import GeoPlaceModel

PUBLISHED = {name: layout.title for name, layout in LAYOUTS.items()}


def load_published(
    kind: type[GeoPlaceModel], name: str, file: str | os.PathLike, image_size: tuple[int, int] | None = None
) -> GeoPlaceModel:
    """The model in a published checkpoint, see `GeoPlaceModel.from_published`."""
    require_choice(LAYOUTS, **{"published model": name})
    layout, tensors = LAYOUTS[name], read_tensors(file)
    height, width = image_size or layout.image_size
    contents = layout.read(tensors, (height, width), file)
    size = {"height": height, "width": width}
    mean, std = IMAGENET
    with settings_refused():
        config = GeoPlaceConfig(
            vision_config=contents.tower,
            image_processor={
                "size": size,
                "crop_size": size,
                "resample": layout.resample,
                "image_mean": list(mean),
                "image_std": list(std),
            },
            feature_size=contents.feature_map[0],
            feature_map=contents.feature_map,
            projection_dim=None,
            standardize=False,
            backbone_name=layout.title,
            backbone_license=layout.license,
            **contents.fields,
        )
    model = kind(config)
    fill_published(model, contents.tensors, contents.our_name, contents.their_name, file)
    return model.eval()
