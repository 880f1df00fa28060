"""Files of an index: `.safetensors` for every storage, `.parquet` with a row per image for float32."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from geohf.errors import DataError
from geohf.io import atomic_path
from geohf.place.index_search import IndexSearch
from geohf.place.search import unit_descriptors
from geohf.place.storage import FloatRows, check_storage, storage_of
from geohf.place.verification import LocalFeatures
from geohf.vision.weights import aligned

FORMATS = (".safetensors", ".parquet")
_COLUMNS = ("latitude", "longitude")
_DAMAGED = (AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)
Index = TypeVar("Index")


class Contents(NamedTuple):
    """What an index holds, see `PlaceIndex`."""

    rows: FloatRows
    points: np.ndarray
    images: list[str]
    model: str
    sequences: list[str] | None
    axes: torch.Tensor | None
    local: LocalFeatures | None = None


def index_format(
    path: str | os.PathLike, storage: str = "float32", dims: int | None = None, local: bool = False
) -> str:
    """The ending of an index's file, one of `FORMATS`.

    Raises:
        DataError: another ending, or one that does not hold this storage.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: an index is a file that ends in {' or '.join(FORMATS)}")
    if path.suffix == ".parquet" and (check_storage(storage) is not FloatRows or dims is not None or local):
        raise DataError(
            f"{path}: a .parquet index holds whole float32 descriptors alone; name it .safetensors"
        )
    return path.suffix


def write_index(path: Path, index: IndexSearch) -> None:
    """Write one file, or DataError, see `index_format`."""
    dims = None if index.axes is None else len(index.axes)
    ending = index_format(path, storage_of(index.rows), dims, index.local is not None)
    with atomic_path(path) as temporary:
        (_write_safetensors if ending == ".safetensors" else _write_parquet)(temporary, index)


def read_index(path: Path, make: Callable[[Contents], Index]) -> Index:
    """What is made of a file that `write_index` wrote, now or in geohf 0.1.

    Raises:
        DataError: no such file, or one that is no index, in one line; also where `make` refuses what it holds.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such index; recipes/index_places.py makes one")
    read = _read_safetensors if index_format(path) == ".safetensors" else _read_parquet
    try:
        return make(read(path))
    except (*_DAMAGED, SafetensorError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(f"{path}: is no place index, or is damaged ({reason}); build it anew") from None


def _write_safetensors(path: Path, index: IndexSearch) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.cpu().contiguous() for name, tensor in index.rows.tensors.items()}
    tensors["points"] = torch.from_numpy(index.points)
    if index.axes is not None:
        tensors["axes"] = index.axes
    if index.local is not None:
        tensors["local"] = index.local.rows.contiguous()
        if index.local.axes is not None:
            tensors["local_axes"] = index.local.axes
    metadata = {"model": index.model, "images": json.dumps(index.images), "storage": storage_of(index.rows)}
    if index.sequences is not None:
        metadata["sequences"] = json.dumps(index.sequences)
    save_file(tensors, path, metadata)


def _read_safetensors(path: Path) -> Contents:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        names = set(file.keys())
        tensors = {name: aligned(file.get_tensor(name)) for name in names - {"exact", "local"}}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
    points = tensors.pop("points").numpy()
    axes, local_axes = (tensors.pop(name, None) for name in ("axes", "local_axes"))
    local = LocalFeatures(map_tensor(path, "local"), local_axes) if "local" in names else None
    if "exact" in names:
        tensors["exact"] = map_tensor(path, "exact")
    kind = check_storage(metadata.get("storage", "float32"))
    if kind is FloatRows:
        tensors["descriptors"] = unit_descriptors(tensors["descriptors"])  # they may come from anywhere
    images, sequences = (_names(metadata, name) for name in ("images", "sequences"))
    if images is None:
        raise KeyError("images")
    rows = kind(**tensors)
    if axes is not None and (axes.ndim != 2 or len(axes) != rows.size):
        raise ValueError(f"axes of the shape {tuple(axes.shape)} for descriptors of {rows.size} numbers")
    return Contents(rows, points, images, metadata["model"], sequences, axes, local)


def _names(metadata: Mapping[str, str], name: str) -> list[str] | None:
    names = json.loads(metadata[name]) if name in metadata else None
    if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        raise ValueError(f"{name} is no list of names")
    return names


def map_tensor(path: Path, name: str) -> torch.Tensor:
    """A float16 tensor of a safetensors file that stays on disk: what is read of it is read when it is asked for."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        told: dict[str, Any] = json.loads(file.read(length))[name]
    if told["dtype"] != "F16":
        raise ValueError(f"{name} is {told['dtype']} and not F16")
    begin = 8 + length + told["data_offsets"][0]
    # copy-on-write, which torch takes without a warning; nothing is written
    return torch.from_numpy(np.memmap(path, np.float16, "c", begin, tuple(told["shape"])))


def _write_parquet(path: Path, index: IndexSearch) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    descriptors = index.rows[:]
    flat = pa.array(descriptors.cpu().numpy().reshape(-1))
    columns: dict[str, Any] = {"image": index.images}
    columns |= {name: index.points[:, i] for i, name in enumerate(_COLUMNS)}
    if index.sequences is not None:
        columns["sequence"] = index.sequences
    columns["descriptor"] = pa.FixedSizeListArray.from_arrays(flat, descriptors.shape[1])
    table = pa.table(columns).replace_schema_metadata({"geohf_model": index.model})
    pyarrow.parquet.write_table(table, path)


def _read_parquet(path: Path) -> Contents:
    import pyarrow.compute
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    known = {"image", *_COLUMNS, "sequence", "descriptor"}  # what a user adds beside them may have holes
    table = table.select([name for name in table.column_names if name in known])
    empty = [name for name in table.column_names if table[name].null_count]
    if empty:
        raise ValueError(f"rows without {' and '.join(empty)}")
    model = (table.schema.metadata or {})[b"geohf_model"].decode()
    column = table["descriptor"].combine_chunks()
    if len(pyarrow.compute.list_value_length(column).unique()) != 1:
        raise ValueError("descriptors of several lengths, or none")
    descriptors = column.flatten().to_numpy().reshape(len(column), -1)
    points = np.stack([table[name].to_numpy() for name in _COLUMNS], 1)
    sequences = table["sequence"].to_pylist() if "sequence" in table.column_names else None
    rows = FloatRows(descriptors=unit_descriptors(aligned(torch.from_numpy(descriptors.copy()))))
    return Contents(rows, points, table["image"].to_pylist(), model, sequences, None)
