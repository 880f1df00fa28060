"""COCO's segmentations, of which only the box is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np

from geohf.errors import DataError


def box_of_segmentation(segmentation: Any) -> list[float]:
    """The left, top, width, height around polygons or a run-length encoded mask.

    Args:
        segmentation: a list of polygons (x, y, x, y, ...), or `{"size": [height, width], "counts": ...}` with the lengths of
            runs of 0 and 1 by turns, column after column, as a list or packed by cocoapi's `rleToString`.

    Raises:
        DataError: it is neither, or it is empty.
    """
    try:
        if isinstance(segmentation, dict):
            box = _box_of_runs(segmentation["counts"], *segmentation["size"])
        else:
            points = np.concatenate([np.array(part, float).reshape(-1, 2) for part in segmentation])
            box = np.concatenate([points.min(0), np.ptp(points, axis=0)])
    except (KeyError, TypeError, ValueError, IndexError):
        raise DataError("there is no `bbox`, and `segmentation` is neither polygons nor runs") from None
    return box.tolist()


def _box_of_runs(counts: Any, height: int, width: int) -> np.ndarray:
    runs = np.array(_unpacked(counts) if isinstance(counts, str) else counts, np.int64)
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError("the runs do not fill the mask")
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height)
    columns, rows = np.nonzero(mask)
    left, top = columns.min(), rows.min()
    return np.array([left, top, columns.max() + 1 - left, rows.max() + 1 - top], float)


def _unpacked(text: str) -> list[int]:
    """The runs of cocoapi's string: groups of 5 bits, the sixth says that more follow; from the fourth run on the
    difference to the run two before (`rleFrString` in maskApi.c)."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
