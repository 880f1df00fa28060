"""Streams: the same rows as a table read whole, in bounded memory, shared out among processes and workers."""

import importlib
import json
import os
import pickle
import random
import subprocess
import sys
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, Features, IterableDataset, Value
from datasets.distributed import split_dataset_by_node
from helpers.training_run import (
    batch_of,
    feature_rows,
    make_head,
    make_stream_trainer,
    make_table,
    make_trainer,
)
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from geohf.data.cells import label_of
from geohf.data.shards import chunks_of
from geohf.data.streaming import EndlessStream, StreamedTable, streaming
from geohf.data.tables import read_table, read_table_in_chunks
from geohf.data.tensor_dataset import identity_collate
from geohf.errors import DataError
from geohf.training.batches import StreamBatches

FEATURES = Features({"name": Value("string"), "value": Value("float64"), "line": Value("int64")})


def rows_of(table, source, errors):
    """Rows with a name; the others are noted."""
    good = [position for position in table.index if table["name"][position]]
    for position in table.index.difference(good):
        errors.add(source, position, "has no name")
    chosen = table.loc[good]
    return {"name": chosen["name"].tolist(), "value": chosen["value"].tolist(), "line": good}


stream_rows = streaming(StreamedTable)
stream = partial(stream_rows, rows_of=rows_of, features=FEATURES, numbers=("value",))


def frame(rows, first=0):
    values = np.arange(first, first + rows)
    return pd.DataFrame({"name": [f"n{value}" for value in values], "value": values / 8})


@pytest.fixture
def shards(tmp_path):
    """Four files of 600 rows: three of Parquet in row groups of 250, and one of CSV."""
    for number in range(3):
        table = frame(600, 600 * number)
        table.to_parquet(tmp_path / f"{number}.parquet", row_group_size=250, index=False)
    frame(600, 1800).to_csv(tmp_path / "3.csv", index=False)
    return tmp_path


def names(rows):
    return [row["name"] for row in rows]


@pytest.mark.parametrize("chosen", ["", "*.parquet", "1.parquet", "3.csv"])
def test_a_stream_has_the_rows_of_the_tables(shards, chosen):
    files = sorted(shards.glob(chosen or "*.parquet")) + ([] if chosen else [shards / "3.csv"])
    expected = []
    for file in files:
        table = read_table(file, numbers=["value"])
        expected += [(*row, i + 2) for i, row in enumerate(table.itertuples(index=False, name=None))]
    found = [tuple(row.values()) for row in stream(shards / chosen if chosen else shards)]
    assert found == expected
    assert len(found) in (600, 1800, 2400)


@pytest.mark.parametrize("world", [2, 3, 5, 9])
def test_processes_share_the_rows(shards, world):
    whole = stream(shards)
    assert whole.num_shards == 10  # three files of three row groups, and one
    parts = [names(split_dataset_by_node(whole, rank, world)) for rank in range(world)]
    assert sorted(chain(*parts)) == sorted(names(whole))
    if 10 % world:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1  # each takes every so-many-th row
    else:
        assert parts[0][:250] == names(whole)[:250]  # each reads its own shards


def test_workers_share_the_rows(shards):
    batches = DataLoader(stream(shards), batch_size=100, num_workers=2, collate_fn=names)
    assert sorted(chain(*batches)) == sorted(names(stream(shards)))


@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, end, caplog):
    table = frame(1200)
    table.loc[[700, 1100], "name"] = ""
    path = tmp_path / f"t.{end}"
    getattr(table, f"to_{end}")(path, index=False)
    rows = iter(stream(path))
    assert names(next(rows) for _ in range(512)) == [f"n{i}" for i in range(512)]
    with pytest.raises(DataError, match=rf"{path.name}, row 702: has no name"):
        list(rows)
    kept = list(stream(path, on_error="skip"))
    assert [row["line"] for row in kept if row["line"] > 1000][:2] == [1001, 1002]
    assert len(kept) == 1198
    assert "row 1102: has no name" in caplog.text


