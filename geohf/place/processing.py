"""From photographs to tensors."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature

from geohf.data.samples import samples_of
from geohf.vision.processing import GeoImageProcessor


class GeoPlaceImageProcessor(GeoImageProcessor):
    """Turns photographs into `pixel_values` (batch, 3, height, width).

    A sample is anything that `open_image` takes, or a row of a dataset with an `image`.
    """

    def __call__(self, images: Any, return_tensors: str = "pt", augment=None, **kwargs) -> BatchFeature:
        """Prepare one sample or a list of samples.

        Args:
            augment: a function on (3, H, W) uint8 tensors for training, applied before normalisation.

        Raises:
            ImageError: an image cannot be opened.
        """
        return BatchFeature({"pixel_values": self.pixel_values(list(samples_of(images)), augment)})
