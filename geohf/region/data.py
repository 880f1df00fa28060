"""From tables to the photographs that a run trains, chooses and is measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.classes import class_number
from geohf.data.splits import split_dataset
from geohf.data.streaming import ROW, StreamedTable
from geohf.data.tables import RowErrors, points_of
from geohf.data.task_data import TaskData, with_facts
from geohf.errors import DataError
from geohf.hub.card import data_source
from geohf.models.loading import model_class
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.configuration import GeoRegionConfig
from geohf.region.filtering import clip_dataset, describe_row, filter_dataset
from geohf.region.rows import EXCLUDE, TRAIN_IMAGES, TRAIN_TABLE, VAL_IMAGES, VAL_TABLE, load_region_table
from geohf.region.sample import write_sample
from geohf.region.selection import excluded_names, of_known_regions, of_regions, region_order, warn_of_unknown
from geohf.region.streaming import streamed_regions
from geohf.vision.contents import content_digest, contents_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_HOW = {"stratified": "at random in each region", "random": "at random", "blocks": "whole blocks"}


@dataclass
class RegionData(TaskData):
    """A run's photographs; `validation` is None where no row was held out to choose and calibrate on.

    Attributes:
        regions: names of the regions of the training rows, in order.
        dropped: rows that filters left out, see `filter_dataset`; the facts of `train` hold them too.
        buffer: training rows left out because they lie too near to held-out blocks.
    """

    regions: list[str] = field(default_factory=list)
    dropped: list[dict] = field(default_factory=list)
    buffer: int = 0


def load(options: RegionArguments, args: RegionTrainingArguments | None = None) -> RegionData:
    """Load the photographs that the options name, filter them, and hold some out.

    A row of a region that the model of `start_from` does not know cannot be used, and all of its regions are measured.

    Args:
        args: of the training: the seed of the split, and where the painted sample goes; the defaults where None.

    Raises:
        DataError: see `load_region_table`, `filter_dataset` and `split_dataset`; also a row of a region that is not
            known or, in `val_csv`, of a region that no training row has; what goes with `train_csv` without it.
    """
    args = args or RegionTrainingArguments()
    known = None if options.start_from is None else _start_config(options, options.start_from).regions
    source = options.train_csv
    if source is None:
        alone = [name for name in ("train_dir", "val_csv", "val_dir", "exclude") if getattr(options, name)]
        if alone:
            raise DataError(
                f"--{alone[0]} goes with --train_csv; without a table the built-in sample is used"
            )
        with args.main_process_first(desc="writing the sample"):
            options = _with_sample(options, Path(args.output_dir).parent / f"region-sample-{options.frame}")
    elif options.val_dir is not None and options.val_csv is None:
        raise DataError("--val_dir goes with --val_csv, the table of its photographs")
    options.require_steps(args)
    errors = RowErrors(options.on_error)
    train, test, streamed = _tables(options, known, errors)
    train, dropped = filter_dataset(train, options)
    regions = _chosen(train, options, known)
    train = of_regions(train, regions)
    if test is not None and known is None:
        if not options.regions:
            dropped += _without_region(test, regions)
        test = of_regions(test, regions)
    if options.val_csv is not None:
        _require_rows(test, options.val_csv)
    splits, buffer = _split(train, options, args.seed, held_out=test is None)
    train, clipped = clip_dataset(splits["train"], options)
    _require_regions(train, options.regions or regions)
    dropped += clipped
    test = splits["test"] if test is None else test
    parts = {"train": train, "validation": splits.get("validation"), "test": test}
    facts = data_source(source) | {
        "split": _how(options),
        "left_out_for_buffer": buffer,
        "own_table": options.val_csv is not None,
        "dropped": dict(Counter(row["filter"] for row in dropped)),
    }
    known_parts = {name: rows for name, rows in parts.items() if rows is not None}
    for name, rows in known_parts.items():
        with_facts(rows, **facts, split_name=name)
    with_facts(train, dropped_rows=dropped)
    if streamed is not None:
        own = {name: rows for name, rows in known_parts.items() if ROW in rows.column_names}
        parts |= {"labels": train} | streamed.divide(own, options.buffer_size, args.seed)
    return RegionData(
        **parts, skipped=errors.rows, source=source, regions=regions, dropped=dropped, buffer=buffer
    )


def _start_config(options: RegionArguments, source: str) -> GeoRegionConfig:
    """The config of the model that training goes on from."""
    kind = model_class(source)
    if kind.config_class is not GeoRegionConfig:
        raise DataError(f"{source}: is a {kind.__name__}, but this takes a GeoRegionModel")
    config = GeoRegionConfig.from_pretrained(source)
    if config.frame != options.frame:
        raise DataError(f"{source} is a {config.frame} model, but --frame is {options.frame}")
    for name in options.regions or ():
        class_number(name, config.label2id, "region")  # raises for one that it does not know
    return config


def _with_sample(options: RegionArguments, folder: Path) -> RegionArguments:
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


def _tables(
    options: RegionArguments, known: Sequence[str] | None, errors: RowErrors
) -> tuple[Dataset, Dataset | None, StreamedTable | None]:
    """The rows to train on, those to measure on where they have a table, and the stream whose labels the first are."""
    exclude, table = excluded_names(options.exclude or ()), options.train_csv
    assert table is not None
    test, streamed = None, None
    if not options.streaming:
        train = load_region_table(table, options.train_dir, options.frame, exclude, errors)
    else:
        streamed = streamed_regions(table, options.train_dir, options.frame, exclude, options.on_error)
        train = streamed.read_labels()
        errors.rows += streamed.errors.rows
        errors.excluded |= streamed.errors.excluded
    files = train["filename"][:]
    if known is not None:
        train = of_known_regions(train, table, known, "the model has no", errors)
    if options.val_csv is not None:
        test = load_region_table(options.val_csv, options.val_dir, options.frame, exclude, errors)
        files = [*files, *test["filename"][:]]
        lacking = "no training row is of" if known is None else "the model has no"
        regions = set(train["region"][:]) if known is None else known
        test = of_known_regions(test, options.val_csv, regions, lacking, errors)
        test = _unseen(test, options.val_csv, train, errors)
    warn_of_unknown(exclude, errors.excluded, files)
    errors.settle(kept=min(len(dataset) for dataset in (train, test) if dataset is not None))
    _require_rows(train, table)
    return train, test, streamed


def _how(options: RegionArguments) -> str:
    """How rows were held out, in words."""
    blocks = f" of {options.block_size:g}, {options.block_buffer:g} kept clear" * (options.split == "blocks")
    split = f"{_HOW[options.split]}{blocks}"
    if options.val_csv is None:
        return split
    return f"a table of their own; validation photographs {split} from the training table"


def _unseen(test: Dataset, table: str, train: Dataset, errors: RowErrors) -> Dataset:
    """Without photographs that stand in the training table too: numbers measured on them would be too good."""
    measured = test["image"][:]
    if ROW in train.column_names:  # its labels hold digests
        measured = [content_digest(image) for image in measured]
    contents = contents_of([*train["image"][:], *measured])
    trained = set(contents[: len(train)])
    seen = [content in trained for content in contents[len(train) :]]
    for row in test.select(np.flatnonzero(seen)).select_columns(["filename", "row"]):
        errors.add(table, row["row"], f"{row['filename']!r} stands in the training table too")
    return test.select(np.flatnonzero(np.logical_not(seen)))


def _require_rows(dataset: Dataset, table: str) -> None:
    if not len(dataset):
        raise DataError(f"{table}: no row is left that is of a region to train")


def _require_regions(train: Dataset, regions: Collection[str]) -> None:
    left = set(train["region"][:])
    lost = [name for name in regions if name not in left]
    if lost:
        raise DataError(
            f"no training row of region {', '.join(lost)} is left after the split and the filters: hold out less, or "
            "loosen the filters"
        )


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


def _split(train: Dataset, options: RegionArguments, seed: int, held_out: bool) -> tuple[DatasetDict, int]:
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
        place_radius=options.place_radius,
        frame=options.frame,
        flags={"block_m": "--block_size", "buffer_m": "--block_buffer"},
    )
