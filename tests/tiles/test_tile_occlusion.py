"""What a model looks at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geohf import TileSequenceConfig, TileSequenceModel
from geohf.report.tiles import plot_occlusion
from geohf.tiles.dataset import TileRows
from geohf.tiles.occlusion import occlusion


class Reads(TileSequenceModel):
    """Answers with the mean of the newest frame's second band, and its first frame's third band twice."""

    def _features(self, pixel_values, step_mask, dates):
        if step_mask is None:
            step_mask = torch.ones(pixel_values.shape[:2], dtype=torch.bool)
        seen = torch.where(step_mask[..., None], pixel_values.mean((-2, -1)), 0)
        return (seen[:, -1, 1] + 2 * seen[:, 0, 2])[:, None]


def test_what_is_looked_at_moves_the_answer_and_nothing_else():
    model = Reads(TileSequenceConfig(hidden_sizes=[4], image_size=[8, 8], answers="level")).eval()
    model.head = torch.nn.Identity()
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 4, 3, 1, 1)) * np.ones((8, 8))
    rows = [{"pixel_values": pixels, "labels": 0.0} for pixels in values]
    for row in rows:
        row["step_mask"] = np.array([True, True, False, True])
    moved = occlusion(model, TileRows(rows, model.config))
    levels = values[..., 0, 0]
    assert moved.shape == (4, 4)
    assert moved[3, 1] == pytest.approx(np.abs(levels[:, 3, 1]).mean(), rel=1e-5)
    assert moved[0, 2] == pytest.approx(2 * np.abs(levels[:, 0, 2]).mean(), rel=1e-5)
    assert moved[3, 3] == moved[3, 1]
    assert moved[0, 3] == moved[0, 2]
    assert np.isnan(moved[2]).all()
    assert np.nansum(moved) == pytest.approx(2 * (moved[3, 1] + moved[0, 2]), rel=1e-5)


def test_the_one_frame_of_a_tile_is_never_masked():
    model = TileSequenceModel(TileSequenceConfig(hidden_sizes=[4], image_size=[8, 8], answers="level")).eval()
    rows = [{"pixel_values": np.ones((2, 3, 8, 8)), "step_mask": [False, True], "labels": 0.0}]
    moved = occlusion(model, TileRows(rows, model.config))
    assert np.isnan(moved[0]).all()
    assert np.isfinite(moved[1, :3]).all()
    assert np.isnan(moved[1, 3])


def test_it_is_drawn(tmp_path):
    path = tmp_path / "occlusion.png"
    plot_occlusion(path, np.array([[0.1, np.nan], [0.2, 0.0]]), ["-2", "-1"], ["NIR", "the frame"], "share")
    assert path.read_bytes().startswith(b"\x89PNG")
