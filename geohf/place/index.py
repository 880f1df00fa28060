"""Descriptors of a whole area on disk, to search with one photograph or thousands."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from geohf.data.samples import name_of
from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo import check_points
from geohf.io import atomic_write
from geohf.place.drives import files_of, load_drives, names_of
from geohf.place.search import top_k, unit_descriptors
from geohf.place.sequences import Center, SequenceMatches, center_descriptors, match_sequences
from geohf.vision.weights import aligned

FORMATS = (".safetensors", ".parquet")


class Encoder(Protocol):
    """What an index asks of a model, as `GeoPlaceModel` has it."""

    @property
    def config(self) -> Any: ...

    def samples(self, inputs: Any, /) -> Any: ...

    def encode(self, images: Any, batch_size: int = 32) -> np.ndarray: ...

    def fingerprint(self) -> str: ...


@dataclass
class PlaceIndex:
    """Images of known places with their descriptors.

    Attributes:
        descriptors: (n, d) float32 of length 1.
        points: (n, 2) latitude and longitude in degrees.
        images: n names.
        model: fingerprint of the model that made the descriptors, see `GeoPlaceModel.fingerprint`.
        sequences: n names of drives, whose images stand in the order of time; one drive if None.
    """

    descriptors: torch.Tensor
    points: np.ndarray
    images: list[str]
    model: str
    sequences: list[str] | None = None

    def __post_init__(self):
        self.descriptors = unit_descriptors(aligned(torch.as_tensor(self.descriptors)))  # from a file or not
        self.points = check_points(self.points)
        lengths = {len(self.descriptors), len(self.points), len(self.images)}
        if len(lengths) != 1:
            raise DataError(
                f"{len(self.descriptors)} descriptors, {len(self.points)} points and {len(self.images)} images"
            )

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def build(
        cls,
        model: Encoder,
        images: Any,
        points,
        batch_size: int = 32,
        names: Sequence[str] | None = None,
    ) -> PlaceIndex:
        """Encode images of known places.

        Args:
            images: n images of any kind that `predict` takes.
            points: (n, 2) degrees.
            names: what answers call the images; by default their paths as given, or their numbers.

        Raises:
            DataError: no image, points that are no degrees, an image that cannot be opened.
        """
        samples = model.samples(images)
        samples = samples if hasattr(samples, "__len__") else list(samples)
        if not len(samples):
            raise DataError("there are no images to index")
        descriptors = model.encode(samples, batch_size=batch_size)
        if names is None:
            names = [name_of(sample, row) for row, sample in enumerate(samples)]
        return cls(descriptors, np.asarray(points), list(names), model.fingerprint())

    @classmethod
    def from_drives(
        cls,
        model: Encoder,
        sources: str | os.PathLike | Sequence[str | os.PathLike],
        batch_size: int = 32,
        **options,
    ) -> PlaceIndex:
        """Encode the images of tables and folders that say where they were taken.

        Args:
            sources, options: see `geohf.place.drives.load_drives`.

        Raises:
            DataError: see `load_drives`.
        """
        images, _ = load_drives(sources, **options)
        return cls.build(model, files_of(images), points_of(images), batch_size, names_of(images))

    # ---- disk

    def save(self, path: str | os.PathLike) -> None:
        """Write one file: `.safetensors`, or `.parquet` with `image`, `latitude`, `longitude`, `descriptor` a row.

        Raises:
            DataError: another ending.
        """
        path = Path(path)
        if index_format(path) == ".safetensors":
            from safetensors.torch import save

            content = save(
                {"descriptors": self.descriptors.cpu().contiguous(), "points": torch.from_numpy(self.points)},
                metadata={"model": self.model, "images": json.dumps(self.images)},
            )
            with atomic_write(path, binary=True) as file:
                file.write(content)
        else:
            import pyarrow as pa
            import pyarrow.parquet

            flat = pa.array(self.descriptors.cpu().numpy().reshape(-1))
            table = pa.table(
                {
                    "image": self.images,
                    "latitude": self.points[:, 0],
                    "longitude": self.points[:, 1],
                    "descriptor": pa.FixedSizeListArray.from_arrays(flat, self.descriptors.shape[1]),
                }
            ).replace_schema_metadata({"geohf_model": self.model})
            with atomic_write(path, binary=True) as file:
                pyarrow.parquet.write_table(table, file)

    @classmethod
    def load(cls, path: str | os.PathLike) -> PlaceIndex:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or one that is no index.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such index; recipes/index_places.py makes one")
        read = _read_safetensors if index_format(path) == ".safetensors" else _read_parquet
        try:
            return cls(*read(path))
        except DataError:
            raise
        except (KeyError, OSError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{path}: is no place index ({error})") from None

    # ---- questions

    def check_model(self, model: Encoder) -> None:
        """Refuse a model whose descriptors do not compare with these.

        Raises:
            DataError: descriptors of another length, or of a model with other weights.
        """
        size = model.config.descriptor_size
        if size != self.descriptors.shape[1]:
            raise DataError(
                f"the index holds descriptors of length {self.descriptors.shape[1]} and this model gives {size}: it "
                "was built with another model; build it anew"
            )
        (built, _, built_in), (asked, _, asked_in) = (
            self.model.partition(" "),
            model.fingerprint().partition(" "),
        )
        if built == asked:
            return
        if built_in and built_in != asked_in:
            raise DataError(
                f"the index was built in {built_in} and this model is in {asked_in}: load it with "
                f"dtype=torch.{built_in}, or build the index anew"
            )
        raise DataError(
            "the index was built with another model, or before this one was trained further; build it anew"
        )

    def search(
        self, descriptors, k: int = 5, center: Center = "none", sequences: Sequence | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k most similar images of every question.

        Args:
            descriptors: (q, d).
            k: at most as many as the index holds.
            center, sequences: see `geohf.place.sequences.center_descriptors`; the index counts as one drive.

        Returns:
            similarity (q, k) descending, rows (q, k).

        Raises:
            DataError: see `geohf.place.search.top_k`.
        """
        database, queries = center_descriptors(self.descriptors, descriptors, sequences, center)
        similarity, rows = top_k(database, queries, k)
        return similarity.cpu().numpy(), rows.cpu().numpy()

    def match(
        self,
        descriptors,
        k: int = 5,
        center: Center = "none",
        sequences: Sequence | None = None,
        **options,
    ) -> tuple[np.ndarray, SequenceMatches]:
        """The k best images of every frame of some drives, each drive answered as a whole.

        Args:
            descriptors: (q, d), in the order of time within each drive.
            k: at most as many as the index holds.
            center, sequences: see `geohf.place.sequences.center_descriptors`; the index counts as one drive.
            options: see `geohf.place.sequences.match_sequences`.

        Returns:
            (q, k) cosines of the answers, and the answers.

        Raises:
            DataError: see `match_sequences`.
        """
        database, queries = center_descriptors(self.descriptors, descriptors, sequences, center)
        similarity = queries @ database.T
        found = match_sequences(similarity, sequences, self.sequences, k=k, **options)
        return np.take_along_axis(similarity.cpu().numpy(), found.rows, 1), found


