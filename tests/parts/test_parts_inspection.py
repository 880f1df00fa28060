import csv

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassError
from PIL import Image, ImageColor

from geohf.errors import DataError
from geohf.parts.configuration import PartStateConfig
from geohf.parts.outputs import inspection_rows, write_predictions
from geohf.parts.overlays import STATE_COLORS, overlay, state_colors, write_overlays
from geohf.parts.vocabulary import BIKE_PARTS, STATES
from geohf.report.classes import plot_confusion_counts
from geohf.report.tables import write_csv

ID2LABEL, ID2STATE = {0: "saddle", 1: "bell", 2: "lock"}, dict(enumerate(STATES))
PREDICTION = {
    "boxes": np.array([[10, 20, 60, 50], [70, 20, 90, 40], [70, 60, 95, 90], [12, 22, 58, 48]], np.float32),
    "labels": np.array([0, 1, 2, 0]),
    "scores": np.array([0.9, 0.4, 0.8, 0.6]),
    "states": np.array([1, 0, 2, 0]),
    "state_scores": np.array([0.7, 0.9, 0.95, 0.5]),
}
EMPTY = {key: value[:0] for key, value in PREDICTION.items()}


def test_one_row_a_part_a_photo():
    rows = inspection_rows([PREDICTION, EMPTY], ID2LABEL, ID2STATE, ["1.jpg", "2.jpg"])
    assert [(row["image_id"], row["part"]) for row in rows] == [
        (p, n) for p in ("1.jpg", "2.jpg") for n in ID2LABEL.values()
    ]
    saddle, bell, lock = rows[:3]
    assert saddle == {
        "image_id": "1.jpg", "part": "saddle", "present": True, "state": "damaged", "score": 0.9, "state_score": 0.7,
        "detections": 2, "xmin": 10.0, "ymin": 20.0, "xmax": 60.0, "ymax": 50.0,
    }  # fmt: skip
    assert (bell["present"], bell["state"], bell["score"], bell["xmin"]) == (False, "absent", 0.4, None)
    assert (lock["present"], lock["state"], lock["xmin"]) == (
        False,
        "absent",
        70.0,
    )  # told to be absent, and where
    assert all((row["present"], row["score"], row["detections"]) == (False, 0.0, 0) for row in rows[3:])


def test_the_threshold_decides_and_the_table_is_a_csv(tmp_path):
    rows = inspection_rows([PREDICTION], ID2LABEL, ID2STATE, score_threshold=0.3)
    assert [row["present"] for row in rows] == [True, True, False]
    write_csv(tmp_path / "inspection.csv", rows)
    with open(tmp_path / "inspection.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert read[1]["part"] == "bell"
    assert float(read[1]["xmax"]) == 90.0
    assert read[0]["image_id"] == "0"


def colors_along(picture, box, scale) -> set:
    """Colors on the upper edge of a box."""
    x0, y0, x1, _ = (round(float(v) * scale) for v in box)
    return {picture.getpixel((x, y0)) for x in range(x0 + 3, x1 - 3)}


def test_boxes_are_drawn_in_the_color_of_their_state():
    photo = Image.new("RGB", (120, 100), "black")
    prediction = {key: value[[0, 2]] for key, value in PREDICTION.items()}
    picture = overlay(photo, prediction, ID2LABEL, ID2STATE)
    assert picture.size == (720, 600 + 25)  # enlarged, with a legend
    orange, red = (ImageColor.getrgb(STATE_COLORS[state]) for state in ("damaged", "absent"))
    assert colors_along(picture, prediction["boxes"][0], 6) == {orange}
    assert colors_along(picture, prediction["boxes"][1], 6) == {red}
    dashed = overlay(photo, prediction, ID2LABEL, ID2STATE, hallucinated=[0])
    found = [dashed.getpixel((x, 120)) == orange for x in range(64, 356)]
    assert 0.3 < np.mean(found) < 0.7
    nothing = overlay(photo, prediction, ID2LABEL, ID2STATE, score_threshold=0.95)
    assert colors_along(nothing, prediction["boxes"][0], 6) == {(0, 0, 0)}


def test_overlay_files_and_hallucinations(tmp_path):
    photos = [Image.new("RGB", (120, 100), "black")] * 3
    target = {"boxes": [[10, 20, 60, 50]], "labels": [0], "states": [2]}
    paths = write_overlays(
        tmp_path / "o",
        photos,
        [PREDICTION] * 3,
        ID2LABEL,
        ID2STATE,
        ["a/1.jpg", "2.jpg", "2.png"],
        [target] * 3,
    )
    assert [path.name for path in paths] == ["a_1.png", "2.png", "2.png.png"]
    with Image.open(paths[0]) as image:
        edge = [image.getpixel((x, 120)) for x in range(64, 356)]
    assert 0.3 < np.mean([c == ImageColor.getrgb(STATE_COLORS["damaged"]) for c in edge]) < 0.7


def test_large_photos_shrink_and_names_stay_inside(tmp_path):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 3900, (22, 2))
    prediction = {
        "boxes": np.concatenate([corner, corner + 100], 1),
        "labels": np.arange(22),
        "scores": np.full(22, 0.99),
        "states": np.arange(22) % 4,
        "state_scores": np.ones(22),
    }
    picture = overlay(Image.new("L", (4000, 4000), 200), prediction, dict(enumerate(BIKE_PARTS)), ID2STATE)
    assert picture.size == (1600, 1625)


