"""Boxes: corners and sizes, and the turn that EXIF asks for."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import box_convert

TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def xywh_to_xyxy(boxes) -> np.ndarray:
    """(n, 4) left, top, width, height to (n, 4) xmin, ymin, xmax, ymax, float64.

    >>> xywh_to_xyxy([[10, 20, 5, 2]]).tolist()
    [[10.0, 20.0, 15.0, 22.0]]
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def xyxy_to_xywh(boxes) -> np.ndarray:
    """The way back of `xywh_to_xyxy`.

    >>> xyxy_to_xywh([[10, 20, 15, 22]]).tolist()
    [[10.0, 20.0, 5.0, 2.0]]
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def boxes_in_shares(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(n, 4) xyxy in pixels of a photo to center x and y, width and height as shares of it."""
    return box_convert(boxes / boxes.new_tensor([width, height] * 2), "xyxy", "cxcywh")


def boxes_in_pixels(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The way back of `boxes_in_shares`."""
    return box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height] * 2)


def upright_boxes(boxes, orientation: int, width: float, height: float) -> np.ndarray:
    """Boxes in the stored pixels of a photo, moved to where they are when it is shown as its EXIF says.

    Args:
        boxes: (n, 4) xyxy.
        orientation: 1 to 8, as in EXIF 2.32, 4.6.5 (tag 0x0112).
        width, height: of the stored picture.

    Returns:
        (n, 4) float64 xyxy in the upright picture, which is `height` wide for orientations 5 to 8.

    >>> upright_boxes([[0, 0, 10, 5]], 6, width=40, height=30).tolist()  # the top left corner goes to the top right
    [[25.0, 0.0, 30.0, 10.0]]
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    if orientation in TURNED:  # mirrored at the diagonal
        x0, y0, x1, y1, width, height = y0, x0, y1, x1, height, width
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return np.stack([x0, y0, x1, y1], 1)
