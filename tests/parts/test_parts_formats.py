"""Annotations of other tools: CVAT, Label Studio, YOLO, Pascal VOC; read, written, and refused where they cannot be used."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.parts.convert import LAYOUTS, convert
from geohf.parts.data import load_parts
from geohf.parts.vocabulary import names_of

ATTRIBUTE = '<attribute name="state">{}</attribute>'


def photos(folder: Path, *names: str, size=(40, 30)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "gray").save(folder / name)
    return folder


def named(dataset) -> dict:
    """photo -> its parts as (part, state, trust, crowd, box), sorted."""
    parts, states = names_of(dataset)
    return {
        row["image_id"]: sorted(
            (
                (parts[part], states.get(state), trust, crowd, *box)
                for part, state, trust, crowd, box in zip(
                    row["parts"], row["states"], row["trust"], row["iscrowd"], row["boxes"], strict=True
                )
            ),
            key=lambda part: (part[0], str(part[1]), *part[2:]),
        )
        for row in dataset
    }


def assert_equal(found, expected, trust=True):
    """Photos, names, boxes to 1e-3 pixel."""
    found, expected = named(found), named(expected)
    assert found.keys() == expected.keys()
    for name, parts in expected.items():
        assert [part[:2] + part[3:4] for part in found[name]] == [part[:2] + part[3:4] for part in parts]
        assert np.allclose(
            [part[4:] for part in found[name]], [part[4:] for part in parts], atol=1e-3, rtol=0
        )
        if trust:
            assert np.allclose([part[2] for part in found[name]], [part[2] for part in parts], atol=1e-3)


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


def coco_of(names, size):
    boxes = [[0, 0, 640.5, 356.25], [3.125, 7.333, 20.007, 100.001], [200.5, 33.1, 7.7, 8.8], [1, 2, 3, 4]]
    return {
        "images": [
            {"id": i, "file_name": n, "width": size[0], "height": size[1]} for i, n in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "left door"}, {"id": 2, "name": "wheel"}],
        "states": [{"id": 0, "name": "new"}, {"id": 1, "name": "worn out"}],
        "annotations": [
            {"id": i, "image_id": i % 2, "category_id": 1 + i // 2, "bbox": box, "state": i % 2}
            for i, box in enumerate(boxes)
        ],
    }


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


# --- as the tools write them ---


def cvat(
    *shapes, labels=("wheel", "bell"), values="intact\nbroken", image='name="1.png" width="40" height="30"'
):
    attribute = f"<attribute><name>state</name><values>{values}</values></attribute>" if values else ""
    listed = "".join(
        f"<label><name>{name}</name><attributes>{attribute}</attributes></label>" for name in labels
    )
    images = f'<image id="0" {image}>{"".join(shapes)}</image>'
    return f"<annotations><meta><task><labels>{listed}</labels></task></meta>{images}</annotations>"


def shape(label="wheel", tag="box", place='xtl="1" ytl="2" xbr="11.5" ybr="10"', inside="state:intact"):
    name, _, value = inside.partition(":")
    attribute = f'<attribute name="{name}">{value}</attribute>' if inside else ""
    return f'<{tag} label="{label}" occluded="0" z_order="0" {place}>{attribute}</{tag}>'


def load(folder: Path, name: str, text: str, **options):
    photos(folder, "1.png")
    (folder / name).write_text(text)
    return load_parts(folder / name, **options)[0]["train"]


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


def test_a_state_of_any_name_and_none(tmp_path, caplog):
    worn = cvat(shape(inside="wear:high"), values="")
    assert names_of(load(tmp_path, "a.xml", worn, state_attribute="wear"))[1] == {0: "high"}
    assert names_of(load(tmp_path, "a.xml", worn, state_attribute="none"))[1] == {0: "present"}
    with pytest.raises(DataError, match=r"box 1 has no `state`; its attributes are wear \(--state_attribute"):
        load(tmp_path, "a.xml", worn)
    assert names_of(load(tmp_path, "a.xml", cvat(shape(inside=""))))[1] == {0: "present"}
    assert "no box has a `state`" in caplog.text


def region(key="r1", label="wheel", state="intact", place=(10, 20, 50, 40), **changes) -> list[dict]:
    value = dict(zip(("x", "y", "width", "height"), place, strict=True)) | {"rotation": 0}
    shared = {"id": key, "to_name": "image", "original_width": 40, "original_height": 30, "image_rotation": 0}
    box = shared | {
        "from_name": "label",
        "type": "rectanglelabels",
        "value": value | {"rectanglelabels": [label]},
    }
    told = shared | {"from_name": "state", "type": "choices", "value": value | {"choices": [state]}}
    box["value"] |= {k: v for k, v in changes.items() if k in box["value"]}
    box |= {k: v for k, v in changes.items() if k not in box["value"]}
    return [box, told]


def task(*regions, image="/data/upload/1/0a1b2c3d-1.png", **changes) -> dict:
    annotations = [
        {"id": 1, "result": [result for found in regions for result in found], "was_cancelled": False}
    ]
    return {"id": 7, "data": {"image": image}, "annotations": annotations} | changes


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


VOC = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>3</ymin><xmax>12</xmax><ymax>11</ymax></bndbox>{}</object>"


def voc(*objects, size="<size><width>40</width><height>30</height><depth>3</depth></size>"):
    return f"<annotation><filename>1.png</filename>{size}{''.join(objects)}</annotation>"


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
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("4\n")
    with pytest.raises(DataError, match=r"val.txt: names 4, which has no XML in .*Annotations"):
        load_parts(tmp_path)


def yolo(folder: Path, labels: str, yaml="train: images/train\nnames: {0: wheel, 1: bell}\n") -> Path:
    photos(folder / "images" / "train", "1.png")
    (folder / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (folder / "labels" / "train" / "1.txt").write_text(labels)
    (folder / "data.yaml").write_text(yaml)
    return folder


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


# --- what cannot be used ---

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
    config = '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image"/>'
    config += '<Choices name="state" toName="image" perRegion="true"/></View>'
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
