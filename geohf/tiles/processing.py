"""From sequences of frames of any kind to tensors, for `predict` and for AutoImageProcessor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geohf.data.samples import samples_of
from geohf.data.times import check_frames
from geohf.errors import DataError
from geohf.tiles.augmentation import fewer_seen, turned
from geohf.tiles.frames import can_be_seen, known_alone, prepare_frames, resizable
from geohf.tiles.grid import require_alignable, require_same_grid, require_same_kind, require_trained_kind
from geohf.tiles.masks import FileHeader, read_frame, read_header, with_mask
from geohf.tiles.reading import Reading
from geohf.tiles.samples import dates_of, numbers_of, require_known_keys
from geohf.vision.processing import SampleProcessor

if TYPE_CHECKING:
    from geohf.tiles.configuration import TileSequenceConfig

logger = logging.getLogger(__name__)
OF_CONFIG = (
    "nodata",
    "max_nodata",
    "targets",
    "resampling",
    "pixel_kind",
    "dates",
    "reading",
)  # fields of both
PIXEL_KEYS = ("frames", "pixel_values")  # of which a row has one
ROW_KEYS = ("step_mask", "labels", "last_values", "dates", "date", "region")
FAR = 30  # spreads of the training pixels: so far from their mean lie pixels of another unit alone


class TileSequenceProcessor(SampleProcessor):
    """Turns samples into `pixel_values` (batch, steps, bands, height, width), `step_mask`, `last_values` and `dates`.

    A sample is the frames of one tile, oldest first: a list, an array (steps, height, width, bands), or a dict
    with `frames` (a list, or a dict by label) and perhaps `last_values`, the last known value of every target:
    a number, or a dict by name. A frame is what `read_frame` takes; None is a missing one. Where the model sees
    dates, the sample's `dates` hold one a frame (its label in a dict and the names of files tell it, too), and its
    `date` is that of the answer.
    """

    model_input_names = ["pixel_values", "step_mask", "last_values", "dates"]  # noqa: RUF012  transformers declares it so
    size = {"height": 64, "width": 64}  # noqa: RUF012
    image_mean = (0.0,)
    image_std = (1.0,)
    call_settings = ("size", "image_mean", "image_std", *OF_CONFIG)

    def __init__(
        self,
        nodata=None,
        max_nodata=0.5,
        targets=(),
        resampling="bicubic",
        pixel_kind=None,
        dates=False,
        reading=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.nodata, self.max_nodata, self.targets = nodata, max_nodata, list(targets)
        self.resampling, self.pixel_kind, self.dates = resampling, pixel_kind, dates
        self.reading = reading

    def tensors(self, images: Any) -> dict[str, torch.Tensor]:
        """Prepare a list of samples; shorter sequences get masked steps in front.

        Raises:
            DataError: a frame cannot be read or has another number of bands, files of a sample do not lie on one
                grid or are no images as the model was trained on, a sample has no frame, its frames' labels or files' names
                go back in time, or its `last_values` do not name the model's targets.
        """
        given = enumerate(samples_of(images, dimensions=4))
        samples = [self._sample(sample, f"sample {i}") for i, sample in given]
        if not samples:
            raise DataError("there is no sample to prepare")
        steps = max(len(frames) for frames, *_ in samples)
        size = self.size["height"], self.size["width"]
        pixels = torch.zeros(len(samples), steps, len(self.image_mean), *size)
        mask = torch.zeros(len(samples), steps, dtype=torch.bool)
        shares = far = False
        for i, (frames, *_) in enumerate(samples):
            first = None
            for t, frame in enumerate(frames, start=steps - len(frames)):
                if frame is None:
                    continue
                read, holes, raster = self.read(frame, first)
                first = first or raster
                shares = shares or (raster is None and self._may_be_shares(read, holes))
                mask[i, t] = bool(can_be_seen(holes.mean(), self.max_nodata))
                pixels[i, t] = self._prepare(read, holes, where=f"sample {i}, step {t}")
                far = far or bool(raster is None and mask[i, t] and pixels[i, t].abs().mean() > FAR)
            if not mask[i].any():
                raise DataError(f"sample {i}: no frame is left to see, all are missing or without data")
        trained = ", ".join(f"{mean:.4g}" for mean in self.image_mean)
        if shares:
            logger.warning(
                "arrays of fractions hold nothing above 1, and the model was trained on pixels of %s in the mean: give them "
                "in the unit of the training images",
                trained,
            )
        if far:
            logger.warning(
                "pixels of arrays lie more than %d spreads from those of the training, which are around %s, in the mean of a frame: give "
                "them in the unit of the training images, and mask what was not measured",
                FAR,
                trained,
            )
        last = torch.tensor([values for _, values, *_ in samples], dtype=torch.float32)
        batch = {"pixel_values": pixels, "step_mask": mask, "last_values": last}
        if self.dates:
            batch["dates"] = _in_front([torch.from_numpy(dates) for *_, dates in samples])
        return batch

    def read(self, frame: Any, first: FileHeader | None) -> tuple[np.ndarray, np.ndarray, FileHeader | None]:
        """A frame as `read_frame` gives it; a file is of the kind of the training's, and lies on the grid of the `first`."""
        reading = Reading.from_config(self.reading)
        pixels, holes, raster = read_frame(frame, self.nodata, reading, first and first[1])
        if raster is not None:
            require_trained_kind(*raster, self.pixel_kind)
            if first is not None:
                require_same_kind(*raster, *first)
                (require_alignable if reading.align else require_same_grid)(*raster, *first)
        return pixels, holes, raster

    def _may_be_shares(self, frame: np.ndarray, holes: np.ndarray) -> bool:
        """Pixels that someone divided by their largest value, which the training's were not."""
        if frame.dtype.kind != "f" or max(map(abs, self.image_mean)) <= 10:
            return False
        return bool(np.abs(frame[~holes]).max(initial=0) <= 1)

    def pixel_values(self, frames: Sequence[np.ma.MaskedArray]) -> torch.Tensor:
        """(n, bands, height, width) of single frames (height, width, bands), each masked where it was not measured."""
        pairs = enumerate((frame.data, np.ma.getmaskarray(frame)[..., 0]) for frame in frames)
        return torch.stack([self._prepare(*pair, f"frame {i}") for i, pair in pairs])

    def _prepare(self, frame: np.ndarray, holes: np.ndarray, where: str) -> torch.Tensor:
        bands, trained = frame.shape[-1], len(self.image_mean)
        if bands != trained:
            raise DataError(f"{where}: has {bands} bands, the model was trained on {trained}")
        size, scaling = (self.size["height"], self.size["width"]), (self.image_mean, self.image_std)
        own = resizable(frame[None].copy(), self.reading)
        return prepare_frames(own, size, *scaling, holes[None], self.resampling)[0]

    def _sample(self, sample: Any, where: str) -> tuple[list, list[float], Any]:
        """Frames, last values, and (frames + 1, 2) dates, None where the model sees none."""
        last = dates = answered = None
        if isinstance(sample, Mapping):
            require_known_keys(sample, where)
            if "frames" not in sample:
                raise DataError(f"a sample needs 'frames'; it has {', '.join(map(str, sample))}")
            last, dates, answered = (sample.get(name) for name in ("last_values", "dates", "date"))
            sample = sample["frames"]
            if isinstance(sample, Mapping):
                check_frames(list(map(str, sample)))
                dates = list(sample) if dates is None else dates
                sample = list(sample.values())
        if isinstance(sample, (str, bytes)) or (hasattr(sample, "ndim") and sample.ndim != 4):
            raise DataError("a sample is the frames of a tile, a list or an array of 4 dimensions")
        if not hasattr(sample, "ndim"):
            check_frames(sample := list(sample))
        frames = list(sample)
        told = dates_of(frames, dates, answered, where) if self.dates else None
        return frames, numbers_of(last, self.targets), told


