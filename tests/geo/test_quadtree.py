"""Geocells as trees: every point in one leaf, every leaf in one part of each level, and polygons keep their borders."""

import copy
import csv
import importlib.util
import json

import numpy as np
import pytest

from geohf.errors import DataError
from geohf.geo import area_from_geojson, class_centroids
from geohf.geo.geojson import named_areas
from geohf.geo.polygon_cells import polygon_cells
from geohf.geo.quadtree import CellTree, cell_tree, quadtree


def world(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], 1)


def square(name, south, west, side=1.0):
    corners = [
        [west, south], [west + side, south], [west + side, south + side], [west, south + side], [west, south]
    ]  # fmt: skip
    return {
        "type": "Feature",
        "properties": {"name": name},
        "geometry": {"type": "Polygon", "coordinates": [corners]},
    }


def squares(*features):
    return named_areas({"type": "FeatureCollection", "features": list(features)})


def by_the_rule(points, split, depth):
    """The sizes of the cells of OpenStreetView-5M's rule, written out."""
    if depth == 0 or len(points) < split:
        return [len(points)]
    middle = np.median(points[:, 0])
    sizes = []
    for half in (points[points[:, 0] < middle], points[points[:, 0] >= middle]):
        if len(half):
            at = np.median(half[:, 1])
            quarters = (half[half[:, 1] < at], half[half[:, 1] >= at])
            sizes += [n for q in quarters if len(q) for n in by_the_rule(q, split, depth - 1)]
    return sizes


@pytest.mark.parametrize("split", [2, 7, 100])
def test_cells_are_those_of_the_rule(split):
    points = np.concatenate([world(400), np.tile([10.0, 20.0], (30, 1)), world(400, 1).round()])
    tree, labels = quadtree(points, split, depth=5)
    assert np.bincount(labels).tolist() == by_the_rule(points, split, 5)
    assert tree.cells == labels.max() + 1
    assert (tree.assign(points) == labels).all()


def test_a_cell_is_a_box_and_any_other_point_has_one():
    points = world(1000)
    tree, labels = quadtree(points, 50)
    other = world(5000, 1)
    found = tree.assign(other)
    assert set(found) == set(range(tree.cells))
    for cell in range(tree.cells):
        low, high = points[labels == cell].min(0), points[labels == cell].max(0)
        inside = ((other >= low) & (other <= high)).all(1)
        assert (found[inside] == cell).all()
    assert (tree.assign(other + np.array([0.0, 360.0])) == found).all()


def test_each_level_joins_neighbors_of_one_box():
    tree, labels = quadtree(world(4096), 20, depth=10)
    assert [1 + max(level) for level in tree.levels] == [64, 16, 4]
    own = np.arange(tree.cells)
    for parents in tree.levels:
        own = np.array(parents)[own]
        assert (np.diff(own) >= 0).all()  # a part is a run of cells
        assert (np.diff(np.bincount(own[labels])) == 0).all()  # each has as many of these points


def test_points_that_are_all_alike_are_one_cell():
    tree, labels = quadtree(np.tile([1.0, 2.0], (100, 1)), 10)
    assert tree.cells == 1
    assert set(labels) == {0}
    assert tree.assign([[80, 170]]).tolist() == [0]


def test_a_tree_survives_json():
    points = world(300)
    areas = squares(square("a", -90, -180, 180), square("b", -90, 0, 180))
    for tree, labels in (quadtree(points, 20), polygon_cells(points, areas, 20)[:2]):
        again = CellTree.from_dict(json.loads(json.dumps(tree.to_dict())))
        assert (again.assign(points) == labels).all()
        assert again.levels == tree.levels


@pytest.mark.parametrize(
    ("name", "value"),
    [("low", [0]), ("high", [5]), ("roots", [0, 0]), ("threshold", []), ("axis", [2]), ("levels", [[0, 2]])],
)
def test_what_is_no_tree_is_refused(name, value):
    saved = quadtree([[0, 0], [1, 1], [2, 2]], 4)[0].to_dict()
    assert saved["axis"] == []
    saved = {
        "roots": [0], "axis": [0], "threshold": [1.0], "low": [-1], "high": [-2], "levels": [], "areas": []
    }  # fmt: skip
    assert CellTree.from_dict(copy.deepcopy(saved)).assign([[0.5, 0], [1, 0]]).tolist() == [0, 1]
    with pytest.raises(ValueError, match="cell tree"):
        CellTree.from_dict(saved | {name: value})


