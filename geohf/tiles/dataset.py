"""Rows that a tile Trainer learns from: windows cut out of the cache by slices, or a user's own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from geohf.data.streaming import is_stream
from geohf.errors import DataError
from geohf.tiles.answers import region_name, region_numbers
from geohf.tiles.cache import TilePixels
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.frames import known_alone, last_seen, prepare_frames, resizable
from geohf.tiles.processing import batch_of_rows, shows_nothing
from geohf.tiles.samples import numbers_of
from geohf.tiles.table import TileTable
from geohf.tiles.windows import TileWindows

FEW_REGIONS = 8  # too few to draw from for an interval: then tiles are drawn


class BoundRows(Dataset):
    """Rows that become batches for one model: its config says the input size, the scales and the head.

    A Trainer binds the datasets that it is given to its model.
    """

    windows: TileWindows

    def __init__(self, config: TileSequenceConfig | None = None):
        self._config = config

    @property
    def config(self) -> TileSequenceConfig:
        """The model's config.

        Raises:
            DataError: the rows are not bound to a model yet.
        """
        if self._config is None:
            raise DataError("these rows belong to no model yet: rows.bound_to(model.config) gives batches")
        return self._config

    def __len__(self) -> int:
        return len(self.windows)

    def bound_to(self, config: TileSequenceConfig):
        """The same rows for the model of this config."""
        bound = copy.copy(self)
        bound._config = config
        return bound

    def key_arrays(self) -> dict[str, np.ndarray]:
        """What tells it from other windows."""
        dated = self._config is not None and self._config.dates
        columns = vars(self.windows).items()
        return {name: column for name, column in columns if column is not None and (dated or name != "dates")}

    def groups(self) -> np.ndarray:
        """(n,) what each row stands or falls with, where intervals are drawn."""
        return np.arange(len(self))

    def region_names(self) -> np.ndarray | None:
        """(n,) each row's region; None where they are not known."""
        return None

    def region_numbers(self, config: TileSequenceConfig) -> torch.Tensor | None:
        """(n,) whose margins a model's intervals have, see `geohf.tiles.answers.region_numbers`."""
        names = self.region_names() if config.region_margins else None
        return None if names is None else region_numbers(config, names)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The rows as one batch, see `TileSequences`."""
        raise TypeError(f"{type(self).__name__} does not say what its batches are")

    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The true image, or images, and the last seen frame of every row, (n, bands, height, width) standardized."""
        labels, last = [], []
        for rows in torch.arange(len(self)).split(256):
            batch = self.__getitems__(rows.tolist())
            labels.append(batch["labels"])
            last.append(last_seen(batch["pixel_values"], batch["step_mask"]))
        return torch.cat(labels), torch.cat(last)


class TileSequences(BoundRows):
    """Windows of a table's tiles, as batches for a `TileSequenceModel`.

    A batch holds `pixel_values` (n, steps, bands, height, width) standardized, `step_mask` (n, steps) bool,
    `last_values` (n, targets) and `labels`, (n, targets) in the targets' units or (n, bands, height, width)
    standardized, (n, prediction_length, ...) for several frames; for a model that sees dates `dates` (n, steps + 1, 2), see `geohf.tiles.dates.frame_dates`.

    Args:
        cache: of the table that the windows belong to.
        windows: what to ask.
        config: of the model; None: a Trainer binds the rows to its own.
        table: the table itself, by which results are told by region and drawn on maps.
    """

    def __init__(
        self,
        cache: TilePixels,
        windows: TileWindows,
        config: TileSequenceConfig | None = None,
        table: TileTable | None = None,
    ):
        super().__init__(config)
        self.cache, self.windows, self.table = cache, windows, table

    @property
    def known_table(self) -> TileTable:
        """The table.

        Raises:
            DataError: the windows came without it.
        """
        if self.table is None:
            raise DataError("these windows come without their table: TileSequences(..., table=table)")
        return self.table

    def groups(self) -> np.ndarray:
        """(n,) each window's region, or its tile where regions are few."""
        rows = self.windows.rows
        if self.table is None:
            return rows
        regions = self.table.region[rows]
        return regions if len(np.unique(regions)) >= FEW_REGIONS else rows

    def region_names(self) -> np.ndarray | None:
        """(n,) each window's region, where the table is known."""
        return None if self.table is None else self.table.names_of_regions(self.windows.rows)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The windows as one batch."""
        answered = self.config.prediction_length if self.config.head == "image" else 0
        windows = self.windows.take(np.asarray(indices))
        frames, mask = windows.frames, windows.mask
        if answered:  # the targets are frames, too
            frames = np.c_[frames, windows.steps[:, None] + np.arange(answered)]
            mask = np.c_[mask, np.ones((len(mask), answered), bool)]
        raw, holes = self.cache.read(windows.rows, frames), self.cache.masks(windows.rows, frames)
        sizes = self.cache.sizes[windows.rows]
        pixels = self._prepared(raw, holes, sizes, mask)
        batch = self.columns(np.asarray(indices))
        if answered:
            each = [self._measured(holes[:, t], pixels[:, t], sizes) for t in range(-answered, 0)]
            batch["labels"] = torch.stack(each, 1) if answered > 1 else each[0]
            pixels = pixels[:, :-answered]
        batch["pixel_values"] = pixels
        return batch

    def columns(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """What a batch of the windows of these numbers holds beside pixels; of an image's labels nothing yet."""
        windows = self.windows.take(rows)
        columns = {
            "step_mask": torch.from_numpy(windows.mask),
            "last_values": torch.from_numpy(windows.last.astype(np.float32)),
            "labels": torch.from_numpy(windows.truth.astype(np.float32)),
        }
        if self.config.dates:
            if windows.dates is None:
                raise DataError("the model sees dates, and the labels of these tiles tell none")
            columns["dates"] = torch.from_numpy(windows.dates)
        return columns

    def _prepared(self, raw, holes, sizes: np.ndarray, mask: np.ndarray) -> torch.Tensor:
        """(n, steps, height, width, bands) native and padded, to (n, steps, bands, *size) standardized."""
        n, steps, *_, bands = raw.shape
        config, size = self.config, tuple(self.config.image_size)
        out = torch.zeros(n, steps, *size, bands).movedim(-1, 2)
        for height, width in np.unique(sizes, axis=0).tolist():
            here = np.flatnonzero((sizes == (height, width)).all(1))
            frames = raw[here, :, :height, :width].reshape(-1, height, width, bands)
            unmeasured = holes[here, :, :height, :width].reshape(-1, height, width)
            settings = size, config.band_mean, config.band_std, unmeasured, config.resampling
            out[here] = prepare_frames(resizable(frames, config.reading), *settings).unflatten(0, (-1, steps))
        out[~torch.from_numpy(mask)] = 0
        return out

    def _measured(self, holes: np.ndarray, target: torch.Tensor, sizes: np.ndarray) -> torch.Tensor:
        """The target frames with NaN where nothing was measured."""
        each = zip(target, holes, sizes.tolist(), strict=True)
        return torch.stack([known_alone(frame, hole[:h, :w]) for frame, hole, (h, w) in each])


