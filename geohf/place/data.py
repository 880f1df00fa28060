"""The images of a run: what is trained on, what is searched in, and what asks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.splits import split_rows
from geohf.data.streaming import StreamedTable
from geohf.data.tables import RowErrors, points_of
from geohf.data.task_data import TaskData, with_facts
from geohf.errors import DataError, listed
from geohf.geo import matches_within_m
from geohf.hub.card import data_source
from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.audit import audit, report_leaks, used_before
from geohf.place.drives import files_of, load_drives, names_of_sources
from geohf.place.protocols import expand
from geohf.place.sample import write_sample
from geohf.place.streaming import streamed_drives

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

FEWEST_SEARCHED = 10  # images of a database, as many as are asked of it
PARTS = ("train", "val", "test", "database")


@dataclass
class PlaceData(TaskData):
    """A run's images, divided.

    Attributes:
        train: images to train on.
        validation, test: queries; `validation` may be None.
        database: images that are searched in; None: those of `train`.
        validation_database: images that `validation` is searched in; None: those of `database`.
    """

    database: Any = None
    validation_database: Any = None


def load(options: PlaceArguments, args: PlaceTrainingArguments | None = None) -> PlaceData:
    """Load the tables that the options name, give each image its part, and look for leaks.

    With tables of queries the database is the training tables, as the reference implementation has it, unless it is given
    too. Without them whole blocks of the training drives are held out: the whole first drive is the database, and the
    held-out images of the others ask. Nothing within `negative_m` of a held-out image is trained on. Queries to choose by,
    where none are given, are held out likewise; with tables of test queries they are searched in the training drives, and
    of a single drive every second held-out image asks for the others.

    Args:
        args: of the training: the seed of the split, and where the painted sample goes; the defaults where None.

    Returns:
        The parts, whose columns are those of `geohf.place.drives.drive_features`.

    Raises:
        DataError: see `load_drives`; a single drive without a table of queries; too few places to hold out; a leak at
            which `options.audit` stops.
    """
    args = args or PlaceTrainingArguments()
    options.require_places(args)
    given = {name: getattr(options, f"{name}_csv") or [] for name in PARTS}
    sources = expand({name: [s] if isinstance(s, (str, Path)) else list(s) for name, s in given.items()})
    if not sources["train"]:
        folder = Path(args.output_dir).parent / "place-sample"
        with args.main_process_first(desc="writing the sample"):
            write_sample(folder, seed=0, size=options.sample_size)
        sources["train"] = [str(folder / name / "poses.csv") for name in ("noon", "dusk")]
    options.require_steps(args)
    images, rows, skipped, table = _load_sources(sources, options)
    _tell_of_repeats(files_of(images), rows)
    if not len(rows["database"]):
        rows["database"] = rows["train"]
    how = f"queries from {_words(sources['test'])}, database from {_words(sources['database'] or sources['train'])}"
    rows["validation_database"] = rows["database"]
    if not sources["test"]:
        rows, how = _hold_out(images, rows, sources, options, args.seed)
    elif not sources["val"] and options.validation_share:
        rows, more = _hold_out_validation(images, rows, options, args.seed)
        how += more
    findings, asked = _audit(images, rows, options), (rows["train"], rows["val"], rows["test"])
    used = used_before(files_of(images), *asked, by_content=findings is not None)
    if findings is not None:
        report_leaks(used, strict=options.audit == "strict")
        findings += used
    generated = options.train_csv is None
    source = Path(sources["train"][0])
    facts = data_source(None if generated else str(source.absolute().parent)) | {"split": how}
    facts["leaks"] = None if findings is None else [asdict(finding) for finding in findings]
    parts = {name: images.select(numbers) for name, numbers in rows.items() if len(numbers)}
    labels = None if table is None else parts["train"]
    for name, part in parts.items():
        with_facts(part, **facts, split_name={"val": "validation"}.get(name, name))
    with_facts(parts["test"], **{f"{finding.kind}_held_out": True for finding in used})  # for the card
    apart = not np.array_equal(rows["validation_database"], rows["database"])
    same = table is None and np.array_equal(rows["database"], rows["train"])
    if table is not None:
        parts = table.divide(parts, options.buffer_size, args.seed)
    return PlaceData(
        parts["train"],
        parts.get("val"),
        parts["test"],
        skipped.rows,
        None if generated else sources["train"][0],
        labels,
        database=parts["train"] if same else parts["database"],
        validation_database=parts["validation_database"] if apart else None,
    )


def _load_sources(
    sources: dict[str, list], options: PlaceArguments
) -> tuple[Dataset, dict[str, np.ndarray], RowErrors, StreamedTable | None]:
    """All images, the row numbers of each part, and the rows that were left out; of a stream its labels, and itself."""
    from datasets import concatenate_datasets

    skipped, loaded, rows, count = RowErrors(options.on_error), [], {}, 0
    every = [source for some in sources.values() for source in some]
    if options.streaming:
        table = streamed_drives(every, options.camera_id, options.utm, options.on_error)
        labels, counted = table.read_labels(), table.rows_of_sources()
        lacking = [source for source, rows in zip(every, counted, strict=True) if not len(rows)]
        if lacking and options.camera_id is not None:
            raise DataError(f"{lacking[0]}: no row has the camera_id {options.camera_id!r}")
        of_sources = iter(counted)
        for name, some in sources.items():
            rows[name] = np.concatenate([np.arange(0), *(next(of_sources) for _ in some)])
        return labels, rows, table.errors, table
    drives = dict(zip(every, names_of_sources(every), strict=True))
    for name, some in sources.items():
        rows[name] = np.arange(0)
        if some:
            names = [drives[source] for source in some]
            images, errors = load_drives(some, options.camera_id, options.utm, options.on_error, names)
            skipped.rows += errors.rows
            rows[name] = np.arange(count, count + len(images))
            count += len(images)
            loaded.append(images)
    return concatenate_datasets(loaded), rows, skipped, None


def _tell_of_repeats(files: Sequence[str | dict], rows: dict[str, np.ndarray]) -> None:
    """A word of files that tables of one part name again: a picture is no pair with itself, nor two queries."""
    for name, numbers in rows.items():
        named = Counter(file for row in numbers if isinstance(file := files[row], str))
        twice = [file for file, count in named.items() if count > 1]
        if twice:
            logger.warning(
                "%s: %d files are there more than once, and count so: %s", name, len(twice), listed(twice)
            )


def _hold_out(
    images: Dataset, rows: dict[str, np.ndarray], sources: dict[str, list], options: PlaceArguments, seed: int
) -> tuple[dict[str, np.ndarray], str]:
    """The rows of each part where there is no table of queries, and how they were held out, in words."""
    everything, sequences = rows["train"], np.array(images["sequence"][:])
    drives = list(dict.fromkeys(sequences[everything]))
    if len(drives) < 2:
        raise DataError(
            f"{_words(sources['train'])}: is a single drive; a second one has to ask, or give --test_csv"
        )
    shares = {"test": options.test_share, "validation": 0.0 if len(rows["val"]) else options.validation_share}
    splits = _blocks(points_of(images)[everything], shares, options, seed)
    first = sequences == drives[0]
    queries = {name: everything[part][~first[everything[part]]] for name, part in splits.items()}
    if not all(len(queries.get(name, ())) for name in ("test", *splits) if name != "train"):
        raise DataError(
            f"the held-out blocks hold images of the drive {drives[0]!r} only, and no other drive asks; use larger "
            "shares, another --seed or --test_csv"
        )
    database = rows["database"] if sources["database"] else everything[first[everything]]
    parts = {"train": everything[splits["train"]], "val": queries.get("validation", rows["val"])}
    parts |= {"test": queries["test"], "database": database, "validation_database": database}
    return parts, (
        f"whole blocks of {options.block_m:g} m held out, {options.negative_m:g} m kept clear of them in training; "
        f"queries from {', '.join(drives[1:])}, database: the whole drive {drives[0]}"
    )


def _blocks(
    points: np.ndarray, shares: dict[str, float], options: PlaceArguments, seed: int
) -> dict[str, np.ndarray]:
    """The rows of each part where whole blocks are held out."""
    n, block_m, buffer_m = len(points), options.block_m, options.negative_m
    flags = {"buffer_m": "--negative_m"}
    return split_rows(
        n, shares, "blocks", points=points, seed=seed, block_m=block_m, buffer_m=buffer_m, flags=flags
    )[0]


def _hold_out_validation(
    images: Dataset, rows: dict[str, np.ndarray], options: PlaceArguments, seed: int
) -> tuple[dict[str, np.ndarray], str]:
    """The rows of each part, where test queries have a table and validation queries have none, and how, in words.

    Where no block can be held out, all is trained on, with a warning.
    """
    everything, sequences = rows["train"], np.array(images["sequence"][:])
    first = sequences[everything] == sequences[everything[0]]
    try:
        points = points_of(images)[everything]
        splits = _blocks(points, {"validation": options.validation_share}, options, seed)
    except DataError as error:
        logger.warning("no validation queries to choose by: %s; or give --val_csv", error)
        return rows, ""
    held, single = splits["validation"], bool(first.all())
    asking = held[1::2] if single else held[~first[held]]
    database = np.setdiff1d(np.arange(len(everything)), asking) if single else np.flatnonzero(first)
    matched = len(asking) and matches_within_m(points[database], points[asking], options.radii_m[0])[1].size
    if not matched or len(database) < FEWEST_SEARCHED:
        logger.warning(
            "no validation queries to choose by: those of the held-out blocks find nothing in the training drives; "
            "give --val_csv"
        )
        return rows, ""
    parts = {"train": splits["train"], "val": asking, "validation_database": database}
    parts = {name: everything[part] for name, part in parts.items()}
    drives = (
        "every second image of them asks for the rest" if single else "all but the first drive ask for it"
    )
    return rows | parts, (
        f"; for validation whole blocks of {options.block_m:g} m of the training drives held out, "
        f"{options.negative_m:g} m kept clear of them in training, and {drives}"
    )


def _audit(images: Dataset, rows: dict[str, np.ndarray], options: PlaceArguments):
    """The leaks between the parts; None where nobody looks."""
    if options.audit == "off":
        return None
    files, points = files_of(images), points_of(images)
    sequences, times_ns = np.array(images["sequence"][:]), images["time_ns"][:]

    def look(database: np.ndarray, queries: np.ndarray):
        return audit(files, points, sequences, times_ns, rows["train"], database, queries, options.radii_m[0])

    apart = not np.array_equal(rows["validation_database"], rows["database"])
    asked = rows["test"] if apart else np.concatenate([rows["val"], rows["test"]])
    findings = look(rows["database"], asked)
    report_leaks(findings, strict=options.audit == "strict")
    # what was held out of the user's own drives is theirs to know, and nothing to stop at
    chosen = [
        replace(finding, message=f"of validation: {finding.message}", fatal=False)
        for finding in (look(rows["validation_database"], rows["val"]) if apart else ())
    ]
    report_leaks(chosen, strict=False)
    return findings + chosen


def _words(sources: Sequence) -> str:
    return ", ".join(
        Path(name).parent.name + "/poses.csv" if Path(name).stem == "poses" else Path(name).name
        for name in sources
    )
