"""Loading photos with the parts of an object and their states, and dividing them into splits.

Boxes of a photo that carries an EXIF orientation are taken to be given in the upright photo, as annotation tools
and browsers show it, unless the file's `width` and `height` fit only the stored pixels; then they are turned with
the photo. Loaded boxes are always those of the upright photo, and so are `width` and `height`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.classes import warn_of_spellings
from geohf.data.splits import copy_numbers, joined_places, split_dataset
from geohf.data.streaming import StreamedTable
from geohf.data.tables import RowErrors
from geohf.data.task_data import TaskData, with_facts
from geohf.errors import DataError, require_within
from geohf.hub.card import data_source
from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.formats import Reader
from geohf.parts.hub_data import load_hub_dataset
from geohf.parts.records import Source, dataset_of, note_unlisted
from geohf.parts.sample import write_sample
from geohf.parts.state_balance import count_pairs
from geohf.parts.state_file import StateFile
from geohf.parts.stratify import photo_numbers, stratify
from geohf.parts.streaming import streamed_parts
from geohf.parts.vocabulary import NO_STATES, PRESENT, attributes_of, names_of, require_attributes

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from geohf.parts.configuration import PartStateConfig

logger = logging.getLogger(__name__)


_HOW = {"stratified": "in the same proportion of every part in every state", "random": "at random"}


def load(options: PartArguments, args: PartTrainingArguments | None = None) -> TaskData:
    """Load the photos that the options name, and hold some out where the source does not.

    Args:
        args: of the training: the seed of the split, and where the painted sample goes; the defaults where None.

    Raises:
        DataError: the data cannot be used, see `load_parts` and `split_parts`.
    """
    args = args or PartTrainingArguments()
    source = options.data
    if source is None:
        source = str(Path(args.output_dir).parent / "parts-sample")
        with args.main_process_first(desc="writing the sample"):
            write_sample(source, seed=0, size=options.sample_size)
    options.require_steps(args)
    table = _streamed(options) if options.streaming else None
    with args.main_process_first(desc="reading the photos"):
        if table is not None:
            loaded, errors = {"train": table.read_labels()}, table.errors
        else:
            loaded, errors = load_parts(
                source,
                options.on_error,
                options.min_trust,
                state_attribute=options.state_attribute,
                state_file=options.state_file,
                attributes=options.attributes or (),
            )
    splits, labels = dict(loaded), None
    if "validation" not in splits:
        if not options.validation_share:
            raise DataError("--validation_share must be above 0: the best weights are chosen on these photos")
        test = 0.0 if "test" in splits else options.test_share
        splits |= split_parts(splits["train"], options.split, options.validation_share, test, args.seed)
    how = "as the data come" if {"validation", "test"} <= set(loaded) else _HOW[options.split]
    for name, photos in splits.items():
        with_facts(photos, **data_source(options.data), split=how, split_name=name)
    if table is not None:
        labels, splits = splits["train"], table.divide(splits, options.buffer_size, args.seed)
    return TaskData(splits["train"], splits["validation"], splits.get("test"), errors.rows, source, labels)


def _streamed(options: PartArguments) -> StreamedTable:
    if options.data is None or options.state_attribute is not None or options.state_file is not None:
        raise DataError(
            "--streaming true takes photos from Parquet files or a dataset of the Hub (--data), whose columns tell the "
            "states: no sample, no --state_attribute, no --state_file"
        )
    return streamed_parts(options.data, options.on_error, options.min_trust, options.attributes or ())


def load_parts(
    source: str | os.PathLike,
    on_error: str = "raise",
    min_trust: float = 0.0,
    images: str | Path | None = None,
    parts: Sequence[str] | None = None,
    states: Sequence[str] | None = None,
    state_attribute: str | None = None,
    state_file: str | Path | None = None,
    attributes: Sequence[str] | Mapping[str, Sequence[str]] = (),
) -> tuple[DatasetDict, RowErrors]:
    """Load photos with parts from a folder, a JSON file, or a dataset's name on the Hub.

    Args:
        source: a file in the layout of COCO, DelftBikes, Label Studio (JSON), CVAT (XML of images), YOLO (data.yaml) or Pascal VOC
            (XML), told by its content; a folder with one, or with one a split, `train_coco.json`,
            `annotations/instances_train2017.json`, `Annotations/*.xml` and others, see `geohf.parts.folders`; or the name of a
            dataset of the Hub with the columns of `part_features`.
        on_error: `raise` stops at photos and parts that cannot be used, `skip` leaves them out.
        min_trust: leave out parts that are trusted less, 0 to 1. To a detector they are then background; weighting the loss
            by `trust` keeps them.
        images: folder of the photos; by default it is looked for beside the annotations.
        parts, states: the names where the file does not tell them and they are not the bicycle's.
        state_attribute: what the attribute of a box that is its state is called; by default `state` or `condition`. `none`:
            states are not read; what is absent is left out, and all else is `present`.
        state_file: a table that tells the states instead, see `StateFile`.
        attributes: names of what a box has beside its state, such as its color; each becomes a column. As a mapping, with
            the values of each. A box may lack any of them.

    Returns:
        (a DatasetDict with `train`, and `validation` and `test` where the source has them, with the columns of
        `part_features`; what was left out). A photo that is listed without any part stays: it shows where nothing is to be found.

    Raises:
        DataError: nothing can be loaded; boxes that are no pixels; or, unless skipped: a photo that is listed but not on disk or
            the reverse, broken, listed twice or of another size than listed; a box outside its photo or without area; an unknown
            part or state; a part that stands in its photo twice; trust that is no number.
    """
    from datasets import DatasetDict

    require_within("[0, 1]", min_trust=min_trust)
    path, errors = Path(source), RowErrors(on_error)
    asked = dict(attributes) if isinstance(attributes, Mapping) else dict.fromkeys(attributes)
    require_attributes({name: [name] for name in asked}, state_attribute)
    if state_file is not None:
        state_attribute = NO_STATES
    if not path.exists():
        if state_attribute == NO_STATES:
            raise DataError(
                f"{source}: is no file or folder; states of a dataset of the Hub stand in its column `states`, "
                "and without that column none are told"
            )
        splits = load_hub_dataset(str(source), errors, min_trust, list(asked))
    else:
        reader = Reader(errors, parts, states, state_attribute, asked)
        sources = reader.read(path, None if images is None else Path(images))
        if state_file is not None:
            StateFile(state_file).apply(list(sources.values()), errors)
        _drop_groups(list(sources.values()))
        _same_names(list(sources.values()))
        loaded = {split: dataset_of(source, errors, min_trust) for split, source in sources.items()}
        note_unlisted(sources.values(), errors)
        _warn_of_shared(sources)
        splits = DatasetDict({split: dataset for split, (dataset, _) in loaded.items()})
        distrusted = sum(count for _, count in loaded.values())
        if distrusted:
            logger.warning("%s: left out %d parts trusted less than %g", source, distrusted, min_trust)
    if "train" not in splits:
        raise DataError(f"{source}: has no split 'train' but {', '.join(splits)}")
    parts_and_states = (names.values() for names in names_of(splits))
    for kind, names in [
        *zip(("parts", "states"), parts_and_states, strict=True),
        *attributes_of(splits).items(),
    ]:
        warn_of_spellings(names, f"{source}: {kind}")
    errors.settle(kept=len(splits["train"]))
    for split, dataset in splits.items():
        empty = sum(not len(parts) for parts in dataset["parts"][:])
        if empty == len(dataset):
            raise DataError(
                f"{source}: the split {split!r} has no photo with a part that is trusted {min_trust:g}"
            )
        if empty:
            logger.warning(
                "%s [%s]: %d of %d photos have no part: they count as showing none",
                *(source, split, empty, len(dataset)),
            )
    return splits, errors


def load_for_evaluation(
    source: str | os.PathLike, config: PartStateConfig, on_error: str = "raise"
) -> Dataset:
    """The photos that a source holds out, or all where it names no such split.

    Parts and states may be numbered in another order than the model's, but it must know each by its name.

    Raises:
        DataError: photos that cannot be used, or with parts or states that the model does not know.
    """
    tables = (config.id2label, config.id2state)
    parts, states = ([table[number] for number in sorted(table)] for table in tables)
    silent = Path(source).exists() and not config.tells_states
    loaded, _ = load_parts(
        source,
        on_error,
        parts=parts,
        states=states,
        state_attribute=NO_STATES if silent else config.state_attribute,
        attributes=config.attributes or (),
    )
    split = next(name for name in ("test", "validation", "train") if name in loaded)
    for column, own, names in zip(("parts", "states"), names_of(loaded[split]), tables, strict=True):
        unknown = [name for name in own.values() if name not in names.values()]
        if unknown == [PRESENT]:
            raise DataError(f"{source} [{split}]: no box has a state, and the model tells states")
        if unknown:
            raise DataError(
                f"{source} [{split}]: {column} that the model does not know: {', '.join(unknown[:5])}; "
                f"it knows {', '.join(names.values())}"
            )
    return loaded[split]


def split_parts(
    dataset: Dataset, how: str = "stratified", validation: float = 0.1, test: float = 0.1, seed: int = 42
) -> DatasetDict:
    """Divide photos into train, validation and test; Roboflow's versions of a photo, and files of the same bytes, stay together.

    Args:
        how: `stratified`: every part in every state is shared out in proportion, rare ones first; or `random`.
        validation, test: shares of all photos; a share of 0 gives no such split.

    Raises:
        DataError: too few photos for the split, or an unknown way.
    """
    from datasets import DatasetDict

    photo = photo_numbers(dataset["image_id"][:] if "image_id" in dataset.features else [""] * len(dataset))
    if how == "random":
        shares = {"test": test, "validation": validation}
        one_place = np.stack([photo, photo], 1)  # rows of which are never divided
        return split_dataset(dataset, shares, "random", points=one_place, seed=seed)[0]
    if how != "stratified":
        raise DataError(f"split must be stratified or random, got {how!r}")
    if min(validation, test) < 0 or validation + test >= 1:
        raise DataError(
            f"validation {validation} and test {test} must be at least 0 and leave some for training"
        )
    copies = copy_numbers(dataset)
    photo = photo if copies is None else joined_places(photo, copies)
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    shares = {name: share for name, share in shares.items() if share}
    rows_of = state_table(dataset)
    table = np.zeros((photo.max(initial=-1) + 1, *rows_of.shape[1:]), rows_of.dtype)
    np.add.at(table, photo, rows_of)
    assigned = stratify(table, list(shares.values()), seed)[photo]
    rows = {name: np.flatnonzero(assigned == i) for i, name in enumerate(shares)}
    for name, chosen in rows.items():
        if not len(chosen):
            share = f"{shares[name]:.0%} of {len(dataset)} photos"
            raise DataError(f"cannot hold out {share} for {name}: too few")
    return DatasetDict({name: dataset.select(chosen) for name, chosen in rows.items()})


def state_table(dataset: Dataset) -> np.ndarray:
    """(photos, parts, states) int64: how often each part stands in each state in each photo."""
    parts, states = names_of(dataset)
    return count_pairs(dataset["parts"][:], dataset["states"][:], len(parts), len(states))


def _drop_groups(sources: list[Source]) -> None:
    """Leave out the parts that only group others, in every file of the source."""
    groups: frozenset[str] = frozenset.intersection(*(source.groups for source in sources))
    for source in sources:
        source.parts = [name for name in source.parts if name not in groups]
    if groups:
        told = "%s: left out %s: a group of other categories or the background, without any annotation"
        logger.warning(told, sources[0].path, ", ".join(sorted(groups)))


def _warn_of_shared(sources: dict[str, Source]) -> None:
    """Say where photos of one split are those of another, too."""
    for (one, first), (other, second) in combinations(sources.items(), 2):
        shared = {*first.files} & {*second.files}
        if shared:
            told = "%s: %d photos, such as %s, are in %s and in %s: numbers are then not those of new photos"
            logger.warning(told, second.path, len(shared), min(shared), one, other)


def _same_names(sources: list[Source]) -> None:
    for source in sources[1:]:
        for key in ("parts", "states", "attributes"):
            names, first = (list(getattr(one, key)) for one in (source, sources[0]))
            if names != first:
                told, known = (", ".join(map(repr, given[:5])) for given in (names, first))
                hint = "; --state_attribute names what tells it, or is none" if key == "states" else ""
                raise DataError(
                    f"{source.path}: its {key} are {told}, and those of {sources[0].path} {known}: they must be the "
                    f"same in the same order{hint}"
                )
