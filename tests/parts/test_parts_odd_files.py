"""Files as tools and people leave them: what is taken, what is refused, and what is said."""

import json

import numpy as np
import pytest
from helpers.parts_formats import VOC, coco_of, cvat, load, named, photos, region, shape, task, voc, yolo
from PIL import Image

from geohf.errors import DataError
from geohf.parts.data import load_parts
from geohf.parts.folders import image_folder
from geohf.parts.processing import open_photo
from geohf.parts.vocabulary import names_of

BOX = [1, 2, 10, 9]
FOUND = (1, False, 1, 2, 11, 11)  # trust, crowd, box


def coco(folder, *changes, **content):
    """A photo of 40 x 30 with a wheel, changed."""
    if not (folder / "1.png").exists():
        photos(folder, "1.png")
    annotation = {"image_id": 1, "category_id": 1, "bbox": BOX, "state": 0}
    boxes = [annotation | {"id": i} | change for i, change in enumerate(changes or [{}])]
    whole = {
        "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "wheel"}, {"id": 2, "name": "bell"}],
        "states": [{"id": 0, "name": "new"}, {"id": 1, "name": "worn"}],
        "annotations": [{key: v for key, v in box.items() if v is not None} for box in boxes],
    }
    (folder / "train.json").write_text(json.dumps(whole | content))
    return load_parts(folder / "train.json")[0]["train"]


RUNS = {"size": [30, 40], "counts": [62, 3, 27, 3, 1105]}  # columns 2 and 3, rows 2 to 4


@pytest.mark.parametrize(
    ("changes", "content", "parts"),
    [
        ([{"bbox": None, "segmentation": RUNS}], {}, [("wheel", "new", 1, False, 2, 2, 4, 5)]),
        ([{"iscrowd": 1, "segmentation": RUNS}], {}, [("wheel", None, 1, True, 1, 2, 11, 11)]),
        (
            [{"category_id": 0}, {"category_id": 7, "state": 1}],
            {
                "categories": [
                    {"id": 0, "name": "wheel"},
                    {"id": 7, "name": "bell"},
                    {"id": 99, "name": "lamp"},
                ]
            },
            [("bell", "worn", *FOUND), ("wheel", "new", *FOUND)],
        ),
        (
            [{"state": 2}],
            {"states": [{"id": 1, "name": "new"}, {"id": 2, "name": "worn"}]},
            [("wheel", "worn", *FOUND)],
        ),
        ([{"image_id": "1", "state": "1"}], {}, [("wheel", "worn", *FOUND)]),
        ([{"id": 0}, {"id": 0, "category_id": 2}], {}, [("bell", "new", *FOUND), ("wheel", "new", *FOUND)]),
        (
            [{"state": None, "attributes": [{"name": "state", "value": "worn"}]}],
            {},
            [("wheel", "worn", *FOUND)],
        ),
        (
            [{}],
            {"images": [{"id": 1, "file_name": "1.png", "width": 0, "height": 0}]},
            [("wheel", "new", *FOUND)],
        ),
    ],
    ids=["runs", "crowd", "ids", "states from 1", "text", "ids twice", "list of attributes", "sizes of 0"],
)
def test_coco_files_that_are_taken(tmp_path, changes, content, parts):
    assert named(coco(tmp_path, *changes, **content)) == {"1.png": parts}


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"_via_settings": {}, "_via_img_metadata": {}}, "it seems to be VIA's, to be made COCO first"),
        ({"1.png90": {"filename": "1.png", "regions": []}}, "it seems to be VIA's"),
        ({"version": "5.0", "shapes": [], "imagePath": "1.png"}, "it seems to be labelme's"),
        ({"annotations": None, "images": []}, "nor photos with `parts`$"),
    ],
)
def test_files_of_tools_that_are_not_read_are_named(tmp_path, content, hint):
    with pytest.raises(DataError, match=f"has neither COCO's .*{hint}"):
        load(tmp_path, "a.json", json.dumps(content))