def test_a_split_of_one_and_no_or_unknown_points_are_refused():
    tree, _ = quadtree([[0, 0], [1, 1]], split=2)
    for use in (tree.assign, quadtree):
        with pytest.raises(ValueError, match="cells need finite points"):
            use([[0.0, np.nan]])
    with pytest.raises(ValueError, match="split must be at least 2"):
        quadtree([[0, 0]], 1)
    with pytest.raises(ValueError, match="cells need points"):
        cell_tree([[[0, 0]], np.empty((0, 2))], 2)


@pytest.mark.parametrize(("split", "cells"), [(50, 4097), (200, 1024), (1000, 256)])
def test_cells_of_the_gallery_of_geoclip(split, cells):
    geoclip = importlib.util.find_spec("geoclip")
    if geoclip is None:
        pytest.skip("the wheel geoclip 1.3.0, which holds 100,000 points, is not installed")
    folder = geoclip.submodule_search_locations[0]
    with open(f"{folder}/model/gps_gallery/coordinates_100K.csv") as file:
        points = np.array([[float(row["LAT"]), float(row["LON"])] for row in csv.DictReader(file)])
    tree, labels = quadtree(points, split)
    assert tree.cells == cells
    assert (tree.assign(points) == labels).all()
    assert np.bincount(labels).min() > 0


# Polygons


def test_cells_of_states_lie_in_their_state(shared_data):
    states = shared_data("us_states") / "us_states.json"
    areas = named_areas(states)
    rng = np.random.default_rng(0)
    points = np.concatenate([
        rng.uniform([18.5, -160], [71, -67], (8000, 2)), rng.uniform([40, -80], [45, -70], (500, 2))
    ])  # fmt: skip
    points = points[area_from_geojson(states).contains(points)]
    tree, labels, names = polygon_cells(points, areas, 40)
    assert len(names) == tree.cells == len(set(names))
    own = {name: area.contains(points) for name, area in areas.items()}
    for cell, name in enumerate(names):
        joined = name.rstrip("0123456789").strip().split(" + ")
        inside = np.any([own[state] for state in joined], 0)
        assert inside[labels == cell].all(), name
    assert np.bincount(labels).min() >= 10 // 4
    assert (tree.assign(points) == labels).all()


def test_a_small_polygon_joins_the_neighbor_with_the_longest_border():
    tall = square("tall", 0, 1)
    tall["geometry"]["coordinates"][0] = [[1, 0], [2, 0], [2, 2], [1, 2], [1, 1], [1, 0]]
    areas = squares(square("small", 0, 0), tall, square("north", 1, 0), square("empty", 5, 5))
    rng = np.random.default_rng(0)
    points = np.concatenate(
        [
            rng.uniform([0, 0], [1, 1], (2, 2)),
            rng.uniform([0, 1], [2, 2], (30, 2)),
            rng.uniform([1, 0], [2, 1], (15, 2)),
        ]
    )
    tree, labels, names = polygon_cells(points, areas, 20)
    assert names[-1] == "north"
    assert all(name.startswith("small + tall") for name in names[:-1])
    assert len(names) == 5
    assert tree.levels == [[0, 0, 0, 0, 1]]
    assert (labels[32:] == 4).all()
    assert tree.assign([[5.5, 5.5], [1.9, 0.1], [0.1, 0.1]]).tolist()[1] == 4


def test_polygons_that_overlap_are_refused_and_shared_borders_are_not():
    points = np.array([[0.5, 0.5], [0.5, 1.0], [0.5, 1.5]])
    assert len(polygon_cells(points, squares(square("a", 0, 0), square("b", 0, 1)), 4)[2]) == 2
    with pytest.raises(DataError, match=r"'a' and 'b' overlap: \(0.5, 1\) lies in both"):
        polygon_cells(points, squares(square("a", 0, 0, 1.2), square("b", 0, 0.9)), 4)


def test_features_without_a_name_or_a_polygon_are_refused():
    nameless = square("a", 0, 0)
    nameless["properties"] = {}
    with pytest.raises(DataError, match="feature 0 has no name"):
        squares(nameless)
    with pytest.raises(DataError, match=r"feature 0 \(a\) has no polygon"):
        squares(square("a", 0, 0) | {"geometry": None})
    assert list(squares(square("a", 0, 0), square("a", 3, 3))) == ["a"]


def test_centroids_of_cells_lie_in_them():
    points = world(2000)
    tree, labels = quadtree(points, 100)
    assert (tree.assign(class_centroids(points, labels, tree.cells)) == np.arange(tree.cells)).mean() > 0.9
