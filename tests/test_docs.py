"""The site: it builds without a warning, no page is left out, and the page of formats tells what the loaders read."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from helpers.pages import ROOT
from PIL import Image

from geohf.data.tables import FILE_COLUMNS, HEADING_COLUMNS, LATITUDE_COLUMNS, LONGITUDE_COLUMNS
from geohf.parts.data import load_parts
from geohf.place import columns as place_columns
from geohf.place import published as place_published
from geohf.place.drives import load_drives
from geohf.region.rows import REGION_COLUMNS, load_region_table
from geohf.street import published as street_published
from geohf.street.data import load_places
from geohf.street.places import STATE_COLUMNS
from geohf.tiles.table import load_tiles

DOCS = ROOT / "docs"
FILES = DOCS / "files"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs geohf[docs]")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the site needs geohf[docs]")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    api = (tmp_path / "api/models/index.html").read_text(encoding="utf-8")
    assert 'id="geohf.GeoStreetModel.predict"' in api


def test_every_page_is_on_the_site():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"[\w/]+\.md", json.dumps(yaml.safe_load(text)["nav"]))
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("Photographs, in every task", FILE_COLUMNS + LATITUDE_COLUMNS + LONGITUDE_COLUMNS + HEADING_COLUMNS),
        ("Region", REGION_COLUMNS),
        ("Street", STATE_COLUMNS),
        (
            "Place",
            place_columns.EAST_COLUMNS
            + place_columns.NORTH_COLUMNS
            + place_columns.ZONE_COLUMNS
            + place_columns.LETTER_COLUMNS
            + place_columns.SEQUENCE_COLUMNS
            + place_columns.CAMERA_COLUMNS
            + place_columns.TIME_COLUMNS,
        ),
    ],
)
def test_the_page_of_formats_names_every_column_that_is_read(section, names):
    text = (DOCS / "formats.md").read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    told = {name.lower() for name in re.findall(r"`([^`]+)`", text)}
    assert {name.lower() for name in names} <= told


def with_photos(folder, file, names):
    for name in names:
        Image.effect_noise((64, 48), 60).convert("RGB").resize((640, 480)).save(folder / name)
    copy = folder / file
    copy.write_bytes((FILES / file).read_bytes())
    return copy


def test_the_example_of_region_loads(tmp_path):
    rows = load_region_table(with_photos(tmp_path, "region.csv", ["a.jpg", "b.jpg", "c.jpg"]))
    assert rows["region"] == ["1", "1", "2"]


def test_the_example_of_street_loads(tmp_path):
    table = pd.read_csv(FILES / "street.csv")
    photos = [
        name for name in table[["north", "east", "south", "west"]].to_numpy().ravel() if isinstance(name, str)
    ]
    places, skipped = load_places(with_photos(tmp_path, "street.csv", photos))
    assert [len(views) for views in places["train"]["views"]] == [4, 2, 3]
    assert places["train"]["headings"][1] == [0, 180]
    assert not skipped.rows


@pytest.mark.parametrize(
    "file", ["parts.json", "parts_cvat.xml", "parts_label_studio.json", "parts_voc.xml", "parts_yolo.yaml"]
)
def test_the_examples_of_parts_load(tmp_path, file):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    path = with_photos(tmp_path, file, ["images/train/a.jpg"])
    (tmp_path / "labels" / "train" / "a.txt").write_bytes((FILES / "parts_yolo.txt").read_bytes())
    photos, _ = load_parts(path)
    (row,) = photos["train"]
    names = {key: photos["train"].features[key].feature.names for key in ("parts", "states")}
    assert [names["parts"][part] for part in row["parts"]] == ["saddle", "bell"]
    assert [names["states"][state] for state in row["states"]] == ["intact", "damaged"]
    assert np.allclose(row["boxes"], [[220, 60, 310, 100], [400, 70, 420, 90]], atol=1e-3)


def test_the_example_of_place_loads(tmp_path):
    frames, _ = load_drives([with_photos(tmp_path, "poses.csv", ["000.jpg", "001.jpg", "002.jpg"])])
    assert frames["heading"] == [84, 84.5, 85]
    assert np.diff(frames["time_ns"]).tolist() == [1e9, 1e9]


def test_the_example_of_tiles_loads(tmp_path):
    for year in (2019, 2020):
        (tmp_path / str(year)).mkdir()
        profile = {"driver": "GTiff", "height": 32, "width": 64, "count": 3, "dtype": "uint8"}
        with rasterio.open(tmp_path / str(year) / "lima.tif", "w", **profile) as raster:
            raster.write(np.ones((3, 32, 64), np.uint8))
    tiles = load_tiles(FILES / "tiles.csv", tmp_path, [2019, 2020])
    assert tiles.values[:, :, 0].tolist() == [[0.12, 0.15], [0.3, 0.31]]


def test_the_page_of_weights_names_every_published_model():
    text = (DOCS / "weights.md").read_text(encoding="utf-8")
    table = text.split("| task | names |")[1].split("\n\n")[0]
    assert {*place_published.PUBLISHED, *street_published.PUBLISHED} == set(re.findall(r"`([^`]+)`", table))
