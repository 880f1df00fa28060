"""How well a place model finds the queries of drives and of benchmark folders in their database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geohf.data.tables import points_of
from geohf.errors import DataError, require_at_least, require_choice, require_whole
from geohf.geo import great_circle_m
from geohf.io import natural_key
from geohf.place.answers import answers_searched
from geohf.place.audit import audit, report_leaks
from geohf.place.confidence import certainty
from geohf.place.drives import by_time, drives_of, files_of, load_drives
from geohf.place.file_names import PLANAR
from geohf.place.index import PlaceIndex
from geohf.place.metrics import RECALLS, RULES, place_metrics, selective_metrics
from geohf.place.protocols import BENCHMARKS, check_sizes, find_sets, recalls_of
from geohf.place.sequences import Center, Method, check_options, in_order
from geohf.place.verification import UNVERIFIED, LocalFeatures, gap_of, gated, require_local, verified

if TYPE_CHECKING:
    from datasets import Dataset

    from geohf.place.retrieval import PlaceRetrieval

BENCHMARK_RADIUS_M = 25.0


def evaluate_place(
    model: PlaceRetrieval,
    data: str | os.PathLike,
    batch_size: int = 32,
    on_error: str = "raise",
    center: Center = "none",
    method: Method | None = None,
    utm: str | None = None,
    radius_m: float | None = None,
    recalls: Sequence[int] | None = None,
    rule: str | None = None,
    benchmark: str | None = None,
    verify: int = 0,
) -> dict[str, float]:
    """See `GeoPlaceModel.evaluate`."""
    check_options(center, method)
    require_whole(0, verify=verify)
    if verify and (center != "none" or method is not None):
        raise DataError(f"{UNVERIFIED}: leave verify, or center and method, out")
    require_choice((*RULES, None), rule=rule)
    require_choice((*BENCHMARKS, None), benchmark=benchmark)
    require_at_least(0, radius_m=radius_m)
    if radius_m is None:
        radius_m = BENCHMARK_RADIUS_M if benchmark else model.config.confidence_m
    rule = rule or ("all" if benchmark else "has_match")
    counts = recalls_of(benchmark, recalls, RECALLS)
    database, asking = _load_sets(data, utm, on_error)
    database, _, unbroken = by_time(database)  # images on both sides of a gap do not follow each other
    files, points = files_of(database), points_of(database)
    described = model.encode(files, batch_size)
    index = PlaceIndex(described, points, [""] * len(files), model.fingerprint(), unbroken.tolist())
    # the confidence was fitted where frames answer alone
    fitted = model.config if center == "none" and method is None and not verify else None
    if verify:
        index.local = require_local(LocalFeatures.of_images(model, files, batch_size), model.config)
    metrics: dict[str, float] = {}
    for name, queries in asking.items():
        check_sizes(benchmark, len(database), len(queries))
        queries, asking_drives, parts = by_time(queries)
        asked = points_of(queries)
        _look_for_leaks(database, queries, radius_m)
        descriptors = model.encode(files_of(queries), batch_size)
        most = max(answers_searched(max(counts), len(index)), min(verify, len(index)))
        similarity, ranked = rank(index, descriptors, asking_drives, parts, center, method, most)
        if index.local is not None:
            doubtful = gated(gap_of(similarity, points[ranked], model.config.negative_m), model.config)
            maps = partial(maps_of_files, model, files_of(queries), batch_size)
            similarity, ranked = verified(similarity, ranked, index.local, maps, doubtful, verify)
            metrics[f"{name}verified"] = len(doubtful)
        values = place_metrics(ranked, points, asked, [radius_m], counts)
        right = great_circle_m(points[ranked[:, 0]], asked) <= radius_m
        sure, matched = certainty(similarity, points[ranked], fitted), int(values["queries_with_match"])
        values |= selective_metrics(sure, right, matched, None if fitted is None else fitted.abstain_below)
        values |= {f"r{n}": values[f"recall@{n}_{rule}_{radius_m:g}m"] for n in counts}
        values["database"] = len(database)
        metrics |= {name + key: value for key, value in values.items()}
    return metrics


def maps_of_files(
    model: PlaceRetrieval, files: Sequence, batch_size: int, rows: np.ndarray
) -> Iterator[torch.Tensor]:
    """The backbone's maps of the files of some numbers, see `PlaceRetrieval.local_maps`."""
    return model.local_maps([files[row] for row in rows], batch_size)


