"""COCO files that say nothing of states, as almost all: a detector with all its tables; states come in later."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from helpers.parts_models import TINY, parse
from PIL import Image, ImageDraw

from geohf.errors import DataError
from geohf.parts import PartStateModel
from geohf.parts.data import load_for_evaluation, load_parts
from geohf.parts.evaluator import PartEvaluator
from geohf.parts.pretrained import CLASS_LAYERS
from geohf.parts.processing import PartCollator
from geohf.parts.vocabulary import names_of
from geohf.recipes.train_parts import run as run_parts

PARTS = ("_background_", "hood", "wheel", "trunk")


def car_parts(folder, count=(8, 4), **changes):
    """Two folders as dsmlr/Car-Parts-Segmentation has them: COCO Annotator's fields, photos where `path` says."""
    rng = np.random.default_rng(0)
    for split, photos in zip(("trainingset", "testset"), count, strict=True):
        (folder / split / "JPEGImages").mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, photos + 1):
            picture = Image.new("RGB", (64, 48), "white")
            name = f"car{number}.jpg"
            images.append(
                {"id": number, "dataset_id": 3, "category_ids": [], "path": f"JPEGImages/{name}", "width": 64}
                | {"height": 48, "file_name": name, "annotated": False, "metadata": {}, "deleted": False}
            )
            for category, color in ((2, "red"), (3, "blue"), (3, "blue"), (4, "green"))[: 3 + number % 2]:
                x, y = rng.integers(0, 44), rng.integers(0, 30)
                ImageDraw.Draw(picture).rectangle([x, y, x + 15, y + 13], color)
                annotations.append(
                    {"id": 100 + len(annotations), "image_id": number, "category_id": category}
                    | {"bbox": [float(x), float(y), 16.0, 14.0], "area": 224, "iscrowd": False}
                    | {"segmentation": [], "isbbox": False, "color": "#ebd244", "metadata": {}}
                )
            picture.save(folder / split / "JPEGImages" / name)
        categories = [
            {"id": i, "name": n, "supercategory": "", "color": "#93a51d", "metadata": {}}
            for i, n in enumerate(PARTS, 1)
        ]
        content = {"images": images, "categories": categories, "annotations": annotations} | changes
        (folder / split / "annotations.json").write_text(json.dumps(content))
    return folder


def test_a_file_without_states_loads_and_its_background_is_no_part(tmp_path, caplog):
    splits, errors = load_parts(car_parts(tmp_path))
    assert not errors.rows
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 8, "test": 4}
    assert names_of(splits["train"]) == ({0: "hood", 1: "wheel", 2: "trunk"}, {0: "present"})
    assert splits["train"]["image_id"][0] == "car1.jpg"
    assert "no box has a `state`: parts are found, and no states told" in caplog.text
    assert "left out _background_" in caplog.text
    alone, _ = load_parts(tmp_path / "testset" / "annotations.json")
    assert alone["train"]["boxes"][:] == splits["test"]["boxes"][:]


def test_photos_lie_where_their_path_says(tmp_path):
    folder = car_parts(tmp_path) / "testset"
    deep = folder / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    (folder / "JPEGImages").rename(deep / "JPEGImages")  # too deep to be looked for
    content = json.loads((folder / "annotations.json").read_text())
    with pytest.raises(DataError, match=r"car1.jpg: the photo is not on disk"):
        load_parts(folder / "annotations.json")
    for image in content["images"]:
        image["path"] = "a/b/c/d/" + image["path"]
    (folder / "annotations.json").write_text(json.dumps(content))
    assert load_parts(folder / "annotations.json")[0]["train"]["image_id"][:2] == ["car1.jpg", "car2.jpg"]
    # a path of another machine says nothing, and the folder that the user names counts for more than the file
    for image in content["images"]:
        image["path"] = "/datasets/cars/" + image["file_name"]
    (folder / "annotations.json").write_text(json.dumps(content))
    assert len(load_parts(folder / "annotations.json", images=deep / "JPEGImages")[0]["train"]) == 4


def test_a_forgotten_attribute_is_no_file_without_states(tmp_path):
    folder = car_parts(tmp_path)
    path = folder / "testset" / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["attributes"] = {"occluded": False, "wear": "rusty"}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"has no `state`; its attributes are wear \(--state_attribute"):
        load_parts(path)
    assert names_of(load_parts(path, state_attribute="none")[0]["train"])[1] == {0: "present"}
    with pytest.raises(DataError, match="annotation 101 has no `wear`"):
        load_parts(path, state_attribute="wear")


