"""A finished or begun run is gone on with as what it is: same settings, data and starting weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.training_run import make_head, make_table, make_trainer
from safetensors.torch import load_file

from geohf.data.rows import RowView
from geohf.data.samples import without_decoding
from geohf.errors import DataError
from geohf.training.phases import FINISHED, RECORD
from geohf.training.record import differences, is_longer, record_of


def weights(folder):
    return load_file(folder / FINISHED)


def steps(trainer):
    return [row["step"] for row in trainer.state.log_history if "eval_loss" in row]


@pytest.mark.case("use-S11")
@pytest.mark.parametrize(
    ("short", "long"),
    [({"num_train_epochs": 1}, {"num_train_epochs": 3}), ({"max_steps": 5}, {"max_steps": 15})],
)
def test_a_finished_run_is_trained_on_where_only_its_end_moved(short, long, tmp_path):
    first = make_trainer(tmp_path, lr_scheduler_type="constant", warmup_steps=0, **short)
    first.run()
    assert steps(first) == [5]
    more = make_trainer(tmp_path, lr_scheduler_type="constant", warmup_steps=0, **long)
    more.run(resume=True)
    assert steps(more) == [5, 10, 15]
    whole = make_trainer(tmp_path / "whole", lr_scheduler_type="constant", warmup_steps=0, **long)
    whole.run()
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path)[name], tensor)
    again = make_trainer(tmp_path, lr_scheduler_type="constant", warmup_steps=0, **long)
    again.training_step = None  # would fail
    again.run(resume=True)
    with pytest.raises(DataError, match=r"is finished, after .* it was to take"):
        make_trainer(tmp_path, lr_scheduler_type="constant", warmup_steps=0, **short).run(resume=True)


def other_labels():
    table = make_table(40)
    table.columns["labels"] = table.columns["labels"].roll(1)
    return table


@pytest.mark.case("use-S11")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"learning_rate": 0.1}, "learning_rate was 0.003, now 0.1"),
        ({"seed": 7}, "seed was 42, now 7"),
        ({"per_device_train_batch_size": 4}, "batch was 8, now 4"),
        ({"num_train_epochs": 2}, "it was to take 3 epochs, now 2 epochs"),
        ({"max_steps": 30}, "it was to take 3 epochs, now 30 steps"),
        ({"train_dataset": "labels"}, "the training data are others .40 rows, now 40"),
        ({"rows": 41}, "40 rows, now 41"),
        ({"model": 5}, "the weights that training starts from are others"),
        ({"dropout": 0.5}, "dropout was 0.0, now 0.5"),
    ],
    ids=str,
)
@pytest.mark.parametrize("done", [True, False])
def test_a_run_with_other_settings_is_not_gone_on_with(changed, words, done, tmp_path):
    make_trainer(tmp_path).run()
    if not done:
        (tmp_path / FINISHED).unlink()
    if "model" in changed:
        changed = {"model": make_head(seed=5)}
    if "train_dataset" in changed:
        changed = {"train_dataset": other_labels()}
    with pytest.raises(DataError, match=words) as error:
        make_trainer(tmp_path, **changed).run(resume=True)
    assert ("is finished, after 3 epochs" if done else "was begun") in str(error.value)
    assert "begin anew without --resume_from_checkpoint" in str(error.value)


@pytest.mark.case("use-S11")
def test_what_changes_no_weight_may_change(tmp_path):
    make_trainer(tmp_path).run()
    again = make_trainer(
        tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, logging_steps=7
    )
    again.training_step = None  # would fail
    again.run(resume=True)


@pytest.mark.case("use-S11")
def test_a_run_that_left_no_checkpoint_or_no_record_says_so(tmp_path):
    settings = {"save_strategy": "no", "load_best_model_at_end": False}
    make_trainer(tmp_path, num_train_epochs=1, **settings).run()
    with pytest.raises(DataError, match="left no checkpoint"):
        make_trainer(tmp_path, num_train_epochs=2, **settings).run(resume=True)
    assert (tmp_path / FINISHED).is_file()
    (tmp_path / RECORD).unlink()
    with pytest.raises(DataError, match="does not say what it was trained with"):
        make_trainer(tmp_path, num_train_epochs=1, **settings).run(resume=True)


@pytest.mark.case("use-S11")
def test_a_picture_that_was_replaced_under_its_name_is_other_data(tmp_path):
    """Its size tells; a copy of the folder elsewhere, of another day, is the same data."""
    from datasets import Image, List
    from PIL import Image as Picture

    def data(folder):
        names = [str(folder / f"{i}.png") for i in range(2)]
        held = [{"bytes": Path(name).read_bytes(), "path": None} for name in names]
        columns = {"image": names, "views": [names, names[:1]], "held": held, "n": [1, 2]}
        dataset = Dataset.from_dict(columns).cast_column("image", Image()).cast_column("held", Image())
        return without_decoding(dataset.cast_column("views", List(Image())))

    trainer = make_trainer(tmp_path)

    def records(folder):
        columns = ("image", "views", "held")
        return [
            record_of(trainer.args, trainer.model, data(folder).select_columns([column, "n"]), {})["data"]
            for column in columns
        ]

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            Picture.new("RGB", (8 + i, 8), "red").save(tmp_path / folder / f"{i}.png")
    first = records(tmp_path / "a")
    assert records(tmp_path / "b") == first
    Picture.new("RGB", (64, 64), "blue").save(tmp_path / "a" / "0.png")
    assert all(new != old for new, old in zip(records(tmp_path / "a"), first, strict=True))


def test_records_compare_numbers_as_numbers(tmp_path):
    trainer = make_trainer(tmp_path)
    record = record_of(trainer.args, trainer.model, trainer.train_dataset, {})
    assert differences(record, json.loads(json.dumps(record))) == []
    nearly = json.loads(json.dumps(record))
    name = next(iter(nearly["weights"]))
    nearly["weights"][name] = [
        value * (1 + 1e-5) for value in nearly["weights"][name]
    ]  # other threads, other sums
    assert differences(record, nearly) == []
    assert is_longer(record, nearly) is False
    table = Dataset.from_dict({"state": ["a", "b"], "latitude": [1.0, None]})
    same = Dataset.from_dict({"state": ["x", "b", "a"], "latitude": [0.0, None, 1.0]}).select([2, 1])
    records = [record_of(trainer.args, trainer.model, data, {})["data"] for data in (table, same)]
    assert records[0] == records[1]


def photos(seed):
    rng = np.random.default_rng(seed)
    return [{"image": rng.integers(0, 256, (4, 4, 3), np.uint8), "label": "a"} for _ in range(3)]


@pytest.mark.case("use-S11")
def test_rows_of_ones_own_are_told_by_their_pictures_too(tmp_path):
    def view(rows):
        return RowView(rows, lambda row, number: row, ["label"])

    def data(rows):
        return record_of(make_trainer(tmp_path).args, make_head(), rows, {})["data"]

    assert data(view(photos(0))) == data(view(photos(0))) != data(view(photos(1)))
    assert data(photos(0)) == data(photos(0)) != data(photos(1))
    assert data(photos(0)) != data([row | {"label": "b"} for row in photos(0)])
    (tmp_path / "a.jpg").write_bytes(b"one")
    (tmp_path / "b.jpg").write_bytes(b"longer")
    named = [[{"image": str(tmp_path / name), "label": "a"}] for name in ("a.jpg", "b.jpg")]
    assert data(view(named[0])) != data(view(named[1]))

    class Augmented:  # other pixels each time
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return photos(None)[i]

    assert data(view(Augmented())) == data(view(Augmented()))


def test_labels_of_rows_are_read_without_keeping_the_pictures():
    import weakref

    kept = []

    class Own:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            picture = np.zeros((2, 2, 3), np.uint8)
            kept.append(weakref.ref(picture))
            assert sum(ref() is not None for ref in kept) <= 2
            return {"image": picture, "label": i}

    assert RowView(Own(), lambda row, number: row, ["label"])["label"] == [0, 1, 2]
