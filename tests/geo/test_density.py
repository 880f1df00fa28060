"""Densities on the sphere: they sum to one, know no seam, and their regions hold the mass that they state."""

import math

import numpy as np
import pytest
import torch

from geohf.geo import area_from_geojson, great_circle_m
from geohf.geo.density import SphericalMixture, credible_region, log_normalizer


def mixture(*parts):
    """Of (weight, latitude, longitude, kappa)."""
    rows = torch.tensor(parts, dtype=torch.float64)
    return SphericalMixture.around(rows[None, :, 0], rows[None, :, 1:3], rows[None, :, 3])


def equal_area_grid(rows):
    """(n, 2) degrees, each of the same share of the sphere: rows of one height, twice as many to a row."""
    heights = (np.arange(rows) + 0.5) / rows * 2 - 1
    longitudes = (np.arange(2 * rows) + 0.5) / (2 * rows) * 360 - 180
    lat, lon = np.meshgrid(np.degrees(np.arcsin(heights)), longitudes, indexing="ij")
    return torch.from_numpy(np.stack([lat, lon], -1).reshape(-1, 2))


@pytest.mark.parametrize(("kappa", "rows"), [(0.0, 50), (1.0, 100), (100.0, 200), (1e4, 700)])
def test_a_density_integrates_to_one(kappa, rows):
    grid = equal_area_grid(rows)
    for latitude, longitude in ((0.0, 180.0), (47.0, 8.0)):
        density = mixture((1.0, latitude, longitude, kappa)).log_prob(grid).exp()
        assert float(density.mean() * 4 * math.pi) == pytest.approx(1.0, abs=1e-3)


def test_a_density_is_that_of_the_formula():
    for kappa in (0.5, 30.0):
        found = float(mixture((1.0, 0.0, 0.0, kappa)).log_prob(torch.tensor([[0.0, 40.0]])))
        by_hand = kappa / (4 * math.pi * math.sinh(kappa)) * math.exp(kappa * math.cos(math.radians(40)))
        assert found == pytest.approx(math.log(by_hand), abs=1e-12)
    assert float(log_normalizer(torch.tensor(1e5).double())) == pytest.approx(math.log(1e5 / (2 * math.pi)))


