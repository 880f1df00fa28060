"""Boxes and GeoJSON areas."""

import json
from pathlib import Path

import numpy as np
import pytest

from geohf.errors import DataError
from geohf.geo import Area, area_from_geojson, box, distance_matrix_m, great_circle_m
from geohf.geo.geojson import feature_areas, named_areas

STATES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "us_states" / "us_states.json"
needs_states = pytest.mark.skipif(not STATES.is_file(), reason="the outlines of the US states are not here")

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]  # GeoJSON: longitude first
HOLE = [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry, **properties):
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def test_box_includes_its_boundary():
    area = box(24, -125, 50, -66)
    inside = [[24, -125], [50, -66], [24, -100], [37, -125], [37, -100]]
    outside = [[23.999, -100], [50.001, -100], [37, -125.001], [37, -65.999], [37, 100]]
    assert area.contains(inside).all()
    assert not area.contains(outside).any()
    assert area.contains([[37, 260]]).all()  # -100 in another turn


def test_box_over_the_antimeridian_and_over_half_the_globe():
    pacific = box(-20, 170, 10, -170)
    assert pacific.contains([[0, 175], [0, -175], [0, 180], [0, -180], [0, 170], [0, -170]]).all()
    assert not pacific.contains([[0, 0], [0, 169], [0, -169]]).any()
    wide = box(-90, -170, 90, 170)
    assert wide.contains([[0, 0], [89, 169], [90, 10]]).all()
    assert not wide.contains([[0, 175], [0, -175]]).any()
    assert box(-90, -180, 90, 180).contains([[0, 180], [90, 0], [-90, -180], [3, 4]]).all()


@pytest.mark.parametrize(
    "bad", [(10, 0, 5, 1), (0, 0, 91, 1), (0, -181, 1, 1), (0, 3, 1, 3), (0, float("nan"), 1, 1)]
)
def test_box_errors(bad):
    with pytest.raises(ValueError, match="a box needs"):
        box(*bad)


