"""Rows as people make them: names and numbers of any type, columns that are missing, photos without parts, crowds."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from helpers.parts_models import ALL_SAMPLES, PARTS, STATES, build_model, parse, photos
from torchvision.tv_tensors import BoundingBoxes

from geohf.data.streaming import write_shards
from geohf.errors import DataError
from geohf.parts.data import load_parts
from geohf.parts.phase import PartPhaseTrainer
from geohf.parts.processing import PartCollator
from geohf.parts.streaming import stream_parts
from geohf.parts.vocabulary import part_features

BOX, OTHER = [4, 5, 30, 40], [10, 2, 50, 20]
QUIET = ("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
QUIET += (
    "--augment",
    "false",
    "--optim",
    "sgd",
    "--learning_rate",
    0.01,
    "--max_grad_norm",
    0,
    "--warmup_steps",
    0,
)


FIRST_ROW = 2  # of a table: line 1 is its header


class Own(torch.utils.data.Dataset):
    """A user's own data set: a list of rows."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def row(number=0, **changes) -> dict:
    """A photo of 64 x 48 with a whole wheel and a damaged bell, and no column that is not needed."""
    picture = photos(number + 1)[number]
    return {"image": picture, "boxes": [BOX, OTHER], "parts": [0, 1], "states": [0, 1]} | changes


def empty(number=0) -> dict:
    return row(number, boxes=[], parts=[], states=[])


@pytest.fixture(scope="module")
def model():
    return build_model(spread=1.0, **ALL_SAMPLES)


@pytest.fixture(scope="module")
def collate(model):
    return PartCollator(model, trust=True)


def trained(rows, folder, *words, model=None, **kwargs):
    model = model or build_model(spread=1.0, **ALL_SAMPLES)
    _, args = parse("--output_dir", folder, *QUIET, *words)
    trainer = PartPhaseTrainer(model, args, train_dataset=rows, **kwargs)
    trainer.train()
    return trainer


def same_weights(first, second, **tolerance):
    for name, weight in first.model.named_parameters():
        torch.testing.assert_close(second.model.get_parameter(name), weight, msg=name, **tolerance)


# --- names and numbers ---

FORMS = {
    "names": (["wheel", "bell"], ["intact", "damaged"]),
    "numpy": (np.array([0, 1], np.int32), np.array([0.0, 1.0])),
    "numpy names": (np.array(["wheel", "bell"]), np.array(["intact", "damaged"], object)),
    "scalars": ([np.int64(0), np.uint8(1)], [torch.tensor(0), torch.tensor(1)]),
    "torch": (torch.tensor([0, 1]), torch.tensor([0, 1], dtype=torch.int32)),
    "mixed": ((0, "bell"), ("intact", 1)),
}


@pytest.mark.case("use-S2", "use-B14")
@pytest.mark.parametrize("form", FORMS)
def test_parts_and_states_of_any_type(collate, form):
    expected, (parts, states) = collate([row()]), FORMS[form]
    for boxes in (
        [BOX, OTHER],
        np.array([BOX, OTHER]),
        torch.tensor([BOX, OTHER]),
        [torch.tensor(BOX), OTHER],
        BoundingBoxes([[4, 5, 26, 35], [10, 2, 40, 18]], format="XYWH", canvas_size=(48, 64)),
        BoundingBoxes([[17, 22.5, 26, 35], [30, 11, 40, 18]], format="CXCYWH", canvas_size=(48, 64)),
    ):
        found = collate([row(parts=parts, states=states, boxes=boxes)])
        for name in ("labels", "states", "boxes", "weights", "iscrowd"):
            assert torch.equal(found[name], expected[name]), name
            assert found[name].dtype == expected[name].dtype