def test_blank_lines_at_the_end_are_no_rows(tmp_path):
    frame(512).to_csv(tmp_path / "t.csv", index=False)  # they are a chunk of their own
    with open(tmp_path / "t.csv", "a") as file:
        file.write("\n\n")

    def first_row(table, source, errors):
        return rows_of(table.iloc[[0]], source, errors) if table["name"].iloc[0] else {}

    found = stream_rows(tmp_path / "t.csv", first_row, FEATURES, ("value",))
    assert names(found) == ["n0"]


def test_a_number_that_is_none_is_named_by_its_line(tmp_path):
    table = frame(900).astype(str)
    table.loc[600, "value"] = "east"
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="row 602: value is 'east'"):
        list(stream(tmp_path / "t.csv"))


def test_a_file_without_any_usable_row_is_skipped(shards, caplog):
    frame(90).assign(name="").to_csv(shards / "0.csv", index=False)
    whole = stream(shards, on_error="skip")
    expected = [f"n{i}" for i in range(2400)]
    assert sorted(names(whole)) == sorted(expected)
    assert "left out 90 rows" in caplog.text
    assert sorted(names(whole.shuffle(seed=0, buffer_size=100))) == sorted(expected)
    batches = DataLoader(stream(shards / "0.csv", on_error="skip"), num_workers=1, collate_fn=names)
    assert list(batches) == []
    batches = DataLoader(whole, batch_size=100, num_workers=2, collate_fn=names)
    assert sorted(chain(*batches)) == sorted(expected)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("none.parquet", "no such file"),
        ("empty", "holds no table"),
        ("*.csv", "no file has such a name"),
        ("broken.parquet", "broken.parquet: cannot be read as a table"),
    ],
)
def test_a_source_that_is_none(tmp_path, source, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match=reason):
        stream(tmp_path / source)


def test_a_dataset_of_the_hub(hub):
    Dataset.from_pandas(frame(40)).push_to_hub("org/rows", num_shards=4)
    found = stream("org/rows")
    assert found.num_shards == 4
    assert names(found) == [f"n{i}" for i in range(40)]
    first, second = (names(split_dataset_by_node(found, rank, 2)) for rank in (0, 1))
    assert sorted(first + second) == sorted(names(found))
    with pytest.raises(DataError, match="no dataset that can be loaded"):
        stream("org/none")


def test_each_pass_is_whole_and_a_shuffled_one_has_its_own_order(shards):
    rows = iter(EndlessStream(stream(shards).shuffle(seed=1, buffer_size=300)))
    passes = [names(next(rows) for _ in range(2400)) for _ in range(3)]
    assert all(sorted(found) == sorted(names(stream(shards))) for found in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]


@pytest.mark.parametrize("world", [2, 3])
def test_what_datasets_makes_of_a_stream_is_shared_out_too(shards, world):
    whole = stream(shards)
    for made in (
        whole.filter(lambda row: row["value"] > 100),
        whole.map(lambda row: row | {"name": row["name"] + "!"}),
        whole.select_columns(["name"]).shuffle(seed=0, buffer_size=9),
    ):
        passes = [islice(EndlessStream(made, rank, world), 3000 // world) for rank in range(world)]
        assert set(names(chain(*passes))) == set(names(made))


def test_a_stream_that_is_shared_out_already_stays_so(shards):
    for rank in range(2):
        share = split_dataset_by_node(stream(shards), rank, 2)
        expected = names(share)
        assert names(islice(EndlessStream(share, rank, 2), len(expected))) == expected


def test_passes_leave_the_stream_as_it_is(shards):
    whole = stream(shards / "1.parquet")
    assert len(names(islice(EndlessStream(whole), 2000))) == 2000
    assert whole.epoch == 0  # which workers share


MEMORY = """
import resource, sys
import pyarrow, pyarrow.parquet
from functools import partial
sys.path.insert(0, sys.argv[2])
from test_streaming import stream, names
from geohf.data.streaming import EndlessStream

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

rows = iter(stream(sys.argv[1]))
for _ in range(20_000):
    next(rows)
before, count = peak(), 20_000
for row in rows:
    count += 1
print(count, peak() - before)
"""


def test_a_stream_of_a_million_rows_takes_the_memory_of_a_chunk(tmp_path, run_python):
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("name", "string"), ("value", "float64"), ("image", "binary")])
    with pyarrow.parquet.ParquetWriter(
        tmp_path / "t.parquet", schema, compression="none", use_dictionary=False
    ) as file:
        for start in range(0, 1_000_000, 20_000):
            columns = frame(20_000, start).to_dict("list") | {"image": [b"%512d" % i for i in range(20_000)]}
            file.write_table(pyarrow.table(columns, schema))
    assert (tmp_path / "t.parquet").stat().st_size > 500 * 2**20
    count, grown = run_python(MEMORY, tmp_path / "t.parquet", Path(__file__).parent).split()
    assert int(count) == 1_000_000
    assert float(grown) < 60  # MiB


