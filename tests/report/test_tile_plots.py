"""Pictures of tiles: colors that are what the frames hold, and what cannot be drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from geohf import DataError
from geohf.report.tiles import plot_filmstrip, plot_tile_errors


def colors(path):
    return {tuple(pixel) for pixel in np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).tolist()}


def solid(value, dtype):
    return np.full((8, 8, len(value)), value, dtype)


def test_pictures_keep_their_colors_and_masked_frames_stay_empty(tmp_path):
    red = solid((196, 40, 27), np.uint8)
    plot_filmstrip(tmp_path / "a.png", [("tile 1", [red, None])], ["-2", "-1"])
    assert (196, 40, 27) in colors(tmp_path / "a.png")
    image = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    middle = image.shape[1] // 2
    assert not (np.abs(image[:, middle + 40 :] - (196, 40, 27)).max(-1) < 5).any()


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_other_bands_are_stretched_over_all_strips(tmp_path, bands):
    dark, light = solid((1000,) * bands, np.uint16), solid((3000,) * bands, np.uint16)
    plot_filmstrip(tmp_path / "a.png", [("1", [dark]), ("2", [light])], ["-1"])
    assert {(0, 0, 0), (255, 255, 255)} <= colors(tmp_path / "a.png")


def test_frames_without_any_value_are_drawn(tmp_path):
    plot_filmstrip(tmp_path / "a.png", [("1", [solid((np.nan,), np.float32), None])], ["-2", "-1"])
    assert Image.open(tmp_path / "a.png").width > 100


def test_the_largest_error_has_the_last_color(tmp_path):
    boxes = [(0, 0, 10, 10), (10, 0, 20, 10)]
    plot_tile_errors(tmp_path / "a.png", boxes, [0.0, 1.0], ["a", "a"], {"a": (10, 20)}, "share")
    assert {(36, 119, 179), (195, 32, 63)} <= colors(tmp_path / "a.png")


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(DataError, match="no sequence to draw"):
        plot_filmstrip(tmp_path / "a.png", [], [])
    with pytest.raises(DataError, match="finite errors"):
        plot_tile_errors(tmp_path / "a.png", [(0, 0, 1, 1)], [np.nan], ["a"], {"a": (1, 1)}, "share")