BAD = {
    "counted from 1": ({"parts": [1, 3]}, r"part 2 of 2: .* no part 3; .*from 0 to 2: where 0 is the background, as in torchvision, subtract 1"),
    "too large": ({"parts": [0, 22]}, r"part 2 of 2: .*no part 22; .* from 0 to 2"),
    "negative": ({"parts": [-3, 0]}, "part 1 of 2: .*no part -3"),
    "padding": ({"parts": [0, -100]}, "part 2 of 2: the part is -100"),
    "bool": ({"parts": [True, 0]}, "part 1 of 2: .*True"),
    "half": ({"parts": [0.5, 0]}, "part 1 of 2: .*0.5"),
    "hole": ({"parts": [None, 0]}, "part 1 of 2: the part is None"),
    "name": ({"parts": ["weel", 0]}, r"part 1 of 2: .*'weel' \(did you mean 'wheel'\?\)"),
    "state": ({"states": [0, 3]}, "part 2 of 2: .*no state 3; .* subtract 1"),
    "state bool": ({"states": [0, False]}, "part 2 of 2: .*no state False"),
    "state name": ({"states": ["intact", "lost"]}, "part 2 of 2: .*no state 'lost'"),
    "state hole": ({"states": [0, float("nan")]}, "part 2 of 2: the state is None"),
    "lengths": ({"parts": [0]}, "must be lists of one length"),
    "a number": ({"parts": 1}, "must be lists of one length"),
    "trust": ({"trust": [0.5, 85]}, "part 2 of 2: trust is 85"),
    "crowd": ({"iscrowd": [0, "yes"]}, "part 2 of 2: iscrowd is 'yes'"),
    "shares": ({"boxes": [[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]]}, "all boxes lie within the first pixel"),
    "left, top, width, height": ({"boxes": [[30, 20, 10, 9], OTHER]}, "part 1 of 2: the box has no area: left 30, top 20, right 10"),
    "outside": ({"boxes": [BOX, [10, 2, 90, 20]]}, "part 2 of 2: the box lies outside the photo of 64 x 48"),
    "twice": ({"boxes": [BOX, BOX], "parts": [0, "wheel"]}, "part 2 of 2: is the part number 1 in the same box again"),
    "nan": ({"boxes": [BOX, [10, 2, float("nan"), 20]]}, "part 2 of 2: the box is .* not four"),
    "three": ({"boxes": [BOX, [10, 2, 90]]}, "part 2 of 2: the box is .*not four"),
}  # fmt: skip


@pytest.mark.case("use-B14", "use-S19", "use-S2")
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_named_with_its_photo_and_part(collate, case):
    change, message = BAD[case]
    with pytest.raises(DataError, match=f"photo bad.jpg, {message}" if "part " in message[:6] else message):
        collate([row(), row(image_id="bad.jpg") | change])


@pytest.mark.case("use-B14")
def test_a_number_too_large_stops_training_and_evaluation(tmp_path):
    rows = Own([row(), row(1, parts=[1, 3], image_id="bad.jpg")])
    with pytest.raises(DataError, match=r"photo bad.jpg, part 2 of 2"):
        trained(rows, tmp_path, "--max_steps", 1)
    _, args = parse("--output_dir", tmp_path, *QUIET)
    with pytest.raises(DataError, match=r"photo bad.jpg, part 2 of 2"):
        PartPhaseTrainer(build_model(), args).evaluate(rows)


@pytest.mark.case("use-S2")
@pytest.mark.parametrize("form", ["dataset", "subset", "torch format", "stream"])
def test_classes_in_another_order_than_the_models(tmp_path, form):
    features = part_features(["lamp", "bell", "wheel"], ["absent", "damaged", "intact"])
    columns = {"image": [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(2)]}
    for i in range(2):
        row(i)["image"].save(tmp_path / f"{i}.png")
    columns |= {"boxes": [[BOX, OTHER]] * 2, "parts": [[2, 1]] * 2, "states": [[2, 1]] * 2}
    columns |= {"image_id": ["a", "b"], "width": [64] * 2, "height": [48] * 2, "trust": [[1, 1]] * 2}
    dataset = Dataset.from_dict(columns | {"iscrowd": [[False] * 2] * 2}, features=features)
    rows = {"dataset": dataset, "torch format": dataset.with_format("torch")}.get(form)
    if form == "subset":
        rows = torch.utils.data.Subset(dataset, [0, 1])
    if form == "stream":
        write_shards(dataset, tmp_path / "shards", 1)
        rows = stream_parts(tmp_path / "shards")
    words = ("--max_steps", 1, "--per_device_train_batch_size", 2, "--train_sampling_strategy", "sequential")
    plain = trained(Own([row(0), row(1)]), tmp_path / "a", *words)
    same_weights(plain, trained(rows, tmp_path / "b", *words), rtol=0, atol=0)
    if form != "stream":
        wanted, found = (t.evaluate(r) for t, r in ((plain, Own([row(0), row(1)])), (plain, rows)))
        for name in ("eval_loss", "eval_map", "eval_state_accuracy", "eval_joint_map"):
            assert found[name] == pytest.approx(wanted[name], nan_ok=True)


