"""Annotations of other tools: CVAT, Label Studio, YOLO, Pascal VOC, as those write them."""

import json

import numpy as np
import pytest
from helpers.parts_formats import VOC, cvat, load, named, photos, region, shape, task, voc, yolo

from geohf.errors import DataError
from geohf.parts.data import load_parts
from geohf.parts.vocabulary import names_of


def test_boxes_polygons_and_masks_of_cvat(tmp_path, caplog):
    polygon = shape("bell", "polygon", 'points="5,5;9.5,6;7,12"', "state:broken")
    mask = shape("bell", "mask", 'rle="9" left="20" top="3" width="4" height="5"', "state:broken")
    with caplog.at_level("INFO", logger="geohf"):
        rows = load(tmp_path, "a.xml", cvat(shape(), polygon, mask, '<tag label="bike"></tag>'))
    assert "a.xml: is in the layout of CVAT" in caplog.text
    assert named(rows) == {
        "1.png": [
            ("bell", "broken", 1, False, 5, 5, 9.5, 12),
            ("bell", "broken", 1, False, 20, 3, 24, 8),
            ("wheel", "intact", 1, False, 1, 2, 11.5, 10),
        ]
    }
    assert names_of(rows) == ({0: "wheel", 1: "bell"}, {0: "intact", 1: "broken"})  # in the order of the file


def test_a_mark_of_occluded_is_the_state_of_a_box_that_tells_none(tmp_path, caplog):
    """Where that is one of the states: of CVAT's own `occluded`, and as it writes that for COCO and VOC."""
    silent, told = (
        shape(inside=inside).replace('occluded="0"', 'occluded="1"') for inside in ("", "state:intact")
    )
    rows = load(tmp_path, "a.xml", cvat(silent, told.replace("wheel", "bell"), values="intact\noccluded"))
    assert [part[:2] for part in named(rows)["1.png"]] == [("bell", "intact"), ("wheel", "occluded")]
    assert "1 boxes have no state of their own and are marked as occluded" in caplog.text
    with pytest.raises(DataError, match="box 1 has no `state`"):
        load(tmp_path, "a.xml", cvat(silent, told, values="intact\nbroken"))
    rows = load(tmp_path, "b.xml", cvat(silent, shape("bell", inside="")), attributes=["occluded"])
    assert rows.features["occluded"].feature.names == ["false", "true"]
    assert dict(zip(rows[0]["parts"], rows[0]["occluded"], strict=True)) == {0: 1, 1: 0}
    marked = VOC.format("wheel", 0, 2, "<occluded>1</occluded>")
    rows = load(tmp_path, "1.xml", voc(marked, VOC.format("bell", 0, 3, "<state>damaged</state>")))
    assert [part[:2] for part in named(rows)["1.png"]] == [("bell", "damaged"), ("wheel", "occluded")]
    rows = load(tmp_path, "a.json", json.dumps(marked_in_coco({"attributes": {"occluded": True}})))
    assert [part[:2] for part in named(rows)["1.png"]] == [("bell", "damaged"), ("wheel", "occluded")]
    rows = load(
        tmp_path, "b.json", json.dumps(marked_in_coco({"occluded": 1}))
    )  # beside the box's other fields
    assert [part[:2] for part in named(rows)["1.png"]] == [("bell", "damaged"), ("wheel", "occluded")]


def marked_in_coco(mark):
    """A wheel that has the mark alone, and a bell that has a state as well."""
    boxes = [mark, {"state": "damaged"} | mark]
    return {
        "images": [{"id": 1, "file_name": "1.png"}],
        "categories": [{"id": 0, "name": "wheel"}, {"id": 1, "name": "bell"}],
        "annotations": [
            box | {"id": i, "image_id": 1, "category_id": i, "bbox": [1, 2, 10, 9]}
            for i, box in enumerate(boxes)
        ],
    }


def test_the_background_of_voc_is_no_part_unless_a_box_has_it(tmp_path, caplog):
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nwheel:::\n")
    for name, known in (("wheel", ["wheel"]), ("background", ["background", "wheel"])):
        photos(tmp_path, "1.png")
        (tmp_path / "1.xml").write_text(voc(VOC.format(name, 0, 2, "<state>new</state>")))
        assert list(names_of(load_parts(tmp_path)[0])[0].values()) == known
        assert caplog.text.count("left out background: a group of other categories or the background") == 1