def index_format(path: str | os.PathLike) -> str:
    """The ending of an index's file, one of `FORMATS`.

    Raises:
        DataError: another ending.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: an index is a file that ends in {' or '.join(FORMATS)}")
    return path.suffix


@lru_cache(maxsize=1)
def load_once(path: Path, changed_ns: int) -> PlaceIndex:
    """`PlaceIndex.load`; the last one stays in memory, for programs that ask batch by batch.

    Args:
        changed_ns: the file's time of change, which tells versions of it apart.
    """
    return PlaceIndex.load(path)


def _read_safetensors(path: Path) -> tuple:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = [file.get_tensor(name) for name in ("descriptors", "points")]
    except SafetensorError as error:
        raise DataError(f"{path}: is no place index ({error})") from None
    return tensors[0], tensors[1].numpy(), json.loads(metadata["images"]), metadata["model"]


def _read_parquet(path: Path) -> tuple:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    model = (table.schema.metadata or {})[b"geohf_model"].decode()
    column = table["descriptor"].combine_chunks()
    descriptors = column.flatten().to_numpy().reshape(len(column), -1)
    points = np.stack([table[name].to_numpy() for name in ("latitude", "longitude")], 1)
    return torch.from_numpy(descriptors.copy()), points, table["image"].to_pylist(), model
