"""From sequences of frames of any kind to tensors, for `predict` and for AutoImageProcessor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geohf.data.samples import samples_of
from geohf.data.times import check_frames
from geohf.errors import DataError
from geohf.tiles.frames import can_be_seen, prepare_frames
from geohf.tiles.grid import require_same_grid, require_same_kind, require_trained_kind
from geohf.tiles.masks import read_frame
from geohf.vision.processing import SampleProcessor

if TYPE_CHECKING:
    from geohf.tiles.configuration import TileSequenceConfig


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
        return list(sample), numbers_of(last, self.targets)


def numbers_of(values: Any, targets: Sequence[str], name: str = "last_values") -> list[float]:
    """One number per target, NaN where it is not known.

    Args:
        values: a number, one per target, or a dict by name; None where nothing is known.
        name: of the values, for messages.

    Raises:
        DataError: they are not of these targets.
    """
    if values is None:
        return [math.nan] * len(targets)
    if isinstance(values, Mapping):
        unknown = [target for target in values if target not in targets]
        if unknown:
            raise DataError(f"{name}: no target {unknown[0]!r}; the targets are {', '.join(targets)}")
        return [float(values.get(target, math.nan)) for target in targets]
    numbers = np.atleast_1d(np.asarray(values, np.float64))
    if numbers.shape != (len(targets),):
        raise DataError(f"{name}: {numbers.size} numbers for {len(targets)} targets")
    return numbers.tolist()


def settings_of(config: TileSequenceConfig) -> dict[str, Any]:
    """What the processor of a model of this config is made with."""
    return {
        "size": dict(zip(("height", "width"), config.image_size, strict=True)),
        "image_mean": config.band_mean,
        "image_std": config.band_std,
        "nodata": config.nodata,
        "max_nodata": config.max_nodata,
        "targets": config.targets,
        "resampling": config.resampling,
        "pixel_kind": config.pixel_kind,
    }


# ---- batches of rows for the Trainer


class TileCollator:
    """Makes batches of rows: whole batches of `TileSequences` stay as they are, others go through `batch_of_rows`.

    Args:
        config: of the model.
        augment: turn and mirror, alike for all frames of a row and its target.
    """

    def __init__(self, config: TileSequenceConfig, augment: bool = False):
        self.config, self.augment = config, augment

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        """The batch, see `TileSequences`."""
        batch = rows if isinstance(rows, dict) else batch_of_rows(rows, self.config)
        return turned(batch, self.config.head == "image") if self.augment else batch


def batch_of_rows(rows: Sequence[Mapping], config: TileSequenceConfig) -> dict[str, torch.Tensor]:
    """A user's rows as one batch; shorter sequences get masked steps in front.

    Args:
        rows: each with `frames` as `model.predict` takes them, or `pixel_values` (steps, bands, height, width),
            standardized, and perhaps `step_mask` (steps,) bool. `labels`: a number, one per target, or a dict by
            target; for a model that answers with images the next frame, as the others are given. `last_values`,
            the last known values, where there are any.

    Raises:
        DataError: a row has neither, or its numbers are not of the model's targets.
    """
    image = config.head == "image"
    if "frames" in rows[0]:
        processor = TileSequenceProcessor(**settings_of(config))
        samples = [{"frames": row["frames"], "last_values": row.get("last_values")} for row in rows]
        batch = dict(processor(samples))
        if image:
            batch["labels"] = processor([[row["labels"]] for row in rows])["pixel_values"][:, 0]
    elif "pixel_values" in rows[0]:
        pixels = [_tensor(row["pixel_values"]) for row in rows]
        shown = [
            part.new_ones(len(part)) if row.get("step_mask") is None else _tensor(row["step_mask"])
            for row, part in zip(rows, pixels, strict=True)
        ]
        last = [numbers_of(row.get("last_values"), config.targets) if not image else [] for row in rows]
        batch = {
            "pixel_values": _in_front(pixels),
            "step_mask": _in_front(shown).bool(),
            "last_values": torch.tensor(last, dtype=torch.float32),
        }
        if image:
            batch["labels"] = torch.stack([_tensor(row["labels"]) for row in rows])
    else:
        raise DataError(f"a row needs 'frames' or 'pixel_values'; it has {', '.join(map(str, rows[0]))}")
    if not image:
        labels = [numbers_of(row.get("labels"), config.targets, "labels") for row in rows]
        batch["labels"] = torch.tensor(labels, dtype=torch.float32)
    return batch


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values if isinstance(values, torch.Tensor) else np.asarray(values)).float()


def _in_front(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sequences as one tensor, zeros in front of shorter ones."""
    steps = max(map(len, parts))
    return torch.stack(
        [torch.cat([part.new_zeros(steps - len(part), *part.shape[1:]), part]) for part in parts]
    )


def turned(batch: dict[str, torch.Tensor], image: bool) -> dict[str, torch.Tensor]:
    """Turn and mirror each row of a batch at random, all its frames and an image target alike.

    Oblong tiles are mirrored only.
    """
    names = ["pixel_values", "labels"] if image else ["pixel_values"]
    height, width = batch["pixel_values"].shape[-2:]
    changes = [lambda x: x.flip(-1), lambda x: x.flip(-2)]
    if height == width:
        changes.append(lambda x: x.transpose(-1, -2))
    choice = torch.randint(2 ** len(changes), (len(batch["pixel_values"]),))
    out = {name: batch[name].clone() for name in names}
    for bit, change in enumerate(changes):
        chosen = (choice >> bit & 1).bool()
        for name in names:
            out[name][chosen] = change(out[name][chosen])
    return batch | out