def test_subsets_of_cvat_are_splits(tmp_path):
    photos(tmp_path, "1.png", "2.png")
    one, two = (
        f'<image id="{n}" name="{n}.png" subset="{s}">{shape()}</image>'
        for n, s in ((1, "train"), (2, "Validation"))
    )
    (tmp_path / "annotations.xml").write_text(f"<annotations>{one}{two}</annotations>")
    splits, _ = load_parts(tmp_path)
    assert {split: rows["image_id"][:] for split, rows in splits.items()} == {
        "train": ["1.png"],
        "validation": ["2.png"],
    }


def test_photos_of_one_name_in_the_folders_of_a_project_of_cvat(tmp_path):
    for split, width in (("Test", 30), ("Train", 40)):
        photos(tmp_path / "images" / split, "1.png", size=(width, 30))
    one, two = (
        f'<image id="{n}" name="1.png" subset="{subset}" width="{width}" height="30">{shape(inside=f"state:{state}")}</image>'
        for n, (subset, width, state) in enumerate((("Test", 30, "worn"), ("Train", 40, "new")))
    )
    (tmp_path / "annotations.xml").write_text(f"<annotations>{one}{two}</annotations>")
    splits, _ = load_parts(tmp_path)
    for split, state in (("train", "new"), ("test", "worn")):
        states = names_of(splits[split])[1]
        assert [states[number] for number in splits[split][0]["states"]] == [state]
        assert splits[split][0]["image"]["path"].endswith(f"images/{split.title()}/1.png")
    (tmp_path / "annotations.xml").write_text(
        f"<annotations>{one}{two}</annotations>".replace("Test", "spare")
    )
    with pytest.raises(
        DataError, match=r"1\.png is of the subset 'spare', and not of train, validation, test"
    ):
        load_parts(tmp_path)


def test_a_state_of_any_name_and_none(tmp_path, caplog):
    worn = cvat(shape(inside="wear:high"), values="")
    assert names_of(load(tmp_path, "a.xml", worn, state_attribute="wear"))[1] == {0: "high"}
    assert names_of(load(tmp_path, "a.xml", worn, state_attribute="none"))[1] == {0: "present"}
    with pytest.raises(DataError, match=r"box 1 has no `state`; its attributes are wear \(--state_attribute"):
        load(tmp_path, "a.xml", worn)
    assert names_of(load(tmp_path, "a.xml", cvat(shape(inside=""))))[1] == {0: "present"}
    assert "no box has a `state`" in caplog.text


def test_percent_and_choices_of_label_studio(tmp_path):
    photo = {
        "id": "p",
        "type": "choices",
        "from_name": "view",
        "to_name": "image",
        "value": {"choices": ["left"]},
    }
    cancelled = {"result": [], "was_cancelled": True}
    tasks = task(region(), region("r2", "bell", "broken", (0, 0, 100, 100)), [photo])
    tasks["annotations"].append(cancelled)
    rows = load(tmp_path, "export.json", json.dumps([tasks]))
    assert named(rows) == {
        "1.png": [("bell", "broken", 1, False, 0, 0, 40, 30), ("wheel", "intact", 1, False, 4, 6, 24, 18)]
    }


def test_polygons_of_label_studio_are_boxed(tmp_path):
    sizes = {"original_width": 40, "original_height": 30}
    polygon = {"points": [[10, 20], [50, 30], [40, 80]], "polygonlabels": ["bell"]}
    results = [{"id": "p", "type": "polygonlabels", "value": polygon, **sizes}]
    results.append({"id": "p", "type": "choices", "from_name": "state", "value": {"choices": ["new"]}})
    rows = load(tmp_path, "export.json", json.dumps([task(results)]))
    assert named(rows) == {"1.png": [("bell", "new", 1, False, 4, 6, 20, 24)]}


@pytest.mark.parametrize(
    ("image", "lies"),
    [
        ("/data/upload/1/0a1b2c3d-1.png", "0a1b2c3d-1.png"),
        ("/data/local-files/?d=rides/1.png", "rides/1.png"),
        ("s3://bucket/deep/1.png", "1.png"),
        ("https://example.org/a%20b.png?token=1", "a b.png"),
        ("rides/1.png", "rides/1.png"),
    ],
)
def test_where_the_photos_of_label_studio_lie(tmp_path, image, lies):
    photos(tmp_path / "photos", lies)
    (tmp_path / "export.json").write_text(json.dumps([task(region(), image=image)]))
    assert load_parts(tmp_path / "export.json")[0]["train"]["image_id"][:] == [lies]


