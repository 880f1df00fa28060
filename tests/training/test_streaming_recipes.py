"""`--streaming true`: a recipe that reads its training rows as it needs them ends as one that holds them all."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.parts_models import TINY
from torch.utils.data import SequentialSampler
from transformers import set_seed

from geohf.data.streaming import is_stream, write_shards
from geohf.errors import DataError
from geohf.parts.data import load_parts
from geohf.parts.sample import write_sample as write_parts
from geohf.place.data import load as load_place
from geohf.place.modeling import make_model as make_place
from geohf.place.sample import write_sample as write_place
from geohf.place.trainer import GeoPlaceTrainer
from geohf.recipes import train_parts, train_place, train_region, train_street, train_tiles
from geohf.region.data import load as load_region
from geohf.region.rows import EXCLUDE, TRAIN_IMAGES, TRAIN_TABLE, VAL_IMAGES, VAL_TABLE
from geohf.region.sample import write_sample as write_region
from geohf.street.classes import without_strange_states
from geohf.street.data import load as load_street
from geohf.street.modeling import make_model as make_street
from geohf.street.sample import write_sample as write_street
from geohf.street.trainer import GeoStreetTrainer
from geohf.tiles.sample import write_sample as write_tiles

COMMON = (
    "--use_cpu",
    "--disable_tqdm",
    "true",
    "--train_sampling_strategy",
    "sequential",
    "--max_steps",
    "3",
)


def options_of(recipe, *words):
    return recipe.make_parser().parse([str(word) for word in (*words, *COMMON)])


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def same_runs(a, b):
    same_weights(a.model, b.model)
    assert a.model.config.to_dict() == b.model.config.to_dict()
    numbers = [json.loads((run.run_folder / "metrics.json").read_text()) for run in (a, b)]
    for name in ("eval", "baseline"):
        assert numbers[0][name] == pytest.approx(numbers[1][name], nan_ok=True)
        assert numbers[0][name]


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


def test_region(tmp_path):
    sample = write_region(tmp_path / "sample", seed=0, size=16)
    words = ("--train_csv", sample / TRAIN_TABLE, "--train_dir", sample / TRAIN_IMAGES, "--t_0", 0)
    words += ("--augment", "none")
    words += (
        "--val_csv",
        sample / VAL_TABLE,
        "--val_dir",
        sample / VAL_IMAGES,
        "--exclude",
        sample / EXCLUDE,
    )
    words += ("--backbone", "test_resnet", "--pretrained", "false", "--image_size", 48, "--min_rows", 5)
    words += ("--experts", "shared", "--cache_dir", tmp_path / "cache", "--per_device_train_batch_size", 4)
    streaming = ("--streaming", "true", "--buffer_size", 0, "--output_dir", tmp_path / "streamed")
    streamed = train_region.run(*options_of(train_region, *words, *streaming))
    whole = train_region.run(*options_of(train_region, *words, "--output_dir", tmp_path / "whole"))
    assert is_stream(streamed.train_dataset)
    same_runs(streamed, whole)


def test_a_photograph_of_both_tables_is_told_though_one_is_streamed(tmp_path):
    sample = write_region(tmp_path / "sample", seed=0, size=16)
    excluded = (sample / EXCLUDE).read_text().split()
    trained, measured = (
        sample
        / folder
        / next(name for name in pd.read_csv(sample / table)["filename"] if name not in excluded)
        for table, folder in ((TRAIN_TABLE, TRAIN_IMAGES), (VAL_TABLE, VAL_IMAGES))
    )
    measured.write_bytes(trained.read_bytes())
    words = ("--train_csv", sample / TRAIN_TABLE, "--train_dir", sample / TRAIN_IMAGES, "--min_rows", 5)
    words += ("--val_csv", sample / VAL_TABLE, "--val_dir", sample / VAL_IMAGES, "--streaming", "true")
    words += ("--exclude", sample / EXCLUDE)
    with pytest.raises(DataError, match=f"'{measured.name}' stands in the training table too"):
        load_region(*options_of(train_region, *words))


@pytest.mark.slow
def test_parts(hub, tmp_path):
    photos = load_parts(write_parts(tmp_path / "sample", seed=0, size=24, width=96))[0]["train"]
    write_shards(photos, tmp_path / "shards", num_shards=3)
    photos.push_to_hub("org/bikes")
    words = ("--backbone", "test_resnet", "--pretrained", "false", "--config_overrides", json.dumps(TINY))
    words += ("--augment", "false", "--overlays", 1, "--per_device_train_batch_size", 3)
    words += ("--state_balance", "effective", "--buffer_size", 0)
    runs = [
        train_parts.run(
            *options_of(train_parts, *words, *more, "--output_dir", tmp_path / data.name, "--data", data)
        )
        for data, *more in (
            (tmp_path / "shards", "--streaming", "true"),
            (Path("org/bikes"), "--streaming", "false"),
        )
    ]
    assert is_stream(runs[0].train_dataset)
    same_runs(*runs)


def test_place(tmp_path):
    """Two drives; blocks of both are held out, and one of them is searched in."""
    sample = write_place(tmp_path / "sample", seed=0, size=120)
    tables = [sample / name / "poses.csv" for name in ("noon", "dusk")]
    words = ("--train_csv", *tables, "--models", "test_byobnet", "--pretrained", "false", "--image_size", 32)
    words += ("--block_m", 100, "--negative_m", 30, "--methods", "ours", "--pooling", "gem")
    words += ("--finetune", "all", "--per_device_train_batch_size", 24)
    words += ("--cache_dir", tmp_path / "cache", "--buffer_size", 0)
    streaming = ("--streaming", "true", "--output_dir", tmp_path / "streamed")
    streamed = train_place.run(*options_of(train_place, *words, *streaming))
    options, args = options_of(train_place, *words, "--output_dir", tmp_path / "whole")
    data = load_place(options, args)
    set_seed(args.seed)
    whole = GeoPlaceTrainer(
        make_place(options, data),
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        database=data.database,
        validation_database=data.validation_database,
        sampler=SequentialSampler(data.train),
        radii_m=options.radii_m,
    )
    whole._finetune(False)
    whole._calibrate()
    assert is_stream(streamed.train_dataset)
    same_weights(streamed.model, whole.model)
    assert streamed.evaluated.values_by_name == pytest.approx(whole.evaluate(data.test).values_by_name)


def test_tiles(tmp_path):
    """A window a tile, so that the order of the table is that of its regions."""
    sample = write_tiles(tmp_path / "sample", seed=1, size=5)
    words = ("--data", sample, "--target_years", 1, "--hidden_sizes", 8)
    words += ("--cache_dir", tmp_path / "cache", "--cache_workers", 1, "--augment", "false")
    words += ("--per_device_train_batch_size", 16, "--per_device_eval_batch_size", 16)
    streaming = ("--streaming", "true", "--buffer_size", 0, "--output_dir", tmp_path / "streamed")
    streamed = train_tiles.run(*options_of(train_tiles, *words, *streaming))
    assert not (tmp_path / "cache").exists()
    whole = train_tiles.run(*options_of(train_tiles, *words, "--output_dir", tmp_path / "whole"))
    assert is_stream(streamed.train_dataset)
    same_runs(streamed, whole)


def test_a_stream_without_an_end_is_refused_before_it_is_read(tmp_path):
    options, args = options_of(train_street, "--streaming", "true", "--data", tmp_path / "none")
    args.max_steps = -1
    with pytest.raises(DataError, match="--streaming true needs --max_steps"):
        load_street(options, args)
