"""What a user hands over, as samples: the one place that decides what is one sample, and what is many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

from geohf.errors import DataError


def is_one(inputs: Any, dimensions: int = 3) -> bool:
    """Whether this is one sample: a name, bytes, a file, a picture, a dict, or an array of so many dimensions.

    >>> is_one("a.jpg"), is_one(["a.jpg"]), is_one(("a.jpg", "b.jpg")), is_one(np.zeros((2, 8, 8, 3)))
    (True, False, False, False)
    """
    if isinstance(inputs, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return True
    if callable(getattr(inputs, "read", None)):  # an open file would give its lines
        return True
    if isinstance(inputs, Mapping):
        return not _is_splits(inputs)
    if _is_array(inputs):
        return inputs.ndim <= dimensions
    return not isinstance(inputs, Iterable) and not hasattr(inputs, "__getitem__")


def samples_of(inputs: Any, dimensions: int = 3) -> Sequence | Iterable:
    """The samples of whatever a user has, in order; none is read before it is asked for.

    Args:
        inputs: one sample, see `is_one`, or many: a list, a tuple, an array or tensor of one dimension more, or of
            names; a pandas or pyarrow table, whose rows are samples, or a column of it; a dataset, its splits, or a
            column of it; anything with `__len__` and `__getitem__`; anything that can be iterated.
        dimensions: of one sample as an array.

    Raises:
        DataError: a set, which has no order, or a DataLoader, whose batches are no samples.
    """
    if is_one(inputs, dimensions):
        return [inputs]
    if _is_splits(inputs):
        return _of_splits(inputs)
    if hasattr(inputs, "cast_column"):
        return without_decoding(inputs)
    if isinstance(inputs, (set, frozenset)):
        raise DataError("a set of samples has no order in which to answer; make a list of it")
    if hasattr(inputs, "collate_fn"):
        raise DataError("a DataLoader gives batches and no samples; give its `dataset`")
    if hasattr(inputs, "iloc") and hasattr(inputs, "columns"):
        return _of_frame(inputs)
    if hasattr(inputs, "to_pylist"):  # pyarrow
        return inputs.to_pylist()
    if hasattr(inputs, "to_dicts"):  # polars
        return inputs.to_dicts()
    if isinstance(inputs, (list, tuple, np.ndarray)) or hasattr(inputs, "iloc") or _is_array(inputs):
        return list(inputs)
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return _Lazy(inputs)
    return inputs


def name_of(sample: Any, position: int) -> str:
    """What a sample is called: its file, where it has one, else its position."""
    if isinstance(sample, Mapping):
        if sample.get("path"):
            return str(sample["path"])
        return name_of(sample["image"], position) if "image" in sample else str(position)
    if isinstance(sample, (str, os.PathLike)):
        return os.fspath(sample)
    name = getattr(sample, "filename", None) or getattr(sample, "name", None)
    return str(name) if isinstance(name, (str, os.PathLike)) and str(name) else str(position)


def without_decoding(dataset):
    """A `datasets.Dataset` or stream as Python rows whose image columns give paths and bytes, for `open_image`.

    It decodes with better errors, at a smaller scale where that suffices, and only when needed; torch's format would
    give other pixels of palettes and 16 bits. Left as they are: a dataset with a transform of its own, a stream that
    does not know its columns, as `map` leaves it, and what is no dataset. Of a dict each split is taken.
    """
    if isinstance(dataset, dict):
        return {name: without_decoding(split) for name, split in dataset.items()}
    if not hasattr(dataset, "cast_column"):
        return dataset
    from datasets import Image as ImageFeature
    from datasets import List

    if not hasattr(dataset, "format"):  # a stream
        if getattr(dataset, "_formatting", None) is not None:
            dataset = dataset.with_format(None)
    elif dataset.format["type"] == "custom":
        return dataset
    elif dataset.format["type"] is not None or set(dataset.format["columns"]) != set(dataset.column_names):
        hidden = not dataset.format["output_all_columns"]
        dataset = (dataset.select_columns(dataset.format["columns"]) if hidden else dataset).with_format(None)
    for name, feature in (dataset.features or {}).items():
        entry = feature.feature if isinstance(feature, List) else feature
        if isinstance(entry, ImageFeature) and entry.decode:
            stored = ImageFeature(decode=False)
            dataset = dataset.cast_column(name, stored if entry is feature else List(stored))
    return dataset


class _Lazy(Sequence):
    """What has `__len__` and `__getitem__`, as torch's datasets and the columns of datasets have, and no more."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows[index]


class _Splits:
    """Streams one after the other."""

    def __init__(self, datasets: Sequence[Iterable]):
        self.datasets = datasets

    def __iter__(self) -> Iterator:
        return chain.from_iterable(self.datasets)


def _is_splits(inputs: Any) -> bool:
    whole = isinstance(inputs, Mapping) and bool(inputs)
    return whole and all(hasattr(split, "cast_column") for split in inputs.values())


def _of_splits(splits: Mapping):
    from datasets import Dataset, concatenate_datasets

    rows = [without_decoding(split) for split in splits.values()]
    alike = all(isinstance(split, Dataset) and split.format["type"] != "custom" for split in rows)
    if alike and len({str(sorted(split.features.items(), key=str)) for split in rows}) == 1:
        return concatenate_datasets(rows)
    return _Splits(rows)


def _of_frame(frame) -> list[dict]:
    import pandas as pd

    def cell(value):
        return None if pd.api.types.is_scalar(value) and pd.isna(value) else value

    return [{name: cell(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _is_array(inputs: Any) -> bool:
    """Whether this holds numbers in dimensions: numpy's, torch's and their like, but no table's column of objects."""
    if not hasattr(inputs, "ndim") or not hasattr(inputs, "dtype") or hasattr(inputs, "iloc"):
        return False
    return getattr(inputs.dtype, "kind", "f") in "buifc"