# Training


# the batches of 8 go over the end of 43 rows
SAVED = {"rows": 43, "max_steps": 11, "save_strategy": "steps", "save_steps": 3} | {
    "eval_strategy": "steps",
    "eval_steps": 3,
    "load_best_model_at_end": False,
}


def weights_of(folder, rank=0):
    return load_file(folder / f"weights-{rank}.safetensors")


def test_a_stream_trains_what_the_same_rows_in_memory_train(tmp_path):
    trainer = make_stream_trainer(tmp_path, rows=43, max_steps=11)
    trainer.train()
    order = [i % 43 for i in range(88)]
    expected = make_stream_trainer(tmp_path, rows=43, max_steps=11, order=order)
    expected.train()
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name
    assert trainer.state.log_history[-2]["eval_rows"] == 19


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trainings on a stream of one shard: whole, killed and resumed, and by two processes."""
    folder = tmp_path_factory.mktemp("streams")
    command = [
        sys.executable,
        Path(__file__).resolve().parents[1] / "helpers" / "training_run.py",
        "stream",
        folder,
        json.dumps(SAVED),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stdout + done.stderr
    return folder


def test_a_stream_that_was_killed_goes_on_to_the_same_weights(runs):
    for name, weight in weights_of(runs / "whole").items():
        assert torch.equal(weights_of(runs / "killed")[name], weight), name


def test_two_processes_train_on_a_stream_what_one_trains(runs):
    for name, weight in weights_of(runs / "whole").items():
        assert torch.equal(weights_of(runs / "two")[name], weights_of(runs / "two", rank=1)[name]), name
        torch.testing.assert_close(weights_of(runs / "two")[name], weight, atol=2e-6, rtol=1e-5, msg=name)


def test_workers_train_alike_and_resume(tmp_path):
    shards = [make_table(rows, seed=rows) for rows in (11, 30, 17)]
    rows = IterableDataset.from_generator(feature_rows, gen_kwargs={"shards": shards})
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 5, "save_total_limit": None} | {
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "dataloader_num_workers": 4,  # of which one finds no shard
    }

    def trained(checkpoint=None):
        trainer = make_trainer(
            tmp_path,
            model=make_head(),
            train_dataset=rows.shuffle(seed=3, buffer_size=8),
            data_collator=batch_of,
            **settings,
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer.model.state_dict()

    whole = trained()
    for name, weight in trained(str(tmp_path / "checkpoint-5")).items():
        assert torch.equal(whole[name], weight), name


@pytest.mark.parametrize("empty", [lambda rows: rows.take(0), lambda rows: rows.filter(lambda row: False)])
def test_a_stream_without_rows_cannot_train(tmp_path, empty):
    rows = empty(IterableDataset.from_generator(feature_rows, gen_kwargs={"shards": [make_table(9)]}))
    trainer = make_trainer(tmp_path, train_dataset=rows, data_collator=batch_of, max_steps=2)
    with pytest.raises(DataError, match="the training stream has no row for process 1 of 1"):
        trainer.train()


def test_a_stream_is_evaluated_as_the_same_rows_in_memory(tmp_path):
    trainer = make_trainer(tmp_path, eval_collator=identity_collate)
    expected = trainer.evaluate(make_table(19, seed=1))
    trainer.eval_collator = batch_of
    tables = {"shards": [make_table(19, seed=1)]}
    found = trainer.evaluate(IterableDataset.from_generator(feature_rows, gen_kwargs=tables))
    for name in ("eval_loss", "eval_accuracy", "eval_mean_km", "eval_rows"):
        assert found[name] == pytest.approx(expected[name]), name


def test_a_stream_needs_a_number_of_steps(tmp_path):
    with pytest.raises(ValueError, match="max_steps"):
        make_stream_trainer(tmp_path, rows=43)


class Noisy:
    """A collator that draws, and notes what it collates."""

    def __init__(self):
        self.collated = 0

    def __call__(self, rows):
        self.collated += 1
        batch = batch_of(rows)
        return batch | {"features": batch["features"] + torch.randn(batch["features"].shape)}


def test_a_run_that_goes_on_collates_no_batch_twice_and_draws_what_the_whole_run_draws(tmp_path):
    settings = {"max_steps": 9, "save_strategy": "steps", "save_steps": 4, "save_total_limit": None} | {
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "gradient_accumulation_steps": 2,
    }

    def trained(checkpoint=None):
        collator = Noisy()
        rows = IterableDataset.from_generator(feature_rows, gen_kwargs={"shards": [make_table(43)]})
        trainer = make_trainer(
            tmp_path, model=make_head(0.3), train_dataset=rows, data_collator=collator, **settings
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer.model.state_dict(), collator.collated

    weights, count = trained()
    again, rest = trained(str(tmp_path / "checkpoint-4"))
    assert (count, rest) == (18, 10)
    for name, weight in weights.items():
        assert torch.equal(again[name], weight), name


def test_a_batch_is_drawn_by_its_number(tmp_path):
    states = random.getstate(), torch.get_rng_state()

    def drawn(rows):
        return rows[0], random.random(), torch.rand(()).item()

    batches = StreamBatches(list(range(8)), 2, drawn, seed=5)
    first = list(batches)
    assert [batch[0] for batch in first] == [0, 2, 4, 6]
    assert len({batch[1:] for batch in first}) == 4
    batches.passed_over = 3
    assert list(batches) == [None, None, None, first[3]]
    assert [b[1:] for b in StreamBatches(list(range(8)), 2, drawn, seed=6)] != [b[1:] for b in first]
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


@pytest.mark.parametrize("task", ["street", "place", "region", "parts"])
def test_functions_that_stream_a_table_go_to_other_processes(task):
    module = importlib.import_module(f"geohf.{task}.streaming")
    (stream,) = (value for name, value in vars(module).items() if name.startswith("stream_"))
    assert pickle.loads(pickle.dumps(stream)) is stream
    assert stream.__annotations__["return"] == "IterableDataset"


def test_every_table_of_a_folder_is_streamed_once(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for number, name in enumerate(("a.csv", "b.CSV", "c.csv.gz", ".ipynb_checkpoints/a-checkpoint.csv")):
        frame(3, 3 * number).to_csv(tmp_path / name, index=False)
    assert names(stream(tmp_path)) == [f"n{i}" for i in range(9)]


CELLS = [6218874825807673343, None, 6218874825807673344, 7]


def test_whole_numbers_beside_a_hole_keep_their_digits(tmp_path, hub):
    dataset = Dataset.from_dict({"region": CELLS, "lat": [1, None, 3, 4]})
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    dataset.push_to_hub("org/cells")
    whole = [read_table(tmp_path / name, numbers=["lat"]) for name in ("a.parquet", "saved")]
    chunks = list(read_table_in_chunks(tmp_path / "a.parquet", 2))
    streamed = [chunk for _, chunk in chunks_of("org/cells", 0)]
    for tables in (whole[:1], whole[1:], chunks, streamed):
        found = [label_of(cell) for table in tables for cell in table["region"]]
        assert found == [None if cell is None else str(cell) for cell in CELLS]
    assert [table["lat"].dtype for table in whole] == ["float64"] * 2
