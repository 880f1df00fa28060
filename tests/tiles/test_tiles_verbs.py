"""recipes/predict.py with a tile model: the tiles of a table, answered in the targets' unit."""

import numpy as np
import pandas as pd
import pytest
import torch

from geohf.errors import DataError
from geohf.tiles import TileSequenceConfig, TileSequenceModel
from geohf.tiles.scene import predict_scene


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    config = TileSequenceConfig(
        hidden_sizes=[8], image_size=[12, 12], patch_size=2, frames=2, targets=["target"], task="forecast",
        answers="change", change_mean=[0.1], change_std=[0.05], level_mean=[0.2], level_std=[0.1],
        band_mean=[128.0] * 3, band_std=[64.0] * 3,
    )  # fmt: skip
    model = TileSequenceModel(config)
    torch.nn.init.normal_(model.head[-1].weight)
    model.eval().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.case("files-A2")
def test_frames_that_go_back_in_time_are_refused(saved, world, tmp_path):
    model = TileSequenceModel.from_pretrained(saved)
    files = [str(world.path(label, "7")) for label in ("2021", "2020")]
    for frames in (files, dict(zip((2021, 2020), files, strict=True))):
        with pytest.raises(DataError, match="2021, 2020 do not ascend"):
            model.predict([{"frames": frames, "last_values": 0.1}])
    with pytest.raises(DataError, match="2021, 2020 do not ascend"):
        predict_scene(model, files, tmp_path / "out.tif", 12)
    model.predict([{"frames": files[::-1], "last_values": 0.1}])


def test_predict_takes_the_newest_frames_and_the_last_known_value(
    saved, world, tmp_path, recipe, monkeypatch
):
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    done = recipe("predict", saved, world.csv, "--output", tmp_path / "a.csv", "--batch_size", 3)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "a.csv")
    newest = world.frame[world.frame["label_id"] == "2021"].reset_index(drop=True)
    assert list(rows["input"]) == list(newest["tile_id"])
    samples = [
        {
            "frames": [world.crop(row, "2020"), world.crop(row, "2021")],
            "last_values": {"target": newest["target"][row]},
        }
        for row in range(8)
    ]
    expected = [
        answer.values["target"] for answer in TileSequenceModel.from_pretrained(saved).predict(samples)
    ]
    np.testing.assert_allclose(rows["target"], expected, atol=1e-6)
    assert np.ptp(rows["target"] - newest["target"]) > 1e-3  # the images matter


def test_what_is_no_table_is_named(saved, world, tmp_path, recipe):
    done = recipe("predict", saved, world.images, "--output", tmp_path / "a.csv")
    assert done.returncode == 2
    assert "is no table of tiles" in done.stderr
    world.frame.drop(columns="target").to_csv(world.csv, index=False)
    done = recipe("predict", saved, world.csv, "--output", tmp_path / "a.csv")
    assert done.returncode == 2
    assert "no last value" in done.stderr
