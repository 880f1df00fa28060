"""Annotations and answers in every layout, there and back, and for readers that are not ours."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.parts_formats import (
    VOC,
    assert_equal,
    coco_of,
    cvat,
    named,
    photos,
    region,
    shape,
    task,
    voc,
    yolo,
)
from helpers.parts_models import build_model

from geohf.errors import DataError
from geohf.parts.answers import PartPrediction, PhotoPrediction
from geohf.parts.convert import LAYOUTS, convert
from geohf.parts.data import load_parts
from geohf.parts.vocabulary import names_of

# --- there and back ---

HOLDS_TRUST = {"coco", "delftbikes", "cvat", "label_studio", "voc"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_there_and_back(bikes, tmp_path, layout):
    counts = convert(bikes, tmp_path, layout, validation=0.25)
    original = load_parts(bikes)[0]["train"]
    kept = {} if layout in ("yolo", "voc") else {"images": bikes / "train"}
    splits, errors = load_parts(tmp_path, on_error="skip", **kept)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 18, "validation": 6}
    listed = {row["row"] for row in errors.rows if "no annotation here" not in row["reason"]}
    assert not listed
    assert names_of(splits) == names_of(original)
    for split, rows in splits.items():
        chosen = set(rows["image_id"])
        expected = original.filter(lambda row, chosen=chosen: row["image_id"] in chosen)
        assert_equal(rows, expected, trust=layout in HOLDS_TRUST)
        assert counts[split]["images"] == len(rows)


def test_every_pair_of_layouts(tmp_path):
    """A crowd where the layout knows one, two of a part, states of other names, photos in folders, one without parts."""
    photos(tmp_path / "photos", "a/1.png", "a/2.png", "b/1.png", size=(641, 357))
    truth = coco_of(["a/1.png", "a/2.png", "b/1.png"], (641, 357))
    path = tmp_path / "photos" / "train.json"
    path.write_text(json.dumps(truth))
    original = load_parts(path)[0]["train"]
    folders = {"coco": path}
    for layout in LAYOUTS.keys() - {"delftbikes"}:  # which knows no part twice
        convert(path, tmp_path / layout, layout)
        folders[layout] = tmp_path / layout
    for source, target in itertools.permutations(LAYOUTS.keys() - {"delftbikes"}, 2):
        kept = {} if source in ("yolo", "voc") else {"images": tmp_path / "photos"}
        again = tmp_path / f"{source}-{target}"
        convert(folders[source], again, target, **kept)
        kept = {} if target in ("yolo", "voc") else {"images": tmp_path / "photos"}
        assert_equal(load_parts(again, **kept)[0]["train"], original)


def test_a_crowd_and_trust_are_kept_or_refused(tmp_path):
    photos(tmp_path, "1.png")
    truth = coco_of(["1.png"], (40, 30))
    box = {"image_id": 0, "bbox": [3, 4, 10.5, 9]}
    truth["annotations"] = [
        box | {"id": 1, "category_id": 1, "iscrowd": 1},
        box | {"id": 2, "category_id": 2, "state": 1, "trust": 0.25},
    ]
    (tmp_path / "train.json").write_text(json.dumps(truth))
    original = load_parts(tmp_path / "train.json")[0]["train"]
    for layout in ("coco", "cvat", "label_studio", "voc"):
        convert(tmp_path / "train.json", tmp_path / layout, layout)
        assert_equal(load_parts(tmp_path / layout, images=tmp_path)[0]["train"], original)
    with pytest.raises(DataError, match=r"1.png: shows 'left door' as a crowd, which this layout cannot say"):
        convert(tmp_path / "train.json", tmp_path / "yolo", "yolo")
    assert not (tmp_path / "yolo" / "data.yaml").exists()


def test_without_states_no_layout_makes_them(tmp_path):
    photos(tmp_path, "1.png")
    truth = coco_of(["1.png"], (40, 30))
    truth["annotations"] = [{"id": 1, "image_id": 0, "category_id": 2, "bbox": [3, 4, 10.5, 9]}]
    (tmp_path / "train.json").write_text(json.dumps(truth | {"states": []}))
    for layout in ("coco", "cvat", "label_studio", "voc", "yolo"):
        convert(tmp_path / "train.json", tmp_path / layout, layout)
        rows = load_parts(tmp_path / layout, images=None if layout == "yolo" else tmp_path)[0]["train"]
        assert names_of(rows)[1] == {0: "present"}
        assert named(rows) == {"1.png": [("wheel", "present", 1.0, False, 3, 4, 13.5, 13)]}


# --- readers that are not ours ---


def test_supervision_reads_yolo_and_voc(bikes, tmp_path):
    supervision = pytest.importorskip("supervision", reason="an independent reader")
    expected = load_parts(bikes)[0]["train"]
    convert(bikes, tmp_path / "yolo", "yolo")
    convert(bikes, tmp_path / "voc", "voc")
    yolo_set = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "yolo/images/train"),
        str(tmp_path / "yolo/labels/train"),
        str(tmp_path / "yolo/data.yaml"),
    )
    voc_set = supervision.DetectionDataset.from_pascal_voc(
        str(tmp_path / "voc/JPEGImages"), str(tmp_path / "voc/Annotations")
    )
    parts, states = names_of(expected)
    for row in expected:
        at = {Path(path).name: found for path, found in yolo_set.annotations.items()}[row["image_id"]]
        assert np.allclose(at.xyxy, row["boxes"], atol=1e-3)
        told = [yolo_set.classes[number] for number in at.class_id]
        assert told == [f"{parts[p]}__{states[s]}" for p, s in zip(row["parts"], row["states"], strict=True)]
        at = {Path(path).name: found for path, found in voc_set.annotations.items()}[row["image_id"]]
        assert np.allclose(at.xyxy, row["boxes"], atol=1e-3)
        assert [voc_set.classes[number] for number in at.class_id] == [parts[p] for p in row["parts"]]


def test_the_converter_of_label_studio_reads_what_is_written(bikes, tmp_path):
    converter = pytest.importorskip("label_studio_sdk.converter", reason="an independent reader")
    convert(bikes, tmp_path, "label_studio")
    config = (tmp_path / "label_config.xml").read_text()
    converter.Converter(config, str(bikes / "train")).convert_to_coco(
        str(tmp_path / "train_label_studio.json"),
        str(tmp_path / "coco"),
        output_image_dir=str(tmp_path / "images"),
        is_dir=False,
    )
    content = json.loads((tmp_path / "coco" / "result.json").read_text())
    expected = load_parts(bikes)[0]["train"]
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = sorted((names[box["category_id"]], *box["bbox"]) for box in content["annotations"])
    parts, _ = names_of(expected)
    wanted = sorted(
        (parts[part], left, top, right - left, bottom - top)
        for row in expected
        for part, (left, top, right, bottom) in zip(row["parts"], row["boxes"], strict=True)
    )
    assert [box[0] for box in found] == [box[0] for box in wanted]
    assert np.allclose([box[1:] for box in found], [box[1:] for box in wanted], atol=1e-2)


# --- what a model answers ---

ANSWERS = """input,part,present,state,score,state_score,xmin,ymin,xmax,ymax
a/1.png,wheel,True,worn,0.75,0.9,1,2,11.5,10
a/1.png,bell,False,,,,,,,
a/2.png,wheel,True,new,0.5,0.8,3,4,9,9
a/2.png,bell,True,new,0.25,0.6,20,4,30.125,9
"""


@pytest.fixture
def answers(tmp_path):
    photos(tmp_path / "photos" / "a", "1.png", "2.png")
    (tmp_path / "answers.csv").write_text(ANSWERS)
    return tmp_path


def test_answers_become_predictions_of_label_studio(answers):
    convert(answers / "answers.csv", answers, "label_studio", images=answers / "photos")
    first, second = json.loads((answers / "predictions_label_studio.json").read_text())
    assert first["data"] == {"image": "a/1.png"}
    assert "annotations" not in first
    (found,) = first["predictions"]
    box, state = found["result"]
    assert (box["score"], found["score"], found["model_version"]) == (0.75, 0.75, "geohf")
    assert box["value"] == {
        "x": 2.5,
        "y": 100 * 2 / 30,
        "width": 26.25,
        "height": 100 * 8 / 30,
        "rotation": 0,
        "rectanglelabels": ["wheel"],
    }
    assert (state["id"], state["value"]["choices"]) == (box["id"], ["worn"])
    assert [r["value"]["rectanglelabels"] for r in second["predictions"][0]["result"][::2]] == [
        ["wheel"],
        ["bell"],
    ]


@pytest.mark.parametrize("layout", ["coco", "cvat", "voc", "yolo"])
def test_answers_in_every_layout(answers, layout):
    convert(answers / "answers.csv", answers / "out", layout, images=answers / "photos", min_trust=0.3)
    if layout in ("coco", "cvat"):
        path = next((answers / "out").iterdir())
        assert path.name.startswith("predictions_")
        rows = load_parts(path, images=answers / "photos")[0]["train"]
    else:
        rows = load_parts(answers / "out")[0]["train"]
    found = {name: [part[:2] + part[4:] for part in parts] for name, parts in named(rows).items()}
    assert found == {
        "a/1.png": [("wheel", "worn", 1, 2, 11.5, 10)],
        "a/2.png": [("wheel", "new", 3, 4, 9, 9)],
    }
    if layout == "coco":
        assert [box["score"] for box in json.loads(path.read_text())["annotations"]] == [0.75, 0.5]


def test_answers_as_results_that_pycocotools_measures(answers, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="an independent reader")
    truth = coco_of(["a/2.png", "a/1.png"], (40, 30))
    truth["categories"] = [{"id": 5, "name": "bell"}, {"id": 8, "name": "wheel"}]
    truth["annotations"] = []
    (answers / "truth.json").write_text(json.dumps(truth))
    convert(
        answers / "answers.csv", answers, "coco", images=answers / "photos", truths=answers / "truth.json"
    )
    loaded = coco.COCO(str(answers / "truth.json")).loadRes(str(answers / "results.json"))
    found = sorted(
        (box["image_id"], box["category_id"], box["score"], *box["bbox"]) for box in loaded.anns.values()
    )
    assert found == [(0, 5, 0.25, 20, 4, 10.125, 5), (0, 8, 0.5, 3, 4, 6, 5), (1, 8, 0.75, 1, 2, 10.5, 8)]
    truth["images"].pop()
    (answers / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(DataError, match=r"truth.json: does not know a/1.png"):
        convert(
            answers / "answers.csv", answers, "coco", images=answers / "photos", truths=answers / "truth.json"
        )
    with pytest.raises(DataError, match="truths give their ids to answers"):
        convert(
            answers / "answers.csv", answers, "voc", images=answers / "photos", truths=answers / "truth.json"
        )


def test_what_a_model_writes_is_read(tmp_path):
    model = build_model()
    photos(tmp_path / "photos", "1.png", "2.png", size=(64, 48))
    model.predict_to_file(
        [str(tmp_path / "photos" / "1.png"), str(tmp_path / "photos" / "2.png")],
        tmp_path / "a.csv",
        threshold=0.05,
    )
    convert(tmp_path / "a.csv", tmp_path, "cvat", images=tmp_path / "photos", on_error="skip")
    rows = load_parts(tmp_path / "predictions_cvat.xml", images=tmp_path / "photos")[0]["train"]
    expected = model.predict([str(tmp_path / "photos" / "1.png")], threshold=0.05)[0]
    assert len(rows[0]["parts"]) == len(expected.parts) > 0
    assert np.allclose(sorted(rows[0]["boxes"]), sorted(part.box for part in expected.parts), atol=2e-3)


def test_a_table_that_is_none_of_answers(tmp_path):
    (tmp_path / "a.csv").write_text("part,score,state,xmin,ymin,xmax,ymax\nwheel,1,new,1,2,3,4\n")
    with pytest.raises(DataError, match="has no column input or image_id that names the photos"):
        load_parts(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("input,part\n1.png,wheel\n")
    with pytest.raises(DataError, match="score"):
        load_parts(tmp_path / "a.csv")


def test_an_answer_as_detections_of_supervision():
    supervision = pytest.importorskip("supervision", reason="to hand answers to it")
    parts = [
        PartPrediction("wheel", 0.75, "worn", 0.5, (1, 2, 11.5, 10)),
        PartPrediction("bell", 0.5, "new", 1.0, (3, 4, 5, 6)),
    ]
    found = PhotoPrediction(40, 30, parts, ["chain"]).to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == [[1, 2, 11.5, 10], [3, 4, 5, 6]]
    assert found.class_id.tolist() == [2, 0]  # bell, chain, wheel
    assert found[found.data["state"] == "new"].confidence.tolist() == [0.5]
    assert len(PhotoPrediction(40, 30, [], ["chain"]).to_supervision()) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1}]}, "an entry lacks `id` or `file_name`"),
        ({"categories": None}, "does not know wheel, bell|does not know bell, wheel"),
        (
            {"categories": [{"id": 1, "name": "wheel"}, {"id": 2, "name": "wheel"}]},
            "two entries have the name 'wheel'",
        ),
    ],
)
def test_truths_that_give_no_ids(answers, changes, message):
    truth = coco_of(["a/1.png", "a/2.png"], (40, 30)) | changes
    (answers / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(DataError, match=message):
        convert(answers / "answers.csv", answers, images=answers / "photos", truths=answers / "truth.json")


def test_answers_are_not_divided(answers):
    """Both shares would be one file of predictions."""
    with pytest.raises(DataError, match="is a table of answers, of which none is held out"):
        convert(answers / "answers.csv", answers, images=answers / "photos", validation=0.5)


# --- what would be read as something else ---


def made(folder, *names, states=("new", "worn"), parts=("wheel", "bell")):
    """A COCO file with a box a photo."""
    photos(folder, *names)
    truth = coco_of(names, (40, 30))
    truth["categories"] = [{"id": i, "name": name} for i, name in enumerate(parts)]
    truth["states"] = [{"id": i, "name": name} for i, name in enumerate(states)]
    truth["annotations"] = [
        {
            "id": i,
            "image_id": i,
            "category_id": i % len(parts),
            "bbox": [1, 2, 10, 9],
            "state": i % len(states),
        }
        for i in range(len(names))
    ]
    (folder / "train.json").write_text(json.dumps(truth))
    return folder / "train.json"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"states": ("new", "not__worn")},
            "'wheel__not__worn' would be read as the part 'wheel__not' in the state",
        ),
        ({"states": ("_new", "worn")}, "'wheel___new' would be read as the part 'wheel_' in the state 'new'"),
        (
            {"states": ("present",), "parts": ("a__b", "c__d")},
            "'a__b' would be read as the part 'a' in the state 'b'",
        ),
    ],
)
def test_names_that_yolo_would_divide_elsewhere_are_refused(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        convert(made(tmp_path, "1.png", "2.png", **names), tmp_path / "yolo", "yolo")
    assert not (tmp_path / "yolo").exists()


@pytest.mark.parametrize("layout", ["voc", "cvat"])
def test_a_control_character_is_not_written_to_xml_that_nobody_reads(tmp_path, layout):
    path = made(tmp_path, "1.png", parts=("wh\x01eel", "bell"))
    with pytest.raises(DataError, match=r"XML cannot hold the character '\\x01' of .*wh"):
        convert(path, tmp_path / "out", layout)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "delftbikes"])
def test_names_that_no_box_has_are_kept_where_the_layout_has_a_list(tmp_path, layout, caplog):
    path = made(tmp_path, "1.png", states=("new", "worn", "gone"), parts=("wheel", "bell", "lamp"))
    convert(path, tmp_path / "out", layout)
    kept = {} if layout in ("yolo", "voc") else {"images": tmp_path}
    parts, states = names_of(load_parts(tmp_path / "out", **kept)[0])
    assert list(parts.values()) == ["wheel", "bell", "lamp"]
    assert list(states.values()) == (["new"] if layout == "voc" else ["new", "worn", "gone"])
    lost = "Pascal VOC has no list of states: worn, gone, which no box has, is lost"
    assert (lost in caplog.text) == (layout == "voc")


def test_class_lists_as_the_tools_write_them(tmp_path):
    photos(tmp_path / "JPEGImages", "1.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "1.xml").write_text(voc(VOC.format("wheel", 0, 2, "")))
    cvat_file = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nlamp:1,2,3:glass,bulb:\nwheel:4,5,6::\n"
    (tmp_path / "labelmap.txt").write_text(cvat_file)
    assert names_of(load_parts(tmp_path)[0])[0] == {0: "lamp", 1: "wheel"}
    (tmp_path / "labelmap.txt").write_text("lamp:::\n")
    with pytest.raises(DataError, match="unknown part 'wheel'; known are: lamp"):
        load_parts(tmp_path)


def test_yolo_is_not_written_among_other_photos(tmp_path):
    """It takes every photo of a folder, and one without labels shows nothing."""
    path = made(tmp_path / "images" / "train", *(f"{i}.png" for i in range(8)))
    with pytest.raises(
        DataError, match=r"images/train: 2 photos there, such as \d.png, are not of this split"
    ):
        convert(path, tmp_path, "yolo", validation=0.25)
    assert not (tmp_path / "labels").exists()
    convert(path, tmp_path / "out", "yolo", validation=0.25)
    convert(path, tmp_path / "out", "yolo", validation=0.25)
    with pytest.raises(DataError, match="are not of this split"):
        convert(path, tmp_path / "out", "yolo", validation=0.25, seed=1)


def test_photos_of_two_splits_are_told(tmp_path, caplog):
    """Such as those of an earlier conversion that lies in the same folder."""
    path = made(tmp_path, *(f"{i}.png" for i in range(8)))
    convert(path, tmp_path / "out", validation=0.25)
    assert not [record for record in caplog.records if "not those of new photos" in record.message]
    convert(path, tmp_path / "out")
    load_parts(tmp_path / "out", images=tmp_path)
    assert "2 photos, such as" in caplog.text
    assert "are in train and in validation: numbers are then not those of new photos" in caplog.text


def test_names_of_photos_that_look_like_parts_of_addresses(tmp_path):
    names = ["a#1.png", "b%20c.png", "d?.png"]
    convert(made(tmp_path, *names), tmp_path / "out", "label_studio")
    rows = load_parts(tmp_path / "out", images=tmp_path)[0]["train"]
    assert rows["image_id"][:] == names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_annotations_that_are_read_are_not_overwritten(bikes, tmp_path, layout):
    """The folder is by default the source's own, and what the layout cannot say would be lost."""
    convert(bikes, tmp_path, layout)
    kept = {} if layout in ("yolo", "voc") else {"images": bikes / "train"}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"is an input, .*, and would be overwritten"):
        convert(tmp_path, tmp_path, layout, min_trust=0.5, **kept)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_another_photo_of_the_same_name_is_not_overwritten(tmp_path, layout):
    folder = tmp_path / "out" / ("images/train" if layout == "yolo" else "JPEGImages")
    photos(folder, "1.png", size=(80, 60))
    before = (folder / "1.png").read_bytes()
    with pytest.raises(DataError, match=r"1.png: is another photo of that name and would be overwritten"):
        convert(made(tmp_path, "1.png"), tmp_path / "out", layout)
    assert (folder / "1.png").read_bytes() == before
    assert not any((tmp_path / "out" / name).exists() for name in ("labels", "Annotations"))


