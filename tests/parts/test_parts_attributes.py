"""Attributes of a part beside its state: from any layout, each with its own logits, loss, numbers and answers."""

import csv
import json

import numpy as np
import pytest
import torch
from helpers.parts_formats import VOC, cvat, load, region, shape, task, voc
from helpers.parts_formats import photos as write_photos
from helpers.parts_models import (
    ALL_SAMPLES,
    STATES,
    TINY,
    build_model,
    build_query_model,
    parse,
    photos,
    truths,
)
from PIL import Image, ImageDraw
from torch.nn.functional import cross_entropy
from transformers import AutoModel

from geohf import PartStateTrainer, PartTrainingArguments
from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.parts import PartStateConfig, PartStateModel
from geohf.parts.answers import AttributedPart, PhotoPrediction
from geohf.parts.attribute_values import attribute_misses
from geohf.parts.augment import StatePaste
from geohf.parts.convert import LAYOUTS, convert
from geohf.parts.data import load_for_evaluation, load_parts
from geohf.parts.evaluator import PartEvaluator
from geohf.parts.export import export_onnx
from geohf.parts.hub_data import load_hub_dataset
from geohf.parts.processing import PartCollator
from geohf.parts.query_losses import query_state_losses
from geohf.parts.rows import as_photos
from geohf.parts.streaming import stream_parts
from geohf.parts.vocabulary import attributes_of
from geohf.recipes.train_parts import run as run_parts

ATTRIBUTES = {"color": ["red", "green", "blue"], "size": ["big", "small"]}


# --- the model ---


@pytest.mark.parametrize("fields", [{}, {"state_per_part": True}, {"absent": "detect"}])
def test_attributes_leave_boxes_and_states_as_they_are(fields):
    """The logits of the state stand first; the same weights there give the same states and losses."""
    alone, told = (
        build_model(**ALL_SAMPLES, **fields),
        build_model(attributes=ATTRIBUTES, **ALL_SAMPLES, **fields),
    )
    weights = alone.state_dict()
    assert told.state_dict().keys() == weights.keys()
    for name, wide in told.state_dict().items():
        rows = wide
        if wide.shape != weights[name].shape:
            rows = wide.unflatten(0, (-1, 8))[:, :3].flatten(0, 1) if len(weights[name]) == 9 else wide[:3]
            whole = wide.unflatten(0, (-1, 8)).clone()
            whole[:, :3] = weights[name].unflatten(0, (-1, 3))
            weights[name] = whole.flatten(0, 1)
        del rows
    told.load_state_dict(weights)
    batch = alone.prepare(photos(2))
    unlabeled = {"attributes": torch.full((2, 3, 2), -100)}
    with torch.no_grad():
        one, other = alone(**batch, **truths()), told(**batch, **truths(), **unlabeled)
        silent = told(**batch, **truths())
    for key in ("loss", "losses", "scores", "pred_boxes", "state_probs"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-6)
    torch.testing.assert_close(silent.losses, other.losses, rtol=0, atol=0)
    assert one.attribute_probs is None
    known = other.pred_labels >= 0
    for own in other.attribute_probs[known].split([3, 2], -1):
        torch.testing.assert_close(own.sum(-1), torch.ones(len(own)))


def test_the_loss_of_regions_is_a_mean_over_those_that_are_labeled_summed_over_attributes():
    model = build_model(attributes=ATTRIBUTES, **ALL_SAMPLES)
    head = model.roi_heads.state_head[-1]
    with torch.no_grad():  # the same logits for every region
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, -0.5, 0.25, 0.75, -1.0]))
    batch = model.prepare(photos(2))
    values = torch.full((2, 3, 2), -100)
    values[0, :, 0] = 2  # of the first photo's parts the color is known, of one the size
    values[0, 0, 1] = 1
    with torch.no_grad():
        silent, told = model(**batch, **truths()), model(**batch, **truths(), attributes=values)
    more = (told.losses - silent.losses)[:, model.config.loss_parts.index("state_loss")]
    color = cross_entropy(head.bias[None, 3:6], torch.tensor([2]))
    size = cross_entropy(head.bias[None, 6:], torch.tensor([1]))
    torch.testing.assert_close(more, torch.stack([color + size, color * 0]))


