"""What a model learns of its training places: classes, centroids, extents and the box, on a round earth."""

import json

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value

from geohf.errors import DataError
from geohf.geo.cells import geo_cells
from geohf.street import GeoStreetConfig
from geohf.street.classes import describe_classes, labels_of, of_known_states, without_strange_states
from geohf.street.places import as_places, place_features
from geohf.vision.backbones import TimmTowerConfig


def places(points, states=None, indices=None):
    n = len(points)
    columns = {
        "sample_id": [f"id{i}" for i in range(n)],
        "views": [[{"path": f"{i}.jpg", "bytes": None}] for i in range(n)],
        "headings": [[0.0]] * n,
        "state": [None] * n if states is None else list(states),
        "state_idx": [None] * n if indices is None else list(indices),
        "latitude": [float(p[0]) for p in points],
        "longitude": [float(p[1]) for p in points],
    }
    return Dataset.from_dict(columns, features=place_features())


def config_of(fields):
    tower = TimmTowerConfig(architecture="test_resnet")
    return GeoStreetConfig(vision_config=tower, feature_size=96, **fields)


def away(points, origin):
    """Degrees from an origin, longitudes the short way round, written out."""
    gaps = []
    for latitude, longitude in points:
        gap = abs(longitude - origin[1]) % 360
        gaps.append((abs(latitude - origin[0]), min(gap, 360 - gap)))
    return np.array(gaps)


# States


@pytest.mark.parametrize("pair", [("Texas", "TX"), ("Texas", "texas"), ("06", "6"), ("new york", "ny")])
def test_states_that_are_written_in_two_ways_are_told_of(pair, caplog):
    describe_classes(places([[31, -99], [32, -99], [36, -119]], [*pair, "Utah"]))
    told = " and ".join(map(ascii, sorted(pair)))
    assert f"states that may be one, written differently: {told}" in caplog.text
    caplog.clear()
    describe_classes(places([[31, -99], [36, -119]], [pair[1], "CA"]))
    assert not caplog.text


def test_centroids_are_means_on_the_sphere():
    fields = describe_classes(places([[60, 0], [60, 90], [10, 20], [30, 20]], ["A", "A", "B", "B"]))
    assert fields["id2label"] == {0: "A", 1: "B"}
    # (0.5, 0, 0.866) and (0, 0.5, 0.866): latitude atan(0.866 / sqrt(0.25² + 0.25²))
    np.testing.assert_allclose(fields["class_centroids"], [[67.79234570, 45.0], [20.0, 20.0]], atol=1e-7)


def test_classes_stand_in_the_order_of_their_indices():
    data = places([[1, 1], [2, 2], [3, 3], [4, 4]], ["Texas", "Alaska", "Maine", "Texas"], [42, 1, 18, 42])
    fields = describe_classes(data)
    assert fields["id2label"] == {0: "Alaska", 1: "Maine", 2: "Texas"}
    assert fields["class_indices"] == [1, 18, 42]
    config = config_of(fields)
    assert labels_of(data, config).tolist() == [2, 0, 1, 2]
    others = places([[0, 0]] * 3, ["Maine", "Ohio", None])
    with pytest.raises(DataError, match="row id1: the model knows no state 'Ohio'"):
        labels_of(others, config)


def own(**columns):
    """Rows of a user's own."""
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return as_places([{"image": "a.jpg", "latitude": 1.0, "longitude": 2.0} | row for row in rows])


def test_a_state_idx_alone_is_the_index_of_the_competition_and_a_number_that_of_a_class():
    data = places([[1, 1], [2, 2], [3, 3]], ["Texas", "Alaska", "Maine"], [42, 1, 18])
    config = config_of(describe_classes(data))
    assert labels_of(own(state=[1, 0, 2, None]), config).tolist() == [1, 0, 2, -100]
    assert labels_of(own(state_idx=[1.0, 18, "42", -1]), config).tolist() == [0, 1, 2, -100]
    with pytest.raises(DataError, match="row 0: the model knows no state 18"):
        labels_of(own(state=[18]), config)
    with pytest.raises(DataError, match="row 0: the model knows no state '2'"):
        labels_of(own(state_idx=[2]), config)
    assert without_strange_states(own(state_idx=[18]), config, "test")["state"] == ["18"]
    unnumbered = config_of(describe_classes(places([[1, 1], [2, 2]], ["Maine", "Texas"])))
    assert labels_of(own(state=[1, 0]), unnumbered).tolist() == [1, 0]


