"""Strips: a row a question, right answers framed in green, wrong ones in red."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from geohf.errors import DataError
from geohf.report.strips import RIGHT, WRONG, Answer, plot_strips


def test_frames_tell_right_from_wrong(tmp_path):
    grey = np.full((30, 40, 3), 128, np.uint8)
    plot_strips(
        tmp_path / "a.png", [(grey, "query", [Answer(grey, "3 m", True), Answer(grey, "1 km", False)])]
    )
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3).tolist()
    for colour in (RIGHT, WRONG):
        assert pixels.count(list(ImageColor.getrgb(colour))) > 200


def test_rows_of_different_length_and_nothing_at_all(tmp_path):
    grey = np.full((30, 40, 3), 128, np.uint8)
    answer = Answer(grey, "3 m", True)
    plot_strips(tmp_path / "b.png", [(grey, "a", [answer]), (grey, "b", [answer] * 3)], "title")
    assert Image.open(tmp_path / "b.png").height > 300
    for strips in ([], [(grey, "a", [])]):
        with pytest.raises(DataError, match="nothing to draw"):
            plot_strips(tmp_path / "c.png", strips)
