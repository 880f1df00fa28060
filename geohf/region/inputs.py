"""Photographs to locate, with the regions that whoever hands them over knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from geohf.data.classes import class_names, with_names
from geohf.data.inputs import Part, find_images, is_table_of_files
from geohf.errors import DataError
from geohf.region.processing import REGION_KEYS, split_sample
from geohf.region.rows import region_cells


def table_with_regions(source: str) -> Part | None:
    """See `GeoRegionModel.read_source`."""
    path = Path(source)
    if not is_table_of_files(path):
        return None
    cells = region_cells(path)
    if cells is None:
        return None
    names, files = find_images(source).parts[0]
    return names, [{"image": file, "region": cell} for file, cell in zip(files, cells, strict=True)]


def with_named_regions(samples: Any) -> Any:
    """Samples of a dataset that numbers its regions, with their names; others as they are."""
    names = class_names(getattr(samples, "rows", samples))
    names = {column: named for column, named in names.items() if column.lower() in REGION_KEYS}
    return with_names(samples, names) if names else samples


def of_regions(samples: Iterable, names: Sequence) -> Iterator[dict]:
    """Photographs with these regions, one each.

    Raises:
        DataError: more or fewer regions than photographs.
    """
    count = 0
    for count, sample in enumerate(samples, 1):
        if count > len(names):
            raise DataError(f"{len(names)} regions for more photographs")
        yield of_region(sample, names[count - 1])
    if count < len(names):
        raise DataError(f"{len(names)} regions for {count} photographs")


def of_region(sample: Any, region: str | int | None) -> dict:
    """A photograph with this region, whatever its own is."""
    return {"image": split_sample(sample)[0], "region": region}
