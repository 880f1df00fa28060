import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.report.answers import write_answers
from geohf.report.map_png import error_map_png
from geohf.report.maps import write_map

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]}
EVIL = "</script><script>alert(1)</script><!--"


class Page(HTMLParser):
    """What a browser makes of the page: elements with their attributes, and the text of scripts."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text = [], {"script": [], "style": [], "title": []}
        self.inside = None
        self.feed(path.read_text(encoding="utf-8"))
        self.scripts, self.styles, self.title = self.text["script"], self.text["style"], self.text["title"][0]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag if tag in self.text else None
        if self.inside:
            self.text[tag].append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.text[self.inside][-1] += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture
def points():
    rng = np.random.default_rng(3)
    truth = np.stack([rng.uniform(-60, 60, 30), rng.uniform(-180, 180, 30)], axis=1)
    predicted = truth + rng.normal(0, 2, truth.shape)
    truth[4] = np.nan
    return predicted, truth


def test_the_data_of_the_page_is_the_input(tmp_path, points):
    predicted, truth = points
    details = {"state": [f"state {i}" for i in range(30)], "probability": np.linspace(0, 1, 30)}
    path = tmp_path / "map.html"
    labels = [f"photo {i}" for i in range(30)]
    write_map(
        path,
        predicted,
        truth,
        labels,
        details,
        radius_m=25e3,
        outlines=SQUARE,
        title="A & B",
        value="probability",
    )
    page = Page(path)
    data = page.data
    wrapped = np.stack([predicted[:, 0], (predicted[:, 1] + 180) % 360 - 180], axis=1)
    np.testing.assert_allclose(data["points"], wrapped, atol=1e-7)
    assert data["truth"][4] == [None, None]
    assert data["distance_km"][4] is None
    keep = np.arange(30) != 4
    np.testing.assert_allclose(np.array(data["truth"])[keep].astype(float), truth[keep], atol=1e-7)
    expected = great_circle_m(predicted[keep], truth[keep]) / 1000
    np.testing.assert_allclose(np.array(data["distance_km"])[keep].astype(float), expected, atol=1e-5)
    assert data["labels"] == labels
    assert data["details"] == {"state": details["state"], "probability": details["probability"].tolist()}
    assert (data["radius_m"], data["value"]) == (25e3, "probability")
    assert data["outlines"] == [[[[0, 0], [0, 10], [10, 10], [10, 0], [0, 0]]]]
    assert page.title == "A & B"


def test_nothing_is_loaded_from_anywhere(tmp_path, points):
    path = tmp_path / "map.html"
    write_map(path, *points, title="x")
    page = Page(path)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form", "a"}
    for _, attributes in page.elements:
        assert not {"src", "href", "srcset", "action", "data", "background"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^/\s\"'`]+", text)) == {"https://www.openstreetmap.org"}
    assert "@import" not in text
    assert "url(" not in text
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|importScripts|sendBeacon|WebSocket|innerHTML|eval)\b", text
    )
    assert str(tmp_path) not in text


def test_only_the_page_s_own_script_may_run(tmp_path, points):
    path = tmp_path / "map.html"
    write_map(path, *points)
    page = Page(path)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def digest(code):
        return "'sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() + "'"

    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == digest(page.scripts[1])
    assert rules["style-src"] == digest(page.styles[0])


def test_an_answer_without_a_position_leaves_the_others_on_the_map(tmp_path, caplog):
    path = tmp_path / "answers.html"
    place = {"input": "a.jpg", "latitude": 1.0, "longitude": 2.0}
    write_answers(path, [place, place | {"input": "b.jpg", "latitude": None, "longitude": None}])
    page = Page(path)
    assert json.loads(page.scripts[0])["labels"] == ["a.jpg"]
    assert page.title == "Predictions (1 of 2 without a position: not on the map)"
    assert "1 of 2 answers have no position" in caplog.text


def test_photographs_are_in_the_file_only_where_they_are_given(tmp_path, points):
    path, picture = tmp_path / "map.html", "data:image/jpeg;base64,AAAA"
    write_map(path, *points)
    assert "img-src" not in path.read_text()
    assert Page(path).data["thumbnails"] is None
    write_map(path, *points, thumbnails=[None] * 30)
    assert "img-src" not in path.read_text()
    write_map(path, *points, thumbnails=[picture, *[None] * 29])
    assert "img-src data:; " in path.read_text()
    assert Page(path).data["thumbnails"] == [picture, *[None] * 29]


def test_no_string_gets_out_of_its_place(tmp_path):
    path = tmp_path / "map.html"
    outlines = {"type": "Feature", "properties": {"name": EVIL}, "geometry": SQUARE}
    title = EVIL + " {{ data }} {{ js }} \\1 \\g<0>"
    write_map(
        path, [[1, 2]], [[1, 3]], [EVIL], [{EVIL: EVIL, "sep": "\u2028"}], outlines=outlines, title=title
    )
    page = Page(path)
    assert len(page.scripts) == 2
    assert page.data["labels"] == [EVIL]
    assert page.data["details"] == {EVIL: [EVIL], "sep": ["\u2028"]}
    assert page.title == title
    assert "<" not in page.scripts[0]
    text = path.read_text(encoding="utf-8")
    assert text.count("</script>") == text.count("<script") == 2
    assert "alert(1)" not in page.scripts[1]


def test_view_holds_all_points_also_across_the_antimeridian(tmp_path):
    path = tmp_path / "map.html"
    write_map(path, [[-17.8, 178.1], [-16.6, -179.9]], [[-18.0, 178.4], [-17.5, -179.5]])
    west, south, east, north = Page(path).data["views"]["all"]
    assert (west, south, east, north) == pytest.approx((178.1, -18.0, 180.5, -16.6))
    write_map(path, [[48.85, 2.35]])
    data = Page(path).data
    assert data["truth"] is data["distance_km"] is data["labels"] is data["radius_m"] is data["value"] is None
    west, south, east, north = data["views"]["all"]
    assert west < 2.35 < east
    assert south < 48.85 < north
    assert north - south == pytest.approx(5.396, abs=0.001)  # 600 km
    write_map(path, [[60.0, 179.0]], radius_m=1e6)  # the whole circle
    west, south, east, north = Page(path).data["views"]["all"]
    assert (south, north) == pytest.approx((60 - 10.792, 60 + 10.792), abs=0.001)
    assert (west, east) == pytest.approx((179 - 21.584, 179 + 21.584), abs=0.001)


def test_the_map_opens_on_the_first_split(tmp_path):
    path, splits = tmp_path / "map.html", ["test", "train", "test"]
    write_map(path, [[1, 1], [40, 40], [2, 2]], [[1, 2], [40, 41], [2, 3]], splits=splits)
    data = Page(path).data
    assert data["splits"] == splits
    assert list(data["views"]) == ["test", "train", "all"]
    assert data["views"]["test"] == pytest.approx([1, 1, 3, 2])
    assert data["views"]["all"] == pytest.approx([1, 1, 41, 40])
    write_map(path, [[1, 1]], splits=["test"])
    assert list(Page(path).data["views"]) == ["test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predicted": []}, "predicted: shape"),
        ({"predicted": [[180000.0, 2.0]]}, "row 0"),
        ({"truth": [[0, 0], [1, 1]]}, "truth has 2 rows for 1"),
        ({"labels": ["a", "b"]}, "2 labels for 1"),
        ({"splits": ["a", "b"]}, "2 splits for 1"),
        ({"thumbnails": [None, None]}, "2 thumbnails for 1"),
        ({"details": {"a": [1, 2]}}, "details column 'a'"),
        ({"radius_m": [1.0, 2.0]}, "radius_m"),
        ({"radius_m": -1}, "radius_m"),
        ({"value": "a"}, "no column 'a'"),
        ({"value": "a", "details": {"a": ["x"]}}, "not numeric"),
        ({"value": "a", "details": {"a": [None]}}, "not numeric"),
        ({"outlines": {"type": "Topology"}}, "Topology"),
        ({"outlines": {"type": "FeatureCollection", "features": 3}}, "features"),
        ({"outlines": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}, "ring"),
        ({"outlines": {"type": "Polygon", "coordinates": [[["<b>", 0]] * 4]}}, "numbers"),
        ({"outlines": "no/such/file.json"}, "no/such/file.json"),
    ],
)
def test_bad_input_is_named_and_leaves_no_file(tmp_path, arguments, message):
    path = tmp_path / "map.html"
    with pytest.raises(DataError, match=message):
        write_map(path, **{"predicted": [[1.0, 2.0]], **arguments})
    assert list(tmp_path.iterdir()) == []


def test_twenty_thousand_points_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    truth = np.stack([rng.uniform(25, 48, 20_000), rng.uniform(-120, -70, 20_000)], axis=1)
    write_map(tmp_path / "map.html", truth + rng.normal(0, 1, truth.shape), truth)
    assert (tmp_path / "map.html").stat().st_size < 3e6


@pytest.mark.skipif(
    not shutil.which("node"), reason="runs the page's geometry in Node.js, which is not installed"
)
def test_the_page_s_geometry_is_that_of_the_package():
    from geohf.report.paths import great_circle_path

    pairs = [[[48.9, 2.4], [40.7, -74.0]], [[10.0, 170.0], [10.0, -170.0]], [[10.0, 20.0], [-10.0, -160.0]]]
    script = (resources.files("geohf.report") / "map_geometry.js").read_text("utf-8")
    script += f"""
    const pairs = {json.dumps(pairs)};
    const fiji = track(greatCircle([-17, 179], [-17, -179]), true);
    console.log(JSON.stringify({{
      paths: pairs.map(([a, b]) => greatCircle(a, b)),
      world: [worldX(-180), worldX(0), worldY(0), worldY(85.0511287798), worldY(90), latitudeAt(worldY(51.5))],
      fiji: [fiji.west, fiji.east],
      circle: circleAround([60, 179.9], 25000),
      steps: [0.003, 0.7, 1, 3, 17, 44].map(degreeStep).concat(niceStep(730, true), niceStep(100, true)),
      words: [distance(0.0123), distance(2.345), distance(12345.6), degrees(-33.5, "NS", 1), number(0.123456)],
      scale: [1, 10, 100].map((v) => colorScale([1, 10, 100], true).at(v)),
      same: colorScale([5, 5], true).at(5),
    }}));
    """
    answer = json.loads(
        subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True).stdout
    )
    for (a, b), path in zip(pairs, answer["paths"], strict=True):
        np.testing.assert_allclose(great_circle_m(np.array(path), great_circle_path(a, b)), 0, atol=1e-3)
    np.testing.assert_allclose(answer["world"], [0, 0.5, 0.5, 0, 0, 51.5], atol=1e-8)
    np.testing.assert_allclose(answer["fiji"], [0.5 + 179 / 360, 0.5 + 181 / 360])
    distances = great_circle_m(np.array(answer["circle"]), np.array([60, 179.9]))
    np.testing.assert_allclose(distances, 25000, atol=1e-3)
    assert answer["steps"] == pytest.approx([0.005, 1, 1, 5, 20, 45, 500, 100])
    assert answer["words"] == ["12.3 m", "2.35 km", "12,346 km", "33.5°S", "0.1235"]
    assert answer["scale"] == pytest.approx([0, 0.5, 1])
    assert answer["same"] == pytest.approx(1)


def picture(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"), dtype=float)


@pytest.mark.parametrize("unit", ["km", "m"])
def test_error_map_png(tmp_path, points, unit):
    path = tmp_path / "map.png"
    error_map_png(path, *points, "errors", SQUARE, unit)
    pixels = picture(path)
    assert pixels.shape[1] == pytest.approx(9 * 120, abs=60)  # fitted to its labels
    assert pixels.std() > 10


def test_error_map_png_draws_the_line_across_the_antimeridian(tmp_path):
    path = tmp_path / "map.png"
    error_map_png(path, [[-17.0, -179.0]], [[-17.0, 179.0]], "Fiji")
    pixels = picture(path)
    # One red stroke joins the two ends, which lie near the sides of a map two degrees wide. The long way round
    # would be a map of the whole globe, or a stroke that leaves the map on both sides.
    map_part = pixels[:, : int(0.9 * pixels.shape[1])]
    red = map_part[..., 0] - map_part[..., 1] > 60
    columns = np.flatnonzero(red[red.sum(axis=1).argmax()])
    assert 700 < np.ptp(columns) < 850
    assert len(columns) > 0.95 * np.ptp(columns)


def test_error_map_png_refuses(tmp_path):
    with pytest.raises(DataError, match="no row is known"):
        error_map_png(tmp_path / "a.png", [[0, 0]], [[np.nan, np.nan]], "x")
    with pytest.raises(DataError, match="neither km nor m"):
        error_map_png(tmp_path / "a.png", [[0, 0]], [[0, 1]], "x", unit="ft")
    assert list(tmp_path.iterdir()) == []


def test_a_radius_that_some_answers_have_is_told_where_it_cannot_be_drawn(tmp_path):
    rows = [{"input": "a", "latitude": 1.0, "longitude": 2.0, "radius_m": 5.0}]
    rows.append({"input": "b", "latitude": 1.0, "longitude": 2.0, "radius_m": None})
    write_answers(tmp_path / "a.html", rows)
    assert Page(tmp_path / "a.html").data["details"] == {"radius_m": [5.0, None]}
    write_answers(tmp_path / "a.html", rows[:1])
    data = Page(tmp_path / "a.html").data
    assert (data["radius_m"], data["details"]) == ([5.0], {})


@pytest.mark.parametrize("ending", ["geojson", "geoparquet", "kml", "gpx"])
def test_points_are_of_the_answers_that_have_a_position_in_degrees(ending, tmp_path, caplog):
    path = tmp_path / f"answers.{ending}"
    place = {"input": "a.jpg", "latitude": 1.0, "longitude": 2.0}
    write_answers(path, [place, {"input": "b.jpg", "latitude": None, "longitude": None}])
    assert b"b.jpg" not in path.read_bytes()
    assert "1 of 2 answers have no position" in caplog.text
    for latitude in (float("nan"), 127.0):
        with pytest.raises(DataError, match=r"not \(latitude, longitude\) in degrees"):
            write_answers(path, [place | {"latitude": latitude}])
