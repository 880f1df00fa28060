"""A scene's tiles row by row: where they lie, their frames from the disk, and finished lines from their answers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from geohf.tiles.answers import TilePrediction
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.frames import can_be_seen
from geohf.tiles.masks import read_numbers, read_window, with_mask
from geohf.tiles.rasters import RasterInfo, open_raster
from geohf.tiles.reading import Reading

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


@dataclass(frozen=True)
class Layout:
    """Where the tiles of a scene lie.

    Attributes:
        height, width: of the scene in pixels.
        side: of a tile.
        stride: pixels from a tile to the next one where each pixel is answered; the last ones end at the rim. None: a pixel
            a tile, and what does not fill a tile at the right and lower rim is left out.
    """

    height: int
    width: int
    side: int
    stride: int | None = None

    @cached_property
    def tops(self) -> list[int]:
        """The first line of each row of tiles."""
        return self._starts(self.height)

    @cached_property
    def lefts(self) -> list[int]:
        """The first column of each tile of a row."""
        return self._starts(self.width)

    def _starts(self, length: int) -> list[int]:
        if length < self.side:
            return []
        starts = list(range(0, length - self.side + 1, self.stride or self.side))
        rim = length - self.side
        return [*starts, rim] if self.stride is not None and starts[-1] < rim else starts

    def lines(self, row: int) -> range:
        """The lines of the output that are finished with a row of tiles, and were not with the one before."""
        if self.stride is None:
            return range(row, row + 1)
        return range(self.tops[row], self.tops[row + 1] if row + 1 < len(self.tops) else self.height)

    def first_row(self, row: int) -> int:
        """The first row of tiles that the finished lines of a row depend on."""
        if self.stride is None:
            return row
        return next(r for r, top in enumerate(self.tops) if top + self.side > self.tops[row])


@dataclass
class Chunk:
    """Some tiles of one row.

    Attributes:
        row: of tiles.
        samples: number of the tile in its row -> what the model is asked, of tiles that have something to see.
        left: the chunk's first pixel.
        seen: (side, pixels) which pixels any frame measured.
        last: it ends the row.
    """

    row: int
    samples: dict[int, dict[str, Any]]
    left: int
    seen: np.ndarray
    last: bool


class SceneTiles(Dataset):
    """The chunks of a scene's rows of tiles, in order; each process opens the rasters for itself.

    Args:
        frames: rasters, None for a missing one.
        last_values: raster of the last known values, a pixel a tile, or with `layout.stride` a pixel a pixel of the scene.
        grid: the scene's.
        dated: `dates` and `date` of every sample.
        rows: of tiles, that are asked.
        size: tiles in a chunk.
    """

    def __init__(
        self,
        config: TileSequenceConfig,
        frames: Sequence[str | Path | None],
        last_values: str | Path | None,
        layout: Layout,
        grid: RasterInfo,
        dated: Mapping[str, Any],
        rows: Iterable[int],
        size: int,
    ):
        self.config, self.layout, self.grid, self.dated = config, layout, grid, dict(dated)
        self.files, self.reading = [*frames, last_values], Reading.from_config(config.reading)
        count = len(layout.lefts)
        parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
        self.chunks = [(row, part) for row in rows for part in parts]
        self._opened: tuple[int, ExitStack, list[DatasetReader | None]] | None = None

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Chunk:
        return self._read(*self.chunks[index])

    def _rasters(self) -> list[DatasetReader | None]:
        if self._opened is None or self._opened[0] != os.getpid():
            stack = ExitStack()
            opened = [None if path is None else stack.enter_context(open_raster(path)) for path in self.files]
            self._opened = os.getpid(), stack, opened
        return self._opened[2]

    def close(self) -> None:
        """Close the rasters that this process opened."""
        if self._opened is not None:
            self._opened[1].close()
        self._opened = None

    def _read(self, row: int, columns: range) -> Chunk:
        *rasters, known = self._rasters()
        layout, side = self.layout, self.layout.side
        top, left = layout.tops[row], layout.lefts[columns[0]]
        box = left, top, layout.lefts[columns[-1]] + side, top + side
        how = self.config.nodata, self.reading, self.grid
        strips = [None if raster is None else read_window(raster, box, *how) for raster in rasters]
        samples = {}
        last = None if known is None else self._last_values(known, row, columns, box)
        for i, column in enumerate(columns):
            here = slice(layout.lefts[column] - left, layout.lefts[column] - left + side)
            shown = [self._shown(strip, here) for strip in strips]
            if all(tile is None for tile in shown):
                continue
            sample = {"frames": shown} | self.dated
            if last is not None:
                if self.config.answers == "change" and not np.isfinite(last[i]).all():
                    continue
                sample["last_values"] = last[i]
            samples[column] = sample
        seen = ~np.logical_and.reduce([strip[1] for strip in strips if strip is not None])
        return Chunk(row, samples, left, seen, columns[-1] + 1 == len(layout.lefts))

    def _shown(self, strip: tuple[np.ndarray, np.ndarray] | None, here: slice) -> np.ma.MaskedArray | None:
        """A tile's frame of a strip; None where there is none, or too little of it was measured."""
        if strip is None:
            return None
        pixels, holes = (part[:, here] for part in strip)
        return with_mask(pixels, holes) if can_be_seen(holes.mean(), self.config.max_nodata) else None

    def _last_values(
        self, known: DatasetReader, row: int, columns: range, box: tuple[int, int, int, int]
    ) -> np.ndarray:
        """(tiles, targets); of a raster with a pixel a pixel the mean over each tile."""
        if self.layout.stride is None:
            return read_numbers(known, (columns[0], row, columns[-1] + 1, row + 1))[0]
        pixels, side = read_numbers(known, box), self.layout.side
        means = np.full((len(columns), pixels.shape[-1]), np.nan)
        for i, column in enumerate(columns):
            left = self.layout.lefts[column] - box[0]
            for k, values in enumerate(np.moveaxis(pixels[:, left : left + side], -1, 0)):
                if np.isfinite(values).any():
                    means[i, k] = values[np.isfinite(values)].mean()
        return means


