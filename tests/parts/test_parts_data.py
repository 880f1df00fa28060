import json
import logging
import shutil

import numpy as np
import pytest
from helpers.parts_files import part, photo, write_photos
from PIL import Image, ImageDraw

from geohf.errors import DataError
from geohf.parts.data import load_parts, split_parts, state_table
from geohf.parts.vocabulary import BIKE_PARTS, STATES, names_of
from geohf.vision.images import open_image

ABSENT, DAMAGED = STATES.index("absent"), STATES.index("damaged")


def parts_of(row) -> dict:
    """Part name -> (state, box, trust) of a row."""
    return {
        BIKE_PARTS[p]: (STATES[s], b, pytest.approx(t))
        for p, s, b, t in zip(row["parts"], row["states"], row["boxes"], row["trust"], strict=True)
    }


# --- what is loaded ---


def test_columns_of_the_sample(bikes):
    splits, errors = load_parts(bikes)
    train = splits["train"]
    assert not errors.rows
    assert list(splits) == ["train"]
    assert len(train) == 24
    id2label, id2state = names_of(splits)
    assert id2label == dict(enumerate(sorted(BIKE_PARTS)))
    assert list(id2state.values()) == ["intact", "damaged", "absent", "occluded"]
    truth = json.loads((bikes / "train_annotations.json").read_text())
    row = train[3]
    entry = truth[row["image_id"]]
    assert (row["width"], row["height"]) == open_image(row["image"]).size == (96, 72)
    assert len(row["parts"]) == 22
    for number, state, box, trust in zip(
        row["parts"], row["states"], row["boxes"], row["trust"], strict=True
    ):
        told = entry["parts"][id2label[number]]
        sides = told["absolute_bounding_box"]
        assert id2state[state] == told["object_state"]
        assert trust == pytest.approx(told["trust"])
        wanted = [sides["left"], sides["top"], sides["left"] + sides["width"], sides["top"] + sides["height"]]
        assert box == pytest.approx(wanted, abs=1e-4)


def test_names_count_and_not_the_order(tmp_path):
    entry = photo(
        whatever=part(None, (1, 2, 3, 4), "0.25", object_state_class=3, part_name="steer"),
        bell=part("damaged", object_state_class=1, trust=None),
    )
    entry["image"]["filename"] = "7.jpg"
    entry["image"]["extra"] = "ignored"
    folder = write_photos(tmp_path, {"7.jpg": dict(reversed(entry.items()))})
    row = load_parts(folder)[0]["train"][0]
    assert parts_of(row) == {
        "steer": ("occluded", [1, 2, 4, 6], 0.25),
        "bell": ("damaged", [4, 6, 14, 14], 1.0),
    }


def test_a_key_may_be_another_name_than_the_file(tmp_path):
    entry = photo()
    entry["image"]["filename"] = "a.jpg"
    folder = write_photos(tmp_path, {"a.jpg": {}})
    (folder / "train_annotations.json").write_text(json.dumps({"48682": entry}))
    assert load_parts(folder)[0]["train"]["image_id"][:] == ["a.jpg"]


def test_splits_of_a_folder_and_photos_elsewhere(tmp_path):
    write_photos(tmp_path, {"1.jpg": photo()})
    write_photos(tmp_path, {"2.jpg": photo(), "3.jpg": photo()}, split="val")
    splits, _ = load_parts(tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"train": 1, "validation": 2}
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    only, _ = load_parts(tmp_path / "val_annotations.json", images=tmp_path / "elsewhere")
    assert only["train"]["image_id"][:] == ["2.jpg", "3.jpg"]


def test_other_parts_and_states(tmp_path):
    folder = write_photos(tmp_path, {"1.jpg": photo(door=part("dented"), hood=part("whole"))})
    with pytest.raises(DataError, match="unknown part 'door'"):
        load_parts(folder)
    splits, _ = load_parts(folder, parts=["hood", "door"], states=["whole", "dented"])
    assert names_of(splits) == ({0: "hood", 1: "door"}, {0: "whole", 1: "dented"})
    assert splits["train"][0]["parts"] == [1, 0]


def test_a_box_may_reach_over_the_edge_by_rounding(tmp_path):
    folder = write_photos(tmp_path, {"1.jpg": photo(bell=part(box=(-0.6, 20, 20, 10.9)))})
    box = load_parts(folder)[0]["train"][0]["boxes"][0]
    assert box == pytest.approx([0, 20, 19.4, 30], abs=1e-5)