class TileRows(BoundRows):
    """A user's own rows, see `geohf.tiles.processing.batch_of_rows`, as batches for a `TileSequenceModel`.

    Args:
        rows: has `len()` and rows by number, which are dicts.
    """

    def __init__(self, rows: Any, config: TileSequenceConfig | None = None):
        super().__init__(config)
        self.rows = rows
        self._windows: TileWindows | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def bound_to(self, config: TileSequenceConfig) -> TileRows:
        """The same rows for the model of this config; they are not read again where it asks for the same numbers."""
        bound = super().bound_to(config)
        old = self._config
        if old is None or (old.head, old.targets) != (config.head, config.targets):
            bound._windows = None
        return bound

    def region_names(self) -> np.ndarray | None:
        """(n,) what the rows' `region` says, where all have one."""
        names = [region_name(self.rows[i].get("region")) for i in range(len(self))]
        return np.array(names) if all(names) else None

    @property
    def windows(self) -> TileWindows:  # type: ignore[override]
        """What is known of the rows' numbers; they are read in one pass, when it is first asked for."""
        if self._windows is None:
            self._windows = self.windows_of([] if self.config.head == "image" else self.config.targets)
        return self._windows

    def windows_of(self, targets: list[str]) -> TileWindows:
        """One window per row, with the numbers of these targets; their frames are not told."""
        n = len(self.rows)
        truth, last, trend = (np.full((n, len(targets)), np.nan) for _ in range(3))
        unseen: list[int] = []
        for i in range(n):
            row = self.rows[i]
            if shows_nothing(row):
                unseen.append(i)
            if targets:
                truth[i] = numbers_of(row.get("labels"), targets, f"row {i}, labels")
                last[i] = numbers_of(row.get("last_values"), targets, f"row {i}, last_values")
        if unseen:
            more = f", as in {len(unseen)} of {n} rows; leave them out"
            more = more if len(unseen) > 1 else "; leave it out"
            raise DataError(f"row {unseen[0]}: shows no frame, all are missing or masked{more}")
        frames, mask = np.zeros((n, 0), np.int64), np.zeros((n, 0), bool)
        return TileWindows(np.arange(n), np.zeros(n, np.int64), frames, mask, truth, last, trend)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The rows as one batch."""
        return batch_of_rows([self.rows[i] for i in indices], self.config)


def as_sequences(rows: Any) -> Any:
    """Rows that a user gave to a Trainer: a dataset or list of dicts becomes `TileRows`, a stream stays one."""
    if isinstance(rows, dict):
        return {name: as_sequences(part) for name, part in rows.items()}
    if rows is None or isinstance(rows, BoundRows) or is_stream(rows):
        return rows
    return TileRows(rows)


def bound_to(rows: Any, config: TileSequenceConfig) -> Any:
    """As `as_sequences`, for the model of this config."""
    rows = as_sequences(rows)
    if isinstance(rows, dict):
        return {name: bound_to(part, config) for name, part in rows.items()}
    return rows.bound_to(config) if isinstance(rows, BoundRows) else rows
