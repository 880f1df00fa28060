"""Files of CVAT, Label Studio, YOLO and Pascal VOC that cannot be used, and why."""

import json

import pytest
from helpers.parts_formats import VOC, coco_of, cvat, load, photos, region, shape, task, voc, yolo

from geohf.errors import DataError
from geohf.parts.convert import convert
from geohf.parts.data import load_parts

BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>11</ymax></bndbox>"
XML = {
    "empty": ("", "is not JSON"),
    "cut off": ("<annotations><image", "is not XML"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares entities"),
    "another root": ("<html/>", "neither CVAT's XML of images nor Pascal VOC's; its root is 'html'"),
    "no image": ("<annotations><version>1.1</version></annotations>", "holds no image"),
    "video": ("<annotations><track/></annotations>", "holds tracks of a video; export it as 'CVAT for images 1.1'"),
    "no part": (cvat(labels=()), "no photo has a part"),
    "rotated": (cvat(shape(place='xtl="1" ytl="2" xbr="9" ybr="9" rotation="30"')), "rotated by 30 degrees"),
    "label": (cvat(shape("wheell")), "unknown part 'wheell'.*wheel"),
    "state": (cvat(shape(inside="state:brokn")), "unknown state 'brokn'.*broken"),
    "attribute": (cvat(shape(), shape(place='xtl="3" ytl="2" xbr="9" ybr="9"', inside="wear:1")), "box 2 has no `state`"),
    "no number": (cvat(shape(place='xtl="a" ytl="2" xbr="9" ybr="9"')), "the box's xtl is 'a', not a number"),
    "a line": (cvat(shape(tag="polyline", place='points="1,2;3,4"')), "a polyline is no box, polygon or mask"),
    "a size": (cvat(shape(), image='name="1.png" width="80" height="60"'), "is listed as 80 x 60 pixels but has 40 x 30"),
    "voc no box": (voc("<object><name>wheel</name></object>"), "the object has no `bndbox`"),
    "voc rotated": (voc(f"<object><name>wheel</name><robndbox/>{BOX}</object>"), r"the box is rotated \(`robndbox`\)"),
    "voc angle": (voc(f"<object><name>w</name>{BOX.replace('</bnd', '<angle>0.3</angle></bnd')}</object>"), "rotated by 0.3"),
    "voc outside": (voc(VOC.format("wheel", 0, 2, "").replace("12", "72")), "lies outside the photo of 40 x 30"),
    "voc nothing": (voc(), "no photo has a part"),
}  # fmt: skip


@pytest.mark.parametrize("case", XML)
def test_xml_that_cannot_be_used(tmp_path, case):
    text, message = XML[case]
    with pytest.raises(DataError, match=message):
        load(tmp_path, "a.xml", text)


NO_SIZE = region()
for result in NO_SIZE:
    del result["original_width"]
TASKS = {
    "empty": ([], "must be a JSON object, but is a list"),
    "no size": ([task(NO_SIZE)], "in percent, and `original_width` and `original_height` do not say of what"),
    "rotated": ([task(region(rotation=12.5))], "the box is rotated by 12.5 degrees; boxes must be upright"),
    "photo rotated": ([task(region(image_rotation=90))], "the photo was rotated by 90 degrees"),
    "two labels": ([task(region(rectanglelabels=["a", "b"]))], "the box has 2 labels: a, b"),
    "no label": ([task(region(), region("r2")[1:])], "region r2 has no label"),
    "no state": ([task(region(), region("r2", place=(1, 1, 20, 20))[:1])], "box r2 has no `state`"),
    "brush": ([task(region(), [region("r3")[0] | {"type": "brushlabels", "value": {"rle": [1]}}])], "brushlabels is no box"),
    "unlabeled": ([task(region(), annotations=[])], "1.png: the task has no annotation"),
    "two": ([task(region(), annotations=[{"result": []}] * 2)], "2 annotations, and none alone is the ground truth"),
    "min": ([task(), {"image": "1.png", "label": []}], "has no `data`; export as JSON, not as JSON-MIN"),
    "no image": ([task(region()) | {"data": {"text": "a"}}], "`data` names no image, or several: text"),
}  # fmt: skip


@pytest.mark.parametrize("case", TASKS)
def test_tasks_that_cannot_be_used(tmp_path, case):
    content, message = TASKS[case]
    with pytest.raises(DataError, match=message):
        load(tmp_path, "a.json", json.dumps(content))


GOOD = "0 0.5 0.5 0.5 0.5"
LABELS = {
    "class": ("7 0.5 0.5 0.5 0.5", {}, "1.txt, line 1: unknown class 7; known are 0 to 1"),
    "name": ("wheel 0.5 0.5 0.5 0.5", {}, "unknown class wheel"),
    "pixels": ("0 20 10 8 8", {}, "the sides must be shares of the photo, from 0 to 1"),
    "text": ("0 a b c d", {}, "a b c d are no numbers"),
    "few": ("0 0.5 0.5 0.5", {}, "has 3 numbers behind the class"),
    "tracks": ("0 0.5 0.5 0.4 0.4 0.93 1", {}, "1.txt, line 1: a box, its confidence and its track"),
    "rotated": ("0 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5", {}, "four corners of a rotated box; boxes must be upright"),
    "flat": ("0 0.5 0.5 0 0.5", {}, "the box has no area"),
    "no names": (GOOD, {"yaml": "train: images/train\n"}, "has no `names` of classes"),
    "twice": (GOOD, {"yaml": "train: images/train\nnames: [a, a]\n"}, "must be a list of different names"),
    "gap": (GOOD, {"yaml": "train: images/train\nnames: {0: a, 2: b}\n"}, "numbers of `names` must be 0 to 1"),
    "no split": (GOOD, {"yaml": "names: [a]\n"}, "names no folder of photos as `train`, `val` or `test`"),
    "no folder": (GOOD, {"yaml": "train: pics\nnames: [a]\n"}, "'pics' is no folder or list of photos in"),
    "away": (GOOD, {"yaml": "train: ../../..\nnames: [a]\n"}, "is no folder or list of photos in"),
    "keypoints": (GOOD, {"yaml": "train: images/train\nnames: [a]\nkpt_shape: [17, 3]\n"}, "is of keypoints"),
    "yaml": (GOOD, {"yaml": "names: [a\n"}, "is not YAML"),
    "nothing": ("", {}, "has no photo with a part"),
}  # fmt: skip


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_be_used(tmp_path, case):
    labels, changes, message = LABELS[case]
    with pytest.raises(DataError, match=message):
        load_parts(yolo(tmp_path, labels, **changes))


def test_labels_and_photos_that_do_not_meet(tmp_path):
    (yolo(tmp_path, GOOD) / "labels" / "train" / "2.txt").write_text(GOOD)
    with pytest.raises(DataError, match=r"row 2.txt: the labels in .* belong to no photo of train"):
        load_parts(tmp_path)
    for path in (tmp_path / "labels" / "train").iterdir():
        path.unlink()
    with pytest.raises(
        DataError, match=r"\[train\]: no photo has a file of labels; .*1.txt would be the first"
    ):
        load_parts(tmp_path)


def test_two_files_of_one_split_are_refused(tmp_path):
    for name in ("train_cvat.xml", "val_cvat.xml"):
        text = cvat(shape(), image='name="1.png" subset="train"')
        photos(tmp_path, "1.png")
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"val_cvat.xml: tells of photos for train, as another file does"):
        load_parts(tmp_path)


