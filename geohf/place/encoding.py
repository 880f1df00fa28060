"""Photographs to the rows of an index, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch

from geohf.errors import DataError
from geohf.place.search import unit_descriptors
from geohf.place.storage import FloatRows, check_storage, principal_axes, project

_BLOCK = 4096  # images that are encoded before their descriptors are stored


class Encoder(Protocol):
    """What an index asks of a model, as `GeoPlaceModel` has it."""

    @property
    def config(self) -> Any: ...

    def samples(self, inputs: Any, /) -> Any: ...

    def encode(self, images: Any, batch_size: int = 32) -> np.ndarray: ...

    def fingerprint(self) -> str: ...

    def local_maps(self, images: Any, batch_size: int = 32) -> Iterator[torch.Tensor]: ...


def encode_rows(
    model: Encoder, samples: Any, batch_size: int, storage: str, dims: int | None
) -> tuple[FloatRows, torch.Tensor | None]:
    """The stored descriptors of samples, and the axes along which they are kept.

    What `signs` and `dims` take from the descriptors, their mean and axes, is that of 4096 images from all over.

    Args:
        samples: in order and by number.
        storage, dims: see `PlaceIndex`.

    Raises:
        DataError: no sample, one that cannot be opened, an unknown storage.
    """
    kind = check_storage(storage)
    if not len(samples):
        raise DataError("there are no images to index")
    learned = len(samples) > _BLOCK and (storage == "signs" or dims is not None)
    spread = np.linspace(0, len(samples) - 1, _BLOCK).astype(int).tolist()
    shown = [samples[row] for row in spread] if learned else list(islice(iter(samples), _BLOCK))
    first = unit_descriptors(model.encode(shown, batch_size=batch_size))
    axes = None if dims is None else principal_axes(first, dims)
    rows = kind.of(project(first, axes))
    if learned:
        rows = rows.select(np.arange(0))
    for block in _blocks(samples, 0 if learned else _BLOCK):
        rows = rows.append(project(unit_descriptors(model.encode(block, batch_size=batch_size)), axes))
    return rows, axes


def _blocks(samples: Any, start: int) -> Iterator[list]:
    """The samples from there on, so many at a time, with a progress bar where there are several blocks."""
    from tqdm.auto import tqdm

    rows = islice(iter(samples), start, None)
    with tqdm(total=len(samples), initial=start, desc="index", disable=len(samples) <= _BLOCK) as bar:
        while block := list(islice(rows, _BLOCK)):
            yield block
            bar.update(len(block))
