"""`--streaming true`: a recipe that reads its training rows as it needs them ends as one that holds them all."""

import json

import pytest
import torch
from transformers import set_seed

from geohf.data.streaming import is_stream
from geohf.errors import DataError
from geohf.recipes import train_street
from geohf.street.classes import without_strange_states
from geohf.street.data import load as load_street
from geohf.street.modeling import make_model as make_street
from geohf.street.sample import write_sample as write_street
from geohf.street.trainer import GeoStreetTrainer

COMMON = ("--use_cpu", "--disable_tqdm", "true", "--train_sampling_strategy", "sequential", "--max_steps", "3")


def options_of(recipe, *words):
    return recipe.make_parser().parse([str(word) for word in (*words, *COMMON)])


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_street(tmp_path):
    sample = write_street(tmp_path / "sample", seed=0, size=2, image_size=48)
    words = ("--data", sample, "--cache_dir", tmp_path / "cache", "--per_device_train_batch_size", 6)
    words += ("--backbone", "test_byobnet", "--pretrained", "false", "--image_size", 32)
    words += ("--split", "blocks", "--validation_share", 0.25, "--map_places", 20)
    streaming = ("--streaming", "true", "--buffer_size", 0, "--output_dir", tmp_path / "streamed")
    streamed = train_street.run(*options_of(train_street, *words, *streaming))
    options, args = options_of(train_street, *words, "--output_dir", tmp_path / "whole")
    data = load_street(options, args)
    set_seed(args.seed)
    whole = GeoStreetTrainer(
        make_street(options, data), args, train_dataset=data.train, eval_dataset=data.validation
    )
    whole.eval_dataset = without_strange_states(whole.eval_dataset, whole.config, "validation")
    whole.finetune("phase2")
    whole._calibrate()
    assert is_stream(streamed.train_dataset)
    same_weights(streamed.model, whole.model)
    assert streamed.model.config.to_dict() == whole.model.config.to_dict()
    metrics = json.loads((tmp_path / "streamed" / "metrics.json").read_text())
    assert metrics["eval"] == pytest.approx(whole.evaluate(data.test).values_by_name)
    assert metrics["baseline"] == pytest.approx(whole.evaluated.baseline)


def test_a_stream_without_an_end_is_refused_before_it_is_read(tmp_path):
    options, args = options_of(train_street, "--streaming", "true", "--data", tmp_path / "none")
    args.max_steps = -1
    with pytest.raises(DataError, match="--streaming true needs --max_steps"):
        load_street(options, args)
