"""Random changes of training images, as large as they come."""

from __future__ import annotations

import torch
from torch import nn


class RandomAreaCrop(nn.Module):
    """Keep a random part of an image, at the scale that it has: torchvision's RandomResizedCrop without the resize.

    Args:
        area: the least share of the image's area that is kept.
        ratio: limits of the change of shape; (1, 1) keeps the image's own.
    """

    def __init__(self, area: float, ratio: tuple[float, float] = (1.0, 1.0)):
        super().__init__()
        self.area, self.ratio = area, ratio

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(..., height, width) to a window of it."""
        height, width = image.shape[-2:]
        share, ratio = (float(torch.empty(()).uniform_(*limits)) for limits in ((self.area, 1.0), self.ratio))
        h = min(height, round(height * (share / ratio) ** 0.5))
        w = min(width, round(width * (share * ratio) ** 0.5))
        top, left = (int(torch.randint(rest + 1, ())) for rest in (height - h, width - w))
        return image[..., top : top + h, left : left + w]