@pytest.mark.parametrize("build", [build_model, lambda **fields: build_query_model("d_fine", **fields)])
def test_attributes_of_absent_parts_are_not_learned(build):
    model = build(attributes=ATTRIBUTES, absent="detect")
    batch, values = model.prepare(photos(2)), torch.full((2, 3, 2), -100)
    values[:, 2] = 1  # the third part of each photo is absent
    with torch.no_grad():
        silent, told = model(**batch, **truths()), model(**batch, **truths(), attributes=values)
    assert torch.equal(silent.losses, told.losses)


def test_the_loss_of_queries_written_out():
    config = PartStateConfig(id2label={0: "a", 1: "b"}, id2state={0: "x", 1: "y"}, attributes=ATTRIBUTES)
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 4, 5), torch.randn(5, 7)
    target = {"class_labels": torch.tensor([0, 1]), "states": torch.tensor([1, 0])}
    target["attributes"] = torch.tensor([[2, -100], [0, -100]])
    nothing = {name: values[:0] for name, values in target.items()}
    pairs = [[(torch.tensor([3, 1]), torch.tensor([0, 1])), (torch.tensor([0]), torch.tensor([1]))], []]
    found = query_state_losses(hidden, pairs, [target, nothing], lambda h, parts: h @ weight, config)
    wanted = 0.0
    for queries, rows in pairs[0]:
        logits = hidden[0, queries] @ weight
        wanted += cross_entropy(logits[:, :2], target["states"][rows])
        wanted += cross_entropy(logits[:, 2:5], target["attributes"][rows, 0])
    torch.testing.assert_close(found, torch.stack([wanted, torch.tensor(0.0)]))
    misses = attribute_misses(hidden[0, :2] @ weight, target["attributes"], config)
    assert (misses[:, 1] == 0).all()
    assert (misses[:, 0] > 0).all()


@pytest.mark.parametrize("architecture", ["faster_rcnn", "rt_detr_v2", "rf_detr"])
def test_training_saving_and_answers_of_each_architecture(architecture, tmp_path):
    build = (
        build_model
        if architecture == "faster_rcnn"
        else lambda **fields: build_query_model(architecture, **fields)
    )
    model = build(attributes=ATTRIBUTES)
    model.save_pretrained(tmp_path)
    again, pictures = AutoModel.from_pretrained(tmp_path), photos(3)
    assert again.config.attributes == ATTRIBUTES
    answers = model.predict(pictures, threshold=0.0)
    assert [vars(part) for part in again.predict(pictures, threshold=0.0)[0].parts] == [
        vars(part) for part in answers[0].parts
    ]
    part = answers[0].parts[0]
    assert part.attributes.keys() == ATTRIBUTES.keys()
    assert all(value in ATTRIBUTES[name] for name, value in part.attributes.items())
    assert all(1 / 3 <= score <= 1 for score in part.attribute_scores.values())
    row = model.rows_of(answers[0])[0]
    assert (row["color"], row["size_score"]) == (part.attributes["color"], part.attribute_scores["size"])
    (flipped,) = model.predict(pictures[:1], tta="flip", slice_size=32, threshold=0.0)
    assert set(flipped.parts[0].attributes) == set(ATTRIBUTES)
    # every row of the last layer learns
    model.train()
    values = torch.tensor([[[0, 1], [1, 0], [2, 1]]] * 3)
    model(**model.prepare(pictures), **truths(count=3), attributes=values).loss.backward()
    head = model.state_head if architecture != "faster_rcnn" else model.roi_heads.state_head
    assert (head[-1].bias.grad != 0).sum() >= 7  # an absent part's state is learned by none