def test_two_photos_of_one_name_but_for_the_ending(tmp_path):
    photos(tmp_path, "1.png", "1.jpg")
    truth = coco_of(["1.png", "1.jpg"], (40, 30))
    truth["annotations"] = [box | {"bbox": [1, 2, 9, 9]} for box in truth["annotations"][:2]]
    (tmp_path / "train.json").write_text(json.dumps(truth))
    for layout in ("yolo", "voc"):
        with pytest.raises(DataError, match=r"1.png and 1.jpg would share one file of annotations"):
            convert(tmp_path / "train.json", tmp_path / layout, layout)


def test_an_empty_attribute_is_no_state(tmp_path):
    for name, text in (
        (
            "a.xml",
            voc(
                VOC.format("wheel", 0, 2, "<state> </state>"), VOC.format("bell", 0, 2, "<state>new</state>")
            ),
        ),
        ("b.xml", cvat(shape(inside="state:"), shape("bell"), values="")),
        ("c.json", json.dumps([task(region("a", state=""), region("b", "bell"))])),
    ):
        with pytest.raises(DataError, match=r"1.png, wheel: box \w+ has no `state`"):
            load(tmp_path / name[0], name, text)


def test_difficult_is_yes_or_no(tmp_path):
    told = {"0": False, "1": True, "false": False, "True": True}
    for word, crowd in told.items():
        rows = load(tmp_path / word, "a.xml", voc(VOC.format("wheel", word, 2, "<state>new</state>")))
        assert rows["iscrowd"][:] == [[crowd]]
    with pytest.raises(DataError, match="`difficult` is 'Unspecified', neither 0 nor 1"):
        load(tmp_path / "x", "a.xml", voc(VOC.format("wheel", "Unspecified", 2, "")))
