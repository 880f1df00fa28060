import pickle

import numpy as np
import pytest
import torch
from helpers.parts_models import build_model, build_query_model
from torchvision.transforms.v2.functional import to_pil_image

from geohf.errors import DataError
from geohf.parts.arguments import PartTrainingArguments
from geohf.parts.augment import Mosaic, make_augmentation, require_queries_for_mosaic
from geohf.parts.phase import PartPhaseTrainer
from geohf.parts.processing import PartCollator
from geohf.parts.rows import as_photos
from geohf.parts.vocabulary import BIKE_PARTS


def picture(boxes, height=40, width=60):
    """Black, with a box of another brightness for each."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        image[:, y0:y1, x0:x1] = 60 + 40 * number
    return image


BOXES = [[4, 5, 14, 17], [30, 20, 55, 36], [20, 2, 28, 9]]


def extents(image, value):
    rows, columns = np.nonzero(image[0].numpy() == value)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_flip_moves_boxes_with_their_pixels_and_keeps_their_order():
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    image, moved, keep = make_augmentation(flip=1.0, jitter=0, crop=0)(picture(BOXES), boxes)
    assert (image.dtype, tuple(image.shape), type(image)) == (torch.uint8, (3, 40, 60), torch.Tensor)
    assert moved.tolist() == [[60 - x1, y0, 60 - x0, y1] for x0, y0, x1, y1 in BOXES]
    assert keep.tolist() == [0, 1, 2]  # a front wheel stays one: nothing is exchanged
    for number, box in enumerate(moved.tolist()):
        assert extents(image, 60 + 40 * number) == box


def test_a_crop_cuts_boxes_with_their_pixels():
    augment = make_augmentation(flip=0.5, jitter=0, crop=0.6)
    torch.manual_seed(0)
    dropped = 0
    for _ in range(60):
        image, moved, keep = augment(picture(BOXES), torch.tensor(BOXES, dtype=torch.float32))
        height, width = image.shape[-2:]
        assert 40 * 0.4 - 1 <= height <= 40
        assert 60 * 0.4 - 1 <= width <= 60
        assert len(moved) == len(keep) >= 1
        for number, box in zip(keep.tolist(), moved.tolist(), strict=True):
            assert extents(image, 60 + 40 * number) == box
            x0, y0, x1, y1 = BOXES[number]
            assert (box[2] - box[0]) * (box[3] - box[1]) >= 0.5 * (x1 - x0) * (y1 - y0)
        dropped += 3 - len(keep)
    assert dropped > 10


def test_jitter_changes_colors_and_no_box():
    image = torch.randint(60, 200, (3, 20, 20), dtype=torch.uint8)
    boxes = torch.tensor([[1.5, 2.25, 7.75, 9.0]])
    torch.manual_seed(1)
    changed, moved, keep = make_augmentation(flip=0, jitter=0.3, crop=0)(image, boxes)
    assert torch.equal(moved, boxes)
    assert keep.tolist() == [0]
    assert 3 < (changed.float() - image.float()).abs().mean() < 60


def test_without_anything_nothing_changes():
    image, boxes = picture(BOXES), torch.tensor(BOXES, dtype=torch.float32)
    changed, moved, _ = make_augmentation(0, 0, 0)(image, boxes)
    assert torch.equal(changed, image)
    assert torch.equal(moved, boxes)


def test_photos_without_boxes():
    augment = make_augmentation(1.0, 0.2, 0.5)
    image, boxes, keep = augment(picture([]), torch.zeros(0, 4))
    assert boxes.shape == (0, 4)
    assert keep.shape == (0,)
    assert image.shape[0] == 3


def test_the_same_seed_gives_the_same_photo_in_a_worker_too():
    augment = make_augmentation()
    results = []
    for way in (augment, pickle.loads(pickle.dumps(augment))):
        torch.manual_seed(5)
        results.append(way(picture(BOXES), torch.tensor(BOXES, dtype=torch.float32)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_names_of_sides_forbid_a_flip():
    make_augmentation(part_names=BIKE_PARTS)
    make_augmentation(part_names=["bright_lamp", "front_wheel"])
    with pytest.raises(DataError, match=r"'mirror_left' tells left from right, which .* set flip to 0"):
        make_augmentation(part_names=["hood", "mirror_left"])
    make_augmentation(flip=0, part_names=["mirror_left"])
    for names in (["LeftDoor"], ["mirrorRight"], ["wheel_l", "wheel_r"], ["Tür links", "Tür rechts"]):
        with pytest.raises(DataError, match="tells left from right"):
            make_augmentation(part_names=["hood", *names])
    make_augmentation(part_names=["size_l", "bright", "leftover"], value_names=[["right", "wrong"]])
    with pytest.raises(DataError, match="'bent left' tells left from right"):
        make_augmentation(part_names=["hood"], value_names=[["whole"], ["bent left", "bent right"]])


@pytest.mark.parametrize("arguments", [{"flip": 1.5}, {"jitter": -0.1}, {"crop": 1.0}])
def test_numbers_out_of_range(arguments):
    with pytest.raises(DataError, match="must be at least 0 and at most"):
        make_augmentation(**arguments)


# ---- of four photos one, and at other scales


def truth_of(boxes, labels):
    """Truths in which all columns tell the same."""
    labels = torch.tensor(labels)
    columns = {
        "labels": labels,
        "states": labels + 10,
        "weights": labels / 10,
        "attributes": labels[:, None] + 20,
    }
    return columns | {"iscrowd": labels == 2, "boxes": torch.tensor(boxes, dtype=torch.float32)}


def test_four_photos_cover_the_fields_around_a_point(monkeypatch):
    """By hand: 60 x 40 pixels that meet at (15, 20), where a field of 15 x 20 shows half of a photo's width, from its left."""
    first = picture([[4, 4, 12, 20], [28, 0, 44, 40]])
    others = [torch.full((3, 40, 60), value, dtype=torch.uint8) for value in (200, 210, 220)]
    read = [
        (others[0], truth_of([[0, 0, 60, 40]], [5])),
        (others[1], truth_of([[0, 0, 20, 20], [0, 0, 60, 40]], [6, 2])),
        (others[2], truth_of([[0, 30, 60, 40]], [7])),
    ]
    chosen = []
    mosaic = Mosaic(range(100), lambda rows: chosen.extend(rows) or read, 1.0)
    rand, randint = torch.rand, torch.randint
    monkeypatch.setattr(torch, "rand", lambda size: rand(size) if size == () else torch.tensor([0.5, 0.0]))
    monkeypatch.setattr(
        torch,
        "randint",
        lambda high, size: randint(high, size) if size else torch.zeros((), dtype=torch.long),
    )
    given = truth_of([[4, 4, 12, 20], [28, 0, 44, 40]], [3, 4])
    photo, truth = mosaic(first, given)
    assert len(chosen) == 3
    assert (photo.dtype, tuple(photo.shape)) == (torch.uint8, (3, 40, 60))
    # scales: 0.5 above on the left (30 x 20, cut to 15), 0.75 above on the right (45 x 30, cut to 20), and so below
    assert photo[0, :20, 15:].unique().tolist() == [200]
    assert photo[0, 20:, :15].unique().tolist() == [210]
    assert photo[0, 20:, 15:].unique().tolist() == [220]
    assert photo[0, 4, 3] == 60  # within the first box, at half its place
    expected = [
        (3, [2, 2, 6, 10]),  # the box at 28 begins beyond the half
        (5, [15, 0, 60, 20]),  # two thirds are seen
        (6, [0, 20, 10, 30]),
        (
            2,
            [0, 20, 15, 40],
        ),  # half is seen, which is enough; below on the right 22.5 to 30 is beyond the field
    ]
    assert truth["boxes"].tolist() == [box for _, box in expected]
    labels = truth["labels"]
    assert labels.tolist() == [label for label, _ in expected]
    assert torch.equal(truth["states"], labels + 10)
    assert torch.equal(truth["attributes"][:, 0], labels + 20)
    assert torch.equal(truth["weights"], labels / 10)
    assert torch.equal(truth["iscrowd"], labels == 2)
    assert given["labels"].tolist() == [3, 4]  # what was given stays