@pytest.mark.parametrize("name", ["dataset.yaml", "bikes.yml"])
def test_labels_that_are_read_are_not_overwritten(tmp_path, name):
    """The YAML had another name than the one written, and polygons in the labels beside it became boxes."""
    folder = yolo(tmp_path, "0 0.1 0.1 0.5 0.1 0.5 0.5 0.3 0.7 0.1 0.5\n")
    (folder / "data.yaml").rename(folder / name)
    before = (folder / "labels/train/1.txt").read_bytes()
    with pytest.raises(DataError, match=r"1.txt: is an input, .*, and would be overwritten"):
        convert(folder / name, folder, "yolo")
    assert (folder / "labels/train/1.txt").read_bytes() == before
    assert not (folder / "data.yaml").exists()
    convert(folder / name, folder / "boxes", "yolo")


def test_a_labeling_configuration_that_is_read_is_not_overwritten(tmp_path):
    photos(tmp_path, "1.png")
    (tmp_path / "export.json").write_text(json.dumps([task(region(), image="1.png")]))
    config = '<View><RectangleLabels name="label"><Label value="wheel" hotkey="w"/></RectangleLabels></View>'
    (tmp_path / "label_config.xml").write_text(config)
    with pytest.raises(DataError, match=r"label_config.xml: is an input"):
        convert(tmp_path / "export.json", tmp_path, "label_studio")
    assert (tmp_path / "label_config.xml").read_text() == config


