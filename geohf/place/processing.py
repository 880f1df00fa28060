"""From photographs to tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from geohf.data.rows import positions_of
from geohf.data.samples import samples_of
from geohf.vision.processing import GeoImageProcessor

if TYPE_CHECKING:
    from geohf.place.modeling import GeoPlaceModel


class GeoPlaceImageProcessor(GeoImageProcessor):
    """Turns photographs into `pixel_values` (batch, 3, height, width).

    A sample is anything that `open_image` takes, or a row of a dataset with an `image`.
    """

    def tensors(self, images: Any, augment: Callable | None = None) -> dict[str, torch.Tensor]:
        """Prepare one sample or a list of samples."""
        return {"pixel_values": self.pixel_values(list(samples_of(images)), augment)}


class PlaceCollator:
    """Rows of a dataset of drives to a batch of pixels, degrees and headings.

    Args:
        model: gives the processor.
    """

    def __init__(self, model: GeoPlaceModel):
        self.processor = model.processor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Pixels (batch, 3, height, width), coordinates (batch, 2) and headings (batch,); NaN where unknown."""
        return {
            "pixel_values": self.processor(rows)["pixel_values"],
            "coordinates": torch.from_numpy(positions_of(rows)),
            "headings": torch.tensor([_number(row.get("heading")) for row in rows]),
        }


def _number(value) -> float:
    """A cell of a row that may lack it."""
    return math.nan if value is None else float(value)
