"""Regions and the error of the surest answers, as pictures."""

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.report.maps import write_map
from geohf.report.uncertainty import plot_regions, plot_risk_coverage

HOLED = [[[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]], [[3, 3], [3, 5], [5, 5], [5, 3], [3, 3]]]
AREA = {"90": {"type": "MultiPolygon", "coordinates": [HOLED]}}


def dark(path):
    return np.asarray(Image.open(path).convert("L")) < 225


def test_a_region_is_filled_and_its_hole_is_not(tmp_path):
    plot_regions(tmp_path / "a.png", [[4.0, 4.0]], [[np.nan, np.nan]], [AREA], ["a"])
    plot_regions(tmp_path / "b.png", [[4.0, 4.0]], [[np.nan, np.nan]], [
        {"90": {"type": "MultiPolygon", "coordinates": [HOLED[:1]]}}], ["a"])  # fmt: skip
    shares = [dark(tmp_path / name).mean() for name in ("a.png", "b.png")]
    assert 0.1 < shares[0] < shares[1]


def test_lengths_that_differ_are_refused(tmp_path):
    with pytest.raises(DataError, match="1 regions and 2 titles for 1 points"):
        plot_regions(tmp_path / "a.png", [[4.0, 4.0]], [[4.0, 5.0]], [AREA], ["a", "b"])
    with pytest.raises(DataError, match="2 regions for 1 points"):
        write_map(tmp_path / "a.html", [[4.0, 4.0]], regions=[AREA, AREA])
    with pytest.raises(DataError, match="n > 0 finite numbers"):
        plot_risk_coverage(tmp_path / "a.png", [1.0, np.nan], {})


def test_the_curve_is_labeled_with_its_own_mean(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    labels = []
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: labels.append((a[1].tolist(), k["label"])))
    plot_risk_coverage(tmp_path / "a.png", [3.0, 1.0], {"sure": [0.2, 0.9], "all alike": [5.0, 5.0]})
    assert labels == [
        ([1.0, 2.0], "sure (mean of the curve 1.5 km)"),
        ([2.0, 2.0], "all alike (mean of the curve 2 km)"),
    ]