def band_names(config: TileSequenceConfig) -> list[str]:
    """Of a scene's answers: each target, its intervals' ends where they are calibrated; or each frame's bands."""
    if config.head == "image":
        kind = config.pixel_kind
        chosen = Reading.from_config(config.reading).chosen(len(kind["names"])) if kind else []
        given = [kind["names"][i] for i in chosen] if kind else [None] * config.bands
        names = [name or f"band_{i}" for i, name in enumerate(given, start=1)]
        leads = range(1, config.prediction_length + 1)
        return names if len(leads) == 1 else [f"lead_{lead}_{name}" for lead in leads for name in names]
    ends = ("low", "high") if config.interval_margin is not None else ()
    return [*config.targets, *(f"{end}_{name}" for end in ends for name in config.targets)]


def bands_of(answer: TilePrediction, side: int, resampling: str) -> np.ndarray:
    """A tile's answer as `band_names` names it: (bands, 1, 1), of frames (bands, side, side)."""
    if answer.image is None:
        parts = [answer.values, answer.low, answer.high]
        values = [value for part in parts if part is not None for value in part.values()]
        return np.array(values, np.float32)[:, None, None]
    size = answer.image.shape[-3:-1]
    image = np.moveaxis(answer.image, -1, -3).reshape(-1, *size)
    if size == (side, side):
        return image
    mode = "nearest-exact" if resampling == "nearest" else "bilinear"
    return F.interpolate(torch.from_numpy(image)[None], (side, side), mode=mode)[0].numpy()


class Blend:
    """Lines of a scene, finished row by row of tiles; where tiles overlap, their answers are averaged.

    A pixel's weight falls linearly from a tile's middle to its rim in both directions. Pixels that no frame measured stay
    NaN, as those that no answered tile holds.

    Args:
        bands: of the answers.
        classes: these are no measurements: a pixel of two tiles, at the right and lower rim, has the first one's answer.
    """

    def __init__(self, layout: Layout, bands: int, classes: bool = False):
        self.layout, self.classes, side = layout, classes, layout.side
        ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)) / ((side + 1) // 2)
        self.shares = np.outer(ramp, ramp).astype(np.float32)
        pixels = layout.stride is not None
        shape = (side, layout.width) if pixels else (1, len(layout.lefts))
        self.total, self.weight = np.zeros((bands, *shape), np.float32), np.zeros(shape, np.float32)
        self.seen = np.zeros(shape, bool)

    def add(self, chunk: Chunk, answers: Mapping[int, np.ndarray]) -> None:
        """Add the answers of some tiles of one row, by number of the tile."""
        if self.layout.stride is None:
            for column, answer in answers.items():
                self.total[:, 0, column] = answer[:, 0, 0]
                self.weight[0, column] = self.seen[0, column] = True
            return
        side = self.layout.side
        self.seen[:, chunk.left : chunk.left + chunk.seen.shape[1]] |= chunk.seen
        for column, answer in answers.items():
            left = self.layout.lefts[column]
            weight = self.weight[:, left : left + side]
            shares = np.where(weight > 0, 0, 1).astype(np.float32) if self.classes else self.shares
            self.total[:, :, left : left + side] += shares * answer
            weight += shares

    def finish(self, row: int) -> np.ndarray:
        """(bands, lines, width) float32 the lines that are finished with a row; those below go on with the next."""
        lines = len(self.layout.lines(row))
        known = (self.weight[:lines] > 0) & self.seen[:lines]
        with np.errstate(invalid="ignore", divide="ignore"):
            out = np.where(known, self.total[:, :lines] / self.weight[:lines], np.nan).astype(np.float32)
        self.total, self.weight = (
            np.concatenate([part[..., lines:, :], np.zeros_like(part[..., :lines, :])], -2)
            for part in (self.total, self.weight)
        )
        self.seen = np.zeros_like(self.seen)
        return out
