import json
import shutil

import numpy as np
import pytest
from helpers.parts_files import coco, part, photo, write_photos
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from geohf.errors import DataError
from geohf.parts.convert import convert, statistics_of, write_coco, write_delftbikes
from geohf.parts.data import load_parts
from geohf.parts.vocabulary import BIKE_PARTS, STATES, names_of


def without_image(dataset) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "image"} for row in dataset]


# --- reading ---


@pytest.mark.case("use-O6")
def test_ids_names_and_states(tmp_path):
    path = coco(
        tmp_path,
        [
            {"state": 1, "trust": 0.5},
            {"category_id": 9, "bbox": [3, 4, 5, 6], "state": "whole"},
            {"bbox": [20, 4, 5, 6], "attributes": {"state": "dented"}},
        ],
    )
    splits, errors = load_parts(path)
    assert not errors.rows
    assert names_of(splits) == (
        {0: "wheel", 1: "door"},
        {0: "whole", 1: "dented"},
    )  # in the order of their ids
    row = splits["train"][0]
    assert (row["image_id"], row["width"], row["height"]) == ("1.jpg", 40, 30)
    assert row["parts"] == [0, 1, 0]  # a photo may show two wheels
    assert row["states"] == [1, 0, 1]
    assert row["boxes"] == [[1, 2, 11, 10], [3, 4, 8, 10], [20, 4, 25, 10]]
    assert row["trust"] == [0.5, 1, 1]


def test_without_a_list_of_states_ids_are_the_usual_ones(tmp_path):
    row = load_parts(coco(tmp_path, [{"state": 3}], states=[]))[0]["train"]
    assert names_of(row)[1] == dict(enumerate(STATES))
    assert row[0]["states"] == [3]


BAD = {
    "category": (
        {"category_id": 5},
        "unknown part: `category_id` 5 of annotation 2 is no category of the file",
    ),
    "no state": ({"state": None}, "annotation 2 has no `state`"),
    "state": ({"state": 6}, "unknown state 6; known are: whole, dented"),
    "photo": ({"image_id": 8}, "row annotation 2: `image_id` 8 is no image of the file"),
    "outside": ({"bbox": [35, 2, 10, 8]}, "lies outside the photo of 40 x 30"),
    "flat": ({"bbox": [3, 2, 10, 0]}, "has no area"),
    "three": ({"bbox": [3, 2, 10]}, "not four finite numbers"),
    "no box": ({"bbox": None}, "the box is None, not four numbers"),
    "trust": ({"trust": "much"}, "trust is 'much'"),
    "twice": ({"bbox": [1, 2, 10, 8]}, "the part stands in the photo 2 times, alike"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_annotations(tmp_path, case):
    change, message = BAD[case]
    path = coco(tmp_path, [{"state": 0}, {"state": 0, "bbox": [3, 2, 10, 8]} | change])
    with pytest.raises(DataError, match=message):
        load_parts(path)
    splits, errors = load_parts(path, on_error="skip")
    assert [len(row["parts"]) for row in splits["train"]] == [1]
    assert len(errors.rows) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": []}, "needs a list `categories`"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "id or name stands there already"),
        ({"states": [{"id": 1.5, "name": "a"}]}, "lacks an `id` or a `name`"),
        ({"states": [{"id": True, "name": "a"}]}, "lacks an `id` or a `name`"),
        ({"images": [{"id": 7}]}, "lacks `id` or `file_name`"),
        ({"images": [{"id": 7, "file_name": "1.jpg"}] * 2}, "`images` holds the id 7 twice"),
    ],
)
def test_bad_files(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load_parts(coco(tmp_path, [{"state": 0}], **change))


@pytest.mark.case("use-B6")
def test_a_photo_without_annotations_stays(tmp_path):
    images = [{"id": 7, "file_name": "1.jpg"}, {"id": 8, "file_name": "2.jpg"}]
    path = coco(tmp_path, [{"state": 0}], images=images)
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "2.jpg")
    splits, errors = load_parts(path)
    assert not errors.rows
    assert splits["train"]["parts"][:] == [[0], []]
    write_coco(tmp_path / "again.json", splits["train"])
    again = load_parts(tmp_path / "again.json")[0]["train"]
    assert without_image(again) == without_image(splits["train"])


def test_splits_must_have_the_same_names(tmp_path):
    content = coco(tmp_path, [{"state": 0}]).read_text()
    (tmp_path / "val_coco.json").write_text(content.replace('"wheel"', '"tyre"'))
    with pytest.raises(
        DataError, match=r"val_coco.json: its parts are .*, and those of .*train_coco.json .* same order"
    ):
        load_parts(tmp_path)


@pytest.mark.case("use-O6")
def test_the_layout_of_roboflow(tmp_path):
    path = coco(tmp_path, [{"state": 0}])
    (tmp_path / "images").rename(tmp_path / "train")
    path.rename(tmp_path / "train" / "_annotations.coco.json")
    assert len(load_parts(tmp_path)[0]["train"]) == 1


# --- writing, and the way back ---