# --- columns that are missing ---


@pytest.mark.case("use-B13")
@pytest.mark.parametrize(
    "missing", [(), ("trust",), ("image_id",), ("trust", "image_id", "width", "height", "iscrowd")]
)
def test_only_image_boxes_parts_and_states_are_needed(collate, missing):
    whole = row(image_id="a.jpg", trust=[1.0, 1.0], iscrowd=[0, 0], width=64, height=48)
    found, expected = (
        collate([row(1), {k: v for k, v in whole.items() if k not in names}]) for names in (missing, ())
    )
    for name in ("labels", "states", "boxes", "weights", "iscrowd", "pixel_values"):
        assert torch.equal(found[name], expected[name])
    assert found["image_ids"][1] == ("number 1" if "image_id" in missing else "a.jpg")


@pytest.mark.case("use-B13")
def test_a_column_that_is_needed_is_named(collate):
    rows = [{k: v for k, v in row(image_id="a.jpg").items() if k != "states"}]
    with pytest.raises(DataError, match=r"photo a.jpg, lacks states; it has image, boxes, parts, image_id"):
        collate(rows)
    with pytest.raises(DataError, match=r"photo number 1, lacks image, boxes"):
        collate([row(), {"parts": [], "states": []}])


@pytest.mark.case("use-B13")
@pytest.mark.parametrize("entry", ["hub", "stream"])
def test_datasets_of_the_needed_columns(hub, bikes, tmp_path, entry):
    train = load_parts(bikes)[0]["train"].select(range(4))
    less = train.remove_columns(["trust", "image_id", "width", "height", "iscrowd"])
    if entry == "hub":
        less.push_to_hub("org/less-bikes")
        found = list(load_parts("org/less-bikes")[0]["train"])
    else:
        write_shards(less, tmp_path, 1)
        found = list(stream_parts(tmp_path))
    for number, (ours, theirs) in enumerate(zip(found, train, strict=True)):
        assert ours["image_id"] == str(number + (entry == "stream") * FIRST_ROW)
        assert (ours["width"], ours["height"]) == (96, 72)
        assert ours["trust"] == [1.0] * 22
        for name in ("boxes", "parts", "states", "iscrowd"):
            assert ours[name] == theirs[name], name


# --- photos without parts ---


@pytest.mark.case("use-B6")
@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("none", [[], None, np.array([]), torch.tensor([])])
def test_a_photo_without_parts_in_a_batch(model, trust, none):
    collate = PartCollator(model, trust=trust)
    batch = collate([row(), empty(1) | dict.fromkeys(("boxes", "parts", "states", "trust"), none)])
    assert batch["labels"].tolist() == [[0, 1], [-100, -100]]
    assert batch["boxes"].shape == (2, 2, 4)
    assert (batch["labels"].dtype, batch["boxes"].dtype) == (torch.int64, torch.float32)
    alone = collate([empty(1)])
    assert alone["labels"].tolist() == [[-100]]
    inputs = {name: alone[name] for name in alone if name != "image_ids"}
    model.train()
    output = model(**inputs)
    output.loss.backward()
    losses = dict(
        zip(("classifier", "box", "objectness", "rpn_box", "state"), output.losses[0].tolist(), strict=True)
    )
    assert losses["box"] == losses["rpn_box"] == losses["state"] == 0
    assert losses["classifier"] > 0 < losses["objectness"]
    for parameter in model.parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all()
    model.zero_grad()
    model.eval()


