"""From photographs to tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from geohf.data.samples import samples_of
from geohf.vision.processing import GeoImageProcessor


class GeoPlaceImageProcessor(GeoImageProcessor):
    """Turns photographs into `pixel_values` (batch, 3, height, width).

    A sample is anything that `open_image` takes, or a row of a dataset with an `image`.
    """

    def tensors(self, images: Any, augment: Callable | None = None) -> dict[str, torch.Tensor]:
        """Prepare one sample or a list of samples."""
        return {"pixel_values": self.pixel_values(list(samples_of(images)), augment)}
