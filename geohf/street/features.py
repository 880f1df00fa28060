"""The frozen backbone's features of every view of a dataset of places, and a head's outputs on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geohf.data.samples import without_decoding
from geohf.data.tables import points_of
from geohf.data.tensor_dataset import TensorDictDataset
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.classes import labels_of
from geohf.street.head import GeoStreetOutput, StreetHead
from geohf.street.modeling import GeoStreetModel
from geohf.street.places import headings_of
from geohf.vision.features import cached_features
from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from datasets import Dataset


READ_PLACES = 1024  # at once, where all are read in order
HEAD_BATCH = 1024  # places that a head sees at once


class FlatViews(Sequence):
    """All views of a dataset of places, one after the other, each read when it is asked for.

    Attributes:
        starts: (places + 1,) where the views of each place begin.
    """

    def __init__(self, dataset: Dataset):
        self.in_columns = hasattr(dataset, "cast_column")  # else rows come one by one
        self.dataset = without_decoding(dataset)
        self.starts = np.concatenate([[0], np.cumsum([len(row) for row in dataset["headings"][:]])])
        self.rows = range(int(self.starts[-1]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = copy.copy(self)
            part.rows = self.rows[index]
            return part
        view = self.rows[index]
        place = self._place_of(view)
        return self.dataset[place]["views"][view - self.starts[place]]

    def __iter__(self) -> Iterator[dict]:
        """The views in order; of 100,000 places, reading each by itself takes half a minute."""
        if not self.in_columns or not self.rows or self.rows.step != 1:
            yield from super().__iter__()
            return
        end = self._place_of(self.rows[-1]) + 1
        for first in range(self._place_of(self.rows[0]), end, READ_PLACES):
            places = range(first, min(first + READ_PLACES, end))
            rows = self.dataset[places.start : places.stop]["views"]
            for start, views in zip(self.starts[places].tolist(), rows, strict=True):
                yield from views[max(0, self.rows.start - start) : max(0, self.rows.stop - start)]

    def _place_of(self, view: int) -> int:
        return int(np.searchsorted(self.starts, view, side="right")) - 1


def feature_table(
    model: GeoStreetModel, dataset: Dataset, args: StreetTrainingArguments
) -> TensorDictDataset:
    """The frozen backbone's features of every view of every place, from the cache, with labels and coordinates."""
    views = FlatViews(dataset)
    flat = cached_features(model.tower, model.processor, views, **args.feature_settings)
    counts = torch.from_numpy(np.diff(views.starts))
    width = int(counts.max())
    mask = torch.arange(width) < counts[:, None]
    if mask.all():  # at real size, a copy less is a gigabyte less
        features = flat.view(*mask.shape, -1)
    else:
        features = flat.new_zeros(*mask.shape, flat.shape[-1])
        features[mask] = flat
    headings = torch.from_numpy(headings_of(dataset, width)).float()
    return TensorDictDataset(
        features=features,
        view_mask=mask,
        headings=headings,
        labels=torch.from_numpy(labels_of(dataset, model.config)),
        coordinates=torch.from_numpy(points_of(dataset)),
    )


@torch.inference_mode()
def fused_features(head: StreetHead, table: TensorDictDataset) -> torch.Tensor:
    """(places, features) what the heads see of each place of a table, on the CPU."""
    head = in_eval_mode(head)
    return torch.cat([head.fuse_views(*inputs).float().cpu() for inputs in _inputs(head, table)])


@torch.inference_mode()
def head_outputs(head: StreetHead, table: TensorDictDataset) -> GeoStreetOutput:
    """The head's outputs on a table of features, on the CPU; the head's own mode is left alone."""
    head = in_eval_mode(head)
    batches = [head(*inputs) for inputs in _inputs(head, table)]
    names = [name for name, value in batches[0].items() if isinstance(value, torch.Tensor)]
    joined: dict[str, Any] = {name: torch.cat([batch[name] for batch in batches]).cpu() for name in names}
    return GeoStreetOutput(**joined)


def _inputs(head: StreetHead, table: TensorDictDataset) -> Iterator[list[torch.Tensor]]:
    """The features, masks and headings of a table's places, batch by batch, where the head is."""
    device = next(head.parameters()).device
    for numbers in torch.arange(len(table)).split(HEAD_BATCH):
        rows = table.__getitems__(numbers.tolist())
        yield [rows[name].to(device) for name in ("features", "view_mask", "headings")]
