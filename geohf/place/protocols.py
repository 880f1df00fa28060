"""The folders in which place recognition is measured, and what is known of the usual sets.

`ROOT/images/test/database` and `ROOT/images/test/queries` are VPR-datasets-downloader's; sizes are those of
VPR-methods-evaluation (Berton et al., 2023) and of the sets' papers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from geohf.errors import DataError, listed, require_whole
from geohf.io import natural_key

logger = logging.getLogger(__name__)

_INSIDE = ("images/test", "test", "")  # of the root
_DATABASES = ("database", "gallery", "reference", "ref")
_TABLES = ("raw.csv", "poses.csv")  # MSLS, and drives; without one the file names carry positions
RECALLS = (1, 5, 10, 20)


class Benchmark(NamedTuple):
    """How many images a set has, where it is whole."""

    database: int
    queries: int


# Nordland is used in two forms: with all queries, and with every tenth
BENCHMARKS = {
    "pitts30k": Benchmark(10_000, 6_816),
    "tokyo247": Benchmark(75_984, 315),
    "msls_val": Benchmark(18_871, 740),
    "nordland": Benchmark(27_592, 27_592),
    "nordland_2760": Benchmark(27_592, 2_760),
    "sf_xl_v1": Benchmark(2_805_840, 1_000),
    "sf_xl_v2": Benchmark(2_805_840, 598),
    "amstertime": Benchmark(1_231, 1_231),
    "eynsham": Benchmark(23_935, 23_935),
}


class Sets(NamedTuple):
    """Where a database lies, and the queries of each set that asks it."""

    database: Path
    queries: dict[str, Path]


def find_sets(root: str | os.PathLike) -> Sets | None:
    """The database and the query sets of a folder; None where it is laid out in another way.

    Looked for are `database` (`gallery`, `reference`, `ref`) beside `queries`, `query` or several `queries_NAME`, in
    the folder itself, in `test` or in `images/test`.
    """
    for inside in _INSIDE:
        folder = Path(root) / inside
        database = next((folder / name for name in _DATABASES if (folder / name).is_dir()), None)
        if database is None:
            continue
        named = (path for path in folder.iterdir() if path.name.startswith(("queries", "query")))
        queries = sorted(filter(Path.is_dir, named), key=natural_key)
        if queries:
            return Sets(_source(database), {path.name: _source(path) for path in queries})
    return None


def expand(sources: dict[str, list]) -> dict[str, list]:
    """Sources of a run, where a root of test queries stands for its queries and, if none is given, its database.

    Raises:
        DataError: a root and other test queries, and no database for both.
    """
    roots = {root: find_sets(root) for root in sources["test"]}
    databases = [sets.database for sets in roots.values() if sets is not None]
    if not databases:
        return sources
    lone = [root for root, sets in roots.items() if sets is None]
    if lone and not sources["database"]:
        raise DataError(
            f"{listed(lone)}: queries without a database of their own stand beside a folder that has one, {databases[0]}: say "
            "with --database_csv what both are searched in"
        )
    queries = [
        path for root, sets in roots.items() for path in ([root] if sets is None else sets.queries.values())
    ]
    return sources | {"test": queries, "database": sources["database"] or databases}


def check_sizes(name: str | None, database: int, queries: int) -> None:
    """Warn where a set is not the one that its name stands for."""
    if name is not None and (database, queries) != BENCHMARKS[name]:
        logger.warning(
            "%s has %d database images and %d queries, and here are %d and %d: the numbers do not compare with published "
            "ones",
            *(name, *BENCHMARKS[name], database, queries),
        )


def _source(folder: Path) -> Path:
    return next((folder / name for name in _TABLES if (folder / name).is_file()), folder)


def recalls_of(benchmark: str | None, recalls: Sequence[int] | None, usual: Sequence[int]) -> tuple[int, ...]:
    """The N of recall at N: those that are asked for (DataError, if not whole and above 0), a benchmark's, or the usual ones."""
    for count in recalls or ():
        require_whole(1, recalls=count)
    return tuple(recalls or (RECALLS if benchmark else usual))