def test_a_hundred_thousand_is_stable_and_the_gradient_is_right():
    near = mixture((0.3, 10.0, 20.0, 1e5), (0.7, -50.0, 20.0, 1e5))
    log_probability = near.log_prob(torch.tensor([[10.0, 20.1], [80.0, -100.0]]))[0]
    away = math.radians(0.1) * math.cos(math.radians(10))
    expected = math.log(0.3 * 1e5 / (2 * math.pi)) - 1e5 * away**2 / 2
    assert float(log_probability[0]) == pytest.approx(expected, abs=1e-3)
    assert log_probability.isfinite().all()

    def negative(logits, points, log_kappas, truth):
        found = SphericalMixture.around(logits.softmax(-1), points, log_kappas.exp())
        return -found.log_prob(truth).sum()

    generator = torch.Generator().manual_seed(0)
    inputs = (
        torch.randn(2, 3, generator=generator).double().requires_grad_(),
        (torch.rand(2, 3, 2, generator=generator).double() * 5).requires_grad_(),
        torch.tensor([[0.0, 3.0, 9.0], [11.0, 5.0, 1.0]], dtype=torch.float64, requires_grad=True),
        torch.tensor([[[1.0, 2.0]], [[4.0, 3.0]]], dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(negative, inputs, atol=1e-4)


@pytest.mark.parametrize("kappa", [4e9, 4e13])  # 100 m, 1 m
def test_meters_are_stable(kappa):
    sigma = 1 / math.sqrt(kappa)  # radians
    for latitude, longitude in ((36.4, 127.4), (-20.0, 180.0)):
        bump = mixture((1.0, latitude, longitude, kappa))
        # on squares of a tenth of a standard deviation, seen flat, it integrates to one
        steps = np.degrees(np.arange(-60, 61) * sigma / 10)
        north, east = np.meshgrid(steps, steps / math.cos(math.radians(latitude)), indexing="ij")
        grid = torch.from_numpy(np.stack([latitude + north, longitude + east], -1).reshape(-1, 2))
        total = float(bump.log_prob(grid).exp().sum()) * (sigma / 10) ** 2
        assert total == pytest.approx(1.0, abs=1e-3)
        # two standard deviations north cost two nats
        north = np.array([[latitude, longitude], [latitude + math.degrees(2 * sigma), longitude]])
        top, low = bump.log_prob(torch.from_numpy(north))[0].tolist()
        assert top - low == pytest.approx(2.0, abs=1e-6)
        drawn = bump.sample(4000)[0].numpy()
        away = great_circle_m(drawn, np.array([latitude, longitude])) / 6371008.8 / sigma
        assert (away**2).mean() == pytest.approx(2.0, abs=0.15)
        region = area_from_geojson(credible_region(bump, 0.9))
        assert region.contains(drawn).mean() == pytest.approx(0.9, abs=0.02)
        bound = np.array([latitude + math.degrees(3 * sigma), longitude])
        assert not region.contains(bound[None]).any()


def test_the_gradient_is_right_at_a_hundred_meters():
    generator = torch.Generator().manual_seed(0)
    points = torch.tensor([36.4, 127.4]).double() + torch.rand(2, 3, 2, generator=generator).double() * 1e-3
    truth = torch.tensor([[[36.4005, 127.4004]]]).double().expand(2, 1, 2)

    def negative(logits, meters, log_kappas):
        around = SphericalMixture.around(logits.softmax(-1), points + meters * 9e-6, log_kappas.exp())
        return -around.log_prob(truth).sum()

    inputs = (
        torch.randn(2, 3, generator=generator).double().requires_grad_(),
        torch.zeros(2, 3, 2, dtype=torch.float64, requires_grad=True),
        (torch.full((2, 3), 22.0, dtype=torch.float64)).requires_grad_(),
    )
    assert torch.autograd.gradcheck(negative, inputs, eps=1e-3, atol=1e-4)


def test_there_is_no_seam():
    for kappa in (10.0, 1e4):
        one, other = mixture((1.0, 10.0, 180.0, kappa)), mixture((1.0, 10.0, -180.0, kappa))
        points = torch.tensor([[10.0, 179.5], [10.0, -179.5], [12.0, 540.0]])
        torch.testing.assert_close(one.log_prob(points), other.log_prob(points), atol=1e-9, rtol=0)
        west, east = one.log_prob(points)[0][:2]
        assert float(west - east) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kappa", [0.0, 2.0, 500.0, 1e5])
def test_samples_are_those_of_the_density(kappa):
    drawn = mixture((1.0, 35.0, 179.9, kappa)).sample(20_000)[0]
    away = great_circle_m(drawn.numpy(), np.array([35.0, 179.9])) / 6371008.8
    mean = 1 / math.tanh(kappa) - 1 / kappa if kappa else 0.0
    sigma = max(1 / max(kappa, 1.0), 1e-5)
    assert np.cos(away).mean() == pytest.approx(mean, abs=6 * sigma / math.sqrt(20_000))
    assert torch.equal(mixture((1.0, 35.0, 179.9, kappa)).sample(20_000)[0], drawn)
    two = mixture((0.25, 10, 0, 1e3), (0.75, -10, 0, 1e3)).sample(4000)[0]
    assert float((two[:, 0] > 0).double().mean()) == pytest.approx(0.25, abs=0.03)


def test_what_is_known_of_a_place_in_nats():
    nothing, something = mixture((1.0, 0, 0, 0.0)), mixture((1.0, 0, 0, 1e4))
    assert float(nothing.localizability()) == pytest.approx(0.0, abs=1e-6)
    # the entropy of a two-dimensional normal distribution of variance 1 / kappa
    assert float(something.localizability()) == pytest.approx(
        math.log(4 * math.pi) - 1 - math.log(2 * math.pi / 1e4), abs=0.1
    )


@pytest.mark.parametrize("kappa", [1.0, 50.0, 1e4])
def test_what_is_measured_by_draws_is_that_of_the_formula(kappa):
    """The usual thousand draws: of one bump, where all have one error in common, and none averages it out."""
    bump = mixture((1.0, 40.0, -75.0, kappa))
    entropy = 1 - kappa / math.tanh(kappa) - float(log_normalizer(torch.tensor(kappa).double())) + kappa
    assert float(bump.localizability()) == pytest.approx(math.log(4 * math.pi) - entropy, abs=5e-3)
    for mass in (0.5, 0.9):  # the density falls by so much from its peak to the cap's edge
        cosine = 1 + math.log(1 - mass * -math.expm1(-2 * kappa)) / kappa
        edge = float(log_normalizer(torch.tensor(kappa).double())) + kappa * (cosine - 1)
        assert float(bump.threshold(mass)) == pytest.approx(edge, abs=0.01)


def test_what_is_known_of_many_places_needs_the_memory_of_a_few():
    weights, points = torch.full((512, 32), 1 / 32), torch.rand(512, 32, 2) * 50
    many = SphericalMixture.around(weights, points, torch.full((512, 32), 100.0))
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        known = many.localizability()
    assert max(event.self_cpu_memory_usage for event in profile.events()) < 60e6
    alone = torch.cat([many[i].localizability() for i in (0, 63, 64, 511)])
    torch.testing.assert_close(known[[0, 63, 64, 511]], alone)


def test_credibility_is_a_radius_of_one_bump():
    bump = mixture((1.0, 50.0, 8.0, 1e4))
    away = math.degrees(math.sqrt(2 * math.log(2) / 1e4))  # half of a normal distribution in two dimensions
    assert float(bump.credibility(torch.tensor([[50.0 + away, 8.0]]))) == pytest.approx(0.5, abs=0.05)
    assert float(bump.credibility(torch.tensor([[50.0, 8.0]]))) == 0.0
    assert float(bump.credibility(torch.tensor([[-50.0, 8.0]]))) == 1.0


@pytest.mark.parametrize("mass", [0.5, 0.9])
def test_a_region_holds_its_mass_and_is_cut_at_the_antimeridian(mass):
    for found in (
        mixture((0.6, 10.0, 179.5, 3e3), (0.4, -30.0, 20.0, 1e4)),
        mixture((0.5, 88.0, 0.0, 500.0), (0.5, 40.0, 0.0, 500.0)),
        mixture((0.7, 0.0, 0.0, 20.0), (0.3, 0.0, 5.0, 2000.0)),
        mixture((1.0, 47.0, 8.0, 1e5)),
    ):
        region = credible_region(found, mass)
        corners = np.array([point for polygon in region["coordinates"] for ring in polygon for point in ring])
        assert np.abs(corners[:, 0]).max() <= 180.0
        area = area_from_geojson(region)
        inside = area.contains(found.sample(8000, seed=5)[0].numpy()).mean()
        assert inside == pytest.approx(mass, abs=0.04)
    assert area.contains([[47.0, 8.0]]).all()


def test_two_modes_far_apart_are_two_polygons():
    region = credible_region(mixture((0.5, 10.0, 0.0, 1e4), (0.5, 50.0, 90.0, 1e4)), 0.9)
    assert len(region["coordinates"]) == 2
    one = mixture((1.0, 0.0, 0.0, 1e4))[0]
    assert len(one) == 1
