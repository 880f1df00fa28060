"""Spherical harmonics and the Equal Earth projection, against other implementations and what must hold."""

import math

import numpy as np
import pytest
import torch
from scipy.special import lpmv

from geohf.street.location import equal_earth, spherical_harmonics

POINTS = torch.tensor(np.random.default_rng(0).uniform([-90, -180], [90, 180], (40, 2)))


def test_harmonics_are_those_of_the_associated_legendre_functions():
    found = spherical_harmonics(POINTS, 9).numpy()
    latitude, longitude = np.radians(POINTS.numpy()).T
    for degree in range(9):
        for m in range(degree + 1):
            size = (2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m)
            # without the sign (-1)^m that scipy's functions carry
            legendre = (-1) ** m * math.sqrt(size) * lpmv(m, degree, np.sin(latitude))
            for sign, wave in ((1, np.cos(m * longitude)), (-1, np.sin(m * longitude))):
                if m == 0 and sign < 0:
                    continue
                expected = legendre * wave * (math.sqrt(2) if m else 1)
                np.testing.assert_allclose(found[:, degree**2 + degree + sign * m], expected, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 7, 39])
def test_squares_of_one_degree_have_a_constant_sum(degree):
    own = spherical_harmonics(POINTS, 40)[:, degree**2 : (degree + 1) ** 2]
    torch.testing.assert_close(
        own.square().sum(1), torch.full((40,), (2 * degree + 1) / (4 * math.pi)).double()
    )


def test_harmonics_have_no_seam_and_one_value_at_a_pole():
    a, b = spherical_harmonics(torch.tensor([[10.0, 180.0], [10.0, -180.0]]), 20)
    assert torch.equal(a, b)
    poles = spherical_harmonics(torch.tensor([[90.0, 0.0], [90.0, 77.0]]), 20)
    torch.testing.assert_close(poles[0], poles[1], atol=1e-12, rtol=0)


def test_equal_earth_keeps_areas():
    """The determinant of the map's derivative is the cosine of the latitude."""
    at = torch.deg2rad(POINTS[POINTS[:, 0].abs() < 85])
    slope = torch.func.vmap(torch.func.jacrev(lambda p: equal_earth(torch.rad2deg(p))))(at)
    area = slope[:, 0, 1] * slope[:, 1, 0] - slope[:, 0, 0] * slope[:, 1, 1]
    torch.testing.assert_close(area, at[:, 0].cos(), rtol=1e-5, atol=1e-6)