def test_bad_attributes_of_a_config():
    for attributes, message in (
        ({"score": ["a", "b"]}, "'score' cannot be one"),
        ({"color": ["red", "red"]}, "must be a list of different names"),
        ({"color": []}, "must be a list of different names"),
    ):
        with pytest.raises(Exception, match=message):  # transformers' own, with this cause
            PartStateConfig(id2label={0: "a"}, id2state=STATES, attributes=attributes)


@pytest.mark.parametrize("architecture", ["faster_rcnn", "rt_detr_v2"])
def test_onnx_answers_with_attributes(architecture, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the file")
    pytest.importorskip("onnx", reason="writes the file")
    faster = architecture == "faster_rcnn"
    model = (
        build_model(attributes=ATTRIBUTES)
        if faster
        else build_query_model(architecture, attributes=ATTRIBUTES)
    )
    session = onnxruntime.InferenceSession(str(export_onnx(model, tmp_path / "model.onnx")))
    names = [output.name for output in session.get_outputs()]
    assert names == ["boxes", "labels", "scores", "state_probs", "attribute_probs"]
    shape = (1, 3, *model.config.image_size)
    given = np.random.default_rng(0).random(shape, np.float32)
    found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: given}), strict=True))
    with torch.no_grad():
        pixels = torch.from_numpy(given)
        if not faster:
            mean, std = (
                torch.tensor(getattr(model.processor, f"image_{key}"))[:, None, None]
                for key in ("mean", "std")
            )
            pixels = (pixels - mean) / std
        wanted = model(pixels)
    told, expected = found["attribute_probs"].reshape(-1, 5), wanted.attribute_probs[0].numpy()
    assert len(told) == len(expected)
    away = np.abs(told[:, None] - expected[None]).max(-1)  # as sets: equal scores may change places
    assert max(away.min(0).max(), away.min(1).max()) < 1e-4


# --- numbers ---


def test_numbers_of_each_attribute_by_hand():
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
    target = {"boxes": boxes, "labels": [0] * 4, "states": [0, 0, 0, 2]}
    target["attributes"] = [[0, -1], [1, 0], [1, 1], [1, 1]]  # the last part is absent
    found = {"boxes": boxes[:2] + boxes[3:], "labels": [0] * 3, "scores": [0.9] * 3, "states": [0] * 3}
    found |= {"state_scores": [1.0] * 3, "attributes": [[0, 1], [0, 0], [1, 1]]}
    evaluator = PartEvaluator(attributes={"color": ["red", "blue"], "size": ["big", "small"]})
    evaluator.add([found], [target])
    numbers = evaluator.compute()
    assert evaluator.statistics()(np.array([0, 0]))["state_f1/color"] == numbers["state_f1/color"]
    # color: one of two found is right, of three there; size: one of one found, of two there
    assert numbers["state_accuracy/color"] == pytest.approx(1 / 2)
    assert numbers["state_recall/color"] == pytest.approx(1 / 3)
    assert numbers["state_f1/color"] == pytest.approx((2 / 3 + 0) / 2)
    assert numbers["state_accuracy/size"] == 1
    assert numbers["state_recall/size"] == pytest.approx(1 / 2)
    assert numbers["state_accuracy"] == 1


# --- data ---

TOLD = [("wheel", "new", {"color": "red", "size": "big"}), ("bell", "worn", {"color": "blue"})]


def coco(folder, **changes):
    write_photos(folder, "1.png")
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1 + i, "bbox": [1 + 10 * i, 2, 8, 9], "state": state}
        | {"attributes": told}
        for i, (_, state, told) in enumerate(TOLD)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "wheel"}, {"id": 2, "name": "bell"}],
        "states": [{"id": 0, "name": "new"}, {"id": 1, "name": "worn"}],
        "attributes": ATTRIBUTES,
        "annotations": annotations,
    }
    (folder / "train.json").write_text(json.dumps(content | changes))
    return folder / "train.json"


def told_in(rows):
    """Of the one photo, each part's attributes in names, by the part."""
    attributes, (row,) = attributes_of(rows), rows
    parts = rows.features["parts"].feature.names
    return {
        parts[part]: {name: v[row[name][i]] for name, v in attributes.items() if row[name][i] >= 0}
        for i, part in enumerate(row["parts"])
    }


