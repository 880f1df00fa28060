"""The geocells of a street model: made from the training points, and the cell of any other point."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.errors import DataError
from geohf.geo.cells import geo_cells, nearest_centroids
from geohf.geo.centroids import class_centroids
from geohf.geo.geojson import named_areas
from geohf.geo.polygon_cells import polygon_cells
from geohf.geo.quadtree import CellTree, quadtree

if TYPE_CHECKING:
    from geohf.street.configuration import GeoStreetConfig

logger = logging.getLogger(__name__)

CELLS = ("kmeans", "quadtree", "polygons")
MOST_CELLS = 20_000


def describe_cells(
    points: np.ndarray,
    kind: str = "kmeans",
    max_cells: int = 64,
    cell_points: int = 50,
    polygons: str | Path | dict | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Geocells of training points.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        kind: `kmeans` (at most `max_cells` of 25 km or more), `quadtree` (boxes with `cell_points` or more are cut) or
            `polygons` (those of a GeoJSON with `cell_points` or more are cut, small ones join a neighbor).
        polygons: the GeoJSON.

    Returns:
        ((n,) the cell of each point, (cells, 2) centroids, the config's fields).

    Raises:
        DataError: less than two cells or more than 20,000 (of `kmeans` one cell gets a word), or polygons that cannot be used.
    """
    tree, names = None, None
    if (kind == "polygons") != (polygons is not None):
        raise DataError("--cells polygons and --polygons FILE.geojson go together")
    if kind == "kmeans":
        centroids = geo_cells(points, min(max_cells, MOST_CELLS))[1]
        labels = nearest_centroids(points, centroids)
        if len(centroids) < 2:
            logger.warning(
                "all training places lie in one geocell, which tells nothing: --cells quadtree makes smaller ones, "
                "--max_cells 0 none"
            )
    else:
        if cell_points < 2:
            raise DataError(f"--cell_points must be at least 2, got {cell_points}")
        if polygons is None:
            tree, labels = quadtree(points, cell_points)
        else:
            tree, labels, names = polygon_cells(points, named_areas(polygons), cell_points)
        if not 2 <= tree.cells <= MOST_CELLS:
            change = "fewer" if tree.cells < 2 else "more"
            raise DataError(
                f"{len(points)} training places make {tree.cells} cells, where 2 to {MOST_CELLS:,} are possible: "
                f"take {change} --cell_points than {cell_points}"
            )
        centroids = class_centroids(points, labels, tree.cells)
    fields: dict[str, Any] = {"cells": True, "id2label": dict(enumerate(names or cell_names(centroids)))}
    if tree is not None:
        fields["cell_tree"] = tree.to_dict()
        logger.info("%d cells, and %s parts that they make up", tree.cells, [1 + max(p) for p in tree.levels])
    return labels, centroids, fields


def cell_numbers(points: np.ndarray, config: GeoStreetConfig) -> np.ndarray:
    """(n,) the cell of each of the (n, 2) points in degrees: of the tree, or that of the nearest centroid."""
    if config.cell_tree is None:
        return nearest_centroids(points, config.class_centroids)
    return _tree_of(config.cell_tree).assign(points)


_last: list[tuple[dict, CellTree]] = []


def _tree_of(saved: dict) -> CellTree:
    """The tree of a config; the last one is kept, as every batch asks for it."""
    if not _last or _last[0][0] is not saved:
        _last[:] = [(saved, CellTree.from_dict(saved))]
    return _last[0][1]


def cell_names(centroids: np.ndarray) -> list[str]:
    """Where each cell lies, in as many digits as tell them apart."""
    sides = [("N" if north >= 0 else "S", "E" if east >= 0 else "W") for north, east in centroids]
    for digits in (2, 4, 6):
        cells = zip(np.abs(centroids), sides, strict=True)
        names = [f"{north:.{digits}f}{n} {east:.{digits}f}{e}" for (north, east), (n, e) in cells]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names)]
