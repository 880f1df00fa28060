"""A frozen backbone's features of photographs, on which experts and the router learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geohf.data.rows import RowImages
from geohf.data.samples import without_decoding
from geohf.data.tensor_dataset import TensorDictDataset
from geohf.region.rows import headings_of, labels_of, located
from geohf.vision.features import cached_features

if TYPE_CHECKING:
    from geohf.region.arguments import RegionTrainingArguments
    from geohf.region.experts import RegionExpert, RegionRouter
    from geohf.region.modeling import GeoRegionModel


def feature_table(
    part: RegionExpert | RegionRouter, model: GeoRegionModel, dataset: Any, args: RegionTrainingArguments
) -> TensorDictDataset:
    """The features of every photograph, from the cache, with the targets of an expert or a router; an expert without a
    backbone sees those of the model's.
    """
    tower = model.tower if part.tower is None else part.tower
    images: Sequence = RowImages(dataset)
    if hasattr(dataset, "cast_column"):
        rows = without_decoding(dataset)["image"][:]
        images = [
            image["path"] if isinstance(image, dict) and image["bytes"] is None else image for image in rows
        ]
    features = cached_features(tower.to(args.device), model.processor, images, **args.feature_settings)
    targets: dict[str, Callable[[], np.ndarray | None]] = {
        "labels": lambda: labels_of(dataset, model.config),
        "coordinates": lambda: located(dataset, model.config.frame),
        "headings": lambda: headings_of(dataset, model.config),
    }
    columns = {name: torch.as_tensor(targets[name]()) for name in part.targets}
    return TensorDictDataset(features=features, **columns)
