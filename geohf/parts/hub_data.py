"""Photos with parts from a dataset of the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.parts.vocabulary import names_of, part_features
from geohf.vision.images import ImageError, open_image, undecoded

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def load_hub_dataset(name: str, errors: RowErrors, min_trust: float) -> DatasetDict:
    """A dataset with the columns of `part_features`, as `push_to_hub` leaves it there.

    A photo whose picture, boxes or labels cannot be used is noted in `errors`.

    Raises:
        DataError: there is no such dataset, or it lacks a column.
    """
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        loaded = load_dataset(name)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"{name}: no such file or folder, and no dataset that can be loaded ({error})"
        ) from None
    splits = {}
    for split, dataset in loaded.items():
        missing = [column for column in part_features() if column not in dataset.features]
        if missing:
            raise DataError(
                f"{name} [{split}]: lacks {', '.join(missing)}; it has {', '.join(dataset.features)}"
            )
        names_of(dataset)  # they are class labels
        splits[split] = _checked(undecoded(dataset), f"{name} [{split}]", errors, min_trust)
    return DatasetDict(splits)


def _checked(dataset: Dataset, source: str, errors: RowErrors, min_trust: float) -> Dataset:
    good = []
    for position, row in enumerate(dataset):
        try:
            size = open_image(row["image"]).size
        except ImageError as error:
            errors.add(source, position, str(error))
            continue
        reason = row_reason(row, size)
        if reason:
            errors.add(source, f"{position}, {row['image_id']}", reason)
        else:
            good.append(position)
    dataset = dataset.select(good)
    if min_trust > 0:
        dataset = dataset.map(lambda row: trusted_parts(row, min_trust), features=dataset.features)
        dataset = dataset.filter(lambda parts: len(parts) > 0, input_columns=["parts"])
    return dataset


def row_reason(row: dict, size: tuple[int, int]) -> str:
    """Why a row of `part_features` cannot be used, empty where it can; `size` is the photo's width and height."""
    boxes = row["boxes"]
    if size != (row["width"], row["height"]):
        return f"is listed as {row['width']} x {row['height']} pixels but has {size[0]} x {size[1]}"
    if not boxes or len({len(boxes), len(row["parts"]), len(row["states"]), len(row["trust"])}) > 1:
        return "boxes, parts, states and trust must be lists of one length, at least 1"
    for x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]):
            return f"the box {[x0, y0, x1, y1]} has no area or lies outside the photo"
    return ""


def trusted_parts(row: dict, min_trust: float) -> dict:
    """The columns `boxes`, `parts`, `states` and `trust` of a row, without parts that are trusted less."""
    keep = [trust >= np.float32(min_trust) for trust in row["trust"]]  # trust is stored in float32
    return {
        name: [value for value, kept in zip(row[name], keep, strict=True) if kept]
        for name in ("boxes", "parts", "states", "trust")
    }
