"""Temperatures that are found again, and thresholds that hold as often as they promise."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from geohf.metrics.calibration import conformal_quantile, fit_temperature


def calibrated(n=20_000, classes=5, seed=0):
    """Logits whose softmax is the true probability of each label."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, classes))
    chances = softmax(logits, -1).cumsum(-1)
    labels = (generator.random((n, 1)) > chances[:, :-1]).sum(-1)
    return logits, labels


def cross_entropy(logits, labels, temperature):
    return -log_softmax(logits / temperature, -1)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0, 8.0])
def test_a_temperature_is_found_again(factor):
    logits, labels = calibrated()
    found = fit_temperature(logits * factor, labels)
    assert found == pytest.approx(factor, rel=0.05)
    grid = np.geomspace(0.1, 20, 2000)
    best = grid[np.argmin([cross_entropy(logits[:2000] * factor, labels[:2000], t) for t in grid])]
    assert fit_temperature(logits[:2000] * factor, labels[:2000]) == pytest.approx(best, rel=0.005)


def test_rows_without_a_label_do_not_count():
    logits, labels = calibrated(2000)
    some = np.where(np.arange(2000) % 3 == 0, -100, labels)
    known = some >= 0
    spoiled = np.where(known[:, None], logits, np.nan)
    assert fit_temperature(spoiled, some) == fit_temperature(logits[known], labels[known])


def test_single_precision_and_large_logits_are_no_trouble():
    logits, labels = calibrated(2000)
    wide = (logits * 3 + 1e4).astype(np.float32)
    assert fit_temperature(wide, labels) == pytest.approx(fit_temperature(logits * 3, labels), rel=0.01)


def test_with_hardly_any_label_nothing_is_fitted():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0
    assert fit_temperature(np.ones((5, 3)), np.array([-100] * 4 + [1])) == 1.0


def test_a_model_that_is_always_right_stays_within_bounds():
    assert 0.05 <= fit_temperature(np.eye(3) * 5, np.arange(3)) <= 20
    assert 0.05 <= fit_temperature(np.eye(3) * 5, np.array([1, 2, 0])) <= 20.001


@pytest.mark.parametrize(
    ("n", "coverage", "rank"),
    [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (99, 0.9, 90), (100, 0.95, 96), (1, 0.5, 1), (3, 0.5, 2)],
)
def test_the_threshold_is_the_score_of_the_right_rank(n, coverage, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert conformal_quantile(scores, coverage) == rank


@pytest.mark.parametrize(("n", "coverage"), [(0, 0.5), (8, 0.9), (18, 0.95), (98, 0.99)])
def test_too_few_scores_promise_nothing(n, coverage):
    assert conformal_quantile(np.arange(n), coverage) is None


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90])
def test_coverage_is_a_share(coverage):
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_quantile(np.arange(10), coverage)


@pytest.mark.parametrize("n", [12, 60])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_new_scores_fall_below_as_often_as_promised(n, coverage):
    generator = np.random.default_rng(1)
    trials = 20_000
    scores = generator.lognormal(0, 1, (trials, n + 1))
    held = [row[-1] <= conformal_quantile(row[:-1], coverage) for row in scores]
    share = np.mean(held)
    spread = np.sqrt(coverage * (1 - coverage) / trials)
    assert coverage - 4 * spread <= share <= coverage + 1 / (n + 1) + 4 * spread
