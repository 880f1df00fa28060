"""Labels of people's rows on their way to a loss: classes are read, and what is none is named."""

import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from helpers import place_models, region_models, street_models
from helpers.five_tasks import PHOTO

from geohf.errors import DataError
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.phase import PlacePhaseTrainer
from geohf.place.rows import as_drives
from geohf.region.arguments import RegionTrainingArguments
from geohf.region.phase import RegionPhaseTrainer
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.phase import StreetPhaseTrainer

STATES = list(street_models.STATES)


def quiet(kind, folder, **changes):
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "disable_tqdm": True,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
        "load_best_model_at_end": False,
    }
    return kind(**settings | changes)


def places(states, feature=None):
    """Places in these states, each at its state's centroid."""
    rows = {
        "image": street_models.patches(3, len(states)),
        "state": states,
        "latitude": [street_models.STATES[STATES[i % 5]][0] for i in range(len(states))],
        "longitude": [street_models.STATES[STATES[i % 5]][1] for i in range(len(states))],
    }
    kinds = {"image": Image(), "latitude": Value("float64"), "longitude": Value("float64")}
    features = Features(kinds | {"state": feature}) if feature else None
    return Dataset.from_dict(rows, features=features)


class Own(torch.utils.data.Dataset):
    """A notebook's own dataset."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def own(states):
    rows = list(places([None] * len(states), Value("string")))
    return Own([row | {"state": state} for row, state in zip(rows, states, strict=True)])


def street_losses(dataset, folder, **changes):
    trainer = StreetPhaseTrainer(
        street_models.build_model(hidden_size=8),
        quiet(StreetTrainingArguments, folder, **changes),
        train_dataset=dataset,
        eval_dataset=dataset,
    )
    trainer.train()
    logs = trainer.state.log_history
    return next(row for row in logs if "loss" in row), next((r for r in logs if "eval_loss" in r), {})


NUMBERS = [0, 1, 2, 3, 4, 0, 1, 2]


@pytest.mark.case("use-S2", "use-O11")
def test_every_form_of_a_state_trains_as_its_name(tmp_path):
    names = [STATES[i] for i in NUMBERS]
    train, found = street_losses(places(names, Value("string")), tmp_path)
    assert train["class_loss"] > 0.5
    assert {"eval_top1", "eval_score"} <= set(found)
    shuffled = [STATES[i] for i in (3, 1, 4, 0, 2)]  # the feature's own order is not the model's
    forms = [
        places([shuffled.index(name) for name in names], ClassLabel(names=shuffled)),
        places([shuffled.index(n) for n in names], ClassLabel(names=shuffled)).to_iterable_dataset(),
        places(NUMBERS, Value("int64")),
        own(NUMBERS),
        own([np.int32(i) for i in NUMBERS]),
        own([torch.tensor(i) for i in NUMBERS]),
        own([np.str_(name) for name in names]),
        torch.utils.data.Subset(places(NUMBERS, Value("int64")), range(8)),
    ]
    for form in forms:
        changes = {"max_steps": 2, "eval_strategy": "no"} if hasattr(form, "n_shards") else {}
        again, measured = street_losses(form, tmp_path, **changes)
        if changes:  # a stream has another order
            assert again.get("class_loss", 1) > 0.5
            continue
        assert again["class_loss"] == pytest.approx(train["class_loss"], rel=1e-5)
        assert measured["eval_top1"] == found["eval_top1"]
        assert measured["eval_score"] == found["eval_score"]


@pytest.mark.case("use-S2")
@pytest.mark.parametrize(
    ("states", "words"),
    [
        (["California", "texas"], "row 1: the model knows no state 'texas' .did you mean 'Texas'"),
        ([0, 5], "no state 5; it knows: California, Texas"),
        ([0, 1.5], "no state 1.5"),
    ],
)
def test_a_state_that_is_none_is_an_error_and_not_unlabeled(tmp_path, states, words):
    for args in ({}, {"eval_on_start": True}):
        with pytest.raises(DataError, match=words):
            street_losses(own(states), tmp_path, **args)


@pytest.mark.case("use-S2", "use-B13")
def test_places_without_states_train_on_positions_with_a_word(tmp_path, caplog):
    rows = [{k: row[k] for k in ("image", "latitude", "longitude")} for row in own(NUMBERS)]
    for dataset in (Own(rows), own([None] * 8), places(NUMBERS).remove_columns("state")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            train, found = street_losses(dataset, tmp_path)
        assert train["class_loss"] == 0 < train["gps_loss"]
        assert "eval_top1" not in found
        assert "no training row has a label for class loss" in caplog.text
        assert "no row of the evaluation names a state" in caplog.text


IMPOSSIBLE = {
    "swapped": ({"latitude": 127.38, "longitude": 36.35}, "latitude 127.38 is outside .* look swapped"),
    "no fix": ({"latitude": 0.0, "longitude": 0.0}, r"\(0, 0\) stands for a position that is not known"),
    "planar": ({"latitude": 4_025_000.0, "longitude": 350_000.0}, "are no degrees"),
    "text": ({"latitude": "north"}, "latitude and longitude must be numbers"),
    "infinite": ({"latitude": float("inf")}, "row .*(infinitely far|inf)"),
}


@pytest.mark.case("files-A12", "files-C12")
@pytest.mark.parametrize("kind", IMPOSSIBLE)
@pytest.mark.parametrize("name", ["street", "region", "place"])
def test_positions_that_cannot_be_are_refused_in_rows_of_ones_own(name, kind, tmp_path, monkeypatch):
    from helpers import five_tasks

    change, message = IMPOSSIBLE[kind]
    rows = five_tasks.rows_of(name)
    rows[2] |= change
    monkeypatch.setattr(five_tasks, "rows_of", lambda *_: rows)
    with pytest.raises(DataError, match=message):
        five_tasks.trainer_of(name, tmp_path, max_steps=1, dataloader_num_workers=0).train()


@pytest.mark.case("use-B13")
def test_a_model_without_classes_or_of_cells_needs_no_state(tmp_path, caplog):
    rows = Own([{k: row[k] for k in ("image", "latitude", "longitude")} for row in own(NUMBERS)])
    for fields in ({"classes": False}, {"cells": True}):
        model = street_models.build_model(hidden_size=8, **fields)
        trainer = StreetPhaseTrainer(
            model, quiet(StreetTrainingArguments, tmp_path), train_dataset=rows, eval_dataset=rows
        )
        trainer.train()
        assert ("eval_top1" in trainer.evaluate()) is ("cells" in fields)
    assert "no training row" not in caplog.text


def test_an_evaluation_without_states_is_told_and_a_prediction_without_truth_is_none(tmp_path, caplog):
    rows = list(own(NUMBERS))
    trainer = StreetPhaseTrainer(
        street_models.build_model(hidden_size=8),
        quiet(StreetTrainingArguments, tmp_path),
        train_dataset=Own(rows),
        eval_dataset=Own(rows),
    )
    unknown = {"state": None, "latitude": None, "longitude": None}
    trainer.outputs(Own([row | unknown for row in rows]))  # as a submission asks
    assert "names a state" not in caplog.text
    trainer.evaluate(Own([row | {"state": None} for row in rows]))
    assert "measured by the distance alone" in caplog.text


def photographs(regions, feature=None):
    points = np.tile([[36.361, 127.361], [36.366, 127.367], [36.371, 127.354]], (3, 1))[: len(regions)]
    rows = {"image": street_models.patches(5, len(regions)), "region": regions}
    rows |= {"latitude": points[:, 0].tolist(), "longitude": points[:, 1].tolist()}
    kinds = {"image": Image(), "latitude": Value("float64"), "longitude": Value("float64")}
    return Dataset.from_dict(rows, features=Features(kinds | {"region": feature or Value("string")}))


@pytest.mark.case("use-S2")
def test_regions_are_read_by_their_names_whatever_their_type(tmp_path):
    def losses(dataset, names=("1", "3", "5")):
        model = region_models.build_model("shared", id2label=dict(enumerate(names)))
        trainer = RegionPhaseTrainer(
            model, quiet(RegionTrainingArguments, tmp_path), train_dataset=dataset, eval_dataset=dataset
        )
        trainer.train()
        log = trainer.state.log_history
        return [row[f"{p}loss"] for row in log for p in ("", "eval_") if f"{p}loss" in row]

    regions = ["1", "3", "5"] * 3
    named = losses(photographs(regions))
    assert losses(photographs([int(name) for name in regions], Value("int64"))) == pytest.approx(named)
    feature = ClassLabel(names=["5", "1", "3"])
    classes = [feature.str2int(name) for name in regions]
    assert losses(photographs(classes, feature)) == pytest.approx(named)
    # where the names are no numbers, numbers are classes
    assert losses(photographs([0, 1, 2] * 3, Value("int64")), ("a", "b", "c")) == pytest.approx(named)
    with pytest.raises(DataError, match=r"row 1: the model knows no region 2; it knows: 1, 3, 5"):
        losses(photographs([1, 2], Value("int64")))
    with pytest.raises(DataError, match="no training row has a label to learn from"):
        losses(photographs(regions).remove_columns("region"))


@pytest.mark.case("use-S2")
def test_accuracy_and_errors_are_those_of_rows_with_a_truth(tmp_path):
    regions = ["1", "3", None, "5", "1", None, "5", "1"]
    dataset = photographs(regions)
    trainer = RegionPhaseTrainer(
        region_models.build_model("shared"),
        quiet(RegionTrainingArguments, tmp_path),
        train_dataset=None,
        eval_dataset=dataset,
    )
    known = dataset.select([i for i, name in enumerate(regions) if name])
    assert trainer.evaluate()["eval_accuracy"] == trainer.evaluate(known)["eval_accuracy"]


@pytest.mark.case("use-B13")
def test_drives_need_no_heading(tmp_path):
    points = place_models.along([0, 1, 2, 500, 501, 502, 1000, 1001])
    rows = [
        {"image": image, "latitude": lat, "longitude": lon}
        for image, (lat, lon) in zip(street_models.patches(3, 8), points.tolist(), strict=True)
    ]

    def train(rows):
        model = place_models.build_model()
        trainer = PlacePhaseTrainer(
            model, quiet(PlaceTrainingArguments, tmp_path, eval_strategy="no"), train_dataset=Own(rows)
        )
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    assert train(rows) == train([row | {"heading": None} for row in rows])
    assert train(rows) == train([row | {"heading": float("nan")} for row in rows])


def test_headings_and_times_of_ones_own_are_numbers():
    row = {"image": PHOTO, "latitude": 36.35, "longitude": 127.38}
    moments = [1_641_321_200_500_000_000, 1641321200.5, "2022-01-04T18:33:20.5"]
    assert as_drives([row | {"time_ns": moment} for moment in moments])["time_ns"] == [moments[0]] * 3
    named = row | {"compass_angle": 90, "drive": 3.0, "camera_id": "front", "timestamp": 1641321200}
    assert {**as_drives([named])[0], "image": None} == {
        **{"image": None, "latitude": 36.35, "longitude": 127.38, "heading": 90.0, "sequence": "3"},
        **{"camera": "front", "time_ns": 1_641_321_200_000_000_000},
    }
    for change in ({"heading": "north"}, {"time_ns": "noon"}, {"timestamp": "noon"}):
        with pytest.raises(DataError, match="row 0, heading, sequence, camera and time: "):
            as_drives([row | change])["heading"]
