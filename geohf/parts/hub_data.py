"""Photos with parts from a dataset of the Hub."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.formats import load_splits
from geohf.data.samples import without_decoding
from geohf.data.splits import by_split
from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.parts.boxes import xyxy_to_xywh
from geohf.parts.frame import require_pixels
from geohf.parts.rows import REQUIRED, truths_of, upright_size
from geohf.parts.vocabulary import attributes_of, names_of, part_features
from geohf.vision.checks import checked_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
        missing = [column for column in REQUIRED if column not in dataset.features]
        if missing:
            raise DataError(
                f"{name} [{split}]: lacks {', '.join(missing)}; it has {', '.join(dataset.features)}"
            )
        if "states" not in dataset.features:
            logger.warning("%s [%s]: has no column states: parts are found, and no states told", name, split)
        splits[split] = _checked(
            without_decoding(dataset), f"{name} [{split}]", errors, min_trust, attributes
        )
    return DatasetDict(splits)


def _checked(
    dataset: Dataset, source: str, errors: RowErrors, min_trust: float, attributes: Sequence[str]
) -> Dataset:
    parts, states = (list(names.values()) for names in names_of(dataset))
    features = part_features(parts, states, attributes_of(dataset, attributes))
    columns: dict[str, list] = {name: [] for name in features if name != "image"}
    good, given, sizes = [], [], []
    rows = ((position, row.get("image_id"), row) for position, row in enumerate(dataset))
    for position, facts, listed in usable_photos(rows, source, errors, features):
        given += xyxy_to_xywh(listed["boxes"]).tolist()
        sizes += [(facts["width"], facts["height"])] * len(listed["boxes"])
        trusted = trusted_parts(listed, min_trust)
        if trusted is not None:
            good.append(position)
            for name, values in columns.items():
                values.append((facts | trusted)[name])
    require_pixels(given, sizes, source)
    if dataset.features == features and not min_trust:
        return dataset.select(good)
    dataset = dataset.select(good).select_columns(["image"])
    for name, values in columns.items():
        dataset = dataset.add_column(name, values, feature=features[name])
    return dataset


def usable_photos(
    rows: Iterable[tuple[int, Any, dict]], source: str, errors: RowErrors, features: Features
) -> Iterator[tuple[int, dict[str, Any], dict[str, list]]]:
    """The rows that can be used: position, `image`, `image_id`, `width` and `height`, and the lists of `usable_row`.

    Args:
        rows: position, name of the photo where it has one, and cells, whose `image` has a path or bytes.
        errors: notes the others.
    """
    for (position, name, row), (broken,) in checked_rows(rows, lambda located: [located[2]["image"]]):
        try:
            width, height = size = upright_size(row["image"], broken)
            listed = usable_row(row, features, size)
        except DataError as error:
            errors.add(source, f"{position}, {name}" if name else position, str(error))
            continue
        facts = {"image": row["image"], "image_id": str(name or position), "width": width, "height": height}
        yield position, facts, listed


def usable_row(row: dict, features: Features, size: tuple[int, int]) -> dict[str, list]:
    """The lists of a row of `part_features`, see `truths_of`.

    Args:
        row: its parts and states as names or as the numbers of the features.
        size: width and height of its photo.

    Raises:
        DataError: the row cannot be used.
    """
    listed = tuple(row.get(side) for side in ("width", "height"))
    if any(side is not None and side != real for side, real in zip(listed, size, strict=True)):
        raise DataError(f"is listed as {listed[0]} x {listed[1]} pixels but has {size[0]} x {size[1]}")
    parts, states = (
        {name: i for i, name in enumerate(features[column].feature.names)} for column in ("parts", "states")
    )
    attributes = attributes_of(features)
    return {name: values.tolist() for name, values in truths_of(row, parts, states, size, attributes).items()}


def trusted_parts(row: dict[str, list], min_trust: float) -> dict[str, list] | None:
    """A row's lists without the parts that are trusted less; None where it had parts and none is left."""
    keep = [trust >= np.float32(min_trust) for trust in row["trust"]]  # trust is stored in float32
    if keep and not any(keep):
        return None
    return {
        name: [value for value, kept in zip(values, keep, strict=True) if kept]
        for name, values in row.items()
    }
