"""Predicting from whatever a user has, and through the pipeline."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from helpers.parts_models import build_model, photos
from transformers import pipeline

import geohf  # noqa: F401  registers the pipeline
from geohf.errors import DataError
from geohf.parts.data import load_parts
from geohf.vision.images import ImageError


@pytest.fixture(scope="module")
def model():
    return build_model(one_per_part=True, presence_threshold=0.2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"p{i}.png" for i in range(5)]
    for path, picture in zip(paths, photos(5), strict=True):
        picture.save(path)
    return paths


def test_every_kind_of_input_gets_the_same_answers(model, files, tmp_path):
    expected = model.predict([str(path) for path in files], batch_size=5)
    assert any(answer.parts for answer in expected)
    assert {(answer.width, answer.height) for answer in expected} == {(64, 48)}
    dataset = Dataset.from_dict({"image": [str(path) for path in files]}).cast_column("image", Image())
    kinds = {
        "folder": files[0].parent,
        "paths": files,
        "PIL": photos(5),
        "arrays": [np.asarray(picture) for picture in photos(5)],
        "tensors": [torch.from_numpy(np.asarray(p).copy()).permute(2, 0, 1) for p in photos(5)],
        "bytes": [path.read_bytes() for path in files],
        "dataset": dataset,
        "stream": dataset.to_iterable_dataset(),
        "generator": (path for path in files),
    }
    for name, inputs in kinds.items():
        assert model.predict(inputs, batch_size=5) == expected, name
    assert model.predict(files[2], batch_size=1) == model.predict([files[2]])


def test_boxes_lie_in_their_photo_whatever_its_shape(model):
    for size in ((48, 64), (200, 30), (30, 300)):
        (answer,) = model.predict(photos(1, size=size), threshold=0.0)
        assert (answer.height, answer.width) == size
        assert answer.parts
        for part in answer.parts:
            left, top, right, bottom = part.box
            assert -1e-3 <= left < right <= size[1] + 1e-3
            assert -1e-3 <= top < bottom <= size[0] + 1e-3


def test_parts_come_by_falling_score_and_the_rest_is_missing(model, files):
    for answer in model.predict(files):
        scores = [part.score for part in answer.parts]
        assert scores == sorted(scores, reverse=True)
        assert all(score >= 0.2 for score in scores)
        assert sorted([*answer.missing, *(part.part for part in answer.parts)]) == sorted(
            model.config.label2id
        )


def test_the_mode_of_the_model_is_left_as_it_was(model, files):
    model.train()
    first = model.predict(files)
    assert model.training
    model.eval()
    assert model.predict(files) == first


def test_rows_of_the_task_are_inputs_too(model, bikes):
    dataset = load_parts(bikes)[0]["train"].select(range(3))
    folder = bikes / "train"
    expected = model.predict([folder / row["image_id"] for row in dataset])
    assert model.predict(dataset) == expected


def test_a_photo_that_cannot_be_opened_is_named(model, files, tmp_path):
    broken = tmp_path / "cut.jpg"
    broken.write_bytes(files[0].read_bytes()[:60])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        model.predict([files[0], broken])


def test_the_pipeline_answers_as_the_model(model, files, tmp_path):
    model.save_pretrained(tmp_path)
    find = pipeline("part-state-detection", model=str(tmp_path))
    names = [str(path) for path in files]
    expected = [asdict(answer) for answer in model.predict(names, batch_size=1)]
    assert find(names) == expected
    assert find(names[1]) == expected[1]
    assert len(find(names[1], threshold=0.0)["parts"]) == 3
    batched = find(names, batch_size=3)
    assert [[p["part"] for p in a["parts"]] for a in batched] == [
        [p["part"] for p in a["parts"]] for a in expected
    ]
    dataset = Dataset.from_dict({"image": names}).cast_column("image", Image())
    assert list(find(dataset)) == expected


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "high", [0.5], True, np.zeros(2)])
def test_a_threshold_is_one_number(model, threshold):
    with pytest.raises(DataError, match="threshold must be a number from 0 to 1, got"):
        model.predict(photos(1), threshold=threshold)
