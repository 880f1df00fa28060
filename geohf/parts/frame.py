"""Boxes as a file gives them, in the upright photo: turned, cut to it, or refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from geohf.errors import DataError
from geohf.parts.boxes import TURNED, upright_boxes, xywh_to_xyxy

EDGE_PX = 1.0  # a box may lie this far outside its photo, where coordinates were rounded; it is cut
# boxes in percent: so many, on photos so large, none beyond 100
_PERCENT, _PERCENT_BOXES, _PERCENT_SIDE = 100, 3, 200


@dataclass
class Frame:
    """The upright photo's size, and how boxes get there from the pixels that they are given in.

    Boxes are given in the upright photo, as annotation tools show it, unless the file's width and height
    fit the stored pixels alone.
    """

    width: int
    height: int
    orientation: int = 1

    @classmethod
    def of(cls, given_width: Any, given_height: Any, width: int, height: int, orientation: int) -> Frame:
        """The frame of a photo that is listed with one size and stored with another.

        Raises:
            DataError: the sizes are those of two photos.
        """
        turned = orientation in TURNED
        upright = (height, width) if turned else (width, height)
        if given_width is None and given_height is None:
            return cls(*upright)
        try:
            given = int(given_width), int(given_height)
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"width and height are {given_width!r} and {given_height!r}") from None
        if given in (upright, (0, 0)):  # 0 is what tools write that did not look
            return cls(*upright)
        if given == (width, height):
            return cls(*upright, orientation)
        raise DataError(
            f"is listed as {given[0]} x {given[1]} pixels but has {upright[0]} x {upright[1]}: "
            "its boxes belong to another version of the photo"
        )

    def of_shares(self, box: Sequence[float]) -> list[float]:
        """left, top, width, height in pixels of a box that is given in shares of the upright photo."""
        return [share * side for share, side in zip(box, (self.width, self.height) * 2, strict=True)]

    def box(self, given: Any) -> list[float]:
        """The upright xyxy box of left, top, width, height; raises DataError where it cannot be one."""
        box = four_numbers(given)
        # nearly all boxes of nearly all photos: nothing to turn, to cut or to refuse
        if self.orientation == 1:
            corners = [*box[:2], box[0] + box[2], box[1] + box[3]]
            left, top, right, bottom = np.array(corners, np.float32).tolist()
            if 0 <= left < right <= self.width and 0 <= top < bottom <= self.height:
                return [left, top, right, bottom]
        name = "left {:g}, top {:g}, width {:g}, height {:g}".format(*box)
        if box[2] <= 0 or box[3] <= 0:
            raise DataError(f"the box has no area: {name}")
        stored = (self.height, self.width) if self.orientation in TURNED else (self.width, self.height)
        upright = upright_boxes(xywh_to_xyxy([box]), self.orientation, *stored)[0]
        try:
            return cut_box(upright, (self.width, self.height), name)
        except DataError as error:
            left, top, right, bottom = box
            fits = 0 <= left < right <= stored[0] and 0 <= top < bottom <= stored[1]
            hint = "; are these left, top, right and bottom?" if fits else ""
            raise DataError(f"{error}{hint}") from None


def cut_box(box: np.ndarray, size: Sequence[int], name: str) -> list[float]:
    """An xyxy box cut to a photo of this width and height, in float32.

    Raises:
        DataError: it lies more than `EDGE_PX` outside, or nothing is left of it.
    """
    inside = np.clip(box, 0, [*size, *size])
    if np.abs(inside - box).max() > EDGE_PX:
        raise DataError(f"the box lies outside the photo of {size[0]} x {size[1]} pixels: {name}")
    inside = inside.astype(np.float32)
    if (inside[2:] <= inside[:2]).any():
        raise DataError(f"the box has no area within the photo: {name}")
    return inside.tolist()


def four_numbers(given: Any) -> list[float]:
    """The sides of a box as floats; raises DataError where they are not four finite numbers."""
    try:
        box = [float(value) for value in given]
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"the box is {given!r}, not four numbers") from None
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise DataError(f"the box is {given!r}, not four finite numbers")
    return box


def require_pixels(boxes: Sequence[Any], sizes: Sequence[Sequence[int]], source: Any) -> None:
    """Refuse a file whose boxes are shares or percent of their photos.

    Args:
        boxes: all of the file, left, top, width, height; what is no box is passed over.
        sizes: (n, 2) sides of the photo of each.

    Raises:
        DataError: no box is larger than a pixel, or all boxes of large photos end at 100.
    """
    known, smallest = [], math.inf
    for box, size in zip(boxes, sizes, strict=True):
        with suppress(DataError):
            known.append(four_numbers(box))
            smallest = min(smallest, *size)
    if not known:
        return
    table = np.array(known)
    if table[:, 2:].max() <= 1 and smallest > 1:
        raise DataError(
            f"{source}: no box is larger than a pixel; boxes must be in pixels: if these are shares, multiply them "
            "by each photo's width and height"
        )
    ends = table[:, :2] + table[:, 2:]
    percent = table.min() >= 0 and ends.max() <= _PERCENT and (ends.max(0) > _PERCENT / 2).all()
    if percent and len(table) >= _PERCENT_BOXES and smallest >= _PERCENT_SIDE:
        raise DataError(
            f"{source}: all {len(table)} boxes end within the first 100 pixels of photos of {_PERCENT_SIDE} or more; "
            "boxes must be in pixels: if these are percent, multiply them by a hundredth of each photo's width and height"
        )
