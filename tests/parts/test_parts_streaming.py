"""Photos with parts from streams: what `to_parquet` and `push_to_hub` wrote, and a model that trains on it."""

import numpy as np
import pytest
import torch
from helpers.parts_models import ALL_SAMPLES, build_model, parse

from geohf.data.streaming import write_shards
from geohf.errors import DataError
from geohf.parts.data import load_parts
from geohf.parts.phase import PartPhaseTrainer
from geohf.parts.streaming import stream_parts
from geohf.parts.vocabulary import names_of


@pytest.fixture(scope="module")
def loaded(bikes):
    return load_parts(bikes)[0]["train"]


def test_parquet_has_the_rows_of_the_loader(loaded, tmp_path):
    write_shards(loaded, tmp_path, num_shards=2)
    found = list(stream_parts(tmp_path))
    assert [{**row, "image": None} for row in found] == [{**row, "image": None} for row in loaded]
    assert all(row["image"]["bytes"] for row in found)
    trusted = list(stream_parts(tmp_path, min_trust=0.8))
    for row in trusted:
        assert row["parts"]
        assert min(row["trust"]) >= np.float32(0.8)
    assert 0 < sum(len(row["parts"]) for row in trusted) < sum(len(row["parts"]) for row in found)


def test_the_hub(hub, loaded):
    loaded.push_to_hub("org/bikes", num_shards=3)
    stream = stream_parts("org/bikes")
    assert stream.features["parts"].feature.names == loaded.features["parts"].feature.names
    assert [row["boxes"] for row in stream] == loaded["boxes"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: {"boxes": [[0, 0, 500, 5], *row["boxes"][1:]]}, "lies outside the photo"),
        (lambda row: {"width": 7}, "is listed as 7 x"),
        (lambda row: {"parts": []}, "must be lists of one length"),
    ],
)
def test_a_photo_that_cannot_be_used_is_named(loaded, tmp_path, change, reason):
    rows = loaded.select(range(4)).map(
        lambda row, i: row | change(row) if i == 2 else row, with_indices=True, features=loaded.features
    )
    write_shards(rows, tmp_path, num_shards=1)
    with pytest.raises(DataError, match=rf"\.parquet, row 4, {loaded[2]['image_id']}: .*{reason}"):
        list(stream_parts(tmp_path))
    assert len(list(stream_parts(tmp_path, on_error="skip"))) == 3


def test_names_must_be_known(tmp_path, loaded):
    loaded.to_pandas().drop(columns="image").to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="must be a list of class labels"):
        stream_parts(tmp_path / "t.parquet")


def test_a_detector_trains_on_a_stream_as_on_the_dataset(loaded, tmp_path):
    write_shards(loaded, tmp_path / "shards", num_shards=2)
    words = ("--output_dir", tmp_path / "run", "--max_steps", 3, "--per_device_train_batch_size", 4)
    words += ("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
    _, args = parse(*words, "--train_sampling_strategy", "sequential", "--augment", "false")
    parts, states = names_of(loaded)
    weights = []
    for source in (stream_parts(tmp_path / "shards"), loaded):
        model = build_model(id2label=parts, id2state=states, one_per_part=True, spread=1.0, **ALL_SAMPLES)
        PartPhaseTrainer(model, args, train_dataset=source).train()
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
