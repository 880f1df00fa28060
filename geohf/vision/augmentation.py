"""Changes of pictures: random ones for training, as large as they come, and a few to average answers over."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from geohf.errors import require_choice
from geohf.vision.towers import tower_features


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


AVERAGED = ("flip", "crops")
# keyword arguments of argparse's add_argument, for `geohf predict` and `geohf evaluate`
TEST_TIME_OPTION = {
    "choices": AVERAGED,
    "help": "Average the features of each picture and of its mirror image (flip), or of its four corners (crops).",
}
CORNER = 7 / 8  # of a side, as large is a crop of a corner


def variants(pixel_values: torch.Tensor, kind: str | None) -> Iterator[torch.Tensor]:
    """A batch of prepared pictures, and what else a model looks at where its features are averaged.

    Args:
        pixel_values: (..., 3, height, width).
        kind: one of `AVERAGED`: `flip`, the mirror image too; `crops`, the four corners, at the size of the whole, too; None: nothing.

    Yields:
        Tensors of the same shape, the pictures themselves first.
    """
    require_choice((*AVERAGED, None), test_time=kind)
    yield pixel_values
    if kind == "flip":
        yield pixel_values.flip(-1)
    elif kind == "crops":
        size = pixel_values.shape[-2:]
        height, width = (round(CORNER * side) for side in size)
        flat = pixel_values.flatten(0, -4)
        for top in (0, size[0] - height):
            for left in (0, size[1] - width):
                corner = flat[..., top : top + height, left : left + width]
                resized = nn.functional.interpolate(corner.float(), size, mode="bilinear", antialias=True)
                yield resized.to(pixel_values).view_as(pixel_values)


def averaged_features(tower: nn.Module, pixel_values: torch.Tensor, kind: str | None) -> torch.Tensor:
    """(batch, features) of (batch, 3, height, width): the mean of those of a picture's `variants`, of itself where `kind` is None."""
    several = [tower_features(tower, pixels) for pixels in variants(pixel_values, kind)]
    return several[0] if kind is None else torch.stack(several).mean(0)
