"""The shared backbone's features of photographs, for experts that have no backbone of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from geohf.data.samples import undecoded
from geohf.data.tensor_table import TensorTable
from geohf.region.rows import located
from geohf.vision.features import cached_features

if TYPE_CHECKING:
    from geohf.region.arguments import RegionTrainingArguments
    from geohf.region.modeling import GeoRegionModel


def feature_table(model: GeoRegionModel, dataset: Any, args: RegionTrainingArguments) -> TensorTable:
    """The shared backbone's features of every photograph, from the cache, with the coordinates."""
    features = cached_features(
        model.tower.to(args.device),
        model.processor,
        _images_of(dataset),
        cache_dir=args.cache_dir,
        batch_size=args.feature_batch_size,
        num_workers=args.dataloader_num_workers,
        autocast=torch.bfloat16 if args.bf16 else None,
        mode=args.feature_mode,
    )
    return TensorTable(features=features, coordinates=torch.from_numpy(located(dataset, model.config.frame)))


class RowImages(Sequence):
    """The images of rows that come one by one, each read when it is asked for."""

    def __init__(self, dataset: Any, rows: range):
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return RowImages(self.dataset, self.rows[index])
        return self.dataset[self.rows[index]]["image"]


def _images_of(dataset: Any) -> Sequence:
    if not hasattr(dataset, "cast_column"):
        return RowImages(dataset, range(len(dataset)))
    return [image["path"] if image["bytes"] is None else image for image in undecoded(dataset)["image"][:]]
