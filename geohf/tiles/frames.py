"""From native pixels to the tensors that a model sees: holes filled, resized, standardized.

The cache's batches and `model.predict` go through these same functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

CHUNK = 64  # frames that are resized and scaled while they lie in the processor's cache


def can_be_seen(holes: np.ndarray, max_nodata: float) -> np.ndarray:
    """Which frames a model is shown, by the share of their pixels that were not measured."""
    return (holes <= max_nodata) & (holes < 1)


def last_seen(pixel_values: torch.Tensor, step_mask: torch.Tensor | None) -> torch.Tensor:
    """The last frame that is not masked: (batch, steps, ...) and (batch, steps) bool to (batch, ...)."""
    if step_mask is None:
        return pixel_values[:, -1]
    steps = torch.arange(step_mask.shape[1], device=step_mask.device)
    last = torch.where(step_mask, steps, 0).amax(1)
    return pixel_values[torch.arange(len(last), device=last.device), last]


def carried_forward(frames: torch.Tensor, step_mask: torch.Tensor | None) -> torch.Tensor:
    """Frames whose masked ones are those seen last before them, or first: (batch, steps, ...), (batch, steps) bool."""
    if step_mask is None:
        return frames
    steps = torch.arange(step_mask.shape[1], device=step_mask.device)
    newest = torch.where(step_mask, steps, -1).cummax(1).values
    first = step_mask.int().argmax(1, keepdim=True)
    rows = torch.arange(len(frames), device=step_mask.device)[:, None]
    return frames[rows, torch.where(newest < 0, first, newest)]


def known_alone(frame: torch.Tensor, holes: np.ndarray) -> torch.Tensor:
    """A true frame (bands, height, width) with NaN where a pixel (height, width) that it was made of was not measured."""
    if not holes.any():
        return frame
    hole = torch.from_numpy(holes).float()[None, None]
    return frame.masked_fill(F.interpolate(hole, frame.shape[-2:], mode="bilinear")[0] > 0, torch.nan)


def resizable(frames: np.ndarray, reading: Mapping[str, Any] | None) -> np.ndarray:
    """Frames in a type that holds their means: uint8 would round the ones and zeros of classes to one or zero again.

    Args:
        reading: of the config.
    """
    return frames.astype(np.float32) if reading and reading.get("class_values") else frames


def fill_holes(frames: np.ndarray, holes: np.ndarray, resampling: str = "bicubic") -> np.ndarray:
    """Set pixels that were not measured to the mean of those that were, in their own frame and band.

    Args:
        frames: (n, height, width, bands), changed in place.
        holes: (n, height, width) bool.
        resampling: with `nearest`, for classes, it is the most frequent pixel instead of the mean.
    """
    for frame, hole in zip(frames, holes, strict=True):
        if not hole.any():
            continue
        if hole.all():
            frame[hole] = 0
        elif resampling == "nearest":
            values, counts = np.unique(frame[~hole], axis=0, return_counts=True)
            frame[hole] = values[counts.argmax()]
        else:
            mean = frame[~hole].mean(0, dtype=np.float64)
            # to the nearest number: of a band of ones and zeros the more frequent one
            frame[hole] = (mean.round() if frame.dtype.kind in "biu" else mean).astype(frame.dtype)
    return frames


def resize_frames(frames: np.ndarray, size: Sequence[int], resampling: str = "bicubic") -> torch.Tensor:
    """Resize by bicubic with antialiasing, as Pillow does, or to the nearest pixel: between classes lies no class.

    uint8 differs by at most one gray level, but where an oblong resize of harsh noise clips between its two passes.

    Args:
        frames: (n, height, width, bands) in any type.
        size: height and width to come.
        resampling: `bicubic` or `nearest`.

    Returns:
        (n, height, width, bands) float32.
    """
    n, height, width, bands = frames.shape
    # numpy asks the system for huge pages, torch does not: that halves the cost of a large new array
    out = torch.from_numpy(np.empty((n, *size, bands), np.float32))
    if not frames.flags.writeable:
        frames = frames.copy()
    nearest = resampling == "nearest"
    mode, smooth = ("nearest-exact", False) if nearest else ("bicubic", True)
    for start in range(0, n, CHUNK):
        part = frames[start : start + CHUNK]
        pixels = torch.from_numpy(part if part.dtype == np.uint8 else part.astype(np.float32))
        if (height, width) != tuple(size):
            resized = F.interpolate(pixels.movedim(-1, 1), tuple(size), mode=mode, antialias=smooth)
            pixels = resized.movedim(1, -1)
        out[start : start + CHUNK] = pixels  # while it is in the cache
    return out


def prepare_frames(
    frames: np.ndarray,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    holes: np.ndarray,
    resampling: str = "bicubic",
) -> torch.Tensor:
    """Make frames ready for a model.

    Args:
        frames: (n, height, width, bands) in their own type; must be the caller's own copy.
        size: height and width of the model's input.
        mean, std: (bands,) of the training pixels.
        holes: (n, height, width) bool, pixels that were not measured; these become their frame's mean.
        resampling: see `resize_frames`.

    Returns:
        (n, bands, height, width) float32 in channels-last memory.
    """
    if holes.any():
        fill_holes(frames, holes, resampling)
    pixels = resize_frames(frames, size, resampling)
    pixels.sub_(torch.tensor(mean, dtype=torch.float32)).div_(torch.tensor(std, dtype=torch.float32))
    return pixels.movedim(-1, 1)
