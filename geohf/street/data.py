"""Loading places: the competition's layout, folders and tables of photographs, datasets of the Hub.

Whatever the source, a place is a row with the columns of `place_features`: an id, one to eight views (kept
undecoded) with their headings, the state's name and index where known, latitude and longitude.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.formats import is_saved_dataset
from geohf.data.splits import split_dataset
from geohf.data.tables import RowErrors, points_of
from geohf.data.task_data import TaskData, with_facts
from geohf.errors import DataError
from geohf.geo.cells import geo_cells
from geohf.hub.card import data_source
from geohf.report.paths import outline_rings
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.classes import of_known_states
from geohf.street.competition import COMPETITION, TEMPLATE, load_competition
from geohf.street.hub_data import load_hub_dataset
from geohf.street.photos import load_photos
from geohf.street.sample import write_sample
from geohf.street.streaming import streamed_places

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from geohf.street.configuration import GeoStreetConfig

logger = logging.getLogger(__name__)


@dataclass
class StreetData(TaskData):
    """A run's places.

    Attributes:
        template: the places that a submission answers for; None where the data is no competition's.
    """

    template: Dataset | None = None


_HOW = {"stratified": "at random in each state or geocell", "random": "at random", "blocks": "whole blocks"}


def load(options: StreetArguments, args: StreetTrainingArguments | None = None) -> StreetData:
    """Load the places that the options name, and hold some out.

    Args:
        args: of the training: the seed of the split, and where the painted sample goes; the defaults where None.

    Raises:
        DataError: the data cannot be used, see `load_places` and `split_places`.
    """
    args = args or StreetTrainingArguments()
    outline_rings(options.outlines)  # before the work, not after it
    source: str | Path = options.data or ""
    if options.data is None:
        source = Path(args.output_dir).parent / "street-sample"
        with args.main_process_first(desc="writing the sample"):
            write_sample(source, seed=0, size=options.sample_size)
    options.require_steps(args)
    if options.streaming:
        if (Path(source) / TEMPLATE).is_file():
            logger.warning(
                "%s: no submission.csv is written with --streaming, which reads no %s", source, TEMPLATE
            )
        table = streamed_places(source, on_error=options.on_error)
        places, errors = {"train": table.read_labels()}, table.errors
    else:
        places, errors = load_places(source, options.on_error)
    given = held_out_splits(places)
    validation = 0.0 if "validation" in given else options.validation_share
    test = 0.0 if given else options.test_share
    apart = options.block_km, options.buffer_km, options.place_radius_m
    splits, buffer = split_places(places["train"], options.split, validation, test, args.seed, *apart)
    splits |= given
    if "validation" not in splits:
        raise DataError("--validation_share must be above 0: the best checkpoint is chosen on these places")
    blocks = f" of {options.block_km:g} km, {options.buffer_km:g} km kept clear" * (options.split == "blocks")
    facts = data_source(options.data) | {"left_out_for_buffer": buffer}
    for name, rows in splits.items():
        how = "as the data come" if name in given else f"{_HOW[options.split]}{blocks}"
        with_facts(rows, **facts, split=how, split_name=name)
    template = places.get("test") if (Path(source) / TEMPLATE).is_file() else None
    labels = None
    if options.streaming:
        labels, splits = splits["train"], table.divide(splits, options.buffer_size, args.seed)
    return StreetData(
        splits["train"], splits["validation"], splits.get("test"), errors.rows, source, labels, template
    )


def load_places(source: str | Path, on_error: str = "raise") -> tuple[DatasetDict, RowErrors]:
    """Load places from a folder, a table, or a dataset's name on the Hub.

    Args:
        source: a folder in the competition's layout (`train_ground_truth.csv` in it); a folder of photographs with
            positions in their EXIF, or with a `metadata.csv`, `.jsonl` or `.parquet` in it or in its `train`; a table of
            photographs with latitude and longitude; a folder that `save_to_disk` wrote; or the name of a dataset.
        on_error: `raise` stops at rows that cannot be used, `skip` leaves them out.

    Returns:
        (a DatasetDict with `train`, and `validation` and `test` where the source has them; the rows left out).

    Raises:
        DataError: see `load_competition` and `load_photos`.
    """
    path = Path(source)
    if any((path / name).exists() for name in COMPETITION):
        return load_competition(path, on_error)
    if path.exists() and not is_saved_dataset(path):
        return load_photos(path, on_error)
    return load_hub_dataset(str(source), on_error)


def held_out_splits(places: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """What a source itself holds out: its `validation` and `test`, but for one without a position, which is to be found."""
    known = (name for name in ("validation", "test") if name in places)
    return {name: places[name] for name in known if np.isfinite(points_of(places[name])).all(1).any()}


def load_for_evaluation(source: str | Path, config: GeoStreetConfig, on_error: str = "raise") -> Dataset:
    """The places that a source holds out, `test` before `validation`, or all where it holds out none.

    Raises:
        DataError: see `load_places`; states that the model does not know.
    """
    places, _ = load_places(source, on_error)
    held_out = held_out_splits(places)
    split = next((name for name in ("test", "validation") if name in held_out), "train")
    if held_out:
        logger.info("%s: its split %r is measured, %d places", source, split, len(places[split]))
    return of_known_states(places[split], source, config, on_error)


def split_places(
    places: Dataset,
    how: str = "stratified",
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 42,
    block_km: float = 50.0,
    buffer_km: float = 10.0,
    place_radius_m: float = 1.0,
) -> tuple[DatasetDict, int]:
    """Divide places into train, validation and test.

    Args:
        how: `stratified` by state (by geocell where there are no states), `random`, or `blocks`: whole squares of the
            map are held out, and training places within `buffer_km` of them left out.
        validation, test: shares of all places; a share of 0 gives no such split.
        place_radius_m: rows so near to each other are one place, which no split divides; 0: rows of the same position.

    Returns:
        (the splits, the number of places left out for the buffer).

    Raises:
        DataError: too few places for the split.
    """
    points, names = points_of(places), places["state"][:]
    groups = np.unique([name or "" for name in names], return_inverse=True)[1]
    if how == "stratified" and groups.max() == 0 and np.isfinite(points).all():
        groups = geo_cells(points)[0]
    return split_dataset(
        places,
        {"test": test, "validation": validation},
        how,
        points=points,
        groups=groups,
        seed=seed,
        block_m=block_km * 1000,
        buffer_m=buffer_km * 1000,
        place_radius=place_radius_m,
        flags={"block_m": "--block_km", "buffer_m": "--buffer_km"},
    )