def test_attributes_of_coco_wherever_they_stand(tmp_path):
    rows = load_parts(coco(tmp_path), attributes=["color", "size"])[0]["train"]
    assert attributes_of(rows) == ATTRIBUTES  # also what no box has
    assert told_in(rows) == {"wheel": TOLD[0][2], "bell": TOLD[1][2]}
    assert attributes_of(load_parts(tmp_path / "train.json")[0]["train"]) == {}
    path = coco(tmp_path, attributes=None)
    content = json.loads(path.read_text())
    content["annotations"][0] |= {"attributes": {"dented": True}, "color": "red"}
    path.write_text(json.dumps(content))
    rows = load_parts(path, attributes=["color", "dented"])[0]["train"]
    assert attributes_of(rows) == {"color": ["blue", "red"], "dented": ["true"]}
    assert told_in(rows)["wheel"] == {"color": "red", "dented": "true"}


def test_a_file_that_tells_an_attribute_and_no_state(tmp_path):
    path = coco(tmp_path, states=[])
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["state"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has no `state`; its attributes are color"):
        load_parts(path)
    rows = load_parts(path, attributes=["color", "size"])[0]["train"]
    assert rows.features["states"].feature.names == ["present"]
    assert told_in(rows)["bell"] == {"color": "blue"}


def test_attributes_of_cvat_voc_and_label_studio(tmp_path):
    inside = '<attribute name="state">intact</attribute><attribute name="color">{}</attribute>'
    text = cvat(shape(inside="").replace("></box>", f">{inside.format('red')}</box>"),
                shape("bell", inside="").replace("></box>", f">{inside.format('__undefined__')}</box>"))  # fmt: skip
    listed = "<attribute><name>color</name><values>__undefined__\nred\nblue</values></attribute></attributes>"
    rows = load(tmp_path, "a.xml", text.replace("</attributes>", listed), attributes=["color"])
    assert attributes_of(rows) == {"color": ["red", "blue"]}
    assert told_in(rows) == {"wheel": {"color": "red"}, "bell": {}}
    told = VOC.format("wheel", 0, 2, "<state>intact</state><color>red</color>")
    assert told_in(load(tmp_path, "b.xml", voc(told), attributes=["color"])) == {"wheel": {"color": "red"}}
    box = region()
    box.append(box[1] | {"from_name": "color", "value": box[1]["value"] | {"choices": ["red"]}})
    rows = load(tmp_path, "c.json", json.dumps([task(box)]), attributes=["color"])
    assert told_in(rows) == {"wheel": {"color": "red"}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attributes_there_and_back(tmp_path, layout):
    path = coco(tmp_path)
    if layout in ("yolo", "delftbikes"):
        with pytest.raises(DataError, match=f"{layout} holds one state a box, and no color, size"):
            convert(path, tmp_path / "out", layout, attributes=["color", "size"])
        return
    convert(path, tmp_path / "out", layout, attributes=["color", "size"])
    rows = load_parts(tmp_path / "out", images=tmp_path, attributes=["color", "size"])[0]["train"]
    assert told_in(rows) == {"wheel": TOLD[0][2], "bell": TOLD[1][2]}
    if layout != "voc":  # which has no list of values
        assert attributes_of(rows) == ATTRIBUTES


def test_attributes_of_parquet_read_at_once_and_as_a_stream(tmp_path):
    rows = load_parts(coco(tmp_path), attributes=ATTRIBUTES)[0]["train"]
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub" / "train.parquet")
    again = next(iter(load_hub_dataset(str(tmp_path / "hub"), RowErrors("raise"), 0.0, ["size"]).values()))
    assert attributes_of(again) == {"size": ATTRIBUTES["size"]}
    assert again["size"][:] == rows["size"][:] == [[0, -1]]
    rows.to_parquet(tmp_path / "train.parquet")
    (streamed,) = stream_parts(tmp_path / "train.parquet", attributes=["color"])
    assert streamed["color"] == [0, 2]
    assert "size" not in streamed
    with pytest.raises(DataError, match="there is no column 'wear', which --attributes names"):
        stream_parts(tmp_path / "train.parquet", attributes=["wear"])


def test_an_answer_with_attributes_as_detections_of_supervision():
    pytest.importorskip("supervision", reason="to hand answers to it")
    part = AttributedPart("wheel", 0.75, "worn", 0.5, (1, 2, 11.5, 10), {"color": "red"}, {"color": 0.9})
    found = PhotoPrediction(40, 30, [part], ["chain"]).to_supervision()
    assert found.data["color"].tolist() == ["red"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["colour"], r"no box has the attribute 'colour'; there are color, size"),
        (["trust"], "'trust' cannot be one: it is the state, or the name of a column"),
        ({"color": ["red"]}, "unknown color 'blue'; known are: red"),
    ],
)
def test_attributes_that_cannot_be(tmp_path, asked, message):
    with pytest.raises(DataError, match=message):
        load_parts(coco(tmp_path), attributes=asked)


