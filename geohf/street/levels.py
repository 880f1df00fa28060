"""The names of a point: its country, region, sub-region and city, by polygons or by the nearest town of a table."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from geohf.data.cells import text_of
from geohf.data.tables import find_column
from geohf.errors import DataError, warn_once
from geohf.geo import great_circle_m
from geohf.geo.cells import nearest_centroids
from geohf.geo.geojson import feature_areas, named_areas
from geohf.geo.quadtree import nearest_areas
from geohf.street.gallery import read_positions

logger = logging.getLogger(__name__)

# OpenStreetView-5M's names; reverse_geocoder's (cc, admin1, admin2, name) and GADM's stand for the same
LEVELS: dict[str, tuple[str, ...]] = {
    "country": ("country", "cc", "name_0"),
    "region": ("region", "admin1", "name_1"),
    "sub-region": ("sub-region", "sub_region", "admin2", "name_2"),
    "city": ("city", "town", "name_3"),
}
FAR_M = 100_000.0  # a point so far from every polygon lies in none of them; of towns the nearest counts, with a word


@dataclass
class Levels:
    """Towns or polygons with their names.

    Attributes:
        names: level -> (n,) the name of each entry there, None where it has none; from the widest to the narrowest.
        entry_of: (m, 2) degrees -> (m,) the entry of each point, -1 where it lies in none.
    """

    names: dict[str, list[str | None]]
    entry_of: Callable[[np.ndarray], np.ndarray]

    def names_of(self, points: np.ndarray) -> list[dict[str, str]]:
        """Level -> name, of each of the (m, 2) points in degrees; without the levels at which a point has no name."""
        return [
            {level: name for level, names in self.names.items() if entry >= 0 and (name := names[entry])}
            for entry in self.entry_of(points).tolist()
        ]

    def hits(self, points: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        """`LEVEL_accuracy`: whether points have the name of the true one, of those whose truth has a name, (m,) bool.

        A name counts together with those of the wider levels: there is a Limburg in two countries.

        Args:
            points, truth: (n, 2) degrees.
        """
        answers, known = self.names_of(points), self.names_of(truth)
        correct, wider = {}, []
        for level in self.names:
            wider.append(level)
            rights = [
                all(answer.get(name) == true.get(name) for name in wider)
                for answer, true in zip(answers, known, strict=True)
                if level in true
            ]
            if rights:
                correct[f"{level.replace('-', '_')}_accuracy"] = np.array(rights)
        return correct

    def consistency(self, points: np.ndarray, states: Sequence[str | None]) -> float | None:
        """The share of points that lie where the class that is answered with them says.

        Args:
            points: (n, 2) degrees.
            states: n names of the first class.

        Returns:
            None where no level has the names of all these classes.
        """
        level = next((level for level, names in self.names.items() if set(states) <= set(names)), None)
        if level is None or not states or None in states:
            return None
        named = zip(self.names_of(points), states, strict=True)
        return float(np.mean([names.get(level) == state for names, state in named]))


def levels_of(source: str | os.PathLike | Levels) -> Levels:
    """Read the names of levels.

    Args:
        source: a table of towns with `latitude`, `longitude` and some of `country`, `region`, `sub-region`, `city`
            (reverse_geocoder's `cc`, `admin1`, `admin2`, `name` will do): a point has the names of the nearest town. Or a
            GeoJSON of polygons with such properties (GADM's `NAME_0`, `NAME_1`, ... will do), or with a `name`, which is
            the level `area`: a point has the names of the polygon around it, or of the nearest within 100 km.

    Raises:
        DataError: a file that cannot be read, a table without names or positions, a town that is nowhere on earth.
    """
    if isinstance(source, Levels):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(
            f"levels are the path of a table of towns or of a GeoJSON, not a {type(source).__name__}"
        )
    path = os.fspath(source)
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; levels are a table of towns or a GeoJSON")
    facts = os.stat(path)
    return _read(path, (facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=2)
def _read(path: str, facts: tuple[int, int]) -> Levels:
    """The names in a file; `facts` are its time and size, so that a changed one is read again."""
    return _of_polygons(path) if Path(path).suffix.lower() in (".geojson", ".json") else _of_towns(path)


def _of_towns(path: str) -> Levels:
    table, points = read_positions(path, "a town has")
    columns = {level: find_column(table.columns, known) for level, known in LEVELS.items()}
    columns["city"] = columns["city"] or find_column(table.columns, ("name",))
    names = {level: [text_of(cell) for cell in table[at]] for level, at in columns.items() if at is not None}
    if not names:
        raise DataError(
            f"{path}: towns need some of the columns {', '.join(LEVELS)}; the columns are: {', '.join(table.columns)}"
        )

    def entry_of(asked: np.ndarray) -> np.ndarray:
        entries = nearest_centroids(asked, points)
        if (great_circle_m(asked, points[entries]) > FAR_M).any():
            warn_once(
                logger,
                "%s: some points lie more than %g km from every town, and have the names of the nearest one",
                path, FAR_M / 1000,
            )  # fmt: skip
        return entries

    return Levels(names, entry_of)


def _of_polygons(path: str) -> Levels:
    told, areas = map(list, zip(*feature_areas(path), strict=True))
    keys = dict.fromkeys(key for properties in told for key in properties)
    columns = {level: find_column(keys, known) for level, known in LEVELS.items()}
    if any(columns.values()):
        columns["area"] = find_column(keys, ("name",))  # of a state whose country is told, too
        names = {level: [text_of(one.get(at)) for one in told] for level, at in columns.items() if at}
    else:
        named = named_areas(path)
        names, areas = {"area": list(named)}, list(named.values())

    def entry_of(points: np.ndarray) -> np.ndarray:
        entries = nearest_areas(areas, points)
        for entry in np.unique(entries):
            own = np.flatnonzero(entries == entry)
            away = great_circle_m(points[own], np.asarray(areas[entry].nearest(points[own])))
            entries[own[away > FAR_M]] = -1
        return entries

    return Levels(names, entry_of)
