"""Whole scenes: a pixel a pixel by tiles that overlap, frames, COGs, runs that were killed, and workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from geohf.errors import DataError
from geohf.tiles import TileSequenceConfig, TileSequenceModel
from geohf.tiles.scene import predict_scene

HERE = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10)}
FIELDS = {
    "hidden_sizes": [4],
    "image_size": [8, 8],
    "band_mean": [120.0, 110.0],
    "band_std": [60.0, 50.0],
    "frames": 2,
}


def make(**fields) -> TileSequenceModel:
    torch.manual_seed(0)
    model = TileSequenceModel(TileSequenceConfig(**FIELDS | {"answers": "level"} | fields)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture
def scene(tmp_path, tiff):
    """Two frames of 20 x 27 pixels, and their paths."""
    pixels = np.random.default_rng(0).integers(1, 255, (2, 20, 27, 2), np.uint8)
    return pixels, [tiff(tmp_path / f"{i}.tif", frame, **HERE) for i, frame in enumerate(pixels)]


def read(path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def brute_force(model, pixels, side, stride, answer_of):
    """Every tile asked by itself, and the weighted mean pixel by pixel in double precision."""
    height, width = pixels.shape[1:3]
    starts = [sorted({*range(0, n - side + 1, stride), n - side}) for n in (height, width)]
    total, weight = 0.0, np.zeros((height, width))
    for top in starts[0]:
        for left in starts[1]:
            (answer,) = model.predict([list(pixels[:, top : top + side, left : left + side])])
            for y in range(side):
                for x in range(side):
                    share = min(y + 1, side - y) * min(x + 1, side - x)
                    values = np.asarray(answer_of(answer, y, x), np.float64)
                    if np.isscalar(total):
                        total = np.zeros((len(values), height, width))
                    total[:, top + y, left + x] += share * values
                    weight[top + y, left + x] += share
    return total / weight


def test_every_pixel_is_the_weighted_mean_of_the_tiles_that_hold_it(scene, tmp_path):
    pixels, paths = scene
    model = make(targets=["a", "b"], interval_margin=[0.5, 0.1])
    path = predict_scene(model, paths, tmp_path / "out.tif", 8, overlap=0.5, batch_size=3)

    def values(answer, y, x):
        return [*answer.values.values(), *answer.low.values(), *answer.high.values()]

    np.testing.assert_allclose(read(path), brute_force(model, pixels, 8, 4, values), rtol=2e-5, atol=2e-5)
    with rasterio.open(path) as file:
        assert file.descriptions == ("a", "b", "low_a", "low_b", "high_a", "high_b")
        assert (file.transform, file.shape) == (HERE["transform"], (20, 27))
        assert file.crs == rasterio.CRS.from_epsg(32632)


def test_frames_are_predicted_pixel_by_pixel(scene, tmp_path):
    pixels, paths = scene
    model = make(head="image", prediction_length=2)
    path = predict_scene(model, paths, tmp_path / "out.tif", 8, overlap=0.25)

    def values(answer, y, x):
        return answer.image[:, y, x].ravel()

    np.testing.assert_allclose(read(path), brute_force(model, pixels, 8, 6, values), rtol=1e-4, atol=1e-2)
    with rasterio.open(path) as file:
        assert file.descriptions == ("lead_1_band_1", "lead_1_band_2", "lead_2_band_1", "lead_2_band_2")
    with pytest.raises(DataError, match="answers with images, a pixel a pixel: say overlap=0"):
        predict_scene(model, paths, tmp_path / "out.tif", 8)


def test_classes_of_two_tiles_at_the_rim_are_those_of_one(scene, tmp_path):
    pixels, paths = scene
    model = make(head="image", resampling="nearest")
    out = read(predict_scene(model, paths, tmp_path / "out.tif", 8, overlap=0, batch_size=2))
    for top, left, lines, columns in ((8, 8, 8, 8), (8, 19, 8, 3), (12, 0, 4, 8), (12, 19, 4, 3)):
        (answer,) = model.predict([list(pixels[:, top : top + 8, left : left + 8])])
        here = out[:, top + 8 - lines : top + 8, left + 8 - columns : left + 8]
        np.testing.assert_allclose(here, answer.image[-lines:, -columns:].transpose(2, 0, 1), atol=1e-3)


def test_an_untrained_frame_model_gives_back_the_newest_frame_of_larger_tiles(scene, tmp_path):
    pixels, paths = scene
    torch.manual_seed(0)
    model = TileSequenceModel(TileSequenceConfig(**FIELDS | {"image_size": [16, 16]}, head="image")).eval()
    out = read(predict_scene(model, [*paths, None], tmp_path / "out.tif", 16, overlap=0.5))
    np.testing.assert_allclose(out, pixels[1].transpose(2, 0, 1), atol=1e-2)


def test_pixels_that_no_frame_measured_are_unknown(tmp_path, tiff):
    pixels = np.random.default_rng(1).integers(1, 255, (2, 16, 16, 2), np.uint8)
    pixels[:, 2:4, 5:9] = 0
    pixels[0, 10:, :] = 0
    paths = [tiff(tmp_path / f"{i}.tif", frame, nodata=0, **HERE) for i, frame in enumerate(pixels)]
    out = read(predict_scene(make(), paths, tmp_path / "out.tif", 8, overlap=0.5))[0]
    assert np.array_equal(np.isnan(out), (pixels == 0).all((0, 3)))


def test_last_values_are_the_mean_over_each_tile(scene, tmp_path, tiff):
    pixels, paths = scene
    model = make(answers="change")
    last = np.random.default_rng(2).random((20, 27, 1)).astype(np.float32)
    last[0, 0] = np.nan
    known = tiff(tmp_path / "known.tif", last, **HERE)
    out = read(predict_scene(model, paths, tmp_path / "out.tif", 10, known, overlap=0.0))[0]
    tile = {"frames": list(pixels[:, :10, :10]), "last_values": float(np.nanmean(last[:10, :10]))}
    assert out[3, 3] == pytest.approx(model.predict([tile])[0].values["target"], rel=1e-5)
    with pytest.raises(DataError, match="the scene has 27 x 20 pixels"):
        predict_scene(model, paths, tmp_path / "o.tif", 10, tiff(tmp_path / "s.tif", last[:5]), overlap=0.0)


def test_the_file_is_a_cog_with_overviews(tmp_path, tiff):
    pixels = np.random.default_rng(0).integers(1, 255, (600, 700, 2), np.uint8)
    path = predict_scene(
        make(), [tiff(tmp_path / "a.tif", pixels, **HERE)], tmp_path / "o.tif", 100, overlap=0.0
    )
    with rasterio.open(path) as file:
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2]
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert np.isnan(file.nodata)


@pytest.mark.parametrize("overlap", [None, 0.5])
def test_batches_in_workers_give_the_same_file(scene, tmp_path, overlap):
    _, paths = scene
    files = [
        predict_scene(make(), paths, tmp_path / f"out{n}.tif", 8, overlap=overlap, workers=n).read_bytes()
        for n in (0, 2)
    ]
    assert files[0] == files[1]


def test_an_error_in_a_worker_is_said_in_one_line(scene, tmp_path):
    _, paths = scene
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"1.tif: cannot be read") as error:
        predict_scene(make(), paths, tmp_path / "out.tif", 8, workers=1)
    assert "\n" not in str(error.value)


def stopping(monkeypatch, after):
    """`predict` stops after so many calls; how often it was called."""
    calls, predict = [], TileSequenceModel.predict

    def counted(self, *given):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return predict(self, *given)

    monkeypatch.setattr(TileSequenceModel, "predict", counted)
    return calls


@pytest.mark.parametrize("overlap", [None, 0.75])
def test_a_stopped_scene_goes_on_to_the_same_file(scene, tmp_path, monkeypatch, overlap):
    _, paths = scene
    wanted = predict_scene(make(), paths, tmp_path / "whole.tif", 8, overlap=overlap).read_bytes()
    rows = 2 if overlap is None else 7
    with monkeypatch.context() as patch:
        stopping(patch, rows - 1)
        with pytest.raises(KeyboardInterrupt):
            predict_scene(make(), paths, tmp_path / "out.tif", 8, overlap=overlap)
    assert not (tmp_path / "out.tif").exists()
    with monkeypatch.context() as patch:
        calls = stopping(patch, 99)
        path = predict_scene(make(), paths, tmp_path / "out.tif", 8, overlap=overlap)
    assert path.read_bytes() == wanted
    assert len(calls) == (1 if overlap is None else 4)  # the row itself, and those that overlap it
    assert not (tmp_path / "out.tif.parts").exists()


def test_another_model_starts_anew(scene, tmp_path, monkeypatch):
    _, paths = scene
    with monkeypatch.context() as patch:
        stopping(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            predict_scene(make(), paths, tmp_path / "out.tif", 8)
    other = make()
    other.head[-1].bias.data += 1
    path = predict_scene(other, paths, tmp_path / "out.tif", 8)
    assert path.read_bytes() == predict_scene(other, paths, tmp_path / "fresh.tif", 8).read_bytes()
    (tmp_path / "mine.tif.parts").mkdir()
    (tmp_path / "mine.tif.parts" / "thesis.doc").write_text("keep")
    with pytest.raises(DataError, match=r"holds thesis\.doc, which no scene wrote"):
        predict_scene(other, paths, tmp_path / "mine.tif", 8)
    assert (tmp_path / "mine.tif.parts" / "thesis.doc").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap": 1.0}, "at least 0 and below 1, got 1"),
        ({"overlap": -0.1}, "at least 0 and below 1"),
        ({"tile_size": 21, "overlap": 0.0}, "no tile of 21 x 21 pixels fits in"),
        ({"workers": -1}, "workers must be at least 0"),
    ],
)
def test_settings_that_do_not_fit(scene, tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        predict_scene(make(), scene[1], tmp_path / "out.tif", **{"tile_size": 8} | settings)


PROGRAM = """
import sys, torch
from geohf import TileSequenceModel
from geohf.tiles.scene import predict_scene
torch.set_num_threads(int(sys.argv[1]))
predict_scene(TileSequenceModel.from_pretrained(sys.argv[2]), sys.argv[4:], sys.argv[3], 8, overlap=0.75, batch_size=1)
"""


@pytest.mark.slow
def test_a_killed_scene_goes_on_to_the_same_file(tmp_path, tiff):
    pixels = np.random.default_rng(0).integers(1, 255, (2, 40, 40, 2), np.uint8)
    paths = [str(tiff(tmp_path / f"{i}.tif", frame, **HERE)) for i, frame in enumerate(pixels)]
    make().save_pretrained(tmp_path / "model")
    arguments = [str(torch.get_num_threads()), str(tmp_path / "model"), str(tmp_path / "out.tif"), *paths]
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments])
    parts = tmp_path / "out.tif.parts"
    while running.poll() is None and len(list(parts.glob("*.npy"))) < 3:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "out.tif").exists()
    assert parts.exists()
    model = TileSequenceModel.from_pretrained(tmp_path / "model")
    files = [
        predict_scene(model, paths, tmp_path / name, 8, overlap=0.75, batch_size=1).read_bytes()
        for name in ("out.tif", "whole.tif")
    ]
    assert files[0] == files[1]
