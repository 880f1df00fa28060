"""Batches of places, and the reference implementation's random ones."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from helpers.place_models import along, build_model, parse, unit
from transformers import TrainerCallback

from geohf.data.tensor_dataset import TensorDictDataset
from geohf.errors import DataError, warn_once
from geohf.geo import great_circle_m
from geohf.place import GeoPlaceConfig
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.comparison import variants
from geohf.place.data import load
from geohf.place.original import RandomBatches
from geohf.place.phase import PlacePhaseTrainer, make_sampler
from geohf.place.sampler import PlaceSampler
from geohf.place.trainer import GeoPlaceTrainer


def town(places=60, images=6, seed=0):
    """Places 300 m apart, images within 8 m of each, from two drives."""
    rng = np.random.default_rng(seed)
    meters = np.repeat(300.0 * np.arange(places), images) + rng.uniform(-4, 4, places * images)
    return along(meters), np.tile(["a", "b"], places * images // 2), np.repeat(np.arange(places), images)


def batches(sampler):
    return np.array(list(sampler)).reshape(-1, sampler.batch_size)


def test_a_batch_holds_places_apart_with_images_together():
    points, drives, place = town()
    sampler = PlaceSampler(points, 32, 4, sequences=drives)
    rows = batches(sampler)
    assert len(rows) == len(sampler) // 32 == 360 // 32
    for batch in rows:
        assert len(set(batch)) == 32
        assert np.bincount(place[batch]).max() == 4
        assert len(set(place[batch])) == 8
        for four in batch.reshape(-1, 4):
            assert great_circle_m(points[four[0]], points[four]).max() <= 25
            assert set(drives[four]) == {"a", "b"}
    assert len(set(place[rows.ravel()])) > 40  # an epoch gets about


def test_no_image_is_its_own_positive_where_others_are_left():
    """A drive of one kilometer has no sixteen places a hundred meters apart, and images of all that it has."""
    for batch in batches(PlaceSampler(along(2.5 * np.arange(400)), 64, 4)):
        assert len(set(batch)) == 64
    (batch,) = batches(PlaceSampler(along([0, 5, 10, 400, 405]), 8, 2))  # five images are less than a batch
    assert set(batch) == {0, 1, 2, 3, 4}


def test_images_of_a_clique_lie_within_the_radius_of_each_other():
    rng = np.random.default_rng(0)
    points = along(np.sort(rng.uniform(0, 3000, 500)))  # one every 6 m: no gap divides places
    headings = np.where(rng.random(500) < 0.5, 0.0, 180.0)
    drives = rng.integers(0, 2, 500)
    told = {"sequences": drives, "headings": headings, "heading_deg": 40.0}
    sampler = PlaceSampler(points, 32, 4, radius_m=20.0, cliques=True, **told)
    rng, sizes = np.random.default_rng(1), []
    for anchor in sampler.anchors:
        clique = sampler._images(rng, anchor, [])
        sizes.append(len(clique))
        assert clique[0] == anchor
        assert great_circle_m(points[clique][:, None], points[clique][None]).max() <= 20
        assert len(set(headings[clique])) == 1
        if len(clique) < 4:  # nobody else fits in
            fits = (great_circle_m(points[clique][:, None], points[None]) <= 20).all(0)
            assert set(np.flatnonzero(fits & (headings == headings[anchor]))) == set(clique)
    assert np.mean(np.array(sizes) == 4) > 0.4
    sampler.set_descriptors(unit(500, 8))
    assert all(len(set(batch)) == 32 for batch in batches(sampler))
    # the neighbors of one image are up to twice as far from each other
    loose = PlaceSampler(points, 32, 4, radius_m=20.0, **told)
    fours = [loose._images(rng, anchor, []) for anchor in loose.anchors]
    assert max(great_circle_m(points[four][:, None], points[four][None]).max() for four in fours) > 20


def test_batches_are_drawn_by_the_seed_of_the_data_where_it_is_given():
    def order(**seeds):
        args = PlaceTrainingArguments(per_device_train_batch_size=8, output_dir="x", use_cpu=True, **seeds)
        return list(make_sampler(rows_looking([10.0] * 48), GeoPlaceConfig(), args))

    assert order(seed=1, data_seed=0) == order(seed=0)
    assert order(seed=1, data_seed=0) != order(seed=1)


def test_every_image_of_a_dense_drive_gets_its_turn():
    sampler = PlaceSampler(along(5.0 * np.arange(400)), 16, 4, hard_share=0)
    seen = set()
    for epoch in range(8):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert len(seen) == 400


def test_epochs_differ_and_seeds_repeat():
    points, drives, _ = town()
    one, two = PlaceSampler(points, 32, sequences=drives), PlaceSampler(points, 32, sequences=drives)
    first = list(one)
    assert first == list(two)
    one.set_epoch(1)
    assert first != list(one)
    assert first != list(PlaceSampler(points, 32, sequences=drives, seed=1))


def test_lonely_images_are_left_out_and_headings_divide():
    points = np.concatenate([along([0, 5, 10, 15]), along([5000])])
    sampler = PlaceSampler(points, 4, 2)
    seen = set()
    for epoch in range(10):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert seen == {0, 1, 2, 3}
    headings = np.array([0.0, 180.0, 10.0, 190.0, 0.0])
    sampler = PlaceSampler(points, 4, 2, headings=headings, heading_deg=40)
    assert {tuple(sorted(pair)) for pair in batches(sampler).reshape(-1, 2).tolist()} == {(0, 2), (1, 3)}


def test_hard_places_are_those_that_look_alike():
    points, drives, place = town()
    looks = unit(60, 32)
    looks[[11, 27, 40]] = looks[3].clone()  # four places alike
    sampler = PlaceSampler(points, 32, 4, sequences=drives, hard_share=0.5, seed=1)
    sampler.set_descriptors(looks[torch.from_numpy(place)])

    def together(rows):
        return sum(len(set(place[batch]) & {3, 11, 27, 40}) >= 3 for batch in rows)

    hard, plain = 0, 0
    for epoch in range(20):
        sampler.set_epoch(epoch)
        sampler.hard_share = 0.5
        hard += together(batches(sampler))
        sampler.hard_share = 0.0
        plain += together(batches(sampler))
    assert hard > 2 * plain + 5


def test_no_positives_at_all_is_said():
    with pytest.raises(DataError, match="no two of the 3 training images lie within 25 m of each other"):
        PlaceSampler(along([0, 100, 200]), 8)
    with pytest.raises(DataError, match="does not hold two places of 4 images"):
        PlaceSampler(along([0, 1]), 6)


def test_random_batches_take_every_image_once():
    sampler = RandomBatches(10, 4)
    first = list(sampler)
    assert len(first) == len(sampler) == 8
    assert len(set(first)) == 8
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize("clique_m", [0, 26])
def test_cliques_wider_than_a_place_are_refused(clique_m):
    args = PlaceTrainingArguments(clique_m=clique_m, use_cpu=True)
    with pytest.raises(DataError, match=r"clique_m must be above 0 and at most positive_m \(25\)"):
        make_sampler([], GeoPlaceConfig(), args)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--methods", "original"),
            "--methods original draws its batches at random, and --clique_m is of batches",
        ),
        (
            ("--methods", "ours", "--streaming", "true", "--max_steps", 3),
            "--streaming true takes rows in the table's",
        ),
    ],
)
def test_cliques_that_no_run_would_draw_are_refused_before_anything_is_read(words, message, tmp_path):
    options, args = parse("--clique_m", 20, "--train_csv", tmp_path / "none.csv", *words)
    with pytest.raises(DataError, match=message):
        load(options, args)


def test_of_two_recipes_ours_alone_draws_cliques():
    options, args = parse("--clique_m", 20)
    assert [own.clique_m for _, own in variants(options, args)] == [20, None]
    assert args.clique_m == 20
    rows, model = [{"image": "a.png", "latitude": 1.0, "longitude": 2.0}], build_model()
    with pytest.raises(DataError, match="the method original draws its batches at random"):
        GeoPlaceTrainer(model, args, train_dataset=rows, method="original")
    with pytest.raises(DataError, match="a stream comes in its own order"):
        GeoPlaceTrainer(model, args, train_dataset=IterableDataset.from_generator(lambda: iter(rows)))


def rows_looking(headings) -> Dataset:
    points = along(np.arange(len(headings)) * 5.0)
    columns = {"latitude": points[:, 0], "longitude": points[:, 1], "heading": headings}
    return Dataset.from_dict(columns | {"sequence": ["a"] * len(headings)})


def test_a_turn_that_no_heading_is_known_for_is_refused_and_one_that_some_lack_is_told(caplog):
    args = PlaceTrainingArguments(use_cpu=True)
    config = GeoPlaceConfig(heading_deg=30)
    with pytest.raises(DataError, match="heading_deg 30: no training image says which way it looks"):
        make_sampler(rows_looking([math.nan] * 12), config, args)
    make_sampler(rows_looking([math.nan] * 12), GeoPlaceConfig(heading_deg=180), args)
    make_sampler(rows_looking([10.0] * 12), config, args)
    assert not caplog.text
    make_sampler(rows_looking([10.0] * 11 + [math.nan]), config, args)
    assert "1 of 12 training images do not say which way they look" in caplog.text


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 25:
            raise KeyboardInterrupt


def test_a_run_that_is_stopped_within_an_epoch_goes_on_with_its_hard_places(tmp_path):
    """What the head held for alike when the epoch began is not what it holds for alike now."""

    def train(folder, *callbacks, resume=False):
        torch.manual_seed(0)
        points = torch.from_numpy(np.repeat(along(np.arange(60) * 200.0), 4, 0))
        table = TensorDictDataset(
            features=unit(60, 96).repeat_interleave(4, 0) + 0.5 * unit(240, 96, seed=1),
            coordinates=points,
            headings=torch.full((240,), math.nan),
        )
        args = PlaceTrainingArguments(
            output_dir=str(tmp_path / folder), use_cpu=True, num_train_epochs=2, save_steps=12,
            per_device_train_batch_size=16, learning_rate=1e-2, disable_tqdm=True,
            eval_strategy="no", save_strategy="steps", load_best_model_at_end=False,
        )  # fmt: skip
        sampler = PlaceSampler(points.numpy(), 16, 4, hard_share=1.0)
        head = build_model(dropout=0.0).head
        trainer = PlacePhaseTrainer(
            head, args, train_dataset=table, sampler=sampler, callbacks=list(callbacks)
        )
        trainer.run(resume=resume)
        return head.state_dict()

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("part", Stop())
    resumed = train("part", resume=True)
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize("apart", [15.0, 40.0])
def test_validation_images_without_a_pair_have_a_recall_and_no_loss(apart, tmp_path, caplog):
    """An answer may count from farther away than what is one place in training."""
    points = torch.from_numpy(
        np.concatenate([along(400.0 * np.arange(6)), along(400.0 * np.arange(6) + apart)])
    )
    table = TensorDictDataset(
        features=unit(6, 96).repeat(2, 1), coordinates=points, headings=torch.full((12,), math.nan)
    )
    args = PlaceTrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=8)
    warn_once.cache_clear()
    trainer = PlacePhaseTrainer(build_model().head, args, eval_dataset=table, database_rows=6, radius_m=50.0)
    numbers = trainer.evaluate()
    assert numbers["eval_r1"] == 1.0
    assert math.isfinite(numbers["eval_loss"]) == (apart < 25)
    assert ("no two validation images lie within positive_m" in caplog.text) == (apart > 25)
