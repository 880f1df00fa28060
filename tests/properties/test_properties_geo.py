"""Coordinates: any small table, at poles, antimeridian and twice at one place, against written-out references."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from rasterio.warp import transform
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from geohf.geo import (
    EARTH_RADIUS_M,
    area_from_geojson,
    block_split,
    distance_matrix_m,
    great_circle_m,
    matches_within_m,
    pairs_within_m,
    spherical_mean,
)
from geohf.geo.scalers import SCALERS, fit_scaler
from geohf.geo.utm import points_and_reasons, utm_from_points
from geohf.report.geojson import write_geojson

latitudes = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, -89.9999, 0.0, 89.9999, 90.0]))
longitudes = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 179.9999, -179.9999, 0.0, 180.0]))
places = st.tuples(latitudes, longitudes)
radii = st.one_of(st.floats(1, 3e7), st.sampled_from([25.0, 1000.0, 2e7]))


@st.composite
def tables(draw, least=1, most=12):
    """Points of which some lie at one place, some a few meters apart, and some anywhere."""
    points = draw(st.lists(places, min_size=least, max_size=most))
    copies = draw(st.lists(st.integers(0, most - 1), max_size=4))
    points += [points[i % len(points)] for i in copies]
    near = [(max(-90.0, lat - 1e-4), lon) for lat, lon in points[: len(copies)]]
    return np.array(points + near)


def vector(point) -> np.ndarray:
    """The point on the unit sphere, in double precision."""
    lat, lon = (math.radians(float(x)) for x in point)
    return np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])


def arc_m(a, b) -> float:
    """By Kahan's formula on vectors, which is right from zero to the antipode."""
    u, v = vector(a), vector(b)
    return 2 * EARTH_RADIUS_M * math.atan2(np.linalg.norm(u - v), np.linalg.norm(u + v))


@given(places, places)
@example((90.0, 10.0), (-90.0, -70.0))
@example((12.0, 180.0), (12.0, -180.0))
def test_distances_are_those_of_vectors(a, b):
    expected = arc_m(a, b)
    assert float(great_circle_m(a, b)) == pytest.approx(expected, abs=1e-6)
    assert float(distance_matrix_m(np.array([a]), np.array([b]))[0, 0]) == pytest.approx(expected, abs=1)
    half = great_circle_m(torch.tensor(a).float(), torch.tensor(b).float())
    rounded = [tuple(np.float32(x) for x in point) for point in (a, b)]
    assert float(half) == pytest.approx(arc_m(*rounded), abs=3)


@given(tables(least=2), radii)
def test_pairs_are_all_pairs_that_are_near(points, radius_m):
    distances = {(i, j): arc_m(points[i], points[j]) for i, j in combinations(range(len(points)), 2)}
    assume(all(abs(d - radius_m) > 1e-3 for d in distances.values()))  # at the rim rounding decides
    found = pairs_within_m(points, radius_m)
    assert found.tolist() == sorted(map(list, (pair for pair, d in distances.items() if d <= radius_m)))


@given(tables(), tables(), radii)
def test_matches_are_all_that_are_near(database, queries, radius_m):
    distances = np.array([[arc_m(q, d) for d in database] for q in queries])
    assume((np.abs(distances - radius_m) > 1e-3).all())
    offsets, rows = matches_within_m(database, queries, radius_m)
    for query, near in enumerate(distances <= radius_m):
        found = rows[offsets[query] : offsets[query + 1]]
        assert sorted(found.tolist()) == np.flatnonzero(near).tolist()
    assert offsets[-1] == len(rows)


@given(tables(), st.data())
def test_a_mean_is_the_sum_of_vectors_whatever_the_order_and_the_turns(points, data):
    weights = np.array(data.draw(st.lists(st.floats(0.1, 5), min_size=len(points), max_size=len(points))))
    total = sum(w * vector(p) for w, p in zip(weights, points, strict=True))
    assume(np.linalg.norm(total) > 0.01 * weights.sum())  # else they cancel out
    mean = spherical_mean(points, weights)
    assert np.abs(vector(mean) - total / np.linalg.norm(total)).max() < 1e-9
    order = data.draw(st.permutations(range(len(points))))
    turned = points + np.outer(
        data.draw(st.lists(st.integers(-2, 2), min_size=len(points), max_size=len(points))), [0, 360]
    )
    assert arc_m(spherical_mean(turned[order], weights[order]), mean) < 1e-3


@pytest.mark.case("files-D1")
@given(st.integers(1, 60), st.booleans(), st.floats(0.001, 80), st.floats(-3.5, 3.5))
def test_utm_is_what_proj_says_and_back(zone, north, latitude, away):
    latitude = latitude if north else -latitude
    longitude = 6 * zone - 183 + away
    name = f"{zone} {'north' if north else 'south'}"
    east, north_m = transform("EPSG:4326", f"EPSG:32{6 if north else 7}{zone:02}", [longitude], [latitude])
    found = utm_from_points([[latitude, longitude]], name)
    assert found[0] == pytest.approx([east[0], north_m[0]], abs=1e-3)
    points, _ = points_and_reasons([[east[0], north_m[0]]], name)
    assert arc_m(points[0], (latitude, longitude)) < 1e-3


