"""Photos with parts from a dataset of the Hub."""

from __future__ import annotations

import logging
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.formats import load_splits
from geohf.data.samples import without_decoding
from geohf.data.splits import by_split
from geohf.data.tables import RowErrors, require_columns
from geohf.errors import DataError
from geohf.parts.boxes import xyxy_to_xywh
from geohf.parts.frame import require_pixels
from geohf.parts.rows import REQUIRED, numbers_of, truths_of, upright_size
from geohf.parts.vocabulary import attributes_of, names_of, part_features
from geohf.vision.checks import checked_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset, DatasetDict, Features


logger = logging.getLogger(__name__)


def load_hub_dataset(
    name: str, errors: RowErrors, min_trust: float, attributes: Sequence[str] = ()
) -> DatasetDict:
    """A dataset with the columns of `part_features`, as `push_to_hub` leaves it there, or the first of them.

    `REQUIRED` columns must be there, and those of the attributes; the others are filled in. A photo whose picture, boxes or labels
    cannot be used is noted in `errors`.

    Raises:
        DataError: there is no such dataset, or it lacks a column.
    """
    from datasets import DatasetDict

    splits = {}
    for split, dataset in by_split(load_splits(name), name).items():
        require_columns(dataset.features, REQUIRED, f"{name} [{split}]")
        if "states" not in dataset.features:
            logger.warning("%s [%s]: has no column states: parts are found, and no states told", name, split)
        rows = without_decoding(dataset)
        splits[split] = _checked(rows, f"{name} [{split}]", errors, min_trust, attributes)
    return DatasetDict(splits)


def _checked(
    dataset: Dataset, source: str, errors: RowErrors, min_trust: float, attributes: Sequence[str]
) -> Dataset:
    features = features_with(dataset, attributes)
    columns: dict[str, list] = {name: [] for name in features if name != "image"}
    good, given, sizes = [], [], []
    rows = ((position, row.get("image_id"), row) for position, row in enumerate(dataset))
    for position, facts, listed in usable_photos(rows, source, errors, features):
        given += xyxy_to_xywh(listed["boxes"]).tolist()
        sizes += [(facts["width"], facts["height"])] * len(listed["boxes"])
        if add_trusted(columns, facts, listed, min_trust):
            good.append(position)
    require_pixels(given, sizes, source)
    if dataset.features == features and not min_trust:
        return dataset.select(good)
    dataset = dataset.select(good).select_columns(["image"])
    for name, values in columns.items():
        dataset = dataset.add_column(name, values, feature=features[name])
    return dataset


def features_with(source: Dataset | Mapping, attributes: Sequence[str]) -> Features:
    """`part_features` of the names of a dataset, or of its features."""
    parts, states = (list(names.values()) for names in names_of(source))
    return part_features(parts, states, attributes_of(source, attributes))


def usable_photos(
    rows: Iterable[tuple[int, Any, dict]], source: str, errors: RowErrors, features: Features
) -> Iterator[tuple[int, dict[str, Any], dict[str, list]]]:
    """The rows that can be used: position, `image`, `image_id`, `width` and `height`, and the lists of `truths_of`.

    Args:
        rows: position, name of the photo where it has one, and cells, whose `image` has a path or bytes.
        errors: notes the others.
    """
    parts, states = (numbers_of(names) for names in names_of(features))
    attributes = attributes_of(features)
    for (position, name, row), (broken,) in checked_rows(rows, lambda located: [located[2]["image"]]):
        try:
            if broken is not None:
                raise DataError(broken)
            width, height = upright_size(row["image"])
            given = tuple(row.get(side) for side in ("width", "height"))
            if any(side not in (None, real) for side, real in zip(given, (width, height), strict=True)):
                raise DataError(f"is listed as {given[0]} x {given[1]} pixels but has {width} x {height}")
            truths = truths_of(row, parts, states, (width, height), attributes)
        except DataError as error:
            errors.add(source, f"{position}, {name}" if name else position, str(error))
            continue
        facts = {"image": row["image"], "image_id": str(name or position), "width": width, "height": height}
        yield position, facts, {column: values.tolist() for column, values in truths.items()}


def add_trusted(
    columns: dict[str, list], facts: Mapping[str, Any], listed: Mapping[str, list], min_trust: float
) -> bool:
    """Add a photo of `usable_photos` to columns, without parts trusted less; False where it had parts and none is left."""
    keep = [trust >= np.float32(min_trust) for trust in listed["trust"]]  # trust is stored in float32
    if keep and not any(keep):
        return False
    for name, column in columns.items():
        column.append(list(compress(listed[name], keep)) if name in listed else facts[name])
    return True
