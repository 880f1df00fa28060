"""Parts in rare states are pasted over the same part of other training photos."""

import json

import numpy as np
import pytest
import torch
from helpers.parts_models import TINY, build_model, parse
from PIL import Image

from geohf import PartStateTrainer
from geohf.errors import DataError
from geohf.parts.augment import StatePaste
from geohf.parts.data import load
from geohf.parts.modeling import make_model
from geohf.parts.processing import PartCollator, open_photo
from geohf.parts.rows import as_photos

WHEEL, BELL = 0, 1
INTACT, DAMAGED, ABSENT = 0, 1, 2


def row(color, *parts):
    """A photo of one color, 40 wide and 30 high; parts are (part, state, box) or (part, state, box, crowd)."""
    columns = list(zip(*(part if len(part) == 4 else (*part, 0) for part in parts), strict=True))
    labels = dict(zip(("parts", "states", "boxes", "iscrowd"), map(list, columns), strict=True))
    return {"image": Image.new("RGB", (40, 30), (color,) * 3)} | labels


# one damaged wheel among intact ones, 8 x 6
BROKEN = row(200, (WHEEL, DAMAGED, [2, 3, 10, 9]))
WHOLE = [row(20 + i, (WHEEL, INTACT, [20, 10, 30, 16]), (BELL, INTACT, [2, 2, 6, 6])) for i in range(2)]


def pasting(rows, share=1.0, **fields):
    return StatePaste(as_photos(rows), build_model(**fields).config, share)


def states_of(given):
    return [-1 if state is None else state for state in given["states"]]


def apply(paste, given):
    """A row's photo and truths, changed."""
    truth = {"boxes": torch.tensor(given["boxes"], dtype=torch.float32)}
    truth |= {"labels": torch.tensor(given["parts"]), "states": torch.tensor(states_of(given))}
    truth |= {"iscrowd": torch.tensor(given["iscrowd"]).bool()}
    return paste(open_photo(given), truth)


def unchanged(paste, given):
    photo, truth = apply(paste, given)
    return torch.equal(photo, open_photo(given)) and truth["states"].tolist() == states_of(given)


def test_the_rare_part_takes_the_place_of_the_common_one():
    whole = WHOLE[0]
    photo, truth = apply(pasting([*WHOLE, BROKEN]), whole)
    expected = torch.full((3, 30, 40), 20, dtype=torch.uint8)
    expected[:, 10:16, 20:30] = 200
    assert torch.equal(photo, expected)
    assert truth["states"].tolist() == [DAMAGED, INTACT]
    assert truth["boxes"].tolist() == whole["boxes"]
    assert truth["labels"].tolist() == [WHEEL, BELL]
    assert whole["states"] == [INTACT, INTACT]


def test_the_crop_is_the_donors_box_scaled():
    """Of 8 x 6 pixels, the left half white and the right half black, to 16 x 6."""
    picture = np.full((30, 40, 3), 99, np.uint8)
    picture[3:9, 2:6], picture[3:9, 6:10] = 255, 0
    broken = {**BROKEN, "image": Image.fromarray(picture)}
    wide = [row(20, (WHEEL, INTACT, [20, 10, 35, 16])) for _ in range(2)]
    photo, _ = apply(pasting([*wide, broken]), wide[0])
    pasted = photo[0, 10:16, 20:35]
    assert pasted[:, 0].tolist() == [255] * 6
    assert pasted[:, -1].tolist() == [0] * 6
    assert 99 not in pasted
    assert (photo == 20).sum() == 3 * (30 * 40 - 6 * 15)


@pytest.mark.parametrize(
    "rows",
    {
        "sides differ twofold": [row(20, (WHEEL, INTACT, [20, 10, 36, 16]))] * 2 + [BROKEN],
        "a part that is not there": [row(20, (WHEEL, ABSENT, [20, 10, 30, 16]))] * 2 + [BROKEN],
        "a donor that is not there": [*WHOLE, row(200, (WHEEL, ABSENT, [2, 3, 10, 9]))],
        "a crowd": [row(20, (WHEEL, None, [20, 10, 30, 16], 1))] * 2 + [BROKEN],
        "another part": [*WHOLE, row(200, (2, DAMAGED, [2, 3, 10, 9]))],
        "as rare as this one": [WHOLE[0], BROKEN],
        "a part inside": [row(20, (WHEEL, INTACT, [20, 10, 30, 16]), (BELL, INTACT, [22, 12, 24, 14]))] * 2
        + [BROKEN],
        "inside a crowd": [row(20, (WHEEL, INTACT, [20, 10, 30, 16]), (BELL, None, [0, 0, 40, 30], 1))] * 2
        + [BROKEN],
        "a donor inside a crowd": [
            *WHOLE,
            row(200, (WHEEL, DAMAGED, [2, 3, 10, 9]), (WHEEL, None, [0, 0, 40, 30], 1)),
        ],
        "a donor with a part inside": [
            *WHOLE,
            row(200, (WHEEL, DAMAGED, [2, 3, 10, 9]), (BELL, INTACT, [4, 4, 6, 6])),
        ],
    }.values(),
)
def test_what_is_no_such_pair_stays_as_it_is(rows):
    assert unchanged(pasting(rows), rows[0])


def test_so_many_photos_change_as_were_asked_for():
    paste = pasting([*WHOLE, BROKEN], share=0.3)
    torch.manual_seed(0)
    changed = sum(not unchanged(paste, WHOLE[0]) for _ in range(400))
    assert changed == pytest.approx(120, abs=30)
    assert unchanged(pasting([*WHOLE, BROKEN], share=0.0), WHOLE[0])
    with pytest.raises(DataError, match="paste_rare must be a number from 0 to 1"):
        pasting(WHOLE, share=1.5)


def test_a_batch_holds_the_pasted_photo_and_its_state():
    model, rows = build_model(), [*WHOLE, BROKEN]
    plain = PartCollator(model)(rows)
    pasted = PartCollator(model, changes=[StatePaste(as_photos(rows), model.config, 1.0)])(rows)
    assert plain["states"].tolist() == [[INTACT, INTACT], [INTACT, INTACT], [DAMAGED, -100]]
    assert pasted["states"].tolist() == [[DAMAGED, INTACT], [DAMAGED, INTACT], [DAMAGED, -100]]
    assert torch.equal(plain["boxes"], pasted["boxes"])
    differs = (plain["pixel_values"] != pasted["pixel_values"]).flatten(1).any(1)
    assert differs.tolist() == [True, True, False]


def test_training_rows_alone_are_pasted(bikes, tmp_path):
    words = ["--data", bikes, "--backbone", "test_resnet", "--pretrained", "false", "--output_dir", tmp_path]
    options, args = parse(
        *words, "--config_overrides", json.dumps(TINY), "--paste_rare", 0.5, "--mosaic", 0.25
    )
    data = load(options, args)
    trainer = PartStateTrainer(make_model(options, data), args, None, data.train, data.validation)
    paste, mosaic = trainer.data_collator.changes
    assert [(change.share, len(change.photos)) for change in (paste, mosaic)] == [
        (0.5, len(data.train)),
        (0.25, len(data.train)),
    ]
    assert sorted(trainer.data_collator([data.train[0]])) == sorted(trainer.eval_collator([data.train[0]]))
    assert list(trainer.eval_collator.changes) == []
    args.max_steps = 1
    with pytest.raises(DataError, match="--paste_rare takes any training photo, and a stream"):
        PartStateTrainer(trainer.model, args, None, data.train.to_iterable_dataset(), data.validation)
