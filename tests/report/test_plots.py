import sys

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.metrics.calibration import reliability_bins
from geohf.report.classes import confusion_counts, plot_confusion, plot_reliability
from geohf.report.plots import (
    learning_panels,
    phase_boundaries,
    plot_error_cdf,
    plot_learning_curves,
    plot_scatter,
)

HISTORY = [
    {
        "loss": 2.0,
        "class_loss": 1.5,
        "gps_loss": 0.5,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "step": 10,
        "phase": 1,
    },
    {
        "eval_loss": 1.8,
        "eval_class_loss": 1.4,
        "eval_median_km": 900.0,
        "eval_runtime": 3.0,
        "epoch": 1,
        "step": 10,
    },
    {"loss": float("nan"), "learning_rate": 5e-4, "step": 20, "phase": 2},
    {"eval_loss": 1.5, "eval_median_km": 700.0, "eval_samples_per_second": 9.0, "step": 20},
    {"train_runtime": 9.0, "train_loss": 1.7, "total_flos": 1e9, "step": 20},
]


def check_picture(path, width, height=None):
    """A PNG of that size in inches at 120 dpi that is not blank."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx(width * 120, abs=1)
        if height:
            assert image.height == pytest.approx(height * 120, abs=1)
        assert np.asarray(image.convert("L"), dtype=float).std() > 8


def test_panels_pair_training_and_evaluation():
    panels = learning_panels(HISTORY)
    assert list(panels) == ["loss", "class_loss", "gps_loss", "learning_rate", "grad_norm", "median_km"]
    assert panels["loss"] == {"train": [(10, 2.0)], "eval": [(10, 1.8), (20, 1.5)]}  # NaN is no point
    assert panels["gps_loss"] == {"train": [(10, 0.5)]}
    assert panels["median_km"] == {"eval": [(10, 900.0), (20, 700.0)]}


def test_phase_boundaries():
    assert phase_boundaries(HISTORY) == [(10, "phase 2")]
    rows = [
        {"step": 1, "phase": "heads"},
        {"step": 2},  # says no phase
        {"step": 3, "phase": "all"},
        {"step": 4, "phase": "all"},
    ]
    assert phase_boundaries(rows) == [(1, "all")]


def test_learning_curves(tmp_path):
    plot_learning_curves(tmp_path / "curves.png", HISTORY)
    check_picture(tmp_path / "curves.png", 3 * 4.4 + 0.4, 2 * 2.9 + 0.3)
    plot_learning_curves(tmp_path / "one.png", HISTORY[3:])
    check_picture(tmp_path / "one.png", 2 * 4.4 + 0.4)
    with pytest.raises(DataError, match="nothing to draw"):
        plot_learning_curves(tmp_path / "none.png", [{"train_runtime": 3.0, "step": 1}])
    assert not (tmp_path / "none.png").exists()


def test_error_cdf(tmp_path):
    rng = np.random.default_rng(0)
    curves = {"model": 10 ** rng.normal(2, 1, 200), "exact": [0.0, 0.0, np.nan]}
    plot_error_cdf(tmp_path / "cdf.png", curves)
    check_picture(tmp_path / "cdf.png", 8.2, 4.8)
    for bad in ({}, {"a": []}, {"a": [np.nan]}, {"a": [-1.0]}):
        with pytest.raises(DataError, match="distances_km"):
            plot_error_cdf(tmp_path / "bad.png", bad)


def test_confusion_counts():
    counts = confusion_counts([0, 0, 0, 2], [0, 1, 1, 2], 4)
    assert counts.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 3], [0, 0], "truth: row 1 is class 3"),
        ([0, 1], [0, -1], "predicted: row 1 is class -1"),
        ([0, 1], [0], "2 and predicted 1"),
        ([], [], "n > 0"),
        ([0.5], [0], "whole numbers"),
    ],
)
def test_confusion_refuses(truth, predicted, message):
    with pytest.raises(DataError, match=message):
        confusion_counts(truth, predicted, 3)


@pytest.mark.parametrize("n", [2, 33])
def test_plot_confusion(tmp_path, n):
    rng = np.random.default_rng(0)
    plot_confusion(
        tmp_path / "c.png", rng.integers(0, n, 99), rng.integers(0, n, 99), [f"c{i}" for i in range(n)]
    )
    check_picture(tmp_path / "c.png", max(0.36 * n, 3.2) + 3.2)


def test_reliability_bins_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.3, 0.7], [1.0, 0.0]])
    confidence, accuracy, counts, ece = reliability_bins(probabilities, [0, 0, 1, 0], bins=10)
    assert counts.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 3]
    assert accuracy[7] == 1
    assert accuracy[9] == pytest.approx(2 / 3)
    assert confidence[9] == pytest.approx(2.8 / 3)
    assert np.isnan(confidence[0])
    assert ece == pytest.approx((0.3 * 1 + (2.8 / 3 - 2 / 3) * 3) / 4)


def test_reliability_of_yes_or_no():
    _, accuracy, counts, ece = reliability_bins([0.2, 0.2, 0.8], [0, 1, 1], bins=5)
    assert counts.tolist() == [0, 2, 0, 0, 1]
    assert (accuracy[1], accuracy[4]) == (0.5, 1)
    assert ece == pytest.approx((2 * 0.3 + 0.2) / 3)


@pytest.mark.parametrize(("p", "y"), [([[0.5, 0.5]], [0, 1]), ([1.5], [1]), ([np.nan], [1]), ([], [])])
def test_reliability_refuses(p, y):
    with pytest.raises(DataError, match="probabilities"):
        reliability_bins(p, y)


def test_plot_reliability(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 200)
    plot_reliability(
        tmp_path / "r.png", p, rng.integers(0, 5, 200), before=p**2 / (p**2).sum(1, keepdims=True)
    )
    check_picture(tmp_path / "r.png", 6.2, 6.6)


def test_plot_scatter(tmp_path):
    truth = np.random.default_rng(0).uniform(180_000, 190_000, (50, 2))
    plot_scatter(tmp_path / "s.png", truth, truth + 30, "m")
    check_picture(tmp_path / "s.png", 8.2, 6.4)
    with pytest.raises(DataError, match="finite"):
        plot_scatter(tmp_path / "s.png", truth, truth * np.nan, "m")
    with pytest.raises(DataError, match="want"):
        plot_scatter(tmp_path / "s.png", truth, truth[:3], "m")


def test_no_state_is_left_behind(tmp_path):
    import matplotlib

    before, had_pyplot = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    plot_scatter(tmp_path / "s.png", [[0, 1]], [[1, 1]], "m")
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