def rows_of(count=6):
    """Photos of one part, each in its own place, color and size."""
    boxes = [[4 + 3 * i, 5 + i, 20 + 3 * i, 17 + i] for i in range(count)]
    pictures = [picture([box], 40 - i, 60 - 2 * i) for i, box in enumerate(boxes)]
    return [
        {"image": to_pil_image(p), "boxes": [box], "parts": [i % 3], "states": [i % 2]}
        for i, (p, box) in enumerate(zip(pictures, boxes, strict=True))
    ]


def test_boxes_of_a_mosaic_lie_around_what_they_name():
    """Bright pixels are those of boxes alone, whatever was drawn."""
    rows = rows_of()
    read = PartCollator(build_model()).read
    mosaic = Mosaic(rows, read, 1.0)
    torch.manual_seed(0)
    for _ in range(12):
        photo, truth = mosaic(*read(rows[:1])[0])
        inside = torch.zeros(photo.shape[-2:], dtype=torch.bool)
        for x0, y0, x1, y1 in truth["boxes"].tolist():
            assert 0 <= x0 < x1 <= 60
            assert 0 <= y0 < y1 <= 40
            assert photo[0, int((y0 + y1) / 2), int((x0 + x1) / 2)] == 60
            inside[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = True
        assert int(photo[0][inside].sum()) >= 0.4 * int(
            photo[0].sum()
        )  # what is left of dropped ones is the rest
        assert set(zip(truth["labels"].tolist(), truth["states"].tolist(), strict=True)) <= {
            (i % 3, i % 2) for i in range(6)
        }


def test_mosaics_are_drawn_from_the_seed_in_so_many_photos_as_were_asked_for():
    rows = rows_of()
    collator = PartCollator(build_model())
    collator.changes = [Mosaic(rows, collator.read, 0.5)]
    batches = []
    for _ in range(2):
        torch.manual_seed(3)
        batches.append([collator(rows[:1]) for _ in range(60)])
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert torch.equal(one["boxes"], other["boxes"])
    plain = PartCollator(build_model())(rows[:1])["pixel_values"]
    assert 20 < sum(not torch.equal(batch["pixel_values"], plain) for batch in batches[0]) < 40
    with pytest.raises(DataError, match="mosaic must be a number from 0 to 1"):
        Mosaic(rows, collator.read, 1.5)


def test_photos_at_other_scales_keep_their_boxes_as_shares():
    model, rows = build_model(), rows_of()
    plain, scaled = PartCollator(model)(rows), PartCollator(model, multi_scale=0.5)
    torch.manual_seed(0)
    found = scaled(rows)
    assert found["pixel_values"].shape == plain["pixel_values"].shape
    assert torch.equal(found["boxes"], plain["boxes"])
    ratios = found["image_sizes"] / plain["image_sizes"]
    assert float(ratios.min()) > 0.47
    assert float(ratios.max()) <= 1
    assert float(ratios.amax(1).std()) > 0.05
    for pixels, (h, w) in zip(found["pixel_values"], found["image_sizes"].tolist(), strict=True):
        assert float(pixels[:, h:].abs().sum() + pixels[:, :, w:].abs().sum()) == 0
    with pytest.raises(DataError, match="multi_scale must be at least 0 and below 1"):
        PartCollator(model, multi_scale=1.0)


def test_more_parts_in_four_photos_than_queries_are_refused():
    rows = [{**row, "boxes": row["boxes"] * 3, "parts": [0, 1, 2], "states": [0, 0, 2]} for row in rows_of()]
    photos = as_photos(rows)
    require_queries_for_mosaic(photos, build_model())
    require_queries_for_mosaic(photos, build_query_model("d_fine"))  # 4 x 2 of 12, the third is absent
    with pytest.raises(
        DataError, match=r"four photos may show 12 parts, and d_fine finds at most 11: set num_queries"
    ):
        require_queries_for_mosaic(
            photos, build_query_model("d_fine", detector={"num_queries": 11}, absent="detect")
        )
    alone = as_photos([*rows[:1], *rows_of()[1:]])  # the fullest photo may be drawn four times
    with pytest.raises(DataError, match="four photos may show 12 parts"):
        require_queries_for_mosaic(
            alone, build_query_model("d_fine", detector={"num_queries": 11}, absent="detect")
        )


@pytest.mark.parametrize("option", ["paste_rare", "mosaic", "multi_scale"])
def test_what_a_collator_of_ones_own_does_not_hear_is_refused(tmp_path, option):
    model = build_model()
    off = {"use_cpu": True, "eval_strategy": "no", "save_strategy": "no"}
    args = PartTrainingArguments(output_dir=str(tmp_path), **off, **{option: 0.5})
    with pytest.raises(DataError, match=f"--{option}: the data_collator that was given"):
        PartPhaseTrainer(model, args, PartCollator(model), train_dataset=as_photos(rows_of()))
