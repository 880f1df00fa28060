"""Answers on a Ray cluster: `pip install 'geohf[ray]'`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from geohf.errors import DataError
from geohf.io import json_text
from geohf.models.loading import load_model


class RayPredictor:
    """A callable for `ray.data.Dataset.map_batches`: each actor loads the model once, and answers batch after batch.

    The columns of a batch stay, and the answers come beside them as `predicted_latitude` and so on, see the model's
    `rows_of`; dicts are JSON text, and so are the rows of a photo with parts, in `predicted_parts`.

    Args:
        model: a folder that every machine sees, or a repo of the Hub.
        column: of the pictures: paths, addresses, bytes, or arrays as `ray.data.read_images` gives them.
        device: by default the actor's GPU, where it was given one (`num_gpus=1`), else the CPU.
        options: of the model's `predict`.

    Raises:
        DataError: there is no such model; as batches come, a missing column, or a picture that cannot be opened.

    For example, two actors with half a GPU each::

        photos = ray.data.read_parquet("s3://bucket/photos")
        answers = photos.map_batches(
            RayPredictor, fn_constructor_args=["org/geo-street"], batch_size=64, concurrency=2, num_gpus=0.5
        )
        answers.write_parquet("s3://bucket/answers")
    """

    def __init__(
        self, model: str | os.PathLike, column: str = "image", device: str | None = None, **options: Any
    ):
        self.model, self.column, self.options = load_model(model, device), column, options

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer for a batch of columns; batches come in Ray's default format, numpy."""
        if self.column not in batch:
            raise DataError(f"there is no column {self.column!r} of pictures, but {', '.join(batch)}")
        samples = list(batch[self.column])
        if not samples:
            return dict(batch)
        answers = self.model.predict(samples, batch_size=len(samples), **self.options)
        told = [self.model.rows_of(answer) for answer in answers]
        if hasattr(answers[0], "as_rows"):
            return batch | {"predicted_parts": np.array([json_text(rows) for rows in told], object)}
        return batch | {f"predicted_{name}": _column([row[name] for (row,) in told]) for name in told[0][0]}


def _column(values: list) -> np.ndarray:
    """A column that Arrow knows: dicts, whose keys differ from row to row, are JSON text."""
    if any(isinstance(value, dict) for value in values):
        values = [json_text(value) for value in values]
    if any(isinstance(value, list) for value in values):
        array = np.array(values, np.float64)
        return array.astype(np.float32) if array.ndim == 2 else array  # descriptors are; matches have degrees
    array = np.array(values)
    return np.array(values, object) if array.dtype.kind not in "buif" else array