def test_trust_threshold(tmp_path, caplog):
    trusts = {"1.jpg": (0.3, 0.8), "2.jpg": (0.1, 0.2)}
    photos = {
        name: photo(bell=part(trust=a), saddle=part("damaged", trust=b)) for name, (a, b) in trusts.items()
    }
    folder = write_photos(tmp_path, photos)
    with caplog.at_level(logging.WARNING):
        train = load_parts(folder, min_trust=0.5)[0]["train"]
    assert train["image_id"][:] == ["1.jpg"]
    assert list(parts_of(train[0])) == ["saddle"]
    assert "left out 3 parts trusted less than 0.5" in caplog.text
    with pytest.raises(DataError, match="no photo with a part that is trusted 1"):
        load_parts(folder, min_trust=1.0)
    with pytest.raises(DataError, match="min_trust must be at least 0 and at most 1"):
        load_parts(folder, min_trust=85)


@pytest.mark.parametrize(
    ("name", "mode", "value"),
    [("g.png", "L", 90), ("c.jpg", "CMYK", (0, 90, 10, 60)), ("s.png", "I;16", 20_000), ("a.png", "RGBA", (9, 9, 9, 80))],
)  # fmt: skip
def test_gray_cmyk_and_16_bit_photos(tmp_path, name, mode, value):
    folder = write_photos(tmp_path, {name: photo()})
    Image.new(mode, (40, 30), value).save(folder / "train" / name)
    row = load_parts(folder)[0]["train"][0]
    opened = open_image(row["image"])
    assert (opened.mode, opened.size) == ("RGB", (40, 30))
    gray = np.asarray(opened.convert("L"), float).mean()
    assert gray == pytest.approx({"L": 90, "I;16": 20_000 / 257}.get(mode, gray), abs=1)
    assert parts_of(row)["saddle"][1] == [4, 6, 14, 14]


# --- photos that are stored turned ---


def save_turned(path, orientation, box):
    """A black photo, 40 x 30 when upright, with a white box, whose pixels are stored as the orientation says."""
    image = Image.new("L", (40, 30))
    ImageDraw.Draw(image).rectangle([box[0], box[1], box[2] - 1, box[3] - 1], 255)
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = image.transpose(back[orientation]) if orientation in back else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    return stored


