"""Which rows of a table a run is about: by the names of their files, and by their regions."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.cells import label_of
from geohf.data.classes import column_of
from geohf.data.tables import RowErrors
from geohf.errors import DataError, did_you_mean, listed

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def names_of(dataset: Any) -> list[str | None]:
    """The names of photographs' regions, whatever type they have, None where unknown; DataError for a list or the like."""
    names, reasons = region_names(column_of(dataset, "region"))
    for row, reason in reasons.items():
        raise DataError(f"row {row}, {reason}")
    return names


def region_names(cells: Iterable) -> tuple[list[str | None], dict[int, str]]:
    """The names of regions, and position -> why a cell is none."""
    names: list[str | None] = []
    reasons = {}
    for i, cell in enumerate(cells):
        try:
            names.append(label_of(cell))
        except DataError as error:
            names.append(None)
            reasons[i] = f"region: {error}"
    return names, reasons


def excluded_names(exclude: Sequence[str]) -> list[str]:
    """File names to leave out: each entry is such a name, or a .txt or .csv file of UTF-8 text that holds one a line.

    A file that cannot be read is a DataError.
    """
    names = []
    for entry in exclude:
        if not entry.lower().endswith((".txt", ".csv")):
            names.append(entry)
            continue
        try:
            lines = Path(entry).read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(f"{entry}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise DataError(f"{entry}: is no UTF-8 text; save it as UTF-8, one file name a line") from None
        names += [line.strip() for line in lines if line.strip()]
    return names


def warn_of_unknown(exclude: Sequence[str], met: Collection[str], files: Collection[str]) -> None:
    """Tell of names to leave out that were not `met`, and of the one of the other `files` that may be meant."""
    lost = [name for name in dict.fromkeys(exclude) if name not in met]
    if lost:
        logger.warning(
            "exclude: no row has the file name %s%s", listed(lost), did_you_mean(lost[0], sorted(set(files)))
        )


def region_order(names: Iterable[str]) -> list[str]:
    """The different names in order: by number where all are whole numbers, else by text.

    >>> region_order(["10", "9", "-1", "10"])
    ['-1', '9', '10']
    """
    names = set(names)
    numbers = all(name.removeprefix("-").isdecimal() for name in names)
    # "3" and "03" are two names of one number, and every process must put them into one order
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def of_regions(dataset: Dataset, regions: Collection[str]) -> Dataset:
    """The rows of these regions, by their names."""
    return dataset.select(np.flatnonzero(np.isin(np.array(names_of(dataset), object), list(regions))))


def of_known_regions(
    dataset: Dataset, table: str | Path, regions: Collection[str], lacking: str, errors: RowErrors
) -> Dataset:
    """The rows of these regions; those of others are noted in `errors`, as what `lacking` such a region."""
    for name, row in zip(dataset["region"][:], dataset["row"][:], strict=True):
        if name not in regions:
            errors.add(table, row, f"{lacking} region {name!r}")
    return of_regions(dataset, regions)