def test_rows_of_ones_own(tmp_path):
    picture = Image.new("RGB", (40, 30))
    rows = [{"image": picture, "boxes": [[1, 2, 9, 11], [11, 2, 19, 11]], "parts": ["wheel", "bell"]}]
    rows[0] |= {"states": ["intact", "damaged"], "color": ["blue", None]}
    view = as_photos(rows)
    assert attributes_of(view, ["color"]) == {"color": ["blue"]}
    with pytest.raises(DataError, match="there is no column 'size', which --attributes names"):
        attributes_of(view, ["size"])
    batch = PartCollator(build_model(attributes=ATTRIBUTES))([dict(view[0])])
    assert batch["attributes"].tolist() == [[[2, -100], [-100, -100]]]
    assert as_photos([{**rows[0], "color": None}, rows[0]])["color"] == [None, ["blue", None]]
    model, args = (
        build_model(attributes=ATTRIBUTES),
        PartTrainingArguments(output_dir=str(tmp_path), use_cpu=True),
    )
    with pytest.raises(
        DataError, match="the training rows have no column 'size', an attribute that the model tells"
    ):
        PartStateTrainer(model, args, train_dataset=rows, eval_dataset=rows).train()
    rows[0]["color"] = ["pink", None]
    with pytest.raises(DataError, match="the model knows no color 'pink'; it knows: red, green, blue"):
        PartCollator(build_model(attributes=ATTRIBUTES))([dict(as_photos(rows)[0])])


def test_a_part_that_is_pasted_brings_its_attributes():
    picture = Image.new("RGB", (40, 30))
    whole = {
        "image": picture,
        "boxes": [[1, 2, 9, 11]],
        "parts": ["wheel"],
        "states": ["intact"],
        "color": ["red"],
    }
    worn = whole | {"states": ["damaged"], "color": ["blue"], "size": ["small"]}
    rows, model = as_photos([worn, whole, whole]), build_model(attributes=ATTRIBUTES)
    batch = PartCollator(model, changes=[StatePaste(rows, model.config, 1.0)])([rows[1]])
    assert batch["states"].tolist() == [[1]]
    assert batch["attributes"].tolist() == [[[2, 1]]]


# --- a run ---

COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220)}


