"""From sequences of frames of any kind to tensors, for `predict` and for AutoImageProcessor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from geohf.data.samples import samples_of
from geohf.data.times import check_frames
from geohf.errors import DataError
from geohf.tiles.frames import can_be_seen, prepare_frames
from geohf.tiles.grid import require_same_grid, require_same_kind, require_trained_kind
from geohf.tiles.masks import read_frame
from geohf.vision.processing import SampleProcessor


class TileSequenceProcessor(SampleProcessor):
    """Turns samples into `pixel_values` (batch, steps, bands, height, width), `step_mask` and `last_values`.

    A sample is the frames of one tile, oldest first: a list, an array (steps, height, width, bands), or a dict
    with `frames` (a list, or a dict by label) and perhaps `last_values`, the last known value of every target:
    a number, or a dict by name. A frame is what `read_frame` takes; None is a missing one.
    """

    model_input_names = ["pixel_values", "step_mask", "last_values"]  # noqa: RUF012  transformers declares it so
    size = {"height": 64, "width": 64}  # noqa: RUF012
    image_mean = (0.0,)
    image_std = (1.0,)
    nodata = None
    max_nodata = 0.5
    targets = ()
    resampling = "bicubic"
    pixel_kind = None
    call_settings = (
        "size",
        "image_mean",
        "image_std",
        "nodata",
        "max_nodata",
        "targets",
        "resampling",
        "pixel_kind",
    )

    def __init__(
        self, nodata=None, max_nodata=0.5, targets=(), resampling="bicubic", pixel_kind=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.nodata, self.max_nodata, self.targets = nodata, max_nodata, list(targets)
        self.resampling, self.pixel_kind = resampling, pixel_kind

    def tensors(self, images: Any) -> dict[str, torch.Tensor]:
        """Prepare a list of samples; shorter sequences get masked steps in front.

        Raises:
            DataError: a frame cannot be read or has another number of bands, files of a sample do not lie on one
                grid or are no images as the model was trained on, a sample has no frame, its frames' labels or files' names
                go back in time, or its `last_values` do not name the model's targets.
        """
        samples = [self._sample(sample) for sample in samples_of(images, dimensions=4)]
        if not samples:
            raise DataError("there is no sample to prepare")
        steps = max(len(frames) for frames, _ in samples)
        size = self.size["height"], self.size["width"]
        pixels = torch.zeros(len(samples), steps, len(self.image_mean), *size)
        mask = torch.zeros(len(samples), steps, dtype=torch.bool)
        for i, (frames, _) in enumerate(samples):
            first = None
            for t, frame in enumerate(frames, start=steps - len(frames)):
                if frame is None:
                    continue
                read, holes, raster = read_frame(frame, self.nodata)
                if raster is not None:
                    require_trained_kind(frame, raster, self.pixel_kind)
                    first = first or (frame, raster)
                    require_same_kind(frame, raster, *first)
                    require_same_grid(frame, raster, *first)
                mask[i, t] = bool(can_be_seen(holes.mean(), self.max_nodata))
                pixels[i, t] = self._prepare(read, holes, where=f"sample {i}, step {t}")
            if not mask[i].any():
                raise DataError(f"sample {i}: no frame is left to see, all are missing or without data")
        last = torch.tensor([values for _, values in samples], dtype=torch.float32)
        return {"pixel_values": pixels, "step_mask": mask, "last_values": last}

    def _prepare(self, frame: np.ndarray, holes: np.ndarray, where: str) -> torch.Tensor:
        if frame.shape[-1] != len(self.image_mean):
            raise DataError(
                f"{where}: has {frame.shape[-1]} bands, the model was trained on {len(self.image_mean)}"
            )
        size, scaling = (self.size["height"], self.size["width"]), (self.image_mean, self.image_std)
        return prepare_frames(frame[None].copy(), size, *scaling, holes[None], self.resampling)[0]

    def _sample(self, sample: Any) -> tuple[list, list[float]]:
        last = None
        if isinstance(sample, Mapping):
            if "frames" not in sample:
                raise DataError(f"a sample needs 'frames'; it has {', '.join(map(str, sample))}")
            sample, last = sample["frames"], sample.get("last_values")
            if isinstance(sample, Mapping):
                check_frames(list(map(str, sample)))
                sample = list(sample.values())
        if isinstance(sample, (str, bytes)) or (hasattr(sample, "ndim") and sample.ndim != 4):
            raise DataError("a sample is the frames of a tile, a list or an array of 4 dimensions")
        if not hasattr(sample, "ndim"):
            check_frames(sample := list(sample))
        return list(sample), self._last_values(last)

    def _last_values(self, last: Any) -> list[float]:
        if last is None:
            return [math.nan] * len(self.targets)
        if isinstance(last, Mapping):
            unknown = [name for name in last if name not in self.targets]
            if unknown:
                raise DataError(
                    f"last_values: no target {unknown[0]!r}; the targets are {', '.join(self.targets)}"
                )
            return [float(last.get(name, math.nan)) for name in self.targets]
        values = np.atleast_1d(np.asarray(last, np.float64)).tolist()
        if len(values) != len(self.targets):
            raise DataError(f"last_values: {len(values)} numbers for {len(self.targets)} targets")
        return values
