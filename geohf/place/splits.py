"""Who is trained on, who is searched in, and who asks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.splits import split_rows
from geohf.data.tables import RowErrors, points_of
from geohf.errors import DataError
from geohf.place.arguments import PlaceArguments
from geohf.place.data import files_of, headings_of, load_drives, names_of, names_of_sources

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class PlaceData:
    """All images of a run, and rows of them: to train on, to search in, and to ask with.

    Attributes:
        images: a dataset with the columns of `geohf.place.data.drive_features`.
        train, database, validation, test: row numbers; `validation` may be empty.
        skipped: rows of the tables that were left out.
        protocol: in words, for the card.
        generated: the images are the built-in sample's.
    """

    images: Dataset
    train: np.ndarray
    database: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    skipped: RowErrors
    protocol: str
    generated: bool = False

    @cached_property
    def points(self) -> np.ndarray:
        """(n, 2) degrees."""
        return points_of(self.images)

    @cached_property
    def headings(self) -> np.ndarray:
        """(n,) degrees, NaN where unknown."""
        return headings_of(self.images)

    @cached_property
    def sequences(self) -> np.ndarray:
        """(n,) names of drives."""
        return np.array(self.images["sequence"][:])

    @cached_property
    def times_ns(self) -> list[int | None]:
        """n times in nanoseconds since 1970."""
        return list(self.images["time_ns"][:])

    @cached_property
    def files(self) -> list[str | dict]:
        """The images, see `files_of`."""
        return files_of(self.images)

    @cached_property
    def names(self) -> list[str]:
        """The images' paths without the folder that holds them all; of bytes, the names that they came with."""
        folders = [os.path.dirname(os.path.abspath(file)) for file in self.files if isinstance(file, str)]
        root = os.path.commonpath(folders) if folders else ""
        named = zip(self.files, names_of(self.images), strict=True)
        return [os.path.relpath(file, root) if isinstance(file, str) else name for file, name in named]


def load_data(options: PlaceArguments, seed: int, generated: bool = False) -> PlaceData:
    """Load the tables that the options name and give each row its parts.

    With tables of queries the database is the training tables, as the seed has it, unless it is given too. Without
    them whole blocks of the training drives are held out: their images of the first drive stay in the database,
    together with the rest of that drive, and those of the other drives ask. Nothing within `negative_m` of a
    held-out image is trained on.

    Raises:
        DataError: see `load_drives`; a single drive without a table of queries; too few places to hold out.
    """
    from datasets import concatenate_datasets

    skipped, parts, rows, count = RowErrors(options.on_error), [], {}, 0
    tables = {}
    for name in ("train", "val", "test", "database"):
        sources = getattr(options, f"{name}_csv") or []
        tables[name] = [sources] if isinstance(sources, (str, Path)) else list(sources)
    listed = [source for sources in tables.values() for source in sources]
    drives = dict(zip(listed, names_of_sources(listed), strict=True))
    for name, sources in tables.items():
        rows[name] = np.arange(0)
        if sources:
            images, errors = load_drives(
                sources,
                options.camera_id,
                options.utm,
                options.on_error,
                [drives[source] for source in sources],
            )
            skipped.rows += errors.rows
            rows[name] = np.arange(count, count + len(images))
            count += len(images)
            parts.append(images)
    data = PlaceData(
        concatenate_datasets(parts),
        rows["train"],
        rows["database"] if len(rows["database"]) else rows["train"],
        rows["val"],
        rows["test"],
        skipped,
        f"queries from {_listed(options.test_csv)}, database from "
        f"{_listed(options.database_csv or options.train_csv)}",
        generated,
    )
    if not options.test_csv:
        _hold_out(data, options, seed)
    return data


def _hold_out(data: PlaceData, options: PlaceArguments, seed: int) -> None:
    drives = list(dict.fromkeys(data.sequences[data.train]))
    if len(drives) < 2:
        raise DataError(
            f"{_listed(options.train_csv)}: is a single drive; a second one has to ask, or give --test_csv"
        )
    shares = {"test": options.test_share, "validation": 0.0 if options.val_csv else options.validation_share}
    splits, _ = split_rows(
        len(data.train),
        shares,
        "blocks",
        points=data.points[data.train],
        seed=seed,
        block_m=options.block_m,
        buffer_m=options.negative_m,
        flags={"buffer_m": "--negative_m"},
    )
    first = data.sequences == drives[0]
    everything = data.train
    held_out = {name: everything[rows] for name, rows in splits.items()}
    data.train = held_out["train"]
    data.test = held_out["test"][~first[held_out["test"]]]
    if "validation" in held_out:
        data.validation = held_out["validation"][~first[held_out["validation"]]]
    if not options.database_csv:
        data.database = everything[first[everything]]
    if not len(data.test) or ("validation" in held_out and not len(data.validation)):
        raise DataError(
            f"the held-out blocks hold images of the drive {drives[0]!r} only, and no other drive asks; use larger "
            "shares, another --seed or --test_csv"
        )
    data.protocol = (
        f"whole blocks of {options.block_m:g} m held out, {options.negative_m:g} m kept clear of them in training; "
        f"queries from {', '.join(drives[1:])}, database: the whole drive {drives[0]}"
    )


def _listed(names) -> str:
    return ", ".join(
        Path(name).parent.name + "/poses.csv" if Path(name).stem == "poses" else Path(name).name
        for name in names or ["the built-in sample"]
    )