def settings_of(config: TileSequenceConfig) -> dict[str, Any]:
    """What the processor of a model of this config is made with."""
    size = dict(zip(("height", "width"), config.image_size, strict=True))
    scales = {"image_mean": config.band_mean, "image_std": config.band_std}
    return {"size": size} | scales | {name: getattr(config, name) for name in OF_CONFIG}


# ---- batches of rows for the Trainer


class TileCollator:
    """Makes batches of rows: whole batches of `TileSequences` stay as they are, others go through `batch_of_rows`.

    Args:
        config: of the model.
        augment: turn and mirror, alike for all frames of a row and its target.
        frame_dropout: chance of a seen frame to be masked.
    """

    def __init__(self, config: TileSequenceConfig, augment: bool = False, frame_dropout: float = 0.0):
        self.config, self.augment, self.frame_dropout = config, augment, frame_dropout

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        """The batch, see `TileSequences`."""
        batch = rows if isinstance(rows, dict) else batch_of_rows(rows, self.config)
        if self.frame_dropout:
            batch = batch | {"step_mask": fewer_seen(batch["step_mask"], self.frame_dropout)}
        if self.augment and "pixel_values" in batch:  # features of frames are as they are
            return turned(batch, self.config.head == "image")
        return batch


def batch_of_rows(rows: Sequence[Mapping], config: TileSequenceConfig) -> dict[str, torch.Tensor]:
    """A user's rows as one batch; shorter sequences get masked steps in front.

    Args:
        rows: each with `frames` as `model.predict` takes them, or `pixel_values` (steps, bands, height, width), standardized,
            and perhaps `step_mask` (steps,) bool. `labels`: a number, one per target, or a dict by target; of a model that
            answers with images the next frame, or a list of the `prediction_length` next ones, None for a missing one.
            Perhaps `last_values`. For a model that sees dates: with `frames` the `dates` and the `date` of a sample, with
            `pixel_values` `dates` (steps + 1, 2), see `geohf.tiles.dates.frame_dates`.

    Raises:
        DataError: a row has neither, or its numbers are not of the model's targets.
    """
    image = config.head == "image"
    kind = next((name for name in PIXEL_KEYS if name in rows[0]), None)
    require_known_keys(rows[0], "row 0 of the batch", (*(PIXEL_KEYS if kind is None else [kind]), *ROW_KEYS))
    if kind is None:
        raise DataError(f"a row needs 'frames' or 'pixel_values'; it has {', '.join(map(str, rows[0]))}")
    lacking = [i for i, row in enumerate(rows) if row.get(kind) is None]
    if lacking:
        raise DataError(f"row {lacking[0]} of the batch: has no {kind}")
    if kind == "frames":
        processor = TileSequenceProcessor(**settings_of(config))
        names = ("frames", "last_values", "dates", "date")
        batch = dict(processor([{name: row.get(name) for name in names} for row in rows]))
        if image:
            batch["labels"] = _true_frames(rows, config)
    else:
        pixels = [_tensor(row["pixel_values"]) for row in rows]
        shown = [
            part.new_ones(len(part)) if row.get("step_mask") is None else _tensor(row["step_mask"])
            for row, part in zip(rows, pixels, strict=True)
        ]
        _require_lengths("step_mask", shown, pixels)
        last = [numbers_of(row.get("last_values"), config.targets) if not image else [] for row in rows]
        batch = {
            "pixel_values": _in_front(pixels),
            "step_mask": _in_front(shown).bool(),
            "last_values": torch.tensor(last, dtype=torch.float32),
        }
        unseen = [i for i, row in enumerate(batch["step_mask"]) if not row.any()]
        if unseen:
            raise DataError(f"row {unseen[0]} of the batch: no frame is left to see, all are masked")
        if config.dates:
            if any(row.get("dates") is None for row in rows):
                raise DataError("the model sees dates: rows of pixel_values need dates, (steps + 1, 2)")
            dates = [_tensor(row["dates"]) for row in rows]
            _require_lengths("dates", dates, pixels, more=1)
            batch["dates"] = _in_front(dates)
        if image:
            batch["labels"] = torch.stack([_true_pixels(row, i, config) for i, row in enumerate(rows)])
    if not image:
        labels = [numbers_of(row.get("labels"), config.targets, "labels") for row in rows]
        batch["labels"] = torch.tensor(labels, dtype=torch.float32)
    return batch


