"""COCO as people's tools write it: crowds, groups, shares, layouts of folders, names, ids, attributes."""

import gzip
import json
import logging
import unicodedata

import numpy as np
import pytest
from helpers.parts_files import coco
from helpers.parts_models import build_model
from PIL import Image
from pycocotools import mask as masks

from geohf.errors import DataError
from geohf.parts.convert import statistics_of, write_coco, write_delftbikes
from geohf.parts.data import load_parts, state_table
from geohf.parts.rows import shows_one_of_each
from geohf.parts.segments import box_of_segmentation
from geohf.parts.vocabulary import names_of

WHOLE = {"state": 0}


def load(path, **options):
    """The rows of train, without a word said."""
    splits, errors = load_parts(path, **options)
    assert not errors.rows
    return splits["train"]


# --- crowds ---

RUNS = {
    "size": [30, 40],
    "counts": [30 * 5 + 3, 6, 24, 6, 30 * 40 - 30 * 5 - 3 - 36],
}  # 2 wide, 6 high, at 5, 3


@pytest.mark.case("use-S17", "six-6")
@pytest.mark.parametrize("flag", [{"iscrowd": 1}, {"iscrowd": True}, {"ignore": 1}])
@pytest.mark.parametrize("segmentation", [None, RUNS])
def test_a_crowd_is_a_region_without_a_state(tmp_path, flag, segmentation):
    crowd = {"bbox": [3, 4, 20, 12], "segmentation": segmentation} | flag
    train = load(coco(tmp_path, [WHOLE | {"iscrowd": 0}, crowd, {"bbox": [25, 2, 5, 5], "state": 1}]))
    row = train[0]
    assert row["iscrowd"] == [False, True, False]
    assert row["boxes"][1] == [3, 4, 23, 16]
    assert row["states"] == [0, -1, 1]
    assert state_table(train)[0].tolist() == [[1, 1], [0, 0]]  # nothing is counted for the crowd
    assert not shows_one_of_each(train)
    write_coco(tmp_path / "again.json", train)
    written = statistics_of(train)
    assert (written["annotations"], written["states"]) == (3, {"whole": 1, "dented": 1})
    assert load(tmp_path / "again.json")[0]["iscrowd"] == row["iscrowd"]
    with pytest.raises(DataError, match=r"1.jpg: shows 'wheel' as a crowd, which this layout cannot say"):
        write_delftbikes(tmp_path / "a.json", train.map(lambda r: {k: r[k][1:2] for k in LISTS}))


LISTS = ("boxes", "parts", "states", "trust", "iscrowd")


@pytest.mark.case("use-S17")
def test_a_crowd_flag_that_is_none(tmp_path):
    with pytest.raises(DataError, match="`iscrowd` of annotation 1 is 'many', neither 0 nor 1"):
        load_parts(coco(tmp_path, [WHOLE | {"iscrowd": "many"}]))


# --- boxes from segmentations ---


@pytest.mark.case("use-S17")
@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_masks_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(8, 200, 2)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 30))):
        top, left = rng.integers(0, height), rng.integers(0, width)
        mask[top : top + rng.integers(1, 40), left : left + rng.integers(1, 40)] = 1
    packed = masks.encode(np.asfortranarray(mask))
    expected = masks.toBbox(packed).tolist()
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    assert box_of_segmentation(text) == expected
    changes = np.flatnonzero(np.diff(np.r_[0, mask.T.ravel()]))
    runs = np.diff(np.r_[0, changes, mask.size]).tolist()
    assert box_of_segmentation({"size": packed["size"], "counts": runs}) == expected


@pytest.mark.case("use-S17")
@pytest.mark.parametrize(
    ("segmentation", "box"), [([[2, 3, 9, 3, 5, 11]], [2, 3, 9, 11]), (RUNS, [5, 3, 7, 9])]
)
@pytest.mark.parametrize("bbox", [None, []])
def test_a_box_may_come_from_the_segmentation(tmp_path, segmentation, box, bbox):
    path = coco(tmp_path, [WHOLE | {"bbox": bbox, "segmentation": segmentation}])
    assert load(path)[0]["boxes"] == [box]


@pytest.mark.case("use-S17")
@pytest.mark.parametrize("segmentation", [{"size": [30, 40]}, {"size": [3, 4], "counts": [5]}, [["a"]], 7])
def test_a_segmentation_that_is_none(tmp_path, segmentation):
    with pytest.raises(
        DataError, match="there is no `bbox`, and `segmentation` is neither polygons nor runs"
    ):
        load_parts(coco(tmp_path, [WHOLE | {"bbox": None, "segmentation": segmentation}]))


# --- groups of categories ---

