"""Batches of places: what every batch holds, and what it never holds."""

import numpy as np
import pytest
import torch

from geohf.errors import DataError
from geohf.geo import distance_matrix_m
from geohf.place.sampler import PlaceSampler


def route(n=300, step_m=10.0):
    return np.stack([np.zeros(n), np.degrees(np.arange(n) * step_m / 6371008.8)], 1)


def batches(sampler):
    rows = list(sampler)
    assert len(rows) == len(sampler)
    return np.reshape(rows, (-1, sampler.batch_size))


def test_every_image_has_a_positive_and_negatives():
    points = route(600, 5.0)
    distance = distance_matrix_m(points, points)
    for batch in batches(PlaceSampler(points, 32, 4)):
        near = distance[np.ix_(batch, batch)]
        assert ((near <= 25 + 1e-6).sum(1) >= 2).all()  # itself and one more at least
        assert ((near > 100).sum(1) >= 16).all()
        assert len(set(batch)) == 32
        places = batch.reshape(8, 4)
        assert (distance[places[:, :1], places] <= 25 + 1e-6).all()
        assert (distance[np.ix_(places[:, 0], places[:, 0])] + np.eye(8) * 1e6 > 100).all()


def test_at_least_half_of_a_place_comes_from_other_drives():
    points = np.concatenate([route(200), route(200)])
    drive = np.repeat(["noon", "dusk"], 200)
    places = batches(PlaceSampler(points, 24, 4, sequences=drive)).reshape(-1, 4)
    other = (drive[places] != drive[places[:, :1]]).sum(1)
    assert (other >= 2).all()


def test_headings_keep_the_two_directions_of_a_road_apart():
    points = np.concatenate([route(100), route(100)])
    heading = np.repeat([90.0, 270.0], 100)
    places = batches(PlaceSampler(points, 16, 4, headings=heading, heading_deg=45)).reshape(-1, 4)
    assert (heading[places] == heading[places[:, :1]]).all()


def test_epochs_differ_and_a_seed_repeats():
    first, again, other = (PlaceSampler(route(), 16, seed=seed) for seed in (1, 1, 2))
    epoch0 = list(first)
    assert epoch0 == list(first) == list(again)
    first.set_epoch(1)
    assert list(first) != epoch0 != list(other)


def test_hard_places_look_alike_and_lie_apart():
    points = route(600, 20.0)
    look = torch.nn.functional.one_hot(
        torch.arange(600) // 10 % 5, 5
    ).float()  # five looks that recur every km
    sampler = PlaceSampler(points, 32, 2, hard_share=0.5, seed=3)
    easy = batches(sampler)
    sampler.set_descriptors(look)
    hard = batches(sampler)

    def alike(rows):
        anchors = rows.reshape(len(rows), 16, 2)[:, :8, 0]  # hard ones come first
        return (look[anchors].argmax(-1) == look[anchors[:, :1]].argmax(-1)).float().mean().item()

    assert alike(hard) == 1.0
    assert alike(easy) < 0.5
    distance = distance_matrix_m(points, points)
    for anchors in hard.reshape(len(hard), 16, 2)[:, :8, 0]:
        assert (distance[np.ix_(anchors, anchors)] + np.eye(8) * 1e6 > 100).all()


def test_a_few_images_of_one_place_still_make_batches():
    found = batches(PlaceSampler(route(6, 5.0), 8, 4))
    assert found.shape == (1, 8)


def test_nothing_to_learn_from_is_said():
    with pytest.raises(DataError, match="no two of the 50 training images lie within 25 m"):
        PlaceSampler(route(50, 30.0), 8)
    with pytest.raises(DataError, match="does not hold two places of 4"):
        PlaceSampler(route(), 6, 4)