def _require_lengths(name: str, given: Sequence[torch.Tensor], pixels: Sequence, more: int = 0) -> None:
    """As many in each row as it has frames: a shorter mask would be padded, and hide other frames than it says."""
    for i, (one, frames) in enumerate(zip(given, pixels, strict=True)):
        if len(one) != len(frames) + more:
            raise DataError(
                f"row {i} of the batch: {name} has {len(one)} entries for {len(frames)} frames; it needs {len(frames) + more}"
            )


def _true_frames(rows: Sequence[Mapping], config: TileSequenceConfig) -> torch.Tensor:
    """The rows' `labels`, frames that the model shall predict; NaN where one is missing."""
    answered = config.prediction_length
    given = [_labels_of(row, i) for i, row in enumerate(rows)]
    frames = [[labels] if answered == 1 else list(labels) for labels in given]
    wrong = [i for i, row in enumerate(frames) if len(row) != answered]
    if wrong:
        raise DataError(
            f"row {wrong[0]} of the batch: {len(frames[wrong[0]])} frames as labels, the model predicts {answered}"
        )
    processor = TileSequenceProcessor(**settings_of(config))
    labels = torch.full((len(rows), answered, config.bands, *config.image_size), torch.nan)
    for i, row in enumerate(frames):
        first = _first_header(rows[i]["frames"])
        for t, frame in enumerate(row):
            if frame is None:
                continue
            pixels, holes, _ = processor.read(frame, first)
            (label,) = processor.pixel_values([with_mask(pixels, holes)])
            labels[i, t] = known_alone(label, holes)
        if labels[i].isnan().all():
            raise DataError(f"row {i} of the batch: its labels are missing or without data; leave it out")
    return labels if answered > 1 else labels[:, 0]