def test_there_and_back(bikes, tmp_path):
    train = load_parts(bikes)[0]["train"]
    write_coco(tmp_path / "train_coco.json", train)
    there = load_parts(tmp_path / "train_coco.json", images=bikes / "train")[0]["train"]
    assert there.features == train.features
    assert without_image(there) == without_image(train)
    write_delftbikes(tmp_path / "train_annotations.json", there)
    ours, theirs = (json.loads((path / "train_annotations.json").read_text()) for path in (tmp_path, bikes))
    assert ours == theirs  # every name, state, number


def test_pycocotools_reads_what_is_written(bikes, tmp_path, capsys):
    train = load_parts(bikes)[0]["train"]
    write_coco(tmp_path / "c.json", train)
    found = statistics_of(train)
    read = COCO(str(tmp_path / "c.json"))
    assert len(read.imgs) == found["images"] == 24
    assert len(read.anns) == found["annotations"] == 24 * 22
    assert [read.cats[i]["name"] for i in sorted(read.cats)] == list(BIKE_PARTS)
    assert min(read.cats) == 1
    image = read.loadImgs(read.getImgIds()[5])[0]
    row = train[5]
    assert (image["file_name"], image["width"]) == (row["image_id"], row["width"])
    annotations = read.loadAnns(read.getAnnIds(imgIds=image["id"]))
    assert [a["category_id"] - 1 for a in annotations] == row["parts"]
    assert [a["state"] for a in annotations] == row["states"]
    x0, y0, x1, y1 = row["boxes"][0]
    assert annotations[0]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-3)
    assert annotations[0]["area"] == pytest.approx((x1 - x0) * (y1 - y0), abs=0.1)


coordinate = st.floats(0, 1900, allow_nan=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(coordinate, coordinate, st.floats(0.01, 100), st.floats(0.01, 100)), min_size=1, max_size=5
    )
)
def test_boxes_are_kept_to_a_thousandth_of_a_pixel_and_then_for_good(tmp_path_factory, sides):
    folder = tmp_path_factory.mktemp("b")
    sides = [(1000, 1000, 500, 500), *sides]  # or a file of boxes below a pixel is taken for shares
    parts = {name: part(box=box) for name, box in zip(BIKE_PARTS, sides, strict=False)}
    write_photos(folder, {"1.png": photo(2000, 2000, **parts)})
    Image.new("1", (2000, 2000)).save(folder / "train" / "1.png")
    loaded, boxes = load_parts(folder)[0]["train"], []
    for _ in range(3):
        boxes.append(np.array(loaded[0]["boxes"]))
        write_coco(folder / "c.json", loaded)
        loaded = load_parts(folder / "c.json", images=folder / "train")[0]["train"]
    given_boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in sides])
    np.testing.assert_allclose(boxes[0], given_boxes, atol=1e-3)
    np.testing.assert_allclose(boxes[1], boxes[0], atol=1.2e-3)
    assert np.array_equal(boxes[2], boxes[1])


def test_a_part_twice_has_no_place_in_the_other_layout(tmp_path):
    path = coco(tmp_path, [{"state": 0}, {"state": 0, "bbox": [5, 5, 9, 9]}])
    with pytest.raises(DataError, match=r"1.jpg: shows 'wheel' twice"):
        write_delftbikes(tmp_path / "train_annotations.json", load_parts(path)[0]["train"])
    assert not (tmp_path / "train_annotations.json").exists()


def test_conversion_with_a_validation_share(bikes, tmp_path):
    found = convert(bikes, tmp_path, validation=0.25)
    assert {split: counts["images"] for split, counts in found.items()} == {"train": 18, "validation": 6}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train_coco.json", "val_coco.json"]
    train = load_parts(tmp_path / "train_coco.json", images=bikes / "train", on_error="skip")[0]["train"]
    assert statistics_of(train) == found["train"]
    assert sum(found["train"]["states"].values()) == found["train"]["annotations"] == 18 * 22
    assert found["train"]["parts"] == dict.fromkeys(BIKE_PARTS, 18)
    with pytest.raises(DataError, match="layout must be one of coco, delftbikes, cvat"):
        convert(bikes, tmp_path, "pickle")


def test_conversion_beside_the_photos(bikes, tmp_path):
    shutil.copytree(bikes, tmp_path / "both")
    for _ in range(2):  # a second time nothing stands in its way
        found = convert(tmp_path / "both", tmp_path / "both", validation=0.25)
    assert list(load_parts(tmp_path / "both")[0]) == [
        "train"
    ]  # all photos of the one layout, no validation of the other
    (tmp_path / "both" / "train_annotations.json").unlink()
    splits, errors = load_parts(tmp_path / "both")  # all photos lie in the folder train
    assert {name: statistics_of(split) for name, split in splits.items()} == found
    assert errors.rows == []


def test_the_command(bikes, tmp_path, recipe):
    done = recipe("convert_parts", bikes, "--folder", tmp_path, "--validation", 0.25)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "split",
        "images",
        "annotations",
        *STATES,
    ]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")][:3] == ["train", "18", "396"]
    # in the folder of the photos both splits are found again
    (tmp_path / "images").symlink_to(bikes / "train")
    splits, _ = load_parts(tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"train": 18, "validation": 6}
    assert recipe("convert_parts", tmp_path, "--to", "delftbikes").returncode == 0
    assert (tmp_path / "val_annotations.json").is_file()
    done = recipe("convert_parts", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "no such file or folder" in done.stderr
