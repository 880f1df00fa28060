"""Caches and predictions that were killed at any touch of the disk, and done again, hold what they should."""

from __future__ import annotations

import json
import random

import numpy as np
import pandas as pd
import pytest
import rasterio

MOMENTS = 8


@pytest.fixture(scope="module")
def pictures(attempt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    attempt("photos_and_model", folder, folder=folder)
    return folder


def moments(touches, seed):
    """Touches from the first to the last, some of them with a few milliseconds on top."""
    draw = random.Random(seed)
    numbers = sorted(draw.sample(range(2, touches), min(MOMENTS, touches - 2)))
    return [("", number, draw.choice([0, 0, 3, 9])) for number in (1, *numbers, touches)]


def kill_everywhere(run, folder, seed):
    """Run into folders of their own, killed at each moment and run again: (the second runs' touches, the whole's)."""
    whole, again = run(folder / "whole").touches[""], []
    for number, moment in enumerate(moments(whole, seed)):
        assert run(folder / f"{number}", moment).killed or moment[2], moment
        again.append(run(folder / f"{number}").touches.get("", 0))
    return again, whole


def test_the_feature_cache(attempt, pictures, tmp_path):
    def run(folder, moment=None):
        words = (pictures / "photos", pictures / "model", folder / "cache", folder / "features.safetensors")
        folder.mkdir(exist_ok=True)
        return attempt("features", *words, folder=folder, moment=moment)

    again, whole = kill_everywhere(run, tmp_path, seed=0)
    expected = (tmp_path / "whole" / "features.safetensors").read_bytes()
    for number in range(len(again)):
        assert (tmp_path / f"{number}" / "features.safetensors").read_bytes() == expected
        shards = [{p.name: p.read_bytes() for p in (tmp_path / name / "cache").glob("*.safetensors")}
                  for name in ("whole", f"{number}")]  # fmt: skip
        assert shards[0] == shards[1]
        assert len(shards[0]) == 6
    assert min(again) < whole / 2  # what was there already was not computed again


def test_predictions(attempt, pictures, tmp_path):
    def run(folder, moment=None):
        folder.mkdir(exist_ok=True)
        (folder / "photos").is_dir() or (folder / "photos").mkdir()
        for photo in (pictures / "photos").iterdir():
            if not (folder / "photos" / photo.name).exists():  # a file that was written anew is another input
                (folder / "photos" / photo.name).write_bytes(photo.read_bytes())
        words = (folder / "photos", pictures / "model", folder / "answers.jsonl")
        return attempt("predict", *words, folder=folder, moment=moment)

    again, whole = kill_everywhere(run, tmp_path, seed=1)
    expected = (tmp_path / "whole" / "answers.jsonl").read_bytes()
    assert [json.loads(line)["input"] for line in expected.splitlines()] == [f"{i:02}.png" for i in range(12)]
    for number in range(len(again)):
        folder = tmp_path / f"{number}"
        assert (folder / "answers.jsonl").read_bytes() == expected
        assert not list(folder.glob(".*partial"))
    assert min(again) < whole / 2


def test_the_tile_cache(attempt, samples, tmp_path):
    table = samples / "tiles" / "tiles.csv"

    def run(folder, moment=None):
        folder.mkdir(exist_ok=True)
        return attempt("tiles", table, folder / "cache", folder / "tiles.npz", folder=folder, moment=moment)

    again, whole = kill_everywhere(run, tmp_path, seed=2)
    expected = np.load(tmp_path / "whole" / "tiles.npz")
    assert_is_of_the_rasters(expected["tiles"], table)
    for number in range(len(again)):
        found = np.load(tmp_path / f"{number}" / "tiles.npz")
        for name in expected:
            assert np.array_equal(found[name], expected[name]), (number, name)
    assert min(again) < whole / 2


def assert_is_of_the_rasters(tiles, table):
    """Every tile of every year is that window of its image; a year without an image is empty."""
    frame = pd.read_csv(table)
    labels = sorted(frame.label_id.unique())
    rows = {name: row for row, name in enumerate(frame.drop_duplicates(["region_id", "region_coordinates"])[
        ["region_id", "region_coordinates"]].itertuples(index=False, name=None))}  # fmt: skip
    assert len(tiles) == len(rows)
    for step, label in enumerate(labels):
        for region in frame.region_id.unique():
            path = table.parent / "Images" / str(label) / f"{region}.tif"
            pixels = None
            if path.exists():
                with rasterio.open(path) as raster:
                    pixels = raster.read().transpose(1, 2, 0)
            for (of, box), row in rows.items():
                if of == region:
                    x0, y0, x1, y1 = (int(n) for n in box.strip("()").split(","))
                    wanted = (
                        np.zeros((y1 - y0, x1 - x0, 3), np.uint8) if pixels is None else pixels[y0:y1, x0:x1]
                    )
                    assert np.array_equal(tiles[row, step, : y1 - y0, : x1 - x0], wanted), (row, label)