def white_box(image) -> list[int]:
    rows, columns = np.nonzero(np.asarray(image.convert("L")) > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


# a mirrored or half turned photo has the same width and height: its boxes are taken to be upright
FRAMES = {"upright": range(1, 9), "unknown": range(1, 9), "stored": (1, 5, 6, 7, 8)}


@pytest.mark.case("use-O6")
@pytest.mark.parametrize(
    ("frame", "orientation"), [(frame, o) for frame, all_ in FRAMES.items() for o in all_]
)
def test_boxes_of_turned_photos_stay_on_their_parts(tmp_path, frame, orientation):
    upright = [5, 3, 17, 10]
    folder = write_photos(tmp_path, {"1.png": {}})
    stored = save_turned(folder / "train" / "1.png", orientation, upright)
    if frame == "stored":
        x0, y0, x1, y1 = white_box(stored)
        entry = photo(*stored.size, bell=part(box=(int(x0), int(y0), int(x1 - x0), int(y1 - y0))))
    else:
        size = (40, 30) if frame == "upright" else (None, None)
        entry = photo(*size, bell=part(box=(5, 3, 12, 7)))
    (folder / "train_annotations.json").write_text(json.dumps({"1.png": entry}))
    row = load_parts(folder)[0]["train"][0]
    assert (row["width"], row["height"]) == (40, 30)
    assert row["boxes"][0] == white_box(open_image(row["image"])) == upright


# --- photos without any part ---


@pytest.mark.case("use-B6")
def test_a_photo_without_any_part_stays(tmp_path, caplog):
    folder = write_photos(tmp_path, {"1.jpg": photo(), "2.jpg": photo() | {"parts": {}}})
    with caplog.at_level(logging.WARNING):
        splits, errors = load_parts(folder)
    assert not errors.rows
    row = splits["train"][1]
    assert row["image_id"] == "2.jpg"
    assert row["boxes"] == row["parts"] == row["states"] == row["trust"] == row["iscrowd"] == []
    assert "[train]: 1 of 2 photos have no part: they count as showing none" in caplog.text
    assert state_table(splits["train"])[1].sum() == 0
    write_photos(tmp_path / "none", {"1.jpg": photo() | {"parts": {}}})
    with pytest.raises(DataError, match="no photo with a part"):
        load_parts(tmp_path / "none")


@pytest.mark.case("use-B6")
def test_a_photo_whose_parts_cannot_be_used_does_not_show_that_there_are_none(tmp_path):
    photos = {"1.jpg": photo(), "2.jpg": photo(bell=part("broken")), "3.jpg": photo(bell=part(trust=0.1))}
    splits, errors = load_parts(write_photos(tmp_path, photos), on_error="skip", min_trust=0.5)
    assert splits["train"]["image_id"][:] == ["1.jpg"]
    assert [row["row"] for row in errors.rows] == ["2.jpg, bell"]


# --- bad input: a message that says where and what, and skipping that counts ---

BAD_PARTS = {
    "outside": (part(box=(30, 5, 20, 8)), "the box lies outside the photo of 40 x 30 pixels: left 30, top 5"),
    "negative": (part(box=(-9, 5, 20, 8)), "lies outside"),
    "flat": (part(box=(3, 5, 0, 8)), "the box has no area: left 3, top 5, width 0"),
    "backwards": (part(box=(9, 5, -4, 8)), "the box has no area"),
    "beyond": (part(box=(40.5, 5, 0.4, 8)), "no area within the photo"),
    "nan": (part(box=(float("nan"), 5, 4, 8)), "not four finite numbers"),
    "text": (part(box=("left", 5, 4, 8)), "not four numbers"),
    "boxless": (part(absolute_bounding_box={"left": 1}), "without one of left, top, width, height"),
    "state": (part("broken"), "unknown state 'broken'; known are: intact, damaged, absent, occluded"),
    "misspelt": (part("ocluded"), r"unknown state 'ocluded' \(did you mean 'occluded'\?\)"),
    "class": (part(None, object_state_class=7), "unknown state 7 .* known are 0 to 3"),
    "conflict": (part("intact", object_state_class=1), "'intact' but `object_state_class` 1 is 'damaged'"),
    "trust": (part(trust="high"), "trust is 'high', not a number from 0 to 1"),
    "nan trust": (part(trust=float("nan")), "trust is nan, not a number"),
    "percent": (part(trust=85), "trust is 85, not a number from 0 to 1"),
    "name": (part(part_name="sadle"), r"unknown part 'sadle' \(did you mean 'saddle'\?\)"),
    "no object": ("damaged", "the part is 'damaged', not an object"),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_bad_parts(tmp_path, case):
    entry, message = BAD_PARTS[case]
    folder = write_photos(tmp_path, {"1.jpg": photo(), "2.jpg": photo(steer=part(), saddle=entry)})
    with pytest.raises(DataError, match=message) as caught:
        load_parts(folder)
    assert "train_annotations.json, row 2.jpg, " in str(caught.value)
    splits, errors = load_parts(folder, on_error="skip")
    assert [list(parts_of(row)) for row in splits["train"]] == [["saddle", "bell"], ["steer"]]
    assert len(errors.rows) == 1


def test_a_part_that_stands_twice(tmp_path):
    folder = write_photos(
        tmp_path,
        {
            "1.jpg": photo(a=part(part_name="bell"), b=part(part_name="bell"), lock=part()),
            "2.jpg": photo(a=part(part_name="bell"), b=part("damaged", part_name="bell"), lock=part()),
        },
    )
    with pytest.raises(DataError, match=r"1.jpg, bell: the part stands in the photo 2 times, alike"):
        load_parts(folder)
    splits, errors = load_parts(folder, on_error="skip")
    # which of two different ones is right cannot be known
    assert [sorted(parts_of(row)) for row in splits["train"]] == [["bell", "lock"], ["lock"]]
    assert "2 times, and they differ" in errors.rows[1]["reason"]


def test_keys_that_stand_twice_in_the_json(tmp_path):
    folder = write_photos(tmp_path, {"1.jpg": photo()})
    bell = json.dumps(part("damaged"))
    size = json.dumps(photo()["image"])
    entry = f'{{"image": {size}, "parts": {{"bell": {bell}, "lock": {bell}, "bell": {bell}}}}}'
    (folder / "train_annotations.json").write_text(f'{{"1.jpg": {entry}, "1.jpg": {entry}}}')
    with pytest.raises(DataError) as caught:
        load_parts(folder)
    assert "1.jpg: the photo is listed more than once" in str(caught.value)
    assert "1.jpg, bell: the part stands in the photo 2 times, alike" in str(caught.value)


def truncate(path):
    path.write_bytes(path.read_bytes()[:300])


BAD_PHOTOS = {
    "missing": (lambda path: path.unlink(), photo(), "the photo is not on disk, in .*train"),
    "broken": (truncate, photo(), "is broken or truncated"),
    "no image": (lambda path: path.write_text("hello"), photo(), "is not an image"),
    "no parts": (None, {"image": {}}, "the photo's entry has no `parts`"),
    "size": (None, photo(400, 300), "is listed as 400 x 300 pixels but has 40 x 30"),
    "no size": (None, photo("wide", 30), "width and height are 'wide' and 30"),
}


@pytest.mark.parametrize("case", BAD_PHOTOS)
def test_bad_photos(tmp_path, case):
    spoil, entry, message = BAD_PHOTOS[case]
    folder = write_photos(tmp_path, {"1.jpg": photo(), "2.jpg": entry})
    if spoil:
        spoil(folder / "train" / "2.jpg")
    with pytest.raises(DataError, match=message) as caught:
        load_parts(folder)
    assert "row 2.jpg: " in str(caught.value)
    splits, errors = load_parts(folder, on_error="skip")
    assert splits["train"]["image_id"][:] == ["1.jpg"]
    assert {row["row"] for row in errors.rows} == {"2.jpg"}


def test_a_photo_that_no_annotation_names(tmp_path):
    folder = write_photos(tmp_path, {"1.jpg": photo()})
    Image.new("RGB", (40, 30)).save(folder / "train" / "9.jpg")
    with pytest.raises(DataError, match=r"row 9.jpg: the photo in .*train has no annotation"):
        load_parts(folder)
    splits, errors = load_parts(folder, on_error="skip")
    assert len(splits["train"]) == len(errors.rows) == 1


def test_photos_shared_by_two_splits_are_not_stray(tmp_path):
    write_photos(tmp_path, {"1.jpg": photo()}, split="images")
    write_photos(tmp_path, {"2.jpg": photo()}, split="val")
    (tmp_path / "val" / "2.jpg").rename(tmp_path / "images" / "2.jpg")
    (tmp_path / "images_annotations.json").rename(tmp_path / "train_annotations.json")
    splits, errors = load_parts(tmp_path)
    assert not errors.rows
    assert [len(split) for split in splits.values()] == [1, 1]


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/outside.jpg"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    folder = write_photos(tmp_path / "in", {"1.jpg": photo()})
    Image.new("RGB", (40, 30)).save(tmp_path / "outside.jpg")
    annotations = {"1.jpg": photo(), name: photo()}
    (folder / "train_annotations.json").write_text(json.dumps(annotations))
    with pytest.raises(DataError, match="leads out of the folder"):
        load_parts(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object, but is a list"),
        ('{"a": 1}', "neither COCO's `images` and `annotations`, nor photos with `parts`"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_that_are_no_annotations(tmp_path, content, message):
    path = tmp_path / "train_annotations.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_parts(path)


def test_folders_without_annotations(tmp_path):
    with pytest.raises(
        DataError, match=r"holds no annotations; looked for train_annotations.json, train_coco"
    ):
        load_parts(tmp_path)
    write_photos(tmp_path, {"1.jpg": photo()}, split="test")
    with pytest.raises(DataError, match="has no split 'train' but test"):
        load_parts(tmp_path)


# --- datasets of the Hub ---


def test_a_dataset_of_the_hub(hub, bikes):
    splits, _ = load_parts(bikes)
    splits["train"].select(range(5)).push_to_hub("org/bikes")
    again, errors = load_parts("org/bikes")
    assert not errors.rows
    for ours, theirs in zip(splits["train"].select(range(5)), again["train"], strict=True):
        assert np.array_equal(open_image(ours.pop("image")), open_image(theirs.pop("image")))
        assert ours == theirs
    trusted, _ = load_parts("org/bikes", min_trust=0.9)
    assert all(trust > 0.8999 for row in trusted["train"]["trust"] for trust in row)  # stored in float32
    assert sum(map(len, trusted["train"]["parts"])) == sum(
        trust >= np.float32(0.9) for row in again["train"]["trust"] for trust in row
    )


def test_bad_datasets_of_the_hub(hub, bikes):
    train = load_parts(bikes)[0]["train"].select(range(3))
    train.map(lambda row, i: row | {"width": row["width"] + (i == 1)}, with_indices=True).push_to_hub(
        "org/bad"
    )
    with pytest.raises(
        DataError, match=r"org/bad \[train\], row 1, .*: is listed as 97 x 72 pixels but has 96 x 72"
    ):
        load_parts("org/bad")
    assert len(load_parts("org/bad", on_error="skip")[0]["train"]) == 2
    train.remove_columns("parts").push_to_hub("org/less")
    with pytest.raises(DataError, match=r"org/less \[train\]: column 'parts' is missing"):
        load_parts("org/less")
    with pytest.raises(DataError, match="no such file or folder"):
        load_parts("org/nowhere")


# --- splits ---


def test_stratified_splits_share_out_every_state(bikes):
    train = load_parts(bikes)[0]["train"]
    splits = split_parts(train, validation=0.25, test=0.25)
    names = [name for split in splits.values() for name in split["image_id"]]
    assert sorted(names) == sorted(train["image_id"])
    assert {name: len(split) for name, split in splits.items()} == {"train": 12, "validation": 6, "test": 6}
    shares = {
        name: state_table(split).sum((0, 1)) / state_table(train).sum((0, 1))
        for name, split in splits.items()
    }
    np.testing.assert_allclose(shares["validation"], 0.25, atol=0.08)
    again = split_parts(train, validation=0.25, test=0.25)
    assert [s["image_id"][:] for s in splits.values()] == [s["image_id"][:] for s in again.values()]
    other = split_parts(train, validation=0.25, test=0.25, seed=1)
    assert splits["test"]["image_id"][:] != other["test"]["image_id"][:]


def test_rare_states_reach_every_split(tmp_path):
    # 4 of 40 photos show the only damaged bells: by chance a split of a quarter often gets none
    photos = {
        f"{i}.jpg": photo(bell=part("damaged" if i < 4 else "intact"), saddle=part()) for i in range(40)
    }
    train = load_parts(write_photos(tmp_path, photos))[0]["train"]
    for seed in range(8):
        splits = split_parts(train, validation=0.25, test=0.25, seed=seed)
        found = {name: state_table(split)[:, :, DAMAGED].sum() for name, split in splits.items()}
        assert found == {"train": 2, "validation": 1, "test": 1}


@pytest.mark.parametrize("how", ["stratified", "random"])
def test_versions_of_a_photo_are_never_divided(tmp_path, how):
    """As Roboflow writes three augmented ones of each: a model that trained on two of them has seen the third."""
    names = [f"{i}_jpg.rf.{i:02d}{version}abcdef.jpg" for version in range(3) for i in range(12)]
    train = load_parts(write_photos(tmp_path, dict.fromkeys(names, photo())))[0]["train"]
    splits = split_parts(train, how, validation=0.25, test=0.25)
    photos = {key: {name.split("_")[0] for name in split["image_id"]} for key, split in splits.items()}
    assert {key: (len(split), len(photos[key])) for key, split in splits.items()} == {
        "train": (18, 6),
        "validation": (9, 3),
        "test": (9, 3),
    }
    assert not photos["train"] & photos["validation"] | photos["test"] & photos["validation"]


@pytest.mark.parametrize("how", ["stratified", "random"])
def test_a_photo_under_two_names_is_never_divided(tmp_path, how):
    names = [f"{i}{copy}.jpg" for i in range(12) for copy in ("", " (1)")]
    folder = write_photos(tmp_path, dict.fromkeys(names, photo()))
    for i in range(12):
        shutil.copy(folder / "train" / f"{i}.jpg", folder / "train" / f"{i} (1).jpg")
    splits = split_parts(load_parts(folder)[0]["train"], how, validation=0.25, test=0.25)
    shown = {key: {name[:-4].split(" ")[0] for name in split["image_id"]} for key, split in splits.items()}
    assert {key: (len(split), len(shown[key])) for key, split in splits.items()} == {
        "train": (12, 6),
        "validation": (6, 3),
        "test": (6, 3),
    }


def test_random_splits_and_bad_ones(bikes):
    train = load_parts(bikes)[0]["train"]
    splits = split_parts(train, "random", validation=0.25, test=0.0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 18, "validation": 6}
    with pytest.raises(DataError, match="stratified or random"):
        split_parts(train, "blocks")
    with pytest.raises(DataError, match="too few"):
        split_parts(train.select(range(2)))
    with pytest.raises(DataError, match="at least 0 and leave some"):
        split_parts(train, validation=0.6, test=0.5)
