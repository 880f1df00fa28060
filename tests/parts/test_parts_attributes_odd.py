"""Attributes in odd files: what they would get wrong without a word is told, and what tools write is read."""

import json

import numpy as np
import pytest
from helpers.parts_formats import coco_of, load, photos
from PIL import Image

from geohf.errors import DataError
from geohf.parts import PartStateConfig
from geohf.parts.baseline import constant_answer
from geohf.parts.evaluator import PartEvaluator
from geohf.parts.label_studio import read_label_config
from geohf.parts.rows import as_photos
from geohf.parts.vocabulary import require_attributes


def test_a_photo_listed_twice_with_other_attributes_is_told_in_two_ways(tmp_path):
    photos(tmp_path, "1.png", "2.png")
    box = {"category_id": 1, "bbox": [1, 2, 10, 10], "state": "intact"}
    told = [(1, "red"), (2, "blue"), (3, "red")]
    content = {
        "images": [{"id": i, "file_name": f"{1 + (i == 3)}.png"} for i, _ in told],
        "categories": [{"id": 1, "name": "wheel"}],
        "annotations": [box | {"id": i, "image_id": i, "color": color} for i, color in told],
    }
    with pytest.raises(DataError, match="they differ"):
        load(tmp_path, "coco.json", json.dumps(content), attributes=["color"])
    with pytest.raises(DataError, match="the first one counts"):
        load(tmp_path, "coco.json", json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "values", "told", "names"),
    [
        ("checkbox", "false", "true", ["false", "true"]),
        ("number", "0\n100\n1", "37", ["37"]),
        ("text", "new", "old", ["old"]),
    ],
)
def test_attributes_of_cvat_that_are_no_choices(tmp_path, kind, values, told, names):
    listed = (
        f"<attribute><name>wear</name><input_type>{kind}</input_type><values>{values}</values></attribute>"
    )
    box = '<box label="wheel" xtl="1" ytl="2" xbr="11" ybr="10"><attribute name="state">intact</attribute>'
    box += f'<attribute name="wear">{told}</attribute></box>'
    text = f"<annotations><meta><task><labels><label><name>wheel</name><attributes>{listed}</attributes></label></labels>"
    text += f'</task></meta><image id="0" name="1.png" width="40" height="30">{box}</image></annotations>'
    found = load(tmp_path, "cvat.xml", text, attributes=["wear"])
    assert found.features["wear"].feature.names == names
    assert names[found[0]["wear"][0]] == told


def test_tasks_of_label_studio_hold_the_alias_of_a_label(tmp_path):
    (tmp_path / "label_config.xml").write_text(
        '<View><RectangleLabels name="label"><Label value="Front wheel" alias="wheel"/><Label value="bell"/></RectangleLabels>'
        '<Choices name="state"><Choice value="As new" alias="intact"/></Choices></View>'
    )
    assert read_label_config(tmp_path / "label_config.xml") == (["wheel", "bell"], {"state": ["intact"]})


def test_an_attribute_called_like_the_score_of_another_is_refused():
    with pytest.raises(DataError, match="'color_score' is the column"):
        require_attributes({"color": ["red"], "color_score": ["high"]})
    require_attributes({"color_score": ["high"]})


@pytest.mark.parametrize("which", [0, 1])
def test_values_that_an_attribute_does_not_have_are_refused(which):
    photo = {"boxes": [[0, 0, 9, 9]], "labels": [0], "states": [0]}
    found = photo | {"scores": [0.9], "state_scores": [0.9], "attributes": [[0]]}
    pair = [found, photo | {"attributes": [[1]]}]
    pair[which] = pair[which] | {"attributes": [[2]]}
    evaluator = PartEvaluator(1, 3, attributes={"color": ["red", "blue"]})
    with pytest.raises(DataError, match="color hold 2, there are 2"):
        evaluator.add([pair[0]], [pair[1]])


def test_the_constant_answer_takes_no_attribute_of_absent_parts():
    config = PartStateConfig(
        id2label={0: "wheel"}, id2state={0: "intact", 1: "absent"}, attributes={"color": ["red", "blue"]}
    )
    row = {
        "image": Image.new("RGB", (40, 30)),
        "boxes": [[1, 1, 9, 9], [11, 1, 19, 9], [21, 1, 29, 9]],
        "parts": ["wheel"] * 3,
        "states": ["intact", "absent", "absent"],
        "color": ["blue", "red", "red"],
    }
    assert np.array_equal(constant_answer(as_photos([row]), config)["attributes"], [[1]])


@pytest.mark.parametrize("name", ["crowd", "box"])
def test_an_attribute_may_be_called_as_our_own_code_calls_things(tmp_path, name):
    """One called crowd made regions that are ignored of the boxes that have it."""
    photos(tmp_path, "1.png")
    boxes = [
        {"id": i, "image_id": 0, "category_id": i, "bbox": [i, 2, 9, 9], "state": 0, name: told}
        for i, told in enumerate(("no", "yes"), 1)
    ]
    content = json.dumps(coco_of(["1.png"], (40, 30)) | {"annotations": boxes})
    rows = load(tmp_path, "train.json", content, attributes=[name])
    assert (rows[0][name], rows[0]["iscrowd"]) == ([0, 1], [False, False])
    assert rows[0]["boxes"] == [[1, 2, 10, 11], [2, 2, 11, 11]]
