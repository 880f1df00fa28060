"""Which rows of a table are trained on: the filters of `geohf.geo.filters` with the options of a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo import filters
from geohf.region.arguments import RegionArguments

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Filter = Callable[..., filters.Filtered]  # of (n, 2) points and their (n,) regions


def filter_dataset(dataset: Dataset, options: RegionArguments) -> tuple[Dataset, list[dict]]:
    """Leave out rows whose coordinates cannot be right, by MAD and DBSCAN over the table, and too small regions.

    The rows that are kept, and a dict per dropped row, see `describe_row`.

    Raises:
        DataError: no row is left, an option is out of range, or a region of `iqr_regions` is not in the table.
    """
    unknown = set(options.iqr_regions or ()) - set(dataset["region"][:])
    if unknown:
        raise DataError(f"iqr_regions: the table has no region {', '.join(sorted(unknown))}")
    frame, min_samples = options.frame, options.dbscan_min_samples
    steps: dict[str, Filter] = {}
    if options.mad_threshold:
        steps["mad"] = lambda points, _: filters.mad_filter(points, options.mad_threshold, frame)
    if options.dbscan_eps:
        steps["dbscan"] = lambda points, _: filters.dbscan_filter(
            points, options.dbscan_eps, min_samples, frame
        )
    steps["min_rows"] = lambda _, regions: filters.min_rows_filter(regions, options.min_rows)
    return _apply(dataset, steps)


def clip_dataset(train: Dataset, options: RegionArguments) -> tuple[Dataset, list[dict]]:
    """As `filter_dataset`, clip each region to its percentiles and fences, after the split: a held-out place at an
    edge is hard but not wrong, and a radius that was calibrated without such places would promise too much.
    """
    low, high = options.percentile_low, options.percentile_high
    steps: dict[str, Filter] = {}
    if (low, high) != (0, 100):
        clip = partial(filters.filter_groups, points_filter=filters.percentile_filter, frame=options.frame)
        steps["percentile"] = partial(clip, low=low, high=high)
    if options.iqr_factor:
        steps["iqr"] = partial(_iqr, options=options)
    return _apply(train, steps)


def _apply(dataset: Dataset, steps: dict[str, Filter]) -> tuple[Dataset, list[dict]]:
    points, regions = points_of(dataset), np.array(dataset["region"][:])
    rows, dropped = np.arange(len(dataset)), []
    for name, apply in steps.items():
        if not len(rows):
            break
        try:
            filtered = apply(points[rows], regions[rows])
        except ValueError as error:  # an option out of range
            raise DataError(f"filter {name}: {error}") from None
        for row, reason in zip(rows[~filtered.kept].tolist(), filtered.reasons[~filtered.kept], strict=True):
            dropped.append(describe_row(dataset, row, name, reason))
        rows = rows[filtered.kept]
    counts = Counter(row["filter"] for row in dropped)
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    if not len(rows):
        raise DataError(f"the filters leave none of {len(dataset)} training rows: {listed}; loosen them")
    if dropped:
        logger.info("filters left out %d of %d training rows: %s", len(dropped), len(dataset), listed)
    return dataset.select(rows), dropped


def _iqr(points, regions, options: RegionArguments) -> filters.Filtered:
    clip, factor = filters.iqr_filter, options.iqr_factor
    filtered = filters.filter_groups(points, regions, clip, factor=factor, frame=options.frame)
    if options.iqr_regions:
        spared = ~np.isin(regions, options.iqr_regions)
        filtered.kept[spared], filtered.reasons[spared] = True, None
    return filtered


def describe_row(dataset: Dataset, position: int, name: str, reason: str) -> dict:
    """A row that a filter left out, for a table of such rows."""
    row = dataset[position]
    columns = {name: row[name] for name in ("filename", "row", "latitude", "longitude")}
    return columns | {"Region_ID": row["region"], "filter": name, "reason": reason}