def test_a_second_file_for_a_split_is_not_passed_over_without_a_word(tmp_path, caplog):
    coco(tmp_path)
    folder = tmp_path / "annotations"
    folder.mkdir()
    one, two = folder / "instances_train_a.json", folder / "instances_train_b.json"
    two.write_bytes((tmp_path / "train.json").read_bytes())
    (tmp_path / "train.json").rename(one)
    assert len(load_parts(tmp_path)[0]["train"]) == 1
    assert f"annotations/{one.name} is read, and annotations/{two.name} beside it is not" in caplog.text
    caplog.clear()
    two.rename(tmp_path / "val.json")  # of another layout, of which nothing is read
    assert set(load_parts(tmp_path)[0]) == {"train"}
    assert f"annotations/{one.name} is read, and val.json beside it is not" in caplog.text
    caplog.clear()
    (tmp_path / "val.json").unlink()
    load_parts(tmp_path)
    assert "beside it" not in caplog.text
    one.rename(tmp_path / "labels_1.json")
    with pytest.raises(
        DataError, match=r"holds no annotations; of labels_1\.json, name the one that has them"
    ):
        load_parts(tmp_path)


def test_cvat_under_another_name_is_to_be_named(tmp_path):
    load(tmp_path, "a.xml", cvat(shape()))
    with pytest.raises(DataError, match=r"its root is 'annotations'.*: name it itself, if it is CVAT's"):
        load_parts(tmp_path)


def test_names_that_differ_in_spaces_or_capitals_are_told(tmp_path, caplog):
    rows = coco(tmp_path, categories=[{"id": 1, "name": "wheel"}, {"id": 2, "name": " Wheel"}])
    assert names_of(rows)[0] == {0: "wheel", 1: " Wheel"}
    assert "parts that may be one, written differently: 'wheel' and ' Wheel'" in caplog.text


def test_values_of_attributes_that_differ_in_capitals_are_told(tmp_path, caplog):
    photos(tmp_path, "1.png")
    boxes = [
        {"id": i, "image_id": 0, "category_id": 1, "bbox": [i, 2, 9, 9], "state": 0, "color": color}
        for i, color in enumerate(("Red", "red"))
    ]
    content = json.dumps(coco_of(["1.png"], (40, 30)) | {"annotations": boxes})
    rows = load(tmp_path, "train.json", content, attributes=["color"])
    assert rows.features["color"].feature.names == ["Red", "red"]
    assert "color that may be one, written differently: 'Red' and 'red'" in caplog.text


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "listed", "box"),
    [
        (6, (30, 40), [1, 2, 11, 11]),  # as it is shown
        (6, (40, 30), [19, 1, 28, 11]),  # as it is stored
        (3, (40, 30), [1, 2, 11, 11]),  # of one size both ways: as it is shown
    ],
)
def test_boxes_of_photos_that_exif_turns(tmp_path, orientation, listed, box, kind):
    picture = Image.new("RGB", (40, 30))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "1.png", format=kind, exif=exif)
    sides = dict(zip(("width", "height"), listed, strict=True))
    assert coco(tmp_path, images=[{"id": 1, "file_name": "1.png", **sides}])[0]["boxes"] == [box]


@pytest.mark.parametrize(
    ("mode", "value", "seen"), [("I;16", 51400, 200), ("LA", (90, 255), 90), ("1", 1, 255)]
)
def test_photos_of_other_depths(tmp_path, mode, value, seen):
    picture = (
        Image.fromarray(np.full((30, 40), value, np.uint16))
        if mode == "I;16"
        else Image.new(mode, (40, 30), value)
    )
    picture.save(tmp_path / "1.png")
    opened = open_photo(coco(tmp_path)[0])
    assert (opened.shape, opened.unique().tolist()) == ((3, 30, 40), [seen])


def test_cvat_with_states_that_each_label_has_of_its_own(tmp_path):
    labels = "".join(
        f"<label><name>{name}</name><attributes><attribute><name>state</name><mutable>True</mutable>"
        f"<values>{values}</values></attribute></attributes></label>"
        for name, values in (("wheel", "new\nworn"), ("bell", "rings\nmute\nworn"))
    )
    image = f'<image id="0" name="1.png" width="40" height="30">{shape("bell", inside="state:mute")}</image>'
    text = f"<annotations><meta><task><labels>{labels}</labels></task></meta>{image}</annotations>"
    rows = load(tmp_path, "a.xml", text)
    assert names_of(rows)[1] == {0: "new", 1: "worn", 2: "rings", 3: "mute"}
    assert named(rows)["1.png"][0][:2] == ("bell", "mute")


