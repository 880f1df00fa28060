"""A frozen frame encoder's features: it sees every frame of every tile once, and an epoch costs seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from geohf.tiles.dataset import BoundRows, TileSequences
from geohf.tiles.masks import with_mask
from geohf.tiles.processing import TileSequenceProcessor, settings_of
from geohf.vision.features import cached_features
from geohf.vision.towers import tower_features
from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from geohf.tiles.arguments import TileTrainingArguments
    from geohf.tiles.cache import TilePixels
    from geohf.tiles.modeling import TileSequenceModel


OF_PIXELS = ("size", "image_mean", "image_std", "resampling", "reading")  # what a prepared frame depends on


class FeatureRows(BoundRows):
    """Rows whose frames a frozen encoder has seen.

    A batch is that of the rows, with `features` (n, steps, feature_size) in place of `pixel_values`.

    Args:
        rows: bound to the model.
        columns: all else that their batches hold.
        features: (frames, feature_size), the last one of no frame.
        numbers: (n, steps) which frame each step shows.
    """

    def __init__(
        self, rows: BoundRows, columns: dict[str, torch.Tensor], features: torch.Tensor, numbers: torch.Tensor
    ):
        super().__init__(rows.config)
        self.windows = rows.windows
        self.rows, self.columns, self.features, self.numbers = rows, columns, features, numbers

    def groups(self) -> np.ndarray:
        """As the rows'."""
        return self.rows.groups()

    def region_names(self) -> np.ndarray | None:
        """As the rows'."""
        return self.rows.region_names()

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The rows as one batch."""
        batch = {name: column[indices] for name, column in self.columns.items()}
        return batch | {"features": self.features[self.numbers[indices]]}


class TileFrames(Sequence):
    """Frames of tiles, each cut out of the cache when it is asked for.

    Args:
        tiles, steps: (n,) of each frame, ascending.
    """

    def __init__(self, cache: TilePixels, tiles: np.ndarray, steps: np.ndarray):
        self.cache, self.tiles, self.steps = cache, tiles, steps

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: Any) -> Any:
        return next(self._of_tile(self.tiles[index], self.steps[[index]]))

    def __iter__(self) -> Iterator[np.ma.MaskedArray]:
        """All frames; a tile is read once, not once a frame."""
        starts = np.flatnonzero(np.diff(self.tiles)) + 1
        for tile, steps in zip(self.tiles[np.r_[:1, starts]], np.split(self.steps, starts), strict=True):
            yield from self._of_tile(tile, steps)

    def _of_tile(self, tile: int, steps: np.ndarray) -> Iterator[np.ma.MaskedArray]:
        return map(with_mask, self.cache.tile(tile, steps), self.cache.tile_mask(tile, steps))


def feature_rows(model: TileSequenceModel, rows: Any, args: TileTrainingArguments) -> Any:
    """Rows with the features of the model's frame encoder, which is as it will stay.

    Those of a table's tiles come from the feature cache, which the next run reads; a user's own rows are seen once a run.

    Args:
        rows: `BoundRows`, bound to the model; a dict of such by name; None stays None.

    Returns:
        `FeatureRows`, or a dict of such.
    """
    if rows is None:
        return None
    if isinstance(rows, dict):
        return {name: feature_rows(model, part, args) for name, part in rows.items()}
    model.tower.to(args.device)
    if isinstance(rows, TileSequences):
        return _of_tiles(model, rows, args)
    return _of_rows(model, rows, args)


def _of_tiles(model: TileSequenceModel, rows: TileSequences, args: TileTrainingArguments) -> FeatureRows:
    windows = rows.windows
    tiles = np.broadcast_to(windows.rows[:, None], windows.frames.shape)
    pairs = np.stack([tiles, windows.frames], -1)[windows.mask]
    frames, number = np.unique(pairs, axis=0, return_inverse=True)
    settings = settings_of(rows.config)
    features = cached_features(
        model.tower,
        TileSequenceProcessor(**{name: settings[name] for name in OF_PIXELS}),
        TileFrames(rows.cache, *frames.T),
        **args.feature_settings,
    )
    numbers = torch.full(windows.mask.shape, len(frames))
    numbers[torch.from_numpy(windows.mask)] = torch.from_numpy(number.ravel())
    return FeatureRows(rows, rows.columns(np.arange(len(rows))), F.pad(features, (0, 0, 0, 1)), numbers)


@torch.inference_mode()
def _of_rows(model: TileSequenceModel, rows: BoundRows, args: TileTrainingArguments) -> FeatureRows:
    tower, parts, features = in_eval_mode(model.tower), [], []
    for chosen in torch.arange(len(rows)).split(args.feature_batch_size):
        batch = rows.__getitems__(chosen.tolist())
        pixels = batch.pop("pixel_values")[batch["step_mask"]]
        parts.append(batch)
        device = model.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(args.bf16)):
            for frames in pixels.split(args.feature_batch_size):
                features.append(tower_features(tower, frames.to(device)).float().cpu())
    steps = max(part["step_mask"].shape[1] for part in parts)
    for part in parts:
        front = 0, 0, steps - part["step_mask"].shape[1], 0
        part["step_mask"] = F.pad(part["step_mask"], front[2:])
        if "dates" in part:
            part["dates"] = F.pad(part["dates"], front)
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    mask = columns["step_mask"]
    numbers = torch.full(mask.shape, int(mask.sum()))
    numbers[mask] = torch.arange(int(mask.sum()))
    return FeatureRows(rows, columns, F.pad(torch.cat(features), (0, 0, 0, 1)), numbers)
