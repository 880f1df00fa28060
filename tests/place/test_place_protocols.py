"""The field's folders: each generated tree gives the recall of a check by brute force, under both rules."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from helpers.place_models import along, build_model, write_csv, write_pictures

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.place.arguments import PlaceArguments
from geohf.place.data import load
from geohf.place.drives import load_drives
from geohf.place.file_names import point_of_name
from geohf.place.protocols import BENCHMARKS, check_sizes, expand, find_sets


@pytest.fixture(scope="module")
def model():
    return build_model()


def planar(east: float, north: float = 0.0) -> str:
    return f"@{east:010.2f}@{north:010.2f}@@@@@@@@@@@@@.png"


def write_set(folder, names, seed):
    write_pictures(folder, names, seed)
    return [folder / name for name in names]


def by_brute_force(model, database, queries, near, n, rule):
    """Recall at n, where `near(q, d)` says what is right."""
    base, asked = model.encode(database), model.encode(queries)
    right, counted = 0, 0
    for q in range(len(queries)):
        matches = {d for d in range(len(database)) if near(q, d)}
        if rule == "has_match" and not matches:
            continue
        counted += 1
        right += bool(matches & set(np.argsort(-(base @ asked[q]))[:n].tolist()))
    return right / counted


@pytest.mark.parametrize("inside", ["images/test", "test", ""])
@pytest.mark.parametrize("rule", ["has_match", "all"])
def test_nordland_is_a_line_in_a_plane(model, tmp_path, inside, rule):
    """Steps of 2.4 m: within 25 m ten frames away are right, eleven are not; some queries have no match."""
    east = 2.4 * np.arange(60)
    asked = np.r_[2.4 * np.arange(0, 60, 4), 900.0, 1000.0]
    root = tmp_path / inside
    database = write_set(root / "database", [planar(e) for e in east], 1)
    queries = write_set(root / "queries", [planar(e) for e in asked], 2)
    found = model.evaluate(tmp_path, recalls=(1, 5, 20), radius_m=25.0, rule=rule)

    def near(q, d):
        return abs(round(asked[q] / 2.4) - d) <= 10

    for n in (1, 5, 20):
        assert found[f"r{n}"] == pytest.approx(by_brute_force(model, database, queries, near, n, rule))
    assert (found["queries"], found["database"]) == (17, 60)
    assert found["queries_with_match"] == 15


def test_amstertime_pairs_are_a_kilometer_apart(model, tmp_path):
    names = [planar(1000.0 * i) for i in range(12)]
    database, queries = write_set(tmp_path / "database", names, 1), write_set(tmp_path / "queries", names, 2)
    found = model.evaluate(tmp_path, benchmark="amstertime", recalls=[1, 3])
    expected = by_brute_force(model, database, queries, lambda q, d: q == d, 3, "all")
    assert found["r3"] == pytest.approx(expected) == found["recall@3_has_match_25m"]


def test_several_sets_of_queries_are_told_apart(model, tmp_path):
    write_set(tmp_path / "gallery", [planar(100.0 * i) for i in range(12)], 1)
    write_set(tmp_path / "queries_v1", [planar(100.0 * i) for i in range(5)], 2)
    write_set(tmp_path / "queries_night", [planar(100.0 * i) for i in range(7)], 3)
    found = model.evaluate(tmp_path)
    assert found["queries_v1/queries"] == 5
    assert found["queries_night/queries"] == 7
    assert "r1" not in found


def test_msls_and_drives_lie_in_such_folders(model, tmp_path):
    points = along(30.0 * np.arange(12))
    for part, seed in (("database", 1), ("query", 2)):
        write_pictures(tmp_path / part / "images", [f"{part}{i}.jpg" for i in range(12)], seed)
        rows = [f"{part}{i},{lon},{lat},False" for i, (lat, lon) in enumerate(points)]
        write_csv(tmp_path / part / "raw.csv", "key,lon,lat,pano", *rows)
        info = [f"{part}{i},s,{i}" for i in range(12)]
        write_csv(tmp_path / part / "seq_info.csv", "key,sequence_key,frame_number", *info)
    database, queries = (
        [tmp_path / part / "images" / f"{part}{i}.jpg" for i in range(12)] for part in ("database", "query")
    )
    expected = by_brute_force(
        model, database, queries, lambda q, d: great_circle_m(points[q], points[d]) <= 35, 1, "all"
    )
    assert model.evaluate(tmp_path, radius_m=35)["r1"] == pytest.approx(expected)
    assert model.evaluate(tmp_path, radius_m=35, center="online", method="filter")["queries"] == 12


def test_a_root_stands_for_its_queries_and_database_in_a_run(tmp_path):
    for part, seed in (("database", 1), ("queries", 2)):
        write_set(tmp_path / "images/test" / part, [planar(100.0 * i) for i in range(12)], seed)
    write_set(tmp_path / "images/train", [planar(9000 + 20.0 * i) for i in range(12)], 3)
    options = PlaceArguments(
        train_csv=[str(tmp_path / "images/train")],
        test_csv=[str(tmp_path)],
        utm="planar",
        validation_share=0.0,
    )
    data = load(options)
    assert (len(data.train), len(data.database), len(data.test)) == (12, 12, 12)
    assert "/database/" in data.database[0]["image"]["path"]


def test_planar_meters_are_lengths_on_the_equator():
    points = np.array(
        [point_of_name(planar(e, n), "planar")[:2] for e, n in ((0, 0), (2.4, 0), (1e6, 0), (0, 30))]
    )
    away = great_circle_m(points[:1], points[1:])
    np.testing.assert_allclose(away, [2.4, 1e6, 30], rtol=1e-6)
    assert point_of_name("@0448251.80@5411932.68@31@U@@@p@@90.0@@@@2013@@.jpg", "planar") == point_of_name(
        "@0448251.80@5411932.68@31@U@@@p@@90.0@@@@2013@@.jpg"
    )
    with pytest.raises(DataError, match="has no UTM zone, and its meters are none of a plane"):
        point_of_name(planar(448251.8, 5411932.68), "planar")
    with pytest.raises(DataError, match="has no UTM zone; say which with --utm"):
        point_of_name(planar(448251.8, 5411932.68))


def test_a_table_of_planar_meters_is_that_of_such_names(tmp_path):
    write_pictures(tmp_path, ["a.png", "b.png", "c.png"])
    rows = ("a.png,0,0", "b.png,-2.4,30", "c.png,2.4,60000")
    table = write_csv(tmp_path / "t.csv", "image,east,north", *rows)
    images, errors = load_drives(table, utm="planar", on_error="skip")
    expected = [point_of_name(planar(e, n), "planar")[:2] for e, n in ((0, 0), (-2.4, 30))]
    assert points_of(images).tolist() == [list(point) for point in expected]
    assert [row["row"] for row in errors.rows] == [4]
    assert "its meters are none of a plane" in errors.rows[0]["reason"]


def test_sizes_that_are_not_the_benchmarks(caplog, model, tmp_path):
    check_sizes("pitts30k", *BENCHMARKS["pitts30k"])
    assert not caplog.text
    check_sizes("pitts30k", 10_000, 6_815)
    assert "pitts30k has 10000 database images and 6816 queries, and here are 10000 and 6815" in caplog.text
    with pytest.raises(DataError, match=r"benchmark must be one of .*did you mean 'pitts30k'"):
        model.evaluate(tmp_path, benchmark="pits30k")
    with pytest.raises(DataError, match="rule must be one of has_match, all"):
        model.evaluate(tmp_path, rule="any")


def test_queries_that_lie_in_the_database_are_refused_with_what_evaluate_can_do(model, tmp_path):
    for part in ("database", "queries"):
        write_set(tmp_path / part, [planar(100.0 * i) for i in range(12)], seed=1)
    with pytest.raises(
        DataError, match=r"12 of 12 queries are in the database.*; or leave these out of one of them"
    ):
        model.evaluate(tmp_path)


def test_folders_without_queries_or_without_a_database(model, tmp_path):
    assert find_sets(tmp_path) is None
    write_set(tmp_path / "database", [planar(100.0 * i) for i in range(12)], 1)
    assert find_sets(tmp_path) is None  # read as one folder of photographs
    with pytest.raises(DataError, match=r"single drive .*lay the folder out as database/ and queries/"):
        model.evaluate(tmp_path, utm="planar")
    (tmp_path / "queries").mkdir()
    with pytest.raises(DataError, match="holds no image; it is empty"):
        model.evaluate(tmp_path)
    write_set(tmp_path / "queries", [planar(5e6)], 2)
    with pytest.raises(DataError, match="no query has a database image within the radius"):
        model.evaluate(tmp_path)


def test_the_command_has_the_protocol(model, tmp_path, monkeypatch):
    from geohf.recipes import evaluate

    model.save_pretrained(tmp_path / "model")
    for part, seed in (("database", 1), ("queries", 2)):
        write_set(tmp_path / "set" / part, [planar(1000.0 * i) for i in range(21)], seed)
    out = tmp_path / "m.json"
    words = [
        str(tmp_path / "model"),
        str(tmp_path / "set"),
        "--benchmark",
        "amstertime",
        "--output",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--device", "cpu"])
    evaluate.main()
    found = json.loads(out.read_text())
    assert found["r20"] == found["recall@20_all_25m"]


def test_a_folder_of_sets_beside_other_queries_is_not_all_queries(tmp_path):
    """Its database would have asked, too."""
    names = [planar(100.0 * i) for i in range(4)]
    for part, seed in (("database", 1), ("queries", 2)):
        write_set(tmp_path / "root" / part, names, seed)
    root, lone = str(tmp_path / "root"), str(tmp_path / "poses.csv")
    given = {"train": ["train.csv"], "val": [], "test": [root, lone], "database": []}
    with pytest.raises(DataError, match=r"poses\.csv: queries without a database .* --database_csv"):
        expand(given)
    told = expand(given | {"database": ["map.csv"]})
    assert told["test"] == [tmp_path / "root" / "queries", lone]
    assert told["database"] == ["map.csv"]