@st.composite
def planar_tables(draw):
    """Points far from zero, in columns that vary or do not."""
    offset = draw(st.sampled_from([0.0, 2e5, -7e6, 3e8]))
    size = draw(st.sampled_from([0.0, 1e-3, 1.0, 1e4]))
    numbers = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2)
    return offset + size * np.array(draw(st.lists(numbers, min_size=1, max_size=20)))


@given(planar_tables(), st.sampled_from(SCALERS))
def test_scaling_back_gives_the_points_and_scaling_what_scikit_learn_gives(points, kind):
    scaler = fit_scaler(points, kind, "planar")
    scaled = scaler.transform(points)
    assert np.abs(scaler.inverse_transform(scaled) - points).max() <= 4e-16 * np.abs(points).max() + 1e-12
    theirs = {"robust": RobustScaler(), "standard": StandardScaler(), "minmax": MinMaxScaler((-1, 1))}[kind]
    spread = np.ptp(points, axis=0)
    assume(((spread == 0) | (spread > 1e-7 * np.abs(points).max() + 1e-9)).all())  # else rounding decides
    if kind != "robust" or (np.subtract(*np.quantile(points, [0.75, 0.25], axis=0)) > 1e-9).all():
        expected = theirs.fit_transform(points)
        blur = 1e-15 * np.abs(points).max() / np.where(spread > 0, spread, 1).min()
        np.testing.assert_allclose(scaled, expected, atol=1e-9 + 10 * blur * max(1, np.abs(expected).max()))


@given(places, st.lists(st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)), min_size=2, max_size=15),
       st.sampled_from(SCALERS))  # fmt: skip
def test_scaling_degrees_back_gives_the_places(middle, steps, kind):
    latitude = min(max(middle[0], -89), 89)
    points = np.array([(latitude + a, middle[1] + b) for a, b in steps])
    scaler = fit_scaler(points, kind)
    assert np.abs(scaler.inverse_transform(scaler.transform(points))[:, 0] - points[:, 0]).max() < 1e-9
    back = scaler.inverse_transform(torch.from_numpy(scaler.transform(points)))
    assert max(arc_m(a, b) for a, b in zip(back.tolist(), points, strict=True)) < 1e-3


@pytest.mark.case("files-D7")
@given(
    st.integers(20, 80), st.floats(0.1, 0.5), st.integers(0, 9), st.floats(100, 3000), latitudes, longitudes
)
def test_blocks_leave_a_buffer_and_lose_nobody(n, fraction, seed, buffer_m, lat, lon):
    rng = np.random.default_rng(seed)
    points = np.array([min(max(lat, -85), 85), lon]) + rng.uniform(-0.2, 0.2, (n, 2))
    try:
        split = block_split(points, fraction, 4000, buffer_m, seed)
    except ValueError:
        assume(False)
    rows = np.concatenate([split.train, split.validation, split.buffer])
    assert sorted(rows.tolist()) == list(range(n))
    for held in split.validation:
        assert all(arc_m(points[row], points[held]) > buffer_m - 1e-3 for row in split.train)
    for row in split.buffer:  # nobody was left out who is not near
        assert min(arc_m(points[row], points[held]) for held in split.validation) <= buffer_m + 1e-3


@given(tables(), st.data())
def test_geojson_gives_points_and_properties_back(tmp_path_factory, points, data):
    texts = st.lists(st.text(max_size=8), min_size=len(points), max_size=len(points))
    numbers = st.lists(
        st.floats(allow_nan=False, allow_infinity=False), min_size=len(points), max_size=len(points)
    )
    rows = {"name": data.draw(texts), "value": data.draw(numbers)}
    path = tmp_path_factory.mktemp("geojson") / "points.geojson"
    write_geojson(path, points, rows)
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    assert len(features) == len(points)
    for row, (feature, point) in enumerate(zip(features, points, strict=True)):
        lon, lat = feature["geometry"]["coordinates"]
        assert arc_m((lat, lon), point) < 0.2
        assert [feature["properties"][name] for name in rows] == [rows[name][row] for name in rows]


@given(
    st.floats(-170, 160), st.floats(-80, 70), st.floats(1, 10), st.floats(1, 10), st.lists(places, max_size=8)
)
def test_an_area_holds_what_lies_in_its_box(west, south, width, height, points):
    ring = [
        [west, south],
        [west + width, south],
        [west + width, south + height],
        [west, south + height],
        [west, south],
    ]
    area = area_from_geojson({"type": "Polygon", "coordinates": [ring]})
    points = np.array([*points, (south + height / 2, west + width / 2)])
    inside = (np.abs(points - [south + height / 2, west + width / 2]) < [height / 2, width / 2]).all(1)
    edge = np.abs(np.abs(points - [south + height / 2, west + width / 2]) - [height / 2, width / 2]).min(1)
    assert (area.contains(points) == inside)[edge > 1e-9].all()