def test_holes_orientation_and_multipolygons():
    points = [[5, 5], [2, 2], [5, 4], [11, 5], [5, 45]]
    expected = [False, True, True, False, False]  # the boundary of a hole belongs to the area
    for rings in ([SQUARE, HOLE], [SQUARE[::-1], HOLE], [SQUARE, HOLE[::-1]]):
        assert area_from_geojson(polygon(*rings)).contains(points).tolist() == expected
    far = [[40, 0], [50, 0], [50, 10], [40, 10], [40, 0]]
    multi = area_from_geojson({"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [far]]})
    assert multi.contains(points).tolist() == [False, True, True, False, True]


def test_overlapping_polygons_are_a_union():
    area = box(0, 0, 10, 10) | box(5, 5, 15, 15)
    assert area.contains([[7, 7], [2, 2], [12, 12], [2, 12]]).tolist() == [True, True, True, False]
    assert len(area.polygons) == 2


@pytest.mark.case("files-D9")
def test_concave_ring_against_half_planes():
    # A triangle with a notch: below |x| and above -1, known in closed form.
    ring = [[-5, -1], [5, -1], [5, 5], [0, 0], [-5, 5], [-5, -1]]
    rng = np.random.default_rng(0)
    points = rng.uniform(-6, 6, (5000, 2))
    lat, lon = points.T
    expected = (lat >= -1) & (lat <= np.abs(lon)) & (np.abs(lon) <= 5)
    assert np.array_equal(area_from_geojson(polygon(ring)).contains(points), expected)


def test_ring_across_the_antimeridian():
    running = [[170, -10], [190, -10], [190, 10], [170, 10], [170, -10]]
    western = [[-190, -10], [-170, -10], [-170, 10], [-190, 10], [-190, -10]]
    points = [[0, 175], [0, -175], [0, 185], [0, 0], [0, 165], [0, -165]]
    for ring in (running, western):
        assert area_from_geojson(polygon(ring)).contains(points).tolist() == [
            True,
            True,
            True,
            False,
            False,
            False,
        ]


@pytest.mark.case("files-A14")
@pytest.mark.parametrize(("west", "east"), [(-179.75, 179.75), (-170, 170), (-20, 180), (-180, 180)])
def test_a_rectangle_is_as_drawn_however_wide(west, east):
    shapely_box = [[east, -90], [east, 90], [west, 90], [west, -90], [east, -90]]
    for ring in (shapely_box, shapely_box[::-1]):
        area = area_from_geojson(polygon(ring))
        assert area.contains([[0, 0], [48, 2], [-30, 100]]).all()
        assert area.contains([[0, -179.9]]).all() == (west == -180)
    inner = [[-175, -5], [175, -5], [175, 5], [-175, 5], [-175, -5]]
    outer = [[-179, -9], [179, -9], [179, 9], [-179, 9], [-179, -9]]
    assert area_from_geojson(polygon(outer, inner)).contains([[0, 0], [7, 0]]).tolist() == [False, True]


@pytest.mark.case("files-A14")
@pytest.mark.parametrize(
    "ring",
    [
        [[170, -10], [-170, -10], [-171, 10], [171, 10], [170, -10]],  # Fiji uncut, or the rest of the world
        [[-170, -60], [170, -60], [170, 80], [0, 85], [-170, 80], [-170, -60]],
        [[-100, 0], [100, 0], [0, 50], [-100, 0]],
        [[-180, -60], [-90, -60], [0, -60], [90, -60], [-180, -60]],  # a cap round the pole, uncut
    ],
)
def test_a_step_that_could_go_either_way_is_refused(ring):
    with pytest.raises(DataError, match=r"ring 0: the step .* wider than 180 degrees; cut the polygon"):
        area_from_geojson(polygon(ring))


@pytest.mark.case("files-C6")
def test_geometries_without_coordinates_are_empty():
    empty = [{"type": "Polygon", "coordinates": []}, {"type": "MultiPolygon", "coordinates": []}, None]
    empty += [{"type": "MultiPolygon", "coordinates": [[]]}]
    features = [feature(geometry) for geometry in [*empty, polygon(SQUARE)]]
    area = area_from_geojson({"type": "FeatureCollection", "features": features})
    assert len(area.polygons) == 1
    with pytest.raises(DataError, match="no Polygon"):
        area_from_geojson({"type": "FeatureCollection", "features": features[:4]})


@pytest.mark.case("files-C7")
@pytest.mark.parametrize("key", ["ADMIN", "NAME", "NAME_1", "shapeName", "STATE_NAME", "name_en", "COUNTRY"])
def test_names_by_the_keys_of_known_files(key):
    collection = {
        "type": "FeatureCollection",
        "features": [feature(polygon(SQUARE), **{key: "France", "ISO": 1})],
    }
    assert area_from_geojson(collection, names="France").contains([[5, 5]]).all()
    collection["features"] = [feature(polygon(SQUARE), iso="FRA", pop=3)]
    with pytest.raises(DataError, match="there are: none, as the features have only the properties iso, pop"):
        area_from_geojson(collection, names="France")


def test_ring_around_a_pole():
    # As map makers draw Antarctica: along the edge of the map to the pole and back.
    drawn = [[-180, -60], [0, -70], [180, -60], [180, -90], [-180, -90], [-180, -60]]
    assert area_from_geojson(polygon(drawn)).contains([[-80, 0], [-65, 0], [-65, 170]]).tolist() == [
        True,
        False,
        True,
    ]


def test_nearest_by_hand():
    area = box(0, 0, 10, 10)
    points = np.array([[5, 5], [10, 3], [5, 12], [-3, -4], [20, 5]], float)
    found = area.nearest(points)
    assert found.tolist() == [[5, 5], [10, 3], [5, 10], [0, 0], [10, 5]]
    assert area.contains(found).all()
    pacific = box(-20, 170, 10, -170)
    found = pacific.nearest([[0, -165], [0, 160], [15, -179]])
    assert np.allclose(found, [[0, -170], [0, 170], [10, -179]], atol=1e-12)
    assert pacific.contains(found).all()


def test_nearest_is_nearest():
    rng = np.random.default_rng(1)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 40))
    radius = rng.uniform(2, 8, 40)
    ring = np.stack([45 + radius * np.sin(angle), 178 + 1.5 * radius * np.cos(angle)], 1)
    area = Area([[ring]])
    points = np.stack([rng.uniform(30, 60, 300), (rng.uniform(160, 196, 300) + 180) % 360 - 180], 1)
    outside = ~area.contains(points)
    assert 50 < outside.sum() < 290
    found = area.nearest(points)
    assert np.array_equal(found[~outside], points[~outside])
    closed = np.concatenate([ring, ring[:1]])
    part = np.linspace(0, 1, 400)[:, None, None]
    dense = (closed[:-1] + part * np.diff(closed, axis=0)).reshape(-1, 2)
    best = distance_matrix_m(points[outside], dense).min(1)
    got = great_circle_m(points[outside], found[outside])
    assert (got <= best * 1.005 + 1.0).all()
    assert distance_matrix_m(found[outside], dense).min(1).max() < 3000  # it lies on the boundary