@pytest.mark.case("use-B6")
def test_photos_without_parts_train_alike_in_any_batch(tmp_path):
    rows = Own([row(0), empty(1), empty(2), row(3)])
    words = ("--max_steps", 2, "--train_sampling_strategy", "sequential")
    one = trained(rows, tmp_path / "a", *words, "--per_device_train_batch_size", 4)
    for size, steps in ((2, 2), (1, 4)):
        many = ("--per_device_train_batch_size", size, "--gradient_accumulation_steps", steps)
        same_weights(one, trained(rows, tmp_path / str(size), *words, *many), rtol=1e-3, atol=1e-5)


@pytest.mark.case("use-B6")
def test_photos_without_parts_are_measured(model, tmp_path):
    _, args = parse("--output_dir", tmp_path, "--per_device_eval_batch_size", 1, *QUIET)
    trainer = PartPhaseTrainer(model, args)
    with_, without = (trainer.detect(Own(rows))[0] for rows in ([row(), empty(1)], [row()]))
    assert with_["map"] <= without["map"]  # what is found in the empty photo is wrong
    assert with_["state_accuracy"] == pytest.approx(without["state_accuracy"], nan_ok=True)
    assert np.isfinite(with_["loss"])
    alone, _ = trainer.detect(Own([empty(0), empty(1)]))
    assert np.isnan(alone["map"])
    assert np.isfinite(alone["loss"])


@pytest.mark.case("use-B6")
@pytest.mark.parametrize("entry", ["hub", "stream"])
def test_datasets_with_photos_without_parts(hub, bikes, tmp_path, entry):
    lists = ("boxes", "parts", "states", "trust", "iscrowd")
    train = load_parts(bikes)[0]["train"].select(range(4))
    train = train.map(
        lambda r, i: r | {n: r[n] if i != 1 else [] for n in lists},
        with_indices=True,
        features=train.features,
    )
    if entry == "hub":
        train.push_to_hub("org/empty-bikes")
        found = load_parts("org/empty-bikes", min_trust=0.5)[0]["train"]["parts"][:]
    else:
        write_shards(train, tmp_path, 1)
        found = [r["parts"] for r in stream_parts(tmp_path, min_trust=0.5)]
    assert [len(parts) == 0 for parts in found] == [False, True, False, False]


# --- crowds ---


@pytest.mark.case("use-S17", "six-6")
def test_a_crowd_is_neither_right_nor_wrong_in_training(model):
    batch = PartCollator(model)([row(states=[0, None], iscrowd=[0, 1])])
    assert batch["states"].tolist() == [[0, -1]]
    names = ("labels", "boxes", "states", "iscrowd")
    (target,) = model.targets_of([(48, 64)], **{name: batch[name] for name in names})
    assert target["boxes"].tolist() == [pytest.approx(BOX, abs=1e-4)]
    assert target["crowds"].tolist() == [pytest.approx(OTHER, abs=1e-4)]
    # within the crowd: half of it, a fifth of it; the truth in its middle; larger than the crowd; far away
    boxes = [[12, 4, 24, 16], [0, 16, 20, 26], [4.5, 5, 30, 40], [0, 0, 64, 48], [40, 40, 44, 44]]
    boxes = torch.tensor(boxes, dtype=torch.float32)
    places = {"boxes": target["boxes"], "ignored": target["boxes"][:0], "crowds": target["crowds"]}
    ((labels,), _) = model.rpn.assign_targets_to_anchors([boxes], [places])
    assert labels.tolist() == [-1, 0, 1, 0, 0]
    kept = model.roi_heads._outside_crowds(boxes, target)
    assert kept.tolist() == boxes[1:].tolist()


