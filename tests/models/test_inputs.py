"""All tasks take the same inputs: `predict`, `predict_to_file`, pipelines and Trainers."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import parts_models, place_models, region_models, street_models
from PIL import Image
from transformers import pipeline

from geohf import TileSequenceConfig, TileSequenceModel
from geohf.data.tables import points_of
from geohf.place.arguments import PlaceArguments
from geohf.place.audit import audit
from geohf.place.data import load
from geohf.place.index import PlaceIndex
from geohf.place.rows import images_of, short_names
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.phase import StreetPhaseTrainer

MODELS = {
    "street": (street_models.build_model, "street-geolocation"),
    "region": (region_models.build_model, "geo-region"),
    "parts": (parts_models.build_model, "part-state-detection"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    place_models.write_pictures(folder, [f"{i}.png" for i in range(3)])
    return [str(folder / f"{i}.png") for i in range(3)]


@pytest.fixture(scope="module", params=MODELS)
def task(request):
    make, name = MODELS[request.param]
    model = make()
    return model, pipeline(name, model=model, image_processor=model.processor)


def dataset_of(files, name="image", **columns):
    return datasets.Dataset.from_dict({name: files, **columns}).cast_column(name, datasets.Image())


def content(file):
    with open(file, "rb") as opened:
        return opened.read()


def upright(batch):
    return batch | {"image": [image.convert("RGB") for image in batch["image"]]}


KINDS = {
    "tuple": tuple,
    "column": lambda files: dataset_of(files)["image"],
    "other name": lambda files: dataset_of(files, "img"),
    "transform": lambda files: dataset_of(files).with_transform(upright),
    "torch format": lambda files: dataset_of(files, n=[1, 2, 3]).with_format("torch"),
    "splits": lambda files: datasets.DatasetDict(train=dataset_of(files)),
    "series": pd.Series,
    "open files": lambda files: [io.BytesIO(content(file)) for file in files],
    "batch": lambda files: np.stack([np.asarray(Image.open(file)) for file in files]),
}


@pytest.mark.case("use-S6", "use-B3", "use-B4", "use-B5", "use-U7", "use-U11", "use-U12", "use-O10")
@pytest.mark.parametrize("kind", KINDS)
def test_every_task_takes_them(kind, task, files):
    model, pipe = task
    make = KINDS[kind]
    assert list(map(repr, model.predict(make(files)))) == list(map(repr, model.predict(files)))
    assert list(map(repr, pipe(make(files)))) == list(map(repr, pipe(files)))


@pytest.mark.case("use-U9", "use-S1")
def test_every_task_writes_answers_of_pictures_in_parquet(task, files, tmp_path):
    model, _ = task
    cells = [{"bytes": content(file), "path": "x.png"} for file in files]
    pd.DataFrame({"photo": cells}).to_parquet(tmp_path / "held.parquet")
    rows = model.predict_to_file(tmp_path / "held.parquet", tmp_path / "a.jsonl")
    assert rows == model.predict_to_file(files, tmp_path / "b.jsonl") > 0
    assert rows == model.predict_to_file(dataset_of(files, "img"), tmp_path / "c.jsonl")


@pytest.mark.case("use-U12")
def test_regions_as_torch_has_them(files):
    model = region_models.build_model()
    rows = dataset_of(files, region=[1, 3, 5])
    want = list(map(repr, model.predict(files, region=["1", "3", "5"])))
    assert want != list(map(repr, model.predict(files, region="1")))
    for inputs in (rows, rows.with_format("torch"), rows.with_format("numpy")):
        assert list(map(repr, model.predict(inputs))) == want
    second = model.predict(files, region=["1", "3", "5"])[1]
    (one,) = model.predict(
        {"image": files[1], "region": torch.tensor(3)}
    )  # rounds otherwise than a batch of three
    assert (one.latitude, one.longitude) == pytest.approx(
        (second.latitude, second.longitude), rel=0, abs=1e-6
    )
    assert one.regions[0] == pytest.approx(second.regions[0])


def test_views_of_one_place_and_of_many(files):
    model = street_models.build_model()
    assert len(model.predict(tuple(files))) == len(model.predict(files)) == 3
    assert len(model.predict({"views": files})) == len(model.predict([files])) == 1
    assert len(model.predict([files[:2], {"north": files[2]}])) == 2


@pytest.mark.case("use-U7", "use-B2")
def test_frames_of_tiles():
    scales = {"level_mean": [10.0], "level_std": [2.0], "band_mean": [100.0] * 3, "band_std": [50.0] * 3}
    config = TileSequenceConfig(hidden_sizes=[8], image_size=[16, 16], frames=4, answers="level", **scales)
    model = TileSequenceModel(config).eval()
    frames = list(np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), np.uint8))
    held = []
    for frame in frames:
        held.append(io.BytesIO())
        Image.fromarray(frame).save(held[-1], "PNG")
    want = model.predict([frames])
    cells = [{"bytes": file.getvalue(), "path": None} for file in held]
    features = datasets.Features(frames=datasets.List(datasets.Image()))
    rows = datasets.Dataset.from_dict({"frames": [cells, cells]}, features=features)
    for many in (np.stack([frames, frames]), (frames, frames), rows, iter([held, held])):
        assert model.predict(many) == want * 2
    assert model.predict(np.stack(frames)) == model.predict({"frames": frames}) == want


@pytest.mark.case("use-B3")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_trainer_takes_a_transform(files, tmp_path, workers):
    columns = {
        "state": ["Texas", "Maine", "Hawaii"],
        "latitude": [31.0, 45.0, 20.0],
        "longitude": [-99.0, -69.0, -156.0],
    }
    rows = dataset_of(files, **columns)
    args = StreetTrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        max_steps=1,
        save_strategy="no",
        eval_strategy="no",
        load_best_model_at_end=False,
        early_stopping_patience=0,
        disable_tqdm=True,
        dataloader_num_workers=workers,
        per_device_train_batch_size=3,
    )
    losses = []
    for data in (rows, rows.with_transform(upright)):
        trainer = StreetPhaseTrainer(street_models.build_model(), args, train_dataset=data, eval_dataset=data)
        losses.append([trainer.train().training_loss, trainer.evaluate()["eval_loss"]])
    assert losses[0] == losses[1]


@pytest.mark.case("use-S20")
def test_an_index_of_opened_pictures_has_names(files):
    model = place_models.build_model()
    points = place_models.along([0, 10, 20])
    opened = [Image.open(files[0]), Image.open(files[1]).copy(), np.asarray(Image.open(files[2]))]
    assert PlaceIndex.build(model, opened, points).images == [files[0], "1", "2"]
    assert PlaceIndex.build(model, tuple(files), points).images == files


@pytest.mark.case("files-A8")
def test_an_index_of_pictures_in_parquet_is_of_these(files, tmp_path):
    model = place_models.build_model()
    place_models.write_pictures(
        tmp_path, ["day_0.png", "day_1.png", "day_2.png"], seed=9
    )  # others, of these names
    cells = [{"bytes": content(file), "path": f"day_{i}.png"} for i, file in enumerate(files)]
    points = place_models.along([0, 10, 20])
    table = pd.DataFrame({"image": cells, "lat": points[:, 0], "lon": points[:, 1]})
    table.to_parquet(tmp_path / "day.parquet")
    index = PlaceIndex.from_drives(model, tmp_path / "day.parquet")
    assert np.allclose(index.descriptors, model.encode(files), atol=1e-6)
    assert index.images == ["day_0.png", "day_1.png", "day_2.png"]


@pytest.mark.case("files-A8")
def test_drives_in_parquet_are_split_audited_and_named(files, tmp_path):
    for name in ("train", "test"):
        points = place_models.along([0, 10, 20])
        cells = [
            {"bytes": content(file) + b"\0" * (name == "test"), "path": f"{name}_{i}.png"}
            for i, file in enumerate(files)
        ]
        frame = pd.DataFrame({"image": cells, "lat": points[:, 0], "lon": points[:, 1]})
        frame.to_parquet(tmp_path / f"{name}.parquet")
    options = PlaceArguments(
        train_csv=[str(tmp_path / "train.parquet")], test_csv=[str(tmp_path / "test.parquet")]
    )
    data = load(options)
    files = [*images_of(data.train), *images_of(data.test)]
    points = np.concatenate([points_of(data.train), points_of(data.test)])
    sequences = np.array([*data.train["sequence"][:], *data.test["sequence"][:]])
    names = [name for part in short_names(data.train, data.test) for name in part]
    assert names == [f"{name}_{i}.png" for name in ("train", "test") for i in range(3)]
    rows = np.arange(3)
    found = audit(files, points, sequences, [None] * 6, rows[:0], rows, rows + 3)
    assert "self_retrieval" not in {finding.kind for finding in found}
    found = audit(files, points, sequences, [None] * 6, rows[:0], rows, rows)
    assert "self_retrieval" in {finding.kind for finding in found}
    index = PlaceIndex.build(place_models.build_model(), files, points)
    assert index.images == names
