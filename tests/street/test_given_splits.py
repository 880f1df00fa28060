"""Data that come in parts: what they hold out is held out, and is what a model is measured on."""

import logging
import math
import shutil

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from helpers.street_models import build_model
from PIL import Image

from geohf.data.tables import points_of
from geohf.data.task_data import facts_of
from geohf.errors import DataError
from geohf.street.arguments import StreetArguments
from geohf.street.classes import describe_classes
from geohf.street.data import load, load_places
from geohf.street.photos import load_photos

ROWS = {"train": 20, "val": 4, "test": 6}


def rows_of(number, count):
    """Positions of one part: a latitude for each."""
    return [(10.0 * number + i / 100, 5.0, ("Kenya", "Peru")[i % 2]) for i in range(count)]


@pytest.fixture
def parts(tmp_path):
    """A folder of photographs in `train`, `val` and `test`, each with its table."""
    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate(ROWS.items(), 1):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        lines = ["file_name,latitude,longitude,state"]
        for i, row in enumerate(rows_of(number, count)):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
            lines.append(",".join(map(str, (f"{i}.png", *row))))
        (folder / "metadata.csv").write_text("\n".join(lines))
    return tmp_path / "photos"


def test_a_run_holds_out_what_the_data_hold_out(parts):
    data = load(StreetArguments(data=str(parts)))
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 6)
    assert points_of(data.test).tolist() == [[lat, lon] for lat, lon, _ in rows_of(3, 6)]
    assert {facts_of(rows)["split"] for rows in (data.validation, data.test)} == {"as the data come"}


def test_validation_is_taken_from_training_where_only_a_test_is_given(parts):
    shutil.rmtree(parts / "val")
    data = load(StreetArguments(data=str(parts)))
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 6)
    assert facts_of(data.validation)["split"] == "at random in each state or geocell"


def test_a_model_is_measured_on_what_was_held_out(parts, caplog):
    train = load_places(parts)[0]["train"]
    model = build_model(**describe_classes(train), class_indices=None)
    with caplog.at_level(logging.INFO):
        assert model.evaluate(parts)["places"] == 6
        assert "its split 'test' is measured, 6 places" in caplog.text
        shutil.rmtree(parts / "test")
        assert model.evaluate(parts)["places"] == 4
        assert model.evaluate(parts / "train")["places"] == 20


def test_folders_of_other_names_are_not_mixed_in(parts, caplog):
    shutil.copytree(parts / "test", parts / "drafts")
    shutil.copytree(parts / "test", parts / ".cache")
    assert {name: len(rows) for name, rows in load_photos(parts)[0].items()} == {
        "train": 20, "validation": 4, "test": 6,
    }  # fmt: skip
    assert "only train, validation, test are read, and not drafts beside them" in caplog.text
    shutil.copytree(parts / "val", parts / "dev")
    with pytest.raises(DataError, match="two parts are called validation: dev, val; rename one"):
        load_photos(parts)


def test_folders_are_no_splits_where_none_is_for_training(tmp_path):
    for name in ("dev", "val"):
        (tmp_path / name).mkdir()
        exif = Image.Exif()
        exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 0.0, 0.0), 3: "E", 4: (5.0, 0.0, 0.0)})
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.jpg", exif=exif)
    assert {name: len(rows) for name, rows in load_photos(tmp_path)[0].items()} == {"train": 2}


@pytest.mark.parametrize("known", [True, False])
def test_a_test_whose_places_are_to_be_found_is_not_measured(hub, parts, known):
    rows = [
        {"image": Image.new("RGB", (8, 8), (i, 0, 0)), "latitude": i / 10, "longitude": 5.0}
        for i in range(1, 21)
    ]
    test = [row if known else row | {"latitude": math.nan, "longitude": math.nan} for row in rows[:3]]
    DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(test)}).push_to_hub(
        "tester/split"
    )
    model = build_model(classes=False)
    assert model.evaluate("tester/split")["places"] == (3 if known else 20)