def test_other_states_have_colors_of_their_own():
    found = state_colors({0: "whole", 1: "dented", 2: "absent"})
    assert len(set(found.values())) == 3
    assert found[2] == STATE_COLORS["absent"]


def test_confusion_with_a_column_of_missed_ones(tmp_path):
    counts = [[30, 2, 0, 1, 7], [4, 12, 0, 0, 3], [9, 1, 0, 0, 40], [0, 0, 0, 0, 0]]
    plot_confusion_counts(tmp_path / "c.png", counts, STATES, [*STATES, "missed"])
    with Image.open(tmp_path / "c.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L"), float).std() > 8
    with pytest.raises(DataError, match=r"counts \(4, 5\) .* do not fit 4 rows, 4 columns"):
        plot_confusion_counts(tmp_path / "d.png", counts, STATES, STATES)
    with pytest.raises(DataError, match="empty"):
        plot_confusion_counts(tmp_path / "d.png", np.zeros((4, 5)), STATES, [*STATES, "missed"])


def test_an_absent_state_of_another_name_is_absent_everywhere(tmp_path):
    states = {0: "ganz", 1: "damaged", 2: "fehlt", 3: "occluded"}
    config = PartStateConfig(id2label=ID2LABEL, id2state=states, absent_state="fehlt", absent="detect")
    target = {"labels": np.array([0, 2]), "states": np.array([1, 2])}
    write_predictions(tmp_path, {"image_id": ["1.jpg"]}, [PREDICTION], [target], config)
    with open(tmp_path / "inspection.csv") as file:
        rows = {row["part"]: row for row in csv.DictReader(file)}
    assert [(row["present"], row["state"]) for row in rows.values()] == [
        ("True", "damaged"), ("False", "fehlt"), ("False", "fehlt")
    ]  # fmt: skip
    paths = [
        write_overlays(tmp_path / name, [Image.new("RGB", (100, 100))], [PREDICTION], ID2LABEL, states,
                       targets=[target], absent_state=name)[0]
        for name in ("fehlt", "ganz")
    ]  # fmt: skip
    assert paths[0].read_bytes() != paths[1].read_bytes()  # the lock is dashed


def test_an_absent_state_that_is_none_of_the_states_is_refused():
    with pytest.raises(
        StrictDataclassError, match=r"absent_state must be one of the states whole, gone, got 'Gone'"
    ):
        PartStateConfig(id2label=ID2LABEL, id2state={0: "whole", 1: "gone"}, absent_state="Gone")
    assert PartStateConfig(id2label=ID2LABEL, id2state={0: "whole", 1: "gone"}).absent_index is None
