"""The spread of densities is fitted on places from all of a dataset."""

import numpy as np
import pytest
import torch

from geohf.geo.density import SphericalMixture
from geohf.metrics import density


def test_the_scale_is_fitted_on_places_from_all_of_a_table_that_is_sorted(monkeypatch):
    monkeypatch.setattr(density, "PLACES", 100)
    rng = np.random.default_rng(0)
    # one region's places, known within a kilometer, stand before another's, known within 20 km
    sigma = np.repeat([1000.0, 20_000.0], 200)
    truth = rng.normal(0, 1, (400, 2)) * sigma[:, None] / 111_195
    points, weights = torch.zeros(400, 1, 2, dtype=torch.float64), torch.ones(400, 1, dtype=torch.float64)

    def scaled(rows, scale):
        kappas = torch.full((400, 1), (scale * 10_000 / 6_371_008.8) ** -2.0, dtype=torch.float64)
        return SphericalMixture.around(weights[rows], points[rows], kappas[rows])

    assert density.fit_scale(scaled, truth) == pytest.approx(1.4, rel=0.25)