def test_one_photos_xml_is_not_overwritten(tmp_path):
    photos(tmp_path / "JPEGImages", "1.png")
    path = tmp_path / "Annotations" / "1.xml"
    path.parent.mkdir()
    path.write_text(voc(VOC.format("wheel", 0, 1, "")))
    with pytest.raises(DataError, match=r"1.xml: is an input"):
        convert(path, tmp_path, "voc", images=tmp_path / "JPEGImages")


@pytest.mark.parametrize("layout", ["voc", "yolo", "cvat", "label_studio"])
def test_a_second_run_may_overwrite_what_the_first_one_wrote(tmp_path, layout, caplog):
    """Annotations that an earlier run wrote beside the source were called an input."""
    photos(tmp_path / "train", "1.png")
    boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 9, 9], "state": 0}]
    (tmp_path / "train_coco.json").write_text(
        json.dumps(coco_of(["1.png"], (40, 30)) | {"annotations": boxes})
    )
    first = convert(tmp_path, tmp_path, layout)
    caplog.clear()
    assert convert(tmp_path, tmp_path, layout) == first
    assert caplog.text.count("beside it is not") <= 1


def test_xml_beside_a_labeling_configuration_becomes_tasks(tmp_path):
    photos(tmp_path, "1.png")
    (tmp_path / "train.xml").write_text(cvat(shape()))
    for _ in range(2):
        convert(tmp_path / "train.xml", tmp_path, "label_studio")
    assert (tmp_path / "label_config.xml").is_file()