def _labels_of(row: Mapping, number: int) -> Any:
    if row.get("labels") is None:
        raise DataError(f"row {number} of the batch: has no labels, the frames that the model shall predict")
    return row["labels"]


def _true_pixels(row: Mapping, number: int, config: TileSequenceConfig) -> torch.Tensor:
    """A row's `labels` that are standardized, (bands, height, width), or so many in front."""
    labels, frame = _tensor(_labels_of(row, number)), tuple(_tensor(row["pixel_values"]).shape[1:])
    wanted = frame if config.prediction_length == 1 else (config.prediction_length, *frame)
    if tuple(labels.shape) != wanted:
        raise DataError(
            f"row {number} of the batch: labels have the shape {tuple(labels.shape)}, and the model predicts {wanted}; NaN "
            "stands for what is not known"
        )
    return labels


def _first_header(frames: Any) -> FileHeader | None:
    """The first frame that is a file, and its header, whose grid the others lie on; None where there is none."""
    return next((header for header in map(read_header, given_frames(frames)) if header is not None), None)


def given_frames(frames: Any) -> list:
    """Those of a sample's frames, a list or a dict by label, that are not missing."""
    return [
        frame for frame in (frames.values() if isinstance(frames, Mapping) else frames) if frame is not None
    ]


def shows_nothing(row: Mapping) -> bool:
    """Every frame of a user's row is missing or masked, as far as is known without reading it."""
    if row.get("frames") is not None:
        return not given_frames(row["frames"])
    mask = row.get("step_mask")
    return mask is not None and not bool(_tensor(mask).any())


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values if isinstance(values, torch.Tensor) else np.asarray(values)).float()


def _in_front(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sequences as one tensor, zeros in front of shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_side="left")