@pytest.mark.parametrize(
    ("inside", "values", "message"),
    [
        ("state:odd", "intact\nbroken", "unknown state 'odd'; known are: intact, broken"),
        ("state:", "intact\nbroken", "has no `state`; its attributes are state"),
        ("state:__undefined__", "__undefined__\nintact", "has no `state`"),
    ],
)
def test_states_of_cvat_that_are_none(tmp_path, inside, values, message):
    text = cvat(shape(inside=inside), shape("bell", inside="state:intact"), values=values)
    with pytest.raises(DataError, match=message):
        load(tmp_path, "a.xml", text)


def test_states_of_label_studio_as_a_taxonomy(tmp_path):
    box, told = region()
    told |= {"type": "taxonomy", "value": {"taxonomy": [["bad", "rusty"]]}}
    relation = {"type": "relation", "from_id": "r1", "to_id": "r2", "direction": "right"}
    rows = load(tmp_path, "a.json", json.dumps([task([box, told, relation])]))
    assert named(rows)["1.png"][0][:2] == ("wheel", "bad / rusty")


@pytest.mark.parametrize("kind", ["ellipselabels", "brushlabels"])
def test_shapes_of_label_studio_that_are_no_boxes_are_named(tmp_path, kind):
    place = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 10} if kind == "ellipselabels" else {"rle": [1, 2]}
    sizes = {"original_width": 40, "original_height": 30}
    result = {"id": "r", "type": kind, "value": place | {kind: ["wheel"]}, **sizes}
    with pytest.raises(DataError, match=f"no photo has a part: {kind} is no box"):
        load(tmp_path, "a.json", json.dumps([task([result])]))


def test_parts_of_an_object_of_voc_are_not_lost_without_a_word(tmp_path, caplog):
    place = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>11</ymax></bndbox>"
    text = voc(f"<object><name>person</name>{place}<part><name>head</name>{place}</part></object>")
    assert [part[0] for part in named(load(tmp_path, "1.xml", text))["1.png"]] == ["person"]
    assert "objects have parts of their own (head), which are not read" in caplog.text


def test_a_size_of_voc_that_nobody_filled_in(tmp_path):
    size = "<size><width>0</width><height>0</height><depth>3</depth></size>"
    assert len(load(tmp_path, "1.xml", voc(VOC.format("wheel", 0, 2, ""), size=size))[0]["boxes"]) == 1


def test_more_classes_of_yolo_than_names_are_refused(tmp_path):
    yaml = "train: images/train\nnc: 3\nnames: [wheel, bell]\n"
    with pytest.raises(DataError, match="`nc` is 3, and `names` lists 2"):
        load_parts(yolo(tmp_path, "0 0.2 0.2 0.1 0.1", yaml))


@pytest.mark.parametrize("names", ["[wheel, off]", "{0: wheel, 1: no}", "[wheel, ~]"])
def test_names_that_yaml_takes_for_no_text_are_refused(tmp_path, names):
    """A part called `off` would be called `False` from here on, in answers, too."""
    with pytest.raises(
        DataError, match=r"`names` holds (False|None); put a name that YAML reads so in quotes"
    ):
        load_parts(yolo(tmp_path, "0 0.2 0.2 0.1 0.1", f"train: images/train\nnames: {names}\n"))
    quoted = "train: images/train\nnames: ['off', 7]\n"
    assert names_of(load_parts(yolo(tmp_path, "0 0.2 0.2 0.1 0.1", quoted))[0])[0] == {0: "off", 1: "7"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.5 0.4 0.9", "has 5 numbers behind the class"),
        ("1 20 15 20 12", "must be shares of the photo"),
        ("1,0.5,0.5,0.5,0.4", "unknown class 1,0.5"),
        ("1.0 0.5 0.5 0.5 0.4", "unknown class 1.0"),
        ("1 0.5 0.5 0 0.4", "the box has no area"),
    ],
)
def test_lines_of_yolo_that_are_no_boxes(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        load_parts(yolo(tmp_path, f"\ufeff0 0.2 0.2 0.1 0.1\r\n{line}\r\n"))


@pytest.mark.parametrize(("stem", "place"), [("device_boxes", "train"), ("dev_boxes", "val")])
def test_a_file_of_a_device_is_not_of_a_dev_split(tmp_path, stem, place):
    for name in ("train", "val"):
        photos(tmp_path / name, "1.jpg")
    (tmp_path / f"{stem}.json").touch()
    assert image_folder(tmp_path / f"{stem}.json", "train", ["1.jpg"]) == tmp_path / place
