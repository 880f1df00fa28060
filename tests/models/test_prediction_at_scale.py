"""Prediction at scale: threads ahead of the model, shards, addresses, several processes, Ray."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from functools import partial
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from helpers.five_tasks import TASKS
from helpers.place_models import build_model, write_pictures
from PIL import Image

from geohf.errors import DataError
from geohf.models import ahead, shards
from geohf.models.ahead import batches_of, prepared_ahead
from geohf.models.predicting import Partial
from geohf.models.work import Work
from geohf.vision.images import HANDED_OVER, ImageError

NAMES = [f"IMG_{i}.png" for i in range(11)]


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture
def photos(tmp_path):
    write_pictures(tmp_path / "photos", NAMES, 0)
    return tmp_path / "photos"


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(ahead, "_threads", lambda: 2)


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def table(folder):
    files = sorted(Path(folder).glob("*.parquet"))
    return list(chain.from_iterable(pyarrow.parquet.read_table(file).to_pylist() for file in files))


def test_batches_come_in_order_and_two_are_prepared_at_once(two_threads):
    both = threading.Barrier(2, timeout=60)  # passed only by two threads at the same time

    def prepare(batch):
        if batch[0] < 2:
            both.wait()
        return sum(batch), threading.current_thread() is threading.main_thread()

    found = [(batch, future.result()) for batch, future in prepared_ahead(prepare, batches_of(range(5), 1))]
    assert [batch for batch, _ in found] == [[0], [1], [2], [3], [4]]
    assert [result for _, result in found] == [(i, False) for i in range(5)]
    ((_, alone),) = prepared_ahead(lambda batch: threading.current_thread(), [[1]])
    assert alone.result() is threading.main_thread()


def test_errors_come_at_their_turn(two_threads):
    def rows():
        yield from range(3)
        raise DataError("the table ends here")

    def prepare(batch):
        if batch == [1]:
            raise ImageError("broken")
        return batch

    seen = []

    def consume():
        for batch, future in prepared_ahead(prepare, batches_of(rows(), 1)):
            seen.append((batch, future.exception() is None))

    with pytest.raises(DataError, match="the table ends here"):
        consume()
    assert seen == [([0], True), ([1], False), ([2], True)]
    assert not [t for t in threading.enumerate() if t.name.startswith("geohf-prepare")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError("of the answer")])
@pytest.mark.parametrize("output", [None, "a.csv", "shards/"])
def test_no_thread_is_left_when_a_prediction_ends_early(output, error, model, photos, tmp_path, two_threads):
    def stop(*_, **__):
        raise error

    stopping = copy.copy(model)
    stopping.decode = stop
    ask = partial(stopping.predict_to_file, output=f"{tmp_path}/{output}") if output else stopping.predict
    with pytest.raises(type(error) if isinstance(error, Exception) else error) as raised:
        ask(photos, batch_size=2)
    assert raised.tb is not None  # and with it the frames that hold the iterator
    assert not [t for t in threading.enumerate() if t.name.startswith("geohf-prepare")]


def test_a_process_that_is_forked_while_a_picture_is_read_can_read_pictures(photos):
    """As a DataLoader forks its workers while another thread predicts."""
    reading, forked = threading.Event(), threading.Event()

    def read():
        with HANDED_OVER:
            reading.set()
            forked.wait(0.5)  # the fork waits for this thread, so it is never set before

    thread = threading.Thread(target=read)
    thread.start()
    reading.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if HANDED_OVER.acquire(timeout=20) else 1)
    forked.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert HANDED_OVER.acquire(timeout=20)
    HANDED_OVER.release()


@pytest.mark.parametrize("name", TASKS)
def test_threads_change_no_answer(name, two_threads):
    model, sample = TASKS[name].make(), TASKS[name].sample
    samples = [sample] * 5  # one picture, which two threads read at once
    ahead_of = [model.rows_of(answer) for answer in model.predict(samples, 2)]
    one_by_one = [model.rows_of(a) for part in batches_of(samples, 2) for a in model.predict(part, 2)]
    np.testing.assert_equal(ahead_of, one_by_one)


def test_open_files_and_lazy_pictures_may_be_given_twice(model, photos, two_threads):
    lazy = Image.open(photos / NAMES[0])
    expected = model.predict([photos / NAMES[0]])[0].descriptor
    for answer in model.predict([lazy] * 12, 2):
        np.testing.assert_array_equal(answer.descriptor.round(5), expected.round(5))
    with open(photos / NAMES[0], "rb") as file:
        assert len(model.predict([file] * 12, 2)) == 12


def test_a_bad_photo_is_named_in_its_turn(model, photos, tmp_path, two_threads):
    (photos / NAMES[4]).write_bytes(b"no picture")
    (photos / NAMES[8]).write_bytes(b"")
    with pytest.raises(ImageError, match=NAMES[4]):
        model.predict(photos, 2)
    assert model.predict_to_file(photos, tmp_path / "a.jsonl", 2, on_error="skip") == 9
    kept = [name for i, name in enumerate(NAMES) if i not in (4, 8)]
    assert [line["input"] for line in lines(tmp_path / "a.jsonl")] == kept
    skipped = (tmp_path / "a.jsonl.skipped.csv").read_text()
    assert skipped.index(NAMES[4]) < skipped.index(NAMES[8])


def test_shards_hold_the_answers_of_the_file(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BATCHES", 2)
    (photos / NAMES[4]).write_bytes(b"no picture")
    model.predict_to_file(photos, tmp_path / "a.jsonl", 2, on_error="skip")
    assert model.predict_to_file(photos, f"{tmp_path}/out/", 2, on_error="skip") == 10
    assert sorted(os.listdir(tmp_path / "out")) == [f"0000{i}.parquet" for i in range(3)]
    assert table(tmp_path / "out") == lines(tmp_path / "a.jsonl")
    assert NAMES[4] in (tmp_path / "out.skipped.csv").read_text()
    data = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert data["train"]["input"][:2] == NAMES[:2]


def test_shards_are_taken_up_and_changed_inputs_are_not(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BATCHES", 2)
    out = f"{tmp_path}/out/"
    calls, found = [], Work.answers
    monkeypatch.setattr(Work, "answers", lambda self, *a, **k: calls.append(1) or found(self, *a, **k))
    model.predict_to_file(photos, out, 2)
    assert len(calls) == 6
    (tmp_path / "out" / "00001.parquet").write_bytes(b"cut off")
    model.predict_to_file(photos, out, 2)
    assert len(calls) == 8
    Image.new("RGB", (40, 30)).save(photos / NAMES[10])
    model.predict_to_file(photos, out, 2)
    assert len(calls) == 10
    with pytest.raises(DataError, match=r"00001.parquet: is of an earlier, longer run"):
        model.predict_to_file([photos / NAMES[0]], out, 2)
    with pytest.raises(DataError, match="would be overwritten"):
        model.predict_to_file(f"{tmp_path}/out", out, 2)


def parquet_of(photos, folder, group=3):
    images = [{"bytes": (photos / name).read_bytes(), "path": name} for name in NAMES]
    rows = datasets.Dataset.from_dict({"image": images}, features=datasets.Features(image=datasets.Image()))
    folder.mkdir()
    for i in range(2):
        rows.shard(2, i, contiguous=True).to_parquet(folder / f"{i}.parquet", batch_size=group)


@pytest.mark.parametrize("kind", ["folder", "glob", "address"])
def test_shards_of_pictures_are_streamed(kind, model, photos, tmp_path):
    parquet_of(photos, tmp_path / "shards")
    folder = str(tmp_path / "shards")
    source = {"folder": folder, "glob": f"{folder}/*.parquet", "address": f"file://{folder}/"}[kind]
    inputs = model.find_inputs(source)
    assert inputs.count == 11
    assert not isinstance(inputs.parts[0][1], list)
    model.predict_to_file(source, tmp_path / "b.jsonl", 4)
    model.predict_to_file(photos, tmp_path / "a.jsonl", 4)
    assert lines(tmp_path / "b.jsonl") == lines(tmp_path / "a.jsonl")
    assert len(model.predict(source, 4)) == 11


def test_addresses_in_and_out(model, photos, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    memory, root = fsspec.filesystem("memory"), f"/geohf-{tmp_path.name}"
    for name in NAMES[:3]:
        memory.pipe(f"{root}/in/{name}", (photos / name).read_bytes())
    memory.pipe(f"{root}/in/notes.txt", b"seen, not read")
    try:
        assert model.predict_to_file(f"memory:/{root}/in/*.png", f"memory:/{root}/out/a.csv", 2) == 3
        found = memory.cat(f"{root}/out/a.csv").decode()
        assert all(f"{root}/in/{name}" in found for name in NAMES[:3])
        assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
        assert model.predict_to_file(f"memory:/{root}/in/", f"memory:/{root}/shards/", 2) == 3
        with memory.open(f"{root}/shards/00000.parquet") as file:
            rows = pyarrow.parquet.read_table(file).to_pylist()
        assert [row["input"].rpartition("/")[2] for row in rows] == NAMES[:3]
        with pytest.raises(DataError, match="no such file or folder, or an empty one"):
            model.predict(f"memory:/{root}/none/*.png")
    finally:
        memory.rm(root, recursive=True)


def test_a_line_that_was_cut_off_is_forgotten(tmp_path):
    first = Partial(tmp_path / "a.csv", "run")
    first.add("one", {"rows": [{"x": 1}], "skipped": []})
    first.add("two", {"rows": [{"x": 2}], "skipped": []})
    content = first.file.read_bytes()
    first.file.write_bytes(content[:-3])
    other = Partial(tmp_path / "a.csv", "run", rank=1)  # another process wrote a batch, too
    other.add("three", {"rows": [], "skipped": []})
    again = Partial(tmp_path / "a.csv", "run")
    again.take_up()
    assert set(again.done) == {"one", "three"}
    assert again.file.read_bytes() == b"".join(content.splitlines(keepends=True)[:2])
    anew = Partial(tmp_path / "a.csv", "another run")
    anew.take_up()
    assert not anew.done
    anew.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_give_the_file_of_one(model, photos, tmp_path):
    model.save_pretrained(tmp_path / "model")
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "predict.py"
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", 2, "--main_process_port", 0]
    words = [recipe, tmp_path / "model", photos, "--batch_size", 2, "--device", "cpu", "--output"]
    # the last bit of an answer depends on the number of threads: one each, alone as well
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    for command in ([*words, tmp_path / "a.csv"], [*launch, *words, tmp_path / "b.csv"]):
        done = subprocess.run(
            [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    assert done.stdout.count("11 rows lie in") == 1
    assert not list(tmp_path.glob(".b.csv*"))


@pytest.mark.parametrize("name", TASKS)
def test_batches_of_ray_get_the_answers_of_predict(name, tmp_path):
    from geohf.integrations.ray import RayPredictor

    task = TASKS[name]
    task.make().save_pretrained(tmp_path / "model")
    samples = np.empty(2, object)
    samples[:] = [task.sample] * 2
    ask = RayPredictor(tmp_path / "model", device="cpu")
    found = ask({"image": samples, "latitude": np.array([1.0, 2.0])})
    assert found["latitude"].tolist() == [1.0, 2.0]  # the truth is not overwritten
    rows = [ask.model.rows_of(answer) for answer in ask.model.predict(list(samples))]
    if name == "parts":
        assert [json.loads(text) for text in found["predicted_parts"]] == json.loads(json.dumps(rows))
    else:
        for key, value in rows[0][0].items():
            got = found[f"predicted_{key}"][0]
            expected = json.dumps(value, separators=(",", ":")) if isinstance(value, dict) else value
            np.testing.assert_equal(got, np.float32(expected) if isinstance(value, list) else expected)
    with pytest.raises(DataError, match="there is no column 'image' of pictures, but photo"):
        ask({"photo": samples})
    assert ask({"image": samples[:0]}).keys() == {"image"}


def test_degrees_in_columns_of_ray_keep_their_digits():
    from geohf.integrations.ray import _column

    matches = [[[37.56653489, 126.97796911, 0.5]], [[37.5, 127.0, 0.25]]]
    assert _column(matches).tolist() == matches
    assert _column([[0.5, 0.25]]).dtype == np.float32


@pytest.mark.slow
def test_a_local_ray_gives_the_answers_of_the_file(model, photos, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'geohf[ray]'")
    import ray

    from geohf.integrations.ray import RayPredictor

    model.save_pretrained(tmp_path / "model")
    expected = {
        str(photos / name): answer.descriptor
        for name, answer in zip(NAMES, model.predict(photos), strict=True)
    }
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=100 * 2**20)
    try:
        rows = ray.data.from_items([{"image": name} for name in expected], override_num_blocks=3)
        answers = rows.map_batches(
            RayPredictor, fn_constructor_args=[str(tmp_path / "model")], batch_size=4, concurrency=1
        ).take_all()
    finally:
        ray.shutdown()
    assert len(answers) == len(expected)
    for row in answers:
        np.testing.assert_allclose(row["predicted_descriptor"], expected[row["image"]], atol=1e-5)