def test_names_pick_features():
    collection = {
        "type": "FeatureCollection",
        "features": [
            feature(polygon(SQUARE), name="Home"),
            {**feature(polygon([[20, 0], [30, 0], [30, 10], [20, 0]]), NAME="Away"), "id": "AW"},
            feature(None, name="Nowhere"),
        ],
    }
    assert area_from_geojson(collection).contains([[5, 5], [2, 28]]).tolist() == [True, True]
    assert area_from_geojson(collection, names="Home").contains([[5, 5], [2, 28]]).tolist() == [True, False]
    assert area_from_geojson(collection, names=["AW"]).contains([[5, 5], [2, 28]]).tolist() == [False, True]
    with pytest.raises(DataError, match="no feature named 'Mars'; there are: Away, Home, Nowhere"):
        area_from_geojson(collection, names=["Home", "Mars"])
    with pytest.raises(DataError, match="no Polygon"):
        area_from_geojson(collection, names="Nowhere")


@pytest.mark.case("files-D10")
def test_geometry_collection_and_altitudes():
    ring = [[*position, 120.5] for position in SQUARE]
    geometry = {
        "type": "GeometryCollection",
        "geometries": [{"type": "Point", "coordinates": [1, 2]}, polygon(ring)],
    }
    assert area_from_geojson(feature(geometry)).contains([[5, 5], [5, 15]]).tolist() == [True, False]


@pytest.mark.case("files-D10")
@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "top level must be an object"),
        ({}, "unknown GeoJSON type None"),
        ({"type": "Topology"}, "unknown GeoJSON type 'Topology'"),
        ({"type": "FeatureCollection"}, "list of features"),
        ({"type": "FeatureCollection", "features": []}, "no Polygon"),
        ({"type": "FeatureCollection", "features": [3]}, "feature 0: not a GeoJSON geometry"),
        ({"type": "Point", "coordinates": [0, 0]}, "no Polygon"),
        (polygon(), "no Polygon"),
        ({"type": "Polygon", "coordinates": "x"}, "list of rings"),
        (polygon([[0, 0], [1, 1], [0, 0]]), "at least 4 positions"),
        (polygon([[0, 0], [1, 1], [2, 0], [5, 5]]), "the last equal to the first"),
        (polygon([[0, 0], [1], [2, 0], [0, 0]]), "not a list of"),
        (polygon([[0, 0], ["a", 1], [2, 0], [0, 0]]), "not a list of"),
        (polygon([[0, 0], [{}, 1], [2, 0], [0, 0]]), "not a list of"),
        (polygon([[0, 0], [None, 1], [2, 0], [0, 0]]), "not finite"),
        (polygon([[0, 0], [float("nan"), 1], [2, 0], [0, 0]]), "not finite"),
        (polygon([[0, 0], [0, 127], [2, 0], [0, 0]]), "swapped, or a projected file"),
        (polygon([[0, 0], [10**400, 1], [2, 0], [0, 0]]), "not a list of"),
        ({"type": "MultiPolygon", "coordinates": None}, "list of polygons"),
        ({"type": "GeometryCollection", "geometries": {}}, "list of geometries"),
    ],
)
def test_malformed_files_name_the_file(tmp_path, document, message):
    path = tmp_path / "region.geojson"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message) as caught:
        area_from_geojson(path)
    assert "region.geojson" in str(caught.value)


