"""The image processor that every task's processor builds on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchvision.transforms.functional import pil_to_tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import PILImageResampling

from geohf.vision.images import open_image


class GeoImageProcessor(TorchvisionBackend):
    """Opens images of any kind as `open_image` does, then resizes, crops and normalises them.

    Its settings come from the backbone (`Backbone.image_processor`) and are saved as
    `preprocessor_config.json`, where AutoImageProcessor finds them.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012  transformers declares it so
    resample = PILImageResampling.BICUBIC
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    size = {"shortest_edge": 224}  # noqa: RUF012
    crop_size = {"height": 224, "width": 224}  # noqa: RUF012
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def pixel_values(self, images: list[Any], augment: Callable | None = None) -> torch.Tensor:
        """Open and prepare images of any kind: n sources to (n, 3, height, width) float32.

        Args:
            augment: applied to each opened image as a (3, H, W) uint8 tensor, before it is resized.

        Raises:
            ImageError: one of them cannot be opened; the message names it.
        """
        side = max(self.crop_size["height"], self.crop_size["width"])
        opened = [open_image(image, size=side) for image in images]
        if augment is not None:
            opened = [augment(pil_to_tensor(image)) for image in opened]
        return TorchvisionBackend.__call__(self, opened, return_tensors="pt")["pixel_values"]