def _load_sets(data: str | os.PathLike, utm: str | None, on_error: str) -> tuple[Dataset, dict[str, Dataset]]:
    """The images that are searched in, and those of each set that asks; its name ends in `/` where there are several."""
    sets = find_sets(data)
    if sets is not None:
        database, *asking = (
            load_drives(source, utm=utm or PLANAR, on_error=on_error, names=[name])[0]
            for name, source in (("database", sets.database), *sets.queries.items())
        )
        names = [f"{name}/" for name in sets.queries] if len(asking) > 1 else [""]
        return database, dict(zip(names, asking, strict=True))
    poses = sorted(Path(data).glob("*/poses.csv"), key=natural_key)
    images, _ = load_drives(poses or data, utm=utm, on_error=on_error)
    sequences = np.array(images["sequence"][:])
    first = sequences == sequences[0]
    if first.all():
        raise DataError(
            f"{data}: is the single drive {str(sequences[0])!r}; a second one has to ask, or lay the folder out as "
            "database/ and queries/"
        )
    return images.select(np.flatnonzero(first)), {"": images.select(np.flatnonzero(~first))}


def _look_for_leaks(database: Dataset, queries: Dataset, radius_m: float) -> None:
    from datasets import concatenate_datasets

    images = concatenate_datasets([database, queries])
    rows, sequences = np.arange(len(images)), np.array(images["sequence"][:])
    parts = rows[:0], rows[: len(database)], rows[len(database) :]
    findings = audit(files_of(images), points_of(images), sequences, images["time_ns"][:], *parts, radius_m)
    report_leaks(findings, strict=False, advice="or leave these out of one of them")


def rank(
    index: PlaceIndex,
    descriptors,
    drives,
    parts,
    center: Center = "none",
    method: Method | None = None,
    most: int = max(RECALLS),
) -> tuple[np.ndarray, np.ndarray]:
    """The answers of an index to frames in the order of time.

    Args:
        descriptors, drives, parts: (q, d) of the frames, and q names each, see `geohf.place.sequences.in_order`.
        center, method: see `GeoPlaceModel.predict_sequences`; without a method each frame answers alone.

    Returns:
        (q, most) cosines or, with a method, probabilities, best first; (q, most) rows of the index.
    """
    if method is None:
        return index.search(descriptors, most, center, drives)
    matches = index.match(descriptors, most, center, drives, parts=parts, method=method)[1]
    return matches.posterior, matches.rows


def drive_recalls(
    descriptors: Sequence[torch.Tensor],
    images: Sequence[Any],
    radius_m: float,
    center: Center = "none",
    method: Method | None = None,
) -> dict[str, float]:
    """`drive_r1`, `drive_r5`, ...: recall where the frames of a drive answer together.

    Args:
        descriptors: (m, d) of the database and (q, d) of the queries.
        images: the database and the queries, as datasets of drives.
        radius_m: an answer is right within so many meters; queries with a database image there count.
        center, method: see `rank`.
    """
    (base_rows, _, base_parts), (rows, drives, parts) = (
        in_order(drives_of(part), part["time_ns"][:]) for part in images
    )
    database, queries = points_of(images[0])[base_rows], points_of(images[1])[rows]
    index = PlaceIndex(descriptors[0][base_rows], database, [""] * len(database), "", base_parts.tolist())
    ranked = rank(index, descriptors[1][rows], drives, parts, center, method)[1]
    values = place_metrics(ranked, database, queries, [radius_m], RECALLS)
    return {f"drive_r{n}": values[f"r{n}"] for n in RECALLS}