def test_states_of_own_rows_are_tidied_as_those_of_tables():
    rows = own(state=["Maine", "Maine ", "Texas"])
    assert describe_classes(rows)["id2label"] == {0: "Maine", 1: "Texas"}
    for empty in ("", " ", "nan", float("nan"), None):
        with pytest.raises(DataError, match="1 places name no state, among them '1'; others do"):
            describe_classes(own(state=["Maine", empty]))


def test_states_of_a_users_own_datasets_are_tidied_too():
    spaced = places([[1, 1], [2, 2], [3, 3]], ["Maine", "Maine ", "Texas"])
    assert describe_classes(spaced)["id2label"] == {0: "Maine", 1: "Texas"}
    with pytest.raises(DataError, match="1 places name no state, among them 'id1'; others do"):
        describe_classes(places([[1, 1], [2, 2]], ["Maine", ""]))
    assert describe_classes(own(state=[3, 3.0, 5]))["id2label"] == {0: "3", 1: "5"}


def test_a_dataset_with_the_columns_of_places_is_checked_as_rows_are():
    good = places([[1, 1], [2, 2]], ["Maine", None])
    assert as_places(good) is good
    assert as_places(good.select([1])).column_names == good.column_names
    for points, reason in (
        ([[1, 1], [-999, 2]], r"row 1: \(-999, 2\) are no degrees"),
        ([[1, 1], [float("nan"), 2]], "row 1: has only one of latitude and longitude"),
        ([[1, 1], [0, 0]], r"row 1: \(0, 0\) stands for a position that is not known"),
    ):
        with pytest.raises(DataError, match=reason):
            describe_classes(as_places(places(points)))
    columns = good.to_dict()
    short = Dataset.from_dict(columns | {"headings": [[0.0], []]}, features=good.features)
    with pytest.raises(DataError, match="row id1: a sample has 1 views but 0 headings"):
        _ = as_places(short)["headings"]
    unknown = Dataset.from_dict(columns | {"headings": [[0.0], None]}, features=good.features)
    np.testing.assert_equal(as_places(unknown)["headings"], [[0.0], [np.nan]])
    unindexed = Dataset.from_dict(columns | {"state_idx": [-1, -1]}, features=good.features)
    assert as_places(unindexed)["state_idx"] == [None, None]
    half = good.remove_columns("state_idx").add_column("state_idx", [1.0, 3.5])
    with pytest.raises(DataError, match=r"row id1: state_idx is 3.5, which is no whole number"):
        _ = as_places(half)["state_idx"]
    assert as_places([{"image": "a.jpg", "sample_id": None}])["sample_id"] == ["0"]


def test_pictures_of_a_users_own_dataset_stay_undecoded():
    features = Features({"image": Image(), "latitude": Value("float64"), "longitude": Value("float64")})
    rows = Dataset.from_dict(
        {"image": ["a.jpg"], "latitude": [1.0], "longitude": [1.0]}, features=features
    )  # which is not there
    assert as_places(rows)["state"] == [None]
    assert as_places(rows)[0]["views"] == [{"bytes": None, "path": "a.jpg"}]


@pytest.mark.case("use-S2")
def test_a_state_without_a_training_place_is_left_out_or_taken_off_with_a_word(caplog):
    config = config_of(describe_classes(places([[1, 1], [2, 2]], ["Maine", "Texas"])))
    others = places([[0, 0]] * 3, ["Maine", "Ohio", None])
    assert without_strange_states(others.select([0, 2]), config, "test").column_names == others.column_names
    assert not caplog.text
    known = without_strange_states(others, config, "test")
    assert known.features == others.features
    assert known["state"][:] == ["Maine", None, None]
    assert "1 test places lie in states without a training place" in caplog.text
    assert "Ohio" in caplog.text
    assert labels_of(known, config).tolist() == [0, -100, -100]
    assert of_known_states(others, "a.csv", config, "skip")["state"][:] == ["Maine", None]
    with pytest.raises(DataError, match=r"a.csv, row id1: the model has no state 'Ohio'"):
        of_known_states(others, "a.csv", config, "raise")