def test_states_that_are_not_wanted_are_not_read(bikes):
    whole = load_parts(bikes)[0]["train"]
    bare = load_parts(bikes, state_attribute="none")[0]["train"]
    absent = whole.features["states"].feature.str2int("absent")
    for row, plain in zip(whole, bare, strict=True):
        shown = [i for i, state in enumerate(row["states"]) if state != absent]
        assert plain["parts"] == [row["parts"][i] for i in shown]
        assert set(plain["states"]) <= {0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A recipe's run on such a folder."""
    folder = tmp_path_factory.mktemp("cars")
    options, args = parse(
        "--data", car_parts(folder / "data", (16, 4)), "--output_dir", folder / "out", "--backbone", "test_resnet",
        "--pretrained", "false", "--config_overrides", json.dumps(TINY), "--num_train_epochs", 2,
        "--validation_share", 0.25, "--overlays", 2,
    )  # fmt: skip
    return run_parts(options, args), folder


def test_a_run_without_states_leaves_all_but_the_numbers_of_states(run):
    trainer, folder = run
    numbers = trainer.evaluated.values_by_name
    assert {"map", "hallucination", "present_recall", "ap/wheel"} <= set(numbers)
    assert not {"state_accuracy", "state_f1", "state_recall", "joint_map"} & set(numbers)
    rows = list(csv.DictReader((folder / "out" / "inspection.csv").open()))
    assert len(rows) == 4 * 3
    assert {row["state"] for row in rows} <= {"present", "absent"}
    assert not (folder / "out" / "confusion.png").exists()
    card = (folder / "out" / "README.md").read_text()
    assert "trained on boxes without states" in card
    assert "state_recall" not in card
    assert "State macro F1" not in card
    model = PartStateModel.from_pretrained(folder / "out")
    assert not model.config.tells_states
    answer = model.predict(folder / "data" / "testset" / "JPEGImages" / "car1.jpg", threshold=0.0)[0]
    assert {part.state for part in answer.parts} == {"present"}
    assert model.evaluate(folder / "data")["photos"] == 4


def test_hallucination_counts_the_parts_that_a_photo_does_not_list():
    box = [0, 0, 9, 9]
    found = {"boxes": [box] * 3, "labels": [0, 1, 2], "states": [0] * 3, "scores": [0.9, 0.8, 0.2]}
    evaluator = PartEvaluator(3, 1, None)
    truth = {"boxes": [box], "labels": [0], "states": [0]}
    crowd = {"boxes": [box], "labels": [1], "states": [-1], "iscrowd": [1]}
    evaluator.add([found | {"state_scores": [1.0] * 3}] * 2, [truth, crowd])
    # in the first photo 1 and 2 are absent, in the second 0 and 2: of these four 1 and 0 are said to be there
    numbers = evaluator.compute()
    assert numbers["hallucination"] == 2 / 4
    assert numbers["present_recall"] == 1
    assert np.isnan(numbers["state_f1"])
    assert evaluator.statistics()(np.array([0, 0, 0, 1]))["hallucination"] == 4 / 8
    assert set(evaluator.statistics()(np.array([0, 1]))) == {"map", "hallucination"}


def test_states_come_in_later_on_the_same_model(run, tmp_path):
    trainer, folder = run
    photos = load_parts(folder / "data")[0]["train"]
    content = json.loads((folder / "data" / "trainingset" / "annotations.json").read_text())
    table = tmp_path / "states.csv"
    rows = [f"{a['id']},{'dented' if a['id'] % 3 else 'whole'}" for a in content["annotations"]]
    table.write_text("\n".join(["annotation_id,state", *rows]))
    source = folder / "data" / "trainingset" / "annotations.json"
    told = load_parts(source, state_file=table)[0]["train"]
    assert names_of(told)[1] == {0: "dented", 1: "whole"}
    numbers = [a["id"] for a in content["annotations"] if a["image_id"] == 1]
    assert told[0]["states"] == [int(n % 3 == 0) for n in numbers]
    assert told["boxes"][:] == photos["boxes"][:]
    id2label, id2state = names_of(told)
    torch.manual_seed(0)
    fields = {"id2label": id2label, "id2state": id2state, "absent_state": None, "norm": "group"}
    model = PartStateModel.from_backbone(str(folder / "out"), **fields)
    old, new = trainer.model.state_dict(), model.state_dict()
    same = [name for name in new if not name.startswith(CLASS_LAYERS[1])]
    assert all(torch.equal(old[name].cpu(), new[name]) for name in same)  # the parts are known already
    assert model.config.num_states == 2
    renamed = fields | {"id2label": {0: "hood", 1: "trunk", 2: "wheel"}}
    other = PartStateModel.from_backbone(str(folder / "out"), **renamed).state_dict()
    name = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(other[name], new[name])
    with pytest.raises(DataError, match="no box has a state, and the model tells states"):
        load_for_evaluation(folder / "data", model.config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("annotation_id,state\n100,whole\n", r"states.csv has no state for 101"),
        (
            "image_id,part,state\ncar1.jpg,hood,whole\n",
            r"car1.jpg shows 2 of the part: .* needs annotation_id",
        ),
        ("annotation_id,state\n100,whole\n100,bent\n", r"row 3: 100 has two states"),
        ("annotation_id,state\n100,\n", r"row 2: a cell is empty"),
        ("annotation_id,state\n999,whole\n", r"states.csv, row 2: no box is 999"),
        ("photo,state\ncar1.jpg,whole\n", r"needs a column annotation_id, or image_id and part"),
    ],
)
def test_a_table_of_states_must_fit(tmp_path, text, message):
    source = car_parts(tmp_path) / "testset" / "annotations.json"
    (tmp_path / "states.csv").write_text(text)
    assert re.search(message, problems(source, tmp_path / "states.csv"))


def problems(source, table):
    """What is wrong with a table of states: as an error, or row by row."""
    try:
        _, errors = load_parts(source, state_file=table, on_error="skip")
    except DataError as error:
        return str(error)
    return "\n".join(f"{row['source']}, row {row['row']}: {row['reason']}" for row in errors.rows)


def test_rows_without_a_column_of_states(tmp_path):
    rows = [
        {k: v for k, v in row.items() if k != "states"} for row in load_parts(car_parts(tmp_path))[0]["train"]
    ]
    model = PartStateModel.from_backbone(
        "test_resnet", pretrained=False, id2label=dict(enumerate(PARTS[1:])), id2state={0: "present"},
        absent_state=None, **TINY,
    )  # fmt: skip
    names = dict(enumerate(PARTS[1:]))
    named = [row | {"parts": [names[part] for part in row["parts"]]} for row in rows]
    batch = PartCollator(model)(named)
    assert set(batch["states"].unique().tolist()) <= {0, -100}
    output = model(**{k: v for k, v in batch.items() if k != "image_ids"})
    assert torch.isfinite(output.loss)
