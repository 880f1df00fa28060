"""Random changes of training photos that move the boxes along."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from geohf.errors import DataError

MIN_VISIBLE = 0.5  # a box that a crop leaves less of is dropped


def make_augmentation(
    flip: float = 0.5, jitter: float = 0.2, crop: float = 0.2, part_names: Iterable[str] = ()
) -> PartAugmentation:
    """The augmentation of a training run.

    Args:
        flip: probability of mirroring left and right.
        jitter: strength of the change of brightness, contrast and saturation, 0 to 1; the hue changes by a tenth of it.
        crop: the largest share that is cut off each side length, 0 to below 1.
        part_names: where given, checked for names that a mirrored photo would make wrong.

    Raises:
        DataError: a number out of range; or photos shall be mirrored though names tell left from right. The front and
            back of a bicycle are not sides of the photo and stay what they are.
    """
    for name, value, top in (("flip", flip, 1.0), ("jitter", jitter, 1.0), ("crop", crop, 0.99)):
        if not 0 <= value <= top:
            raise DataError(f"{name} must be from 0 to {top:g}, got {value}")
    sided = [name for name in part_names if re.search(r"(?<![a-z])(left|right)(?![a-z])", name.lower())]
    if flip and sided:
        raise DataError(
            f"{sided[0]!r} tells left from right, which a mirrored photo exchanges: set flip to 0"
        )
    return PartAugmentation(flip, jitter, crop)


class PartAugmentation:
    """`augment(image, boxes)` for one photo, drawn from torch's generator; see `make_augmentation`."""

    def __init__(self, flip: float, jitter: float, crop: float):
        self.crop = crop
        self.flip = v2.RandomHorizontalFlip(flip)
        self.jitter = v2.ColorJitter(jitter, jitter, jitter, jitter / 10) if jitter else v2.Identity()

    def __call__(
        self, image: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Change a photo.

        Args:
            image: (3, h, w) uint8.
            boxes: (n, 4) float xyxy in pixels.

        Returns:
            (image (3, h', w') uint8, boxes (m, 4) in it, (m,) int64 which of the n boxes these are).
        """
        size = tuple(image.shape[-2:])
        moved = tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format="XYXY", canvas_size=size)
        image, moved = self.flip(tv_tensors.Image(image), moved)
        image = self.jitter(image)
        keep = torch.arange(len(moved))
        if self.crop:
            image, moved, keep = self._cropped(image, moved, keep)
        return image.as_subclass(torch.Tensor), moved.as_subclass(torch.Tensor), keep

    def _cropped(self, image, boxes, keep):
        height, width = image.shape[-2:]
        share = 1 - self.crop * torch.rand(2)
        new = [max(1, round(float(s) * side)) for s, side in zip(share, (height, width), strict=True)]
        top, left = (
            int(torch.randint(side - n + 1, ())) for side, n in zip((height, width), new, strict=True)
        )
        window = (top, left, *new)
        cut = v2.functional.crop(boxes, *window)  # limits the boxes to the window
        visible = _areas(cut) >= MIN_VISIBLE * _areas(boxes)
        if len(boxes) and not visible.any():
            return image, boxes, keep
        image = v2.functional.crop(image, *window)
        return image, tv_tensors.wrap(cut[visible], like=cut), keep[visible]


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    x0, y0, x1, y1 = boxes.as_subclass(torch.Tensor).unbind(1)
    return (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)