def test_without_indices_classes_stand_in_the_order_of_their_names():
    fields = describe_classes(places([[1, 1], [2, 2]], ["Peru", "Chile"]))
    assert fields["id2label"] == {0: "Chile", 1: "Peru"}
    assert "class_indices" not in fields


def test_an_index_in_one_row_is_enough():
    fields = describe_classes(places([[1, 1], [2, 2], [3, 3]], ["Maine", "Maine", "Texas"], [None, 18, 42]))
    assert fields["class_indices"] == [18, 42]
    fields = describe_classes(places([[1, 1], [2, 2], [3, 3]], ["Maine", "Maine", "Texas"], [18, None, 42]))
    assert fields["class_indices"] == [18, 42]
    fields = describe_classes(places([[1, 1], [2, 2]], ["Maine", "Texas"], [18, None]))
    assert "class_indices" not in fields  # one state has none: no submission can be written


@pytest.mark.parametrize(
    ("states", "indices", "reason"),
    [
        (["Maine", "Maine", "Texas"], [18, 19, 42], "state 'Maine' has state_idx 18 in one row and 19"),
        (["Maine", "Ohio", "Texas"], [18, 42, 42], "state_idx 42 stands for"),
        (["Maine", None, "Texas"], [18, None, 42], "1 places name no state, among them 'id1'; others do"),
    ],
)
def test_rows_that_disagree_are_refused(states, indices, reason):
    with pytest.raises(DataError) as caught:
        describe_classes(places([[1, 1], [2, 2], [3, 3]], states, indices))
    assert reason in str(caught.value)


def test_rows_without_a_position_do_not_count():
    nan = float("nan")
    fields = describe_classes(places([[10, 10], [nan, nan], [30, 30]], ["A", "A", "B"]))
    np.testing.assert_allclose(fields["class_centroids"], [[10, 10], [30, 30]])
    with pytest.raises(DataError, match=r"no training place of the states \['B'\] has a position"):
        describe_classes(places([[10, 10], [nan, nan]], ["A", "B"]))
    with pytest.raises(DataError, match="no training place has a position"):
        describe_classes(places([[nan, nan]], ["A"]))


def test_everything_fits_into_a_config():
    fields = describe_classes(places([[1.25, 1], [2, -179.5], [3, 3]], ["A", "B", "B"], [4, 2, 2]))
    saved = json.loads(json.dumps(fields))
    config = config_of(fields)
    assert config.class_centroids == saved["class_centroids"]
    assert config.num_classes == 2
    assert config.label2id == {"B": 0, "A": 1}


# How far a class and the box reach


def test_extents_reach_every_training_place():
    rng = np.random.default_rng(4)
    points = np.stack([rng.uniform(25, 70, 300), rng.uniform(-170, -60, 300)], 1)
    states = [f"state {i % 7}" for i in range(300)]
    data = places(points, states)
    fields = describe_classes(data)
    labels = labels_of(data, config_of(fields))
    for number, (centroid, extent) in enumerate(
        zip(fields["class_centroids"], fields["class_extents"], strict=True)
    ):
        reach = away(points[labels == number], centroid).max(0)
        np.testing.assert_allclose(extent, reach * 1.2, atol=1e-6)


def test_a_class_of_one_place_still_has_an_extent():
    fields = describe_classes(places([[10, 10], [40, 40], [40, 50]], ["A", "B", "B"]))
    assert fields["class_extents"][0] == [0.02, 0.02]
    assert fields["class_extents"][1][1] == pytest.approx(6.0)


def test_fiji_lies_on_both_sides_of_the_antimeridian():
    fields = describe_classes(places([[-17, 179], [-17, -179]], ["Fiji", "Fiji"]))
    latitude, longitude = fields["class_centroids"][0]
    assert latitude == pytest.approx(-17.00244, abs=1e-4)  # atan(sin 17 / (cos 17 cos 1))
    assert abs(longitude) == pytest.approx(180)
    assert fields["class_extents"][0] == pytest.approx([0.02, 1.2], abs=1e-6)
    south, west, north, east = fields["gps_box"]
    assert (west, east) == pytest.approx((178.9, -178.9))  # a twentieth of two degrees beyond
    assert (south, north) == pytest.approx((-17.02, -16.98), abs=1e-6)


