"""Photos with rare states come several times an epoch."""

import numpy as np
import pytest
from helpers.parts_models import parse

from geohf import PartStateTrainer
from geohf.errors import DataError
from geohf.parts import PartStateConfig
from geohf.parts.data import load
from geohf.parts.metrics import dataset_targets
from geohf.parts.modeling import make_model
from geohf.parts.state_balance import count_states, repeat_factors, repeated_rows
from geohf.recipes.train_parts import run


def config(**fields):
    return PartStateConfig(
        id2label={0: "wheel", 1: "bell"}, id2state={0: "intact", 1: "damaged", 2: "absent"}, **fields
    )


def target(*pairs):
    labels, states = np.array(pairs, int).reshape(-1, 2).T
    return {"labels": labels, "states": states}


def test_a_photo_comes_as_often_as_its_rarest_pair_asks():
    """Of four photos three show (wheel, intact), one (bell, damaged), one (bell, absent)."""
    targets = [target((0, 0)), target((0, 0), (1, 2)), target((0, 0), (1, 1)), target()]
    assert repeat_factors(targets, config(), 1.0) == pytest.approx([(4 / 3) ** 0.5, (4 / 3) ** 0.5, 2, 1])
    assert repeat_factors(targets, config(), 0.5) == pytest.approx([1, 1, 2**0.5, 1])
    assert repeat_factors(targets, config(absent="detect"), 0.5) == pytest.approx([1, 2**0.5, 2**0.5, 1])
    assert repeat_factors([target((0, -1)), target()], config(), 1.0).tolist() == [1, 1]  # a crowd


def test_rows_follow_the_factors_and_the_seed():
    factors = np.full(10_000, 1.3)
    rows = repeated_rows(factors, seed=1)
    assert np.bincount(rows).min() == 1
    assert np.bincount(rows).max() == 2
    assert len(rows) == pytest.approx(13_000, abs=200)
    assert np.array_equal(rows, repeated_rows(factors, seed=1))
    assert not np.array_equal(rows, repeated_rows(factors, seed=2))


def test_the_recipe_trains_on_the_repeated_photos(bikes, tmp_path, caplog):
    words = ["--data", bikes, "--backbone", "test_resnet", "--pretrained", "false", "--image_size", 64, 96]
    words += ["--output_dir", tmp_path, "--max_steps", 1, "--overlays", 0, "--eval_strategy", "no", "--save_strategy", "no"]  # fmt: skip
    with caplog.at_level("INFO"):
        trainer = run(*parse(*words, "--repeat_threshold", 0.9))
    (line,) = [record.message for record in caplog.records if "for their rare states" in record.message]
    photos, times = (int(word) for word in line.split() if word.isdigit())
    assert photos == len(trainer.train_dataset) < times
    with pytest.raises(DataError, match="repeat_threshold must be a number from 0 to 1"):
        run(*parse(*words, "--repeat_threshold", 2))


def test_states_are_counted_as_often_as_they_are_shown(bikes, tmp_path):
    words = ["--data", bikes, "--backbone", "test_resnet", "--pretrained", "false", "--image_size", 64, 96]
    words += ["--output_dir", tmp_path, "--state_balance", "logit_adjust", "--repeat_threshold", 0.9]
    options, args = parse(*words)
    data = load(options, args)
    model = make_model(options, data)
    trainer = PartStateTrainer(model, args, train_dataset=data.train, eval_dataset=data.validation)
    shown = trainer._photos_of_an_epoch()
    assert len(shown) > len(data.train)
    assert model.config.state_counts == count_states(dataset_targets(shown, model.config), model.config)