ROOT = {"id": 0, "name": "bike-parts", "supercategory": "none"}
CHILDREN = [{"id": i, "name": name, "supercategory": "bike-parts"} for i, name in ((4, "wheel"), (9, "door"))]


@pytest.mark.case("use-S18", "six-5")
def test_a_category_that_only_groups_others_is_no_part(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train = load(coco(tmp_path, [WHOLE], categories=[ROOT, *CHILDREN]))
    assert names_of(train)[0] == {0: "wheel", 1: "door"}
    assert "left out bike-parts: a group of other categories or the background, without any" in caplog.text


@pytest.mark.case("use-S18", "six-5")
@pytest.mark.parametrize(
    ("categories", "parts"),
    [
        ([ROOT | {"id": 4}, *CHILDREN[1:]], ["bike-parts", "door"]),  # it has an annotation
        ([ROOT, {"id": 4, "name": "wheel", "supercategory": "wheel"}], ["bike-parts", "wheel"]),  # none below it
        ([ROOT | {"name": "wheel"}, {"id": 4, "name": "wheel", "supercategory": "wheel"}], ["wheel"]),
        ([ROOT, {"id": 1, "name": "round", "supercategory": "bike-parts"}, {"id": 4, "name": "wheel", "supercategory": "round"}], ["wheel"]),
        ([CHILDREN[0], CHILDREN[0], CHILDREN[1]], ["wheel", "door"]),  # one that stands there twice alike
        ([{"id": "4", "name": "wheel"}, {"id": 10, "name": "bell"}], ["wheel", "bell"]),
        ([{"id": "b", "name": "bell"}, {"id": 4, "name": "wheel"}], ["bell", "wheel"]),
    ],
)  # fmt: skip
def test_other_lists_of_categories(tmp_path, categories, parts):
    assert list(names_of(load(coco(tmp_path, [WHOLE], categories=categories)))[0].values()) == parts


@pytest.mark.case("use-S18", "six-5")
def test_a_group_that_is_annotated_in_one_split_is_a_part_in_all(tmp_path):
    coco(tmp_path, [WHOLE], categories=[ROOT, *CHILDREN])
    coco(tmp_path, [WHOLE | {"category_id": 0}], "val_coco.json", categories=[ROOT, *CHILDREN])
    splits, _ = load_parts(tmp_path)
    assert names_of(splits["train"]) == names_of(splits["validation"])
    assert names_of(splits)[0][0] == "bike-parts"


# --- boxes that are no pixels ---


@pytest.mark.case("use-S19")
@pytest.mark.parametrize("boxes", [[[0.1, 0.2, 0.5, 0.4]], [[0.1, 0.2, 0.9, 0.95], [0.3, 0.1, 1, 1]]])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_boxes_in_shares_are_refused(tmp_path, boxes, on_error):
    path = coco(tmp_path, [WHOLE | {"bbox": box} for box in boxes])
    with pytest.raises(DataError, match=r"train_coco.json: no box is larger than a pixel; .* multiply them"):
        load_parts(path, on_error)


@pytest.mark.case("use-S19")
def test_boxes_in_percent_are_refused(tmp_path):
    boxes = [[5, 10, 40, 50], [60, 20, 39.5, 70], [0, 0, 30, 30]]
    path = coco(tmp_path, [WHOLE | {"bbox": box} for box in boxes], size=(640, 480))
    with pytest.raises(
        DataError, match=r"all 3 boxes end within the first 100 pixels .* if these are percent"
    ):
        load_parts(path)
    boxes.append([200, 10, 40, 50])
    train = load(coco(tmp_path, [WHOLE | {"bbox": box} for box in boxes], size=(640, 480)))
    assert len(train[0]["boxes"]) == 4


@pytest.mark.case("use-S19")
def test_one_small_box_among_others_is_taken(tmp_path):
    train = load(coco(tmp_path, [WHOLE | {"bbox": [3, 3, 0.5, 0.5]}, WHOLE]))
    assert train[0]["boxes"][0] == [3, 3, 3.5, 3.5]


@pytest.mark.case("use-S19")
def test_boxes_of_corners(tmp_path):
    corners = [WHOLE | {"bbox": [3, 4, 23, 16], "area": 240}, WHOLE | {"bbox": [5, 5, 15, 9], "area": 40}]
    with pytest.raises(
        DataError, match=r"train_coco.json: by its `area` each `bbox` is left, top, right, bottom"
    ):
        load_parts(coco(tmp_path, corners))
    sizes = [WHOLE | {"bbox": [3, 4, 20, 12], "area": 150.5}, WHOLE | {"bbox": [5, 5, 10, 4], "area": 40}]
    assert len(load(coco(tmp_path, sizes))[0]["boxes"]) == 2
    with pytest.raises(DataError, match=r"lies outside .* are these left, top, right and bottom\?"):
        load_parts(coco(tmp_path, [WHOLE | {"bbox": [30, 20, 38, 28]}]))


# --- what the state is called ---


@pytest.mark.case("six-7")
def test_a_state_of_another_name(tmp_path):
    where = [
        {"condition": "dented"},
        {"attributes": {"condition": 0}},
        {"attributes": {"condition": "whole"}},
    ]
    where = [entry | {"bbox": [i, 2, 10, 8]} for i, entry in enumerate(where)]
    assert load(coco(tmp_path, where))[0]["states"] == [1, 0, 0]
    where = [{"attributes": {"Zustand": "dented", "state": "whole"}}]
    assert load(coco(tmp_path, where))[0]["states"] == [0]
    assert load(coco(tmp_path, where), state_attribute="Zustand")[0]["states"] == [1]
    with pytest.raises(
        DataError, match=r"has no `damage`; its attributes are Zustand, state \(--state_attribute"
    ):
        load_parts(tmp_path / "train_coco.json", state_attribute="damage")


@pytest.mark.case("six-7")
def test_states_of_other_types(tmp_path):
    path = coco(tmp_path, [{"state": 1.0}, {"state": "0", "bbox": [2, 2, 9, 9]}])
    assert load(path)[0]["states"] == [1, 0]
    ticked = [{"attributes": {"dented": True}}, {"attributes": {"dented": False}, "bbox": [2, 2, 9, 9]}]
    path = coco(tmp_path, ticked)
    with pytest.raises(DataError, match="unknown state 'true'; known are: whole, dented"):
        load_parts(path, state_attribute="dented")  # a tick is no number of a state
    path = coco(tmp_path, ticked, states=[])
    train = load(path, states=["false", "true"], state_attribute="dented")
    assert train[0]["states"] == [1, 0]


@pytest.mark.case("six-7")
def test_the_state_attribute_of_a_recipe(tmp_path, recipe):
    coco(tmp_path, [{"attributes": {"wear": "dented"}}])
    done = recipe("convert_parts", tmp_path, "--state_attribute", "wear", "--folder", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out" / "train_coco.json").read_text())
    assert [a["state"] for a in written["annotations"]] == [1]


@pytest.mark.case("six-7")
def test_a_model_is_evaluated_with_the_states_name_that_it_was_trained_with(tmp_path):
    model = build_model(
        id2label={0: "wheel", 1: "door"},
        id2state={0: "whole", 1: "dented"},
        absent_state=None,
        state_attribute="wear",
    )
    path = coco(tmp_path, [{"attributes": {"wear": "dented"}, "bbox": [5, 5, 30, 20]}], states=[])
    assert np.isfinite(model.evaluate(path)["loss"])


# --- names of photos ---


@pytest.mark.case("use-U4")
@pytest.mark.parametrize(
    ("listed", "on_disk"),
    [
        ("images\\1.jpg", "1.jpg"),
        (".\\images\\1.jpg", "1.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        ("a/b.JPG", "a/b.JPG"),
        ("./1.jpg", "1.jpg"),
        ("a%20b%C3%A9.jpg", "a bé.jpg"),
        ("images%2F100%25.jpg", "100%.jpg"),
        ("%.jpg", "%.jpg"),
        (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")),
        (unicodedata.normalize("NFD", "é.jpg"), unicodedata.normalize("NFC", "é.jpg")),
        ("caf%C3%A9.jpg", unicodedata.normalize("NFD", "café.jpg")),
        ("100%.jpg", "100%.jpg"),
    ],
)
@pytest.mark.parametrize("key", ["file_name", "path"])
def test_names_as_other_systems_write_them(tmp_path, listed, on_disk, key):
    path = coco(tmp_path, [WHOLE], images=[{"id": 7, key: listed}])
    target = tmp_path / "images" / on_disk
    target.parent.mkdir(exist_ok=True)
    (tmp_path / "images" / "1.jpg").rename(target)
    train = load(path)
    assert train[0]["image"]["path"] == str(target)
    assert train[0]["image_id"] == listed


@pytest.mark.case("use-U4")
@pytest.mark.parametrize("name", ["..\\..\\x.jpg", "%2e%2e/%2e%2e/x.jpg", "../x.jpg"])
def test_no_spelling_of_a_name_leads_out_of_the_folder(tmp_path, name):
    Image.new("RGB", (40, 30)).save(tmp_path / "x.jpg")
    (tmp_path / "a" / "b").mkdir(parents=True)
    path = coco(tmp_path / "a" / "b", [WHOLE], images=[{"id": 7, "file_name": name}])
    with pytest.raises(DataError, match=r"leads out of the folder|not on disk"):
        load_parts(path, images=tmp_path / "a" / "b" / "images")


# --- where the photos lie ---


def layout(folder, splits):
    """Photos and annotations at these places: split -> (annotations, folder of the photo)."""
    for number, (annotations, photos) in enumerate(splits.values()):
        path = coco(folder, [WHOLE | {"bbox": [1 + number, 2, 10, 8]}], "new.json")
        for file, target in ((path, annotations), (folder / "images" / "1.jpg", f"{photos}/1.jpg")):
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            file.rename(folder / target)
    return folder


LAYOUTS = {
    "COCO": ("annotations/instances_{}2017.json", "{}2017"),
    "COCO, other year": ("annotations/instances_{}2014.json", "images/{}2014"),
    "plain": ("annotations/{}.json", "images/{}"),
    "Roboflow": ("{}/_annotations.coco.json", "{}"),
    "beside": ("instances_{}.json", "images/{}"),
    "named after the split": ("{}.json", "imgs/{}"),
    "ours": ("{}_coco.json", "photos/{}"),
    "zipped": ("annotations/instances_{}2017.json", "{}2017"),
}


@pytest.mark.case("use-U5")
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_folders(tmp_path, name):
    annotations, photos = LAYOUTS[name]
    names = ("train", "valid") if name == "Roboflow" else ("train", "val")
    layout(tmp_path, {split: (annotations.format(split), photos.format(split)) for split in names})
    if name == "zipped":
        for path in (tmp_path / "annotations").iterdir():
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    splits, errors = load_parts(tmp_path)
    assert not errors.rows
    for number, split in enumerate(("train", "validation")):  # photos of one name, boxes tell whose they are
        row = splits[split][0]
        assert row["boxes"][0][0] == 1 + number
        assert row["image"]["path"] == str(tmp_path / photos.format(names[number]) / "1.jpg")
        alone = tmp_path / annotations.format(names[number])
        alone = alone.with_name(f"{alone.name}.gz") if name == "zipped" else alone
        assert load(alone)[0]["image"]["path"] == row["image"]["path"]


@pytest.mark.case("use-U5")
def test_a_file_with_a_mark_and_more_keys_than_needed(tmp_path):
    path = coco(tmp_path, [WHOLE], info={}, licenses=[], videos=[1], type="instances")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load(path)) == 1
    path.write_bytes(b"\x1f\x8b\x08 broken")
    with pytest.raises(DataError, match=r"train_coco.json: cannot be read"):
        load_parts(path)


# --- ids ---


@pytest.mark.case("use-U5", "use-O6")
@pytest.mark.parametrize(("image", "category"), [("7", "4"), (7.0, 4.0), (7, "4")])
def test_ids_of_another_type_than_in_the_lists(tmp_path, image, category):
    path = coco(tmp_path, [WHOLE | {"image_id": image, "category_id": category}])
    assert load(path)[0]["parts"] == [0]


@pytest.mark.case("use-U5")
def test_the_id_of_an_annotation_may_stand_twice(tmp_path):
    path = coco(tmp_path, [WHOLE, WHOLE | {"id": 1, "bbox": [5, 5, 9, 9], "area": 0}])
    assert len(load(path)[0]["boxes"]) == 2


@pytest.mark.case("use-U5", "use-B6")
@pytest.mark.parametrize("second", ["1.jpg", "./1.jpg", ".\\1.jpg"])
def test_a_photo_that_is_listed_under_two_ids_is_named(tmp_path, second):
    images = [
        {"id": 7, "file_name": "1.jpg"},
        {"id": 8, "file_name": second},
        {"id": 9, "file_name": "2.jpg"},
    ]
    boxes = [
        WHOLE | {"image_id": i} for i in (8, 9)
    ]  # the first of the two would pass for a photo without parts
    path = coco(tmp_path, boxes, images=images)
    (tmp_path / "images" / "2.jpg").write_bytes((tmp_path / "images" / "1.jpg").read_bytes())
    with pytest.raises(DataError, match=r"1.jpg: the photo is listed more than once, and they differ"):
        load_parts(path)
    splits, errors = load_parts(path, on_error="skip")
    assert splits["train"]["image_id"][:] == ["2.jpg"]
    assert len(errors.rows) == 1
    path = coco(tmp_path, [*boxes, WHOLE | {"image_id": 7}], images=images)
    splits, errors = load_parts(path, on_error="skip")
    assert splits["train"]["image_id"][:] == ["1.jpg", "2.jpg"]
    assert len(errors.rows) == 1