@pytest.mark.case("files-D10")
@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000, '{"type": "Polygon"'])
def test_broken_json(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"broken\.json: not valid JSON"):
        area_from_geojson(path)


def test_deep_nesting_and_missing_files(tmp_path):
    document = polygon(SQUARE)
    for _ in range(50):
        document = {"type": "GeometryCollection", "geometries": [document]}
    with pytest.raises(DataError, match="not a GeoJSON geometry"):
        area_from_geojson(document)
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        area_from_geojson(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"type": "\xff"}')
    with pytest.raises(DataError, match="not valid JSON"):
        area_from_geojson(tmp_path / "latin.json")


def test_area_errors():
    with pytest.raises(ValueError, match="at least one polygon"):
        Area([])
    with pytest.raises(ValueError, match="3 different points"):
        Area([[[[0, 0], [1, 1]]]])
    with pytest.raises(ValueError, match="latitude outside"):
        Area([[[[0, 0], [91, 1], [0, 2]]]])
    with pytest.raises(ValueError, match="finite"):
        box(0, 0, 1, 1).nearest([[float("nan"), 0]])
    assert box(0, 0, 1, 1).contains([[float("nan"), 0.5]]).tolist() == [False]
    assert box(0, 0, 1, 1).contains(np.zeros((0, 2))).tolist() == []
    assert box(0, 0, 1, 1).nearest(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.case("files-D9")
@needs_states
def test_us_states():
    cities = {
        "Colorado": (39.74, -104.99),
        "Texas": (30.27, -97.74),
        "Alaska": (61.2181, -149.9003),
        "Hawaii": (19.6, -155.5),
    }
    for state in cities:
        inside = area_from_geojson(STATES, names=state).contains(list(cities.values()))
        assert inside.tolist() == [other == state for other in cities]
    country = area_from_geojson(STATES)
    assert country.contains(list(cities.values())).all()
    assert not country.contains([(51.5, 0.1), (45.4, -75.7), (19.4, -99.1), (25.0, -90.0)]).any()
    # A guess in the Gulf of Mexico is moved to the coast, which is a few hundred kilometers away.
    moved = country.nearest([[27.5, -90.0]])
    assert 100e3 < great_circle_m(moved[0], [27.5, -90.0]) < 250e3


@pytest.mark.parametrize("read", [area_from_geojson, named_areas, feature_areas])
def test_what_is_no_path_and_no_object_is_refused(read):
    with pytest.raises(DataError, match="GeoJSON is a file's path or the parsed object, not a list"):
        read([])


def test_one_name_in_two_countries_is_two_areas():
    """As GADM and Natural Earth have them; parts of one unit stay one area."""

    def named(*rows):
        shifted = (polygon([[x + i * 20, y] for x, y in SQUARE]) for i in range(len(rows)))
        features = [feature(square, **row) for square, row in zip(shifted, rows, strict=True)]
        return list(named_areas({"type": "FeatureCollection", "features": features}))

    amazonas = [{"NAME_1": "Amazonas", "NAME_0": country} for country in ("Brazil", "Peru", "Peru")]
    assert named(*amazonas, {"NAME_1": "Bahia", "NAME_0": "Brazil"}) == [
        "Amazonas, Brazil",
        "Amazonas, Peru",
        "Bahia",
    ]
    assert named(*({"name": "Limburg", "admin": land} for land in ("Belgium", "Netherlands"))) == [
        "Limburg, Belgium", "Limburg, Netherlands",
    ]  # fmt: skip
    assert named(*({"NAME": "Washington", "STATEFP": "48", "STATE_NAME": land} for land in ("Texas", "Ohio"))) == [
        "Washington, Texas", "Washington, Ohio",
    ]  # fmt: skip
    assert named({"name": "A", "NAME_1": "B", "NAME_0": "B"}, {"name": "A", "NAME_0": "B"}) == [
        "A"
    ]  # none is lost
    assert named(
        *({"name": "France", "NAME_1": part, "NAME_0": "France"} for part in ("Bretagne", "Alsace"))
    ) == ["France"]