@pytest.mark.parametrize(("first", "left"), [(2, 1), (1, 0), (0, 0)])
def test_pixels_of_voc_count_from_one_unless_one_is_below(tmp_path, first, left):
    rows = load(tmp_path, "1.xml", voc(VOC.format("wheel", 0, first, ""), size=""))
    assert rows[0]["boxes"] == [[left, 2 if first else 3, 12, 11]]


def test_states_and_difficult_objects_of_voc(tmp_path):
    attributes = "<attributes><attribute><name>state</name><value>broken</value></attribute></attributes>"
    objects = (
        VOC.format("wheel", 0, 2, attributes),
        VOC.format("bell", 0, 4, "<state>intact</state>"),
        VOC.format("bell", 1, 7, ""),
    )
    rows = load(tmp_path, "1.xml", voc(*objects))
    found = [part[:4] for part in named(rows)["1.png"]]
    assert sorted(found, key=str) == [
        ("bell", "intact", 1, False),
        ("bell", None, 1, True),
        ("wheel", "broken", 1, False),
    ]


def test_lists_of_voc_choose_photos_and_splits(tmp_path):
    photos(tmp_path / "JPEGImages", "1.png", "2.png", "3.png")
    for name in ("1", "2", "3"):
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        text = voc(VOC.format("wheel", 0, 2, "")).replace("1.png", f"{name}.png")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("1\n")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("3  1\n")
    splits, _ = load_parts(tmp_path)
    assert {split: rows["image_id"][:] for split, rows in splits.items()} == {
        "train": ["1.png"],
        "validation": ["3.png"],
    }
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("4\n5\n")  # as a competition keeps them
    assert set(load_parts(tmp_path)[0]) == {"train", "validation"}
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("4\n")
    with pytest.raises(DataError, match=r"val.txt: names 4, which has no XML in .*Annotations"):
        load_parts(tmp_path)


def test_shares_and_polygons_of_yolo(tmp_path):
    rows = load_parts(
        yolo(tmp_path, "1 0.5 0.5 0.5 0.4\n\n0 0.1 0.1 0.3 0.2 0.2 0.5\n0 0.5 0.5 1 0.5 1 1 0.5 1\n")
    )[0]["train"]
    assert np.allclose(rows[0]["boxes"], [[10, 9, 30, 21], [4, 3, 12, 15], [20, 15, 40, 30]])
    assert rows[0]["parts"] == [1, 0, 0]
    assert names_of(rows)[1] == {0: "present"}


def test_states_in_the_names_of_yolo(tmp_path):
    names = "train: ../images/train\nnames: [side__door__new, side__door__old, bell__new]\n"  # as Roboflow writes the folder
    rows = load_parts(yolo(tmp_path, "1 0.5 0.5 0.5 0.4\n", names))[0]["train"]
    assert names_of(rows) == ({0: "side__door", 1: "bell"}, {0: "new", 1: "old"})
    assert (rows[0]["parts"], rows[0]["states"]) == ([0], [1])
    whole = load_parts(tmp_path, state_attribute="none")[0]["train"]
    assert names_of(whole)[0][1] == "side__door__old"


def test_yolo_of_darknet_as_cvat_writes_it(tmp_path):
    photos(tmp_path / "obj_train_data", "1.png", "2.png")
    (tmp_path / "obj_train_data" / "1.txt").write_text("1 0.5 0.5 0.5 0.4\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/1.png\ndata/obj_train_data/2.png\n")
    (tmp_path / "obj.names").write_text("wheel\nbell\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    rows = load_parts(tmp_path)[0]["train"]
    assert [(row["parts"], row["boxes"]) for row in rows] == [([1], [[10, 9, 30, 21]]), ([], [])]
    (tmp_path / "obj.data").write_text("train = data/train.txt\n")
    with pytest.raises(DataError, match=r"obj\.data: has no `names` of classes"):
        load_parts(tmp_path)
