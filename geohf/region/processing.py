"""From photographs, with their regions where these are known, to tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from geohf.data.samples import samples_of
from geohf.vision.images import picture_of
from geohf.vision.processing import GeoImageProcessor


class GeoRegionImageProcessor(GeoImageProcessor):
    """Turns samples into `pixel_values` (batch, 3, height, width) and `regions` (batch,), -1 where unknown.

    A sample is an image of any kind that `open_image` takes, or a dict with `image` and perhaps `region`, a
    region's number; `GeoRegionModel.predict` takes names too.
    """

    model_input_names = ["pixel_values", "regions"]  # noqa: RUF012

    def tensors(self, images: Any, augment: Callable | None = None) -> dict[str, torch.Tensor]:
        """Prepare one sample or a list of samples."""
        samples = [split_sample(sample) for sample in samples_of(images)]
        pixels = self.pixel_values([image for image, _ in samples], augment)
        regions = torch.tensor([-1 if region is None else int(region) for _, region in samples])
        return {"pixel_values": pixels, "regions": regions}


def split_sample(sample: Any) -> tuple[Any, Any]:
    """The image of a sample, and its region or None."""
    if isinstance(sample, Mapping) and not sample.keys() <= {"bytes", "path"}:
        return picture_of(sample), sample.get("region")
    return sample, None