def test_the_aleutians_do_not_stretch_alaska_around_the_world():
    points = np.array([[61.2, -149.9], [64.8, -147.7], [58.3, -134.4], [52.9, 172.9], [71.3, -156.8]])
    fields = describe_classes(places(points, ["Alaska"] * 5, [1] * 5))
    centroid, extent = fields["class_centroids"][0], fields["class_extents"][0]
    assert -160 < centroid[1] < -145
    assert (away(points, centroid) <= extent).all()
    assert extent[1] < 50
    south, west, north, east = fields["gps_box"]
    assert west > 160
    assert east < -130
    assert ((points[:, 1] > west) | (points[:, 1] < east)).all()
    assert ((points[:, 0] > south) & (points[:, 0] < north)).all()


def test_the_box_is_a_tenth_wider_than_the_points():
    fields = describe_classes(places([[10, 20], [30, 20], [20, 15], [20, 25]]), max_cells=0)
    assert fields == {"gps_box": pytest.approx([9, 14.5, 31, 25.5], abs=0.01), "gps_head": "bounded"}


def test_the_box_of_the_whole_world_and_of_one_place():
    world = [[float(lat), float(lon)] for lat in (-80, 0, 85) for lon in range(-175, 180, 10)]
    assert describe_classes(places(world), max_cells=0)["gps_box"] == pytest.approx([-88.25, -180, 90, 180])
    south, west, north, east = describe_classes(places([[50, 8], [50, 8]]), max_cells=0)["gps_box"]
    assert south < 50 < north
    assert west < 8 < east


# Places without states


def test_two_towns_become_two_cells():
    rng = np.random.default_rng(0)
    towns = np.repeat([[52.5, 13.4], [55.7, 13.2]], [9, 20], 0)
    data = places(rng.normal(towns, 0.03))
    fields = describe_classes(data)
    assert fields["cells"] is True
    assert "class_indices" not in fields
    np.testing.assert_allclose(fields["class_centroids"], [[55.7, 13.2], [52.5, 13.4]], atol=0.05)
    assert [name.split(".")[0] for name in fields["id2label"].values()] == ["55", "52"]
    assert all(name.endswith("E") and "N " in name for name in fields["id2label"].values())
    config = config_of(fields)
    assert labels_of(data, config).tolist() == [1] * 9 + [0] * 20
    unknown = places([[55, 13], [float("nan")] * 2, [41.9, 12.5]])
    assert labels_of(unknown, config).tolist() == [0, -100, 1]


def test_names_of_cells_tell_the_hemispheres():
    fields = describe_classes(places([[-33.9, 151.2]] * 3 + [[40.7, -74.0]] * 3))
    assert sorted(fields["id2label"].values()) == ["33.90S 151.20E", "40.70N 74.00W"]


def test_a_cell_reaches_every_place_that_is_labeled_with_it():
    """Labels are nearest centroids, and these are not always the halves that bisection left."""
    rng = np.random.default_rng(1)
    points = np.stack([rng.uniform(30, 60, 600), rng.uniform(-20, 40, 600)], 1)
    data = places(points)
    fields = describe_classes(data, max_cells=24)
    labels = labels_of(data, config_of(fields))
    assert (labels != geo_cells(points, 24)[0]).any()
    assert sorted(set(labels.tolist())) == list(range(24))
    for number, (centroid, extent) in enumerate(
        zip(fields["class_centroids"], fields["class_extents"], strict=True)
    ):
        assert (away(points[labels == number], centroid).max(0) <= np.array(extent) + 1e-6).all()


def test_max_cells_is_a_limit():
    rng = np.random.default_rng(1)
    points = np.stack([rng.uniform(30, 60, 200), rng.uniform(-20, 40, 200)], 1)
    for limit in (1, 2, 7):
        assert len(describe_classes(places(points), max_cells=limit)["class_centroids"]) == limit
    fields = describe_classes(places(points), max_cells=0)
    assert set(fields) == {"gps_box", "gps_head"}
    config = config_of(fields)
    assert config.num_classes == 0
    assert labels_of(places(points[:3]), config).tolist() == [-100] * 3
