"""Descriptors of a whole area on disk, to search with one photograph or thousands."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geohf.data.samples import name_of
from geohf.data.tables import points_of
from geohf.errors import DataError, listed
from geohf.geo import check_points
from geohf.place.drives import by_time, files_of, load_drives, names_of
from geohf.place.encoding import Encoder, encode_rows
from geohf.place.fingerprints import require_same_model
from geohf.place.index_files import Contents, read_index, write_index
from geohf.place.index_search import Engine, IndexSearch
from geohf.place.search import unit_descriptors
from geohf.place.sequences import drive_names
from geohf.place.storage import check_storage, principal_axes, project, storage_of
from geohf.place.verification import LocalFeatures
from geohf.vision.weights import aligned

logger = logging.getLogger(__name__)


class PlaceIndex(IndexSearch):
    """Images of known places with their descriptors.

    Args:
        descriptors: (n, d), numpy or torch; their length does not matter.
        points: (n, 2) latitude and longitude in degrees.
        images: n names.
        model: fingerprint of the model that made the descriptors, see `GeoPlaceModel.fingerprint`.
        sequences: n names of drives, whose images stand in the order of time; one drive if None.
        storage: how descriptors are kept: `float32`, `float16`, `int8`, or `signs` (a bit a number, and float16 rows that
            a loaded index leaves on disk), see `geohf.place.storage`.
        dims: numbers of a descriptor that are kept, along its principal axes; None: all of them. Answers of such an index
            have no confidence: cosines of a part are higher.

    Raises:
        DataError: descriptors that cannot be compared, points that are no degrees, parts of other lengths, an unknown storage.
    """

    def __init__(
        self,
        descriptors: Any,
        points: Any,
        images: list[str],
        model: str,
        sequences: Sequence[str] | None = None,
        storage: str = "float32",
        dims: int | None = None,
    ):
        unit = unit_descriptors(aligned(torch.as_tensor(descriptors)))  # from a file or not
        axes = None if dims is None else principal_axes(unit, dims)
        rows = check_storage(storage).of(project(unit, axes))
        self._hold(Contents(rows, points, list(images), model, _listed_drives(sequences), axes))

    def _hold(self, contents: Contents) -> None:
        rows, points, images, model, sequences, axes, local = contents
        points, images = check_points(points), list(map(str, images))
        parts: dict[str, Any] = {"descriptors": rows, "points": points, "images": images}
        parts |= {"sequences": sequences, "local features": local}
        counts = {name: len(part) for name, part in parts.items() if part is not None}
        if len({*counts.values()}) != 1:
            raise DataError(f"an index of {', '.join(f'{count} {name}' for name, count in counts.items())}")
        self.rows, self.points, self.images, self.model = rows, points, images, model
        self.sequences, self.axes, self.local = sequences, axes, local
        self._engines: dict[tuple[str, bool], Engine] = {}

    @property
    def descriptors(self) -> torch.Tensor:
        """(n, d) float32, as far as they are kept."""
        return self.rows[:]

    def __repr__(self) -> str:
        return f"PlaceIndex({len(self)} images, {self.rows.size} numbers each as {storage_of(self.rows)})"

    @classmethod
    def build(
        cls,
        model: Encoder,
        images: Any,
        points,
        batch_size: int = 32,
        names: Sequence[str] | None = None,
        sequences: Sequence[str] | None = None,
        storage: str = "float32",
        dims: int | None = None,
        local: bool = False,
    ) -> PlaceIndex:
        """Encode images of known places, 4096 at a time, so that memory holds two times what is kept of them.

        Args:
            images: n images of any kind that `predict` takes.
            points: (n, 2) degrees.
            names: what answers call the images; by default their paths as given, or their numbers.
            sequences, storage, dims: see `PlaceIndex`, and `encode_rows` for more than 4096 images.
            local: keep local features, too, which `verify` asks for, see `geohf.place.verification.LocalFeatures`: one more
                pass of the backbone, and for each place of its map 256 bytes or less, which a loaded index leaves on disk.

        Raises:
            DataError: no image, points that are no degrees, an image that cannot be opened.
        """
        samples = model.samples(images)
        samples = samples if hasattr(samples, "__len__") else list(samples)
        rows, axes = encode_rows(model, samples, batch_size, storage, dims)
        if names is None:
            names = [name_of(sample, row) for row, sample in enumerate(samples)]
        features = LocalFeatures.of_images(model, samples, batch_size) if local else None
        named = np.asarray(points), list(names), model.fingerprint(), _listed_drives(sequences)
        return cls._of(Contents(rows, *named, axes, features))

    @classmethod
    def _of(cls, contents: Contents) -> PlaceIndex:
        index = cls.__new__(cls)
        index._hold(contents)
        return index

    @classmethod
    def from_drives(
        cls,
        model: Encoder,
        sources: str | os.PathLike | Sequence[str | os.PathLike],
        batch_size: int = 32,
        storage: str = "float32",
        dims: int | None = None,
        local: bool = False,
        **options,
    ) -> PlaceIndex:
        """Encode the images of tables and folders that say where they were taken, each drive in the order of time.

        Args:
            storage, dims, local: see `build`.
            sources, options: see `geohf.place.drives.load_drives`.

        Raises:
            DataError: see `load_drives`.
        """
        images, _ = load_drives(sources, **options)
        images, _, unbroken = by_time(images)  # images on both sides of a gap do not follow each other
        names = names_of(images)
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            logger.warning("images that are in the index more than once, and answer so: %s", listed(twice))
        told = points_of(images), batch_size, names, unbroken.tolist()
        return cls.build(model, files_of(images), *told, storage, dims, local)

    def add(self, other: PlaceIndex) -> None:
        """Take in the images of another index by the same model; its descriptors are kept as those here are.

        Raises:
            DataError: an index of another model, size of pictures or axes, or an image that is here already.
        """
        require_same_model(self.model, other.model)
        if self.local is not None or other.local is not None:
            raise DataError("local features are of one build: build the index of all images, or without them")
        if other.axes is not None and (self.axes is None or not torch.equal(self.axes, other.axes)):
            raise DataError("the other index keeps other axes of its descriptors; build it with whole ones")
        twice = sorted({*self.images} & {*other.images})
        if twice:
            raise DataError(f"images that are in the index already: {listed(twice)}; remove them first")
        unit = unit_descriptors(other.descriptors)
        rows = self.rows.append(unit if other.axes is not None else project(unit, self.axes))
        sequences = None
        if self.sequences is not None or other.sequences is not None:
            sequences = [name for part in (self, other) for name in part.sequences or [""] * len(part)]
        points = np.concatenate([self.points, other.points])
        self._hold(Contents(rows, points, [*self.images, *other.images], self.model, sequences, self.axes))

    def remove(self, images: Sequence[str]) -> None:
        """Forget images by their names.

        Raises:
            DataError: a name that the index does not hold, or no image would be left.
        """
        gone = {images} if isinstance(images, str) else {*images}
        unknown = sorted(gone - {*self.images})
        if unknown:
            raise DataError(f"images that are not in the index: {listed(unknown)}")
        kept = np.flatnonzero([name not in gone for name in self.images])
        if not len(kept):
            raise DataError("no image would be left in the index")
        sequences = None if self.sequences is None else [self.sequences[row] for row in kept]
        names = [self.images[row] for row in kept]
        rows, local = self.rows.select(kept), None if self.local is None else self.local.select(kept)
        self._hold(Contents(rows, self.points[kept], names, self.model, sequences, self.axes, local))

    def save(self, path: str | os.PathLike) -> None:
        """Write one file: `.safetensors`, or `.parquet` with `image`, `latitude`, `longitude`, `descriptor` a row.

        Raises:
            DataError: another ending, or Parquet for what is not float32.
        """
        write_index(Path(path), self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> PlaceIndex:
        """Read what `save` wrote; the rows behind `signs` stay on disk, so the file must stay where it is.

        Raises:
            DataError: no such file, or one that is no index.
        """
        return read_index(Path(path), cls._of)


def _listed_drives(sequences: Sequence[str] | None) -> list[str] | None:
    return None if sequences is None or not len(sequences) else drive_names(sequences)


@lru_cache(maxsize=1)
def load_once(path: Path, changed_ns: int) -> PlaceIndex:
    """`PlaceIndex.load`; the last one stays in memory for the next batch, as long as the file's time of change is the same."""
    return PlaceIndex.load(path)
