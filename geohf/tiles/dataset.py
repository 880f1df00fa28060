"""Windows as batches for a model, cut out of the cache by slices."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from geohf.errors import DataError
from geohf.tiles.cache import TileCache
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.frames import prepare_frames
from geohf.tiles.windows import TileWindows

STATISTICS_TILES = 1024  # so many training windows tell the bands' mean and spread

MOST_CLASSES = 32  # more different numbers are a measurement


class TileSequences(Dataset):
    """Batches of `pixel_values`, `step_mask`, `last_values` and `labels` for a `TileSequenceModel`.

    Args:
        cache: of the table that the windows belong to.
        windows: what to ask.
        config: of the model: input size, bands' mean and spread, head.
        augment: turn and mirror, alike for all frames of a window and its target.
    """

    def __init__(
        self, cache: TileCache, windows: TileWindows, config: TileSequenceConfig, augment: bool = False
    ):
        self.cache, self.windows, self.augment = cache, windows, augment
        self.size, self.image = tuple(config.image_size), config.head == "image"
        self.scaling, self.resampling = (config.band_mean, config.band_std), config.resampling

    def key_arrays(self) -> dict[str, np.ndarray]:
        """What tells it from other windows."""
        return dict(vars(self.windows))

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The windows as one batch: use `collate_fn=batch_as_is`."""
        windows = self.windows.take(np.asarray(indices))
        frames, mask = windows.frames, windows.mask
        if self.image:  # the target is one frame more
            frames, mask = np.c_[frames, windows.steps], np.c_[mask, np.ones(len(mask), bool)]
        raw, holes = self.cache.read(windows.rows, frames), self.cache.masks(windows.rows, frames)
        sizes = self.cache.sizes[windows.rows]
        pixels = self._prepared(raw, holes, sizes, mask)
        batch = {
            "step_mask": torch.from_numpy(windows.mask),
            "last_values": torch.from_numpy(windows.last.astype(np.float32)),
            "labels": torch.from_numpy(windows.truth.astype(np.float32)),
        }
        if self.image:
            batch["labels"] = self._measured(holes[:, -1], pixels[:, -1], sizes)
            pixels = pixels[:, :-1]
        batch["pixel_values"] = pixels
        return turned(batch, self.image) if self.augment else batch

    def _prepared(
        self, raw: np.ndarray, holes: np.ndarray, sizes: np.ndarray, mask: np.ndarray
    ) -> torch.Tensor:
        """(n, steps, height, width, bands) native and padded, to (n, steps, bands, *size) standardised."""
        n, steps, bands = *raw.shape[:2], raw.shape[-1]
        out = torch.zeros(n, steps, *self.size, bands).movedim(-1, 2)
        for height, width in np.unique(sizes, axis=0).tolist():
            here = np.flatnonzero((sizes == (height, width)).all(1))
            frames = raw[here, :, :height, :width].reshape(-1, height, width, bands)
            unmeasured = holes[here, :, :height, :width].reshape(-1, height, width)
            ready = prepare_frames(frames, self.size, *self.scaling, unmeasured, self.resampling)
            out[here] = ready.unflatten(0, (len(here), steps))
        out[~torch.from_numpy(mask)] = 0
        return out

    def _measured(self, holes: np.ndarray, target: torch.Tensor, sizes: np.ndarray) -> torch.Tensor:
        """The target frames with NaN where nothing was measured."""
        labels = target.clone()
        for i, (height, width) in enumerate(sizes.tolist()):
            hole = torch.from_numpy(holes[i, :height, :width]).float()[None, None]
            if hole.any():
                labels[i, :, F.interpolate(hole, self.size, mode="bilinear")[0, 0] > 0] = torch.nan
        return labels


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


def band_statistics(cache: TileCache, windows: TileWindows, seed: int = 0) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every band over what training windows may see.

    Returns:
        Two lists of `bands` floats; a constant band has the spread 1.

    Raises:
        DataError: all bands are constant.
    """
    chosen = np.random.default_rng(seed).permutation(len(windows))[:STATISTICS_TILES]
    sums = np.zeros((3, cache.array.shape[-1]))
    for i in np.sort(chosen):
        row, steps = windows.rows[i], windows.frames[i, windows.mask[i]]
        values = cache.tile(row, steps)[~cache.tile_mask(row, steps)].astype(np.float64)
        sums += [np.full(len(values.T), len(values)), values.sum(0), (values**2).sum(0)]
    count, total, squares = sums
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    if not (std > 1e-6).any():
        raise DataError(
            f"all training pixels are the same in every band ({', '.join(f'{value:g}' for value in mean)}), so there is "
            "nothing to see"
        )
    return mean.tolist(), np.where(std > 1e-6, std, 1.0).tolist()


def class_numbers(cache: TileCache, windows: TileWindows) -> list[int]:
    """The numbers that training pixels hold, where these are whole, of one band, and so few that they may be classes."""
    if cache.array.shape[-1] > 1 or cache.array.dtype.kind not in "iu":
        return []
    found: set[int] = set()
    for i in range(min(len(windows), STATISTICS_TILES)):
        row, steps = windows.rows[i], windows.frames[i, windows.mask[i]]
        found.update(np.unique(cache.tile(row, steps)[~cache.tile_mask(row, steps)]).tolist())
        if len(found) > MOST_CLASSES:
            return []
    return sorted(found)
