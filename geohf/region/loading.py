"""From tables to the rows that a run trains, chooses and is measured on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.splits import split_dataset
from geohf.data.tables import RowErrors, points_of
from geohf.errors import DataError
from geohf.region.arguments import RegionArguments
from geohf.region.data import (
    excluded_names,
    load_region_table,
    of_known_regions,
    of_regions,
    region_order,
)
from geohf.region.filtering import clip_dataset, describe_row, filter_dataset
from geohf.region.sample import EXCLUDE, TRAIN_IMAGES, TRAIN_TABLE, VAL_IMAGES, VAL_TABLE, write_sample
from geohf.vision.contents import contents_of

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class RegionData:
    """A run's photographs.

    Attributes:
        train, validation, test: to learn from, to choose and calibrate on (may be empty), to measure on.
        regions: names of the regions of the training rows, in order.
        skipped: rows that could not be used: source, row, reason.
        dropped: rows that filters left out, see `filter_dataset`.
        buffer: training rows left out because they lie too near to held-out blocks.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    regions: list[str]
    skipped: list[dict]
    dropped: list[dict]
    buffer: int


def with_sample(options: RegionArguments, folder: Path) -> RegionArguments:
    """The options with the paths of the built-in sample, which is written where it is not there yet."""
    sample = write_sample(folder, seed=0, size=options.sample_size, frame=options.frame)
    return replace(
        options,
        train_csv=str(sample / TRAIN_TABLE),
        train_dir=str(sample / TRAIN_IMAGES),
        val_csv=str(sample / VAL_TABLE),
        val_dir=str(sample / VAL_IMAGES),
        exclude=[*(options.exclude or ()), str(sample / EXCLUDE)],
    )


def load_data(options: RegionArguments, seed: int = 42, known: Sequence[str] | None = None) -> RegionData:
    """Load, filter and split.

    Args:
        options: with a `train_csv`.
        seed: of the split.
        known: the regions of a model that training goes on from; a row of another one cannot be used, and all
            of them are measured.

    Raises:
        DataError: see `load_region_table`, `filter_dataset` and `split_dataset`; also a row of a region that is
            not known or, in `val_csv`, of a region that no training row has.
    """
    errors, exclude = RowErrors(options.on_error), excluded_names(options.exclude or ())
    train, test = (
        load_region_table(options.train_csv, options.train_dir, options.frame, exclude, errors),
        None,
    )
    if known is not None:
        train = of_known_regions(train, options.train_csv, known, "the model has no", errors)
    if options.val_csv is not None:
        test = load_region_table(options.val_csv, options.val_dir, options.frame, exclude, errors)
        if known is None:
            seen = set(train["region"][:])
            test = of_known_regions(test, options.val_csv, seen, "no training row is of", errors)
        else:
            test = of_known_regions(test, options.val_csv, known, "the model has no", errors)
        test = _unseen(test, options.val_csv, train, errors)
    errors.settle(kept=min(len(dataset) for dataset in (train, test) if dataset is not None))
    _require_rows(train, options.train_csv)
    train, dropped = filter_dataset(train, options)
    regions = _chosen(train, options, known)
    train = of_regions(train, regions)
    if test is not None:
        if known is None and not options.regions:
            dropped += _without_region(test, regions)
        if known is None:
            test = of_regions(test, regions)
        _require_rows(test, options.val_csv)
    splits, buffer = _split(train, options, seed, held_out=test is None)
    train, clipped = clip_dataset(splits["train"], options)
    return RegionData(
        train,
        splits["validation"] if "validation" in splits else train.select([]),
        splits["test"] if test is None else test,
        regions,
        errors.rows,
        dropped + clipped,
        buffer,
    )


def _unseen(test: Dataset, table: str, train: Dataset, errors: RowErrors) -> Dataset:
    """Without photographs that stand in the training table too: numbers measured on them would be too good."""
    contents = contents_of([*train["image"][:], *test["image"][:]])
    trained = set(contents[: len(train)])
    seen = [content in trained for content in contents[len(train) :]]
    for row in test.select(np.flatnonzero(seen)).select_columns(["filename", "row"]):
        errors.add(table, row["row"], f"{row['filename']!r} stands in the training table too")
    return test.select(np.flatnonzero(np.logical_not(seen)))


def _require_rows(dataset: Dataset, table: str) -> None:
    if not len(dataset):
        raise DataError(f"{table}: no row is left that is of a region to train")


def _chosen(train: Dataset, options: RegionArguments, known) -> list[str]:
    regions = region_order(train["region"][:])
    lost = set(options.regions or ()) - set(regions)
    if lost:
        raise DataError(f"regions: no training row is of region {', '.join(sorted(lost))}")
    # a model that training goes on from is measured on all of its regions
    return [name for name in regions if known or not options.regions or name in options.regions]


def _without_region(test: Dataset, regions: Collection[str]) -> list[dict]:
    """Rows to measure on whose region the filters left out."""
    names = np.array(test["region"][:], object)
    lost = np.flatnonzero(~np.isin(names, list(regions))).tolist()
    return [describe_row(test, row, "min_rows", f"region {names[row]} is left out") for row in lost]


def _split(train: Dataset, options: RegionArguments, seed: int, held_out: bool):
    shares = {"test": options.test_share} if held_out else {}
    if held_out and not options.test_share:
        raise DataError("test_share is 0 and there is no val_csv: nothing is left to measure on")
    return split_dataset(
        train,
        shares | {"validation": options.validation_share},
        options.split,
        points=points_of(train),
        groups=np.array(train["region"][:]),
        seed=seed,
        block_m=options.block_size,
        buffer_m=options.block_buffer,
        frame=options.frame,
        flags={"block_m": "--block_size", "buffer_m": "--block_buffer"},
    )