@pytest.mark.case("use-S17", "six-6")
def test_what_lies_in_a_crowd_does_not_change_the_loss(model):
    """All anchors and regions are sampled: with the whole photo a crowd, no background is left to learn."""
    whole = [0, 0, 64, 48]
    crowd = {"boxes": [BOX, whole], "parts": [0, 0], "states": [0, None], "iscrowd": [False, True]}
    collate, found = PartCollator(model), []
    for changes in ({"boxes": [BOX], "parts": [0], "states": [0]}, crowd):
        batch = collate([row(**changes)])
        inputs = {name: batch[name] for name in batch if name != "image_ids"}
        with torch.no_grad():
            found.append(model(**inputs).losses[0])
    assert found[1][4] == found[0][4]  # the state of the wheel
    assert found[1][1] > found[0][1]  # its box, of fewer regions
    only = collate([row(boxes=[whole], parts=[0], states=[None], iscrowd=[1])])
    with torch.no_grad():
        losses = model(**{name: only[name] for name in only if name != "image_ids"}).losses[0]
    assert losses[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]


@pytest.mark.case("use-S17", "six-6")
def test_what_is_found_in_a_crowd_is_not_held_against_the_model(model, tmp_path):
    _, args = parse("--output_dir", tmp_path, *QUIET)
    trainer = PartPhaseTrainer(model, args)
    found = trainer.detect(Own([row()]))[1][0]
    best = {part: np.flatnonzero(found["labels"] == part)[0] for part in np.unique(found["labels"])}
    part, first = next(iter(best.items()))
    last = np.flatnonzero(found["labels"] == part)[-1]
    box = found["boxes"][last].tolist()
    truth = {"boxes": [box], "parts": [int(part)], "states": [0]}
    others = {
        "boxes": [box, [0, 0, 64, 48]],
        "parts": [int(part)] * 2,
        "states": [0, None],
        "iscrowd": [0, 1],
    }
    without, with_ = (trainer.detect(Own([row(**changes)]))[0] for changes in (truth, others))
    assert first != last
    assert without["map"] < 1
    assert with_["map"] == pytest.approx(1)  # the better scores that are no truth lie in the crowd


@pytest.mark.case("use-S17", "six-6")
def test_crowds_in_streams_and_on_the_hub(hub, bikes, tmp_path):
    train = load_parts(bikes)[0]["train"].select(range(2))
    train = train.map(
        lambda r: r | {"iscrowd": [True, *r["iscrowd"][1:]], "states": [-1, *r["states"][1:]]},
        features=train.features,
    )
    write_shards(train, tmp_path, 1)
    train.push_to_hub("org/crowded")
    for found in (list(stream_parts(tmp_path)), load_parts("org/crowded")[0]["train"]):
        assert [r["iscrowd"] for r in found] == train["iscrowd"][:]
        assert [r["states"] for r in found] == train["states"][:]


@pytest.mark.case("use-B14")
def test_numbers_of_a_table_that_its_names_do_not_reach(bikes, tmp_path):
    train = load_parts(bikes)[0]["train"].select(range(3))
    raw = {name: List(Value("int64")) for name in ("parts", "states")}
    loose = train.cast(Features(train.features | raw)).map(
        lambda r, i: r | {"parts": [22, *r["parts"][1:]] if i == 1 else r["parts"]}, with_indices=True
    )
    write_shards(loose, tmp_path, 1)
    file = next(tmp_path.iterdir())
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    classes = Features(train.features | {"image": Image()}).arrow_schema.metadata
    pq.write_table(table.replace_schema_metadata(classes), file)
    assert isinstance(train.features["parts"].feature, ClassLabel)
    with pytest.raises(DataError, match=rf"row 3, {train[1]['image_id']}: part 1 of 22: .*no part 22"):
        list(stream_parts(tmp_path))
    assert len(list(stream_parts(tmp_path, on_error="skip"))) == 2


def test_the_helpers_names():
    assert (list(PARTS.values())[:2], list(STATES.values())[:2]) == (["wheel", "bell"], ["intact", "damaged"])