def painted(folder, count=24):
    """Squares of three colors; a tall one is worn. Of every fifth square nobody wrote the color."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    images, annotations = [], []
    for number in range(count):
        picture = Image.new("RGB", (96, 64), "white")
        for part in (0, 1):
            color, worn = list(COLORS)[rng.integers(3)], bool(rng.integers(2))
            x, y, height = int(rng.integers(4, 20) + 46 * part), int(rng.integers(4, 24)), 32 if worn else 16
            ImageDraw.Draw(picture).rectangle([x, y, x + 19, y + height - 1], COLORS[color])
            annotation = {
                "id": len(annotations),
                "image_id": number,
                "category_id": part,
                "bbox": [x, y, 20, height],
            }
            told = {} if len(annotations) % 5 == 0 else {"color": color}
            annotations.append(annotation | {"attributes": {"state": "worn" if worn else "new", **told}})
        picture.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
    categories = [{"id": 0, "name": "wheel"}, {"id": 1, "name": "bell"}]
    states = [{"id": 0, "name": "new"}, {"id": 1, "name": "worn"}]
    content = {"images": images, "categories": categories, "states": states, "annotations": annotations}
    (folder / "train.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_attributes_are_learned(tmp_path):
    rows = load_parts(painted(tmp_path / "data", 12), attributes=["color"])[0]["train"]
    fields = {"id2label": {0: "wheel", 1: "bell"}, "id2state": {0: "new", 1: "worn"}, "absent_state": None}
    torch.manual_seed(0)
    model = PartStateModel.from_backbone(
        "test_resnet", pretrained=False, attributes=attributes_of(rows), **fields, **TINY
    )
    batch = PartCollator(model)([*rows])
    batch.pop("image_ids")
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        output = model(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.loss_parts["state_loss"]))
    assert np.mean(losses[:5]) > 1.6  # log 2 + log 3
    assert np.mean(losses[-5:]) < 1.2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attributes")
    options, args = parse(
        "--data", painted(folder / "data"), "--presence_threshold", "0.01", "--attributes", "color", "--output_dir", folder / "out",
        "--backbone", "test_resnet", "--pretrained", "false", "--config_overrides", json.dumps(TINY), "--augment", "false",
        "--num_train_epochs", 1, "--learning_rate", "3e-3", "--per_device_train_batch_size", 4, "--validation_share", 0.25,
        "--test_share", 0, "--overlays", 2,
    )  # fmt: skip
    return run_parts(options, args), folder


def test_a_run_tells_attributes_wherever_it_tells_states(run):
    trainer, folder = run
    assert trainer.config.attributes == {"color": ["blue", "green", "red"]}
    numbers = trainer.evaluated.values_by_name
    assert 0 <= numbers["state_recall/color"] <= 1
    assert "state_recall/color" in trainer.evaluated.baseline
    for name in ("inspection.csv", "predictions.csv"):
        rows = list(csv.DictReader((folder / "out" / name).open()))
        assert {row["color"] for row in rows} <= {*COLORS, ""}
        assert "color_score" in rows[0]
    card = (folder / "out" / "README.md").read_text()
    assert "| color" in card
    assert "blue, green, red" in card
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert metrics["eval"]["state_f1/color"] == numbers["state_f1/color"]


def test_a_saved_model_measures_and_answers_with_attributes(run):
    _, folder = run
    model = AutoModel.from_pretrained(folder / "out")
    measured = model.evaluate(folder / "data")
    assert 0 <= measured["state_recall/color"] <= 1
    model.predict_to_file([str(folder / "data" / "1.png")], folder / "a.csv", threshold=0.05)
    convert(
        folder / "a.csv",
        folder / "back",
        "cvat",
        images=folder / "data",
        attributes=["color"],
        on_error="skip",
    )
    rows = load_parts(
        folder / "back" / "predictions_cvat.xml",
        images=folder / "data",
        attributes=["color"],
        on_error="skip",
    )[0]["train"]
    answer = model.predict(folder / "data" / "1.png", threshold=0.05)[0]
    names = attributes_of(rows)["color"]
    assert sorted(names[i] for i in rows[0]["color"]) == sorted(
        part.attributes["color"] for part in answer.parts
    )


def test_evaluation_of_a_file_that_lacks_an_attribute_says_so(run, tmp_path, caplog):
    trainer, _ = run
    path = coco(tmp_path, attributes=None)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["attributes"] = {}
    path.write_text(json.dumps(content))
    rows = load_for_evaluation(path, trainer.config)
    assert "no box has the attribute 'color', so it is not measured" in caplog.text
    assert np.isnan(trainer.model.scores_on(rows)["state_f1/color"])
