"""Answers in a file: a run that was stopped goes on with the same inputs only."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from zipfile import ZipFile

import datasets
import fsspec
import numpy as np
import pytest
import torch
from helpers import five_tasks
from helpers.place_models import build_model, write_pictures
from PIL import Image

from geohf.errors import DataError
from geohf.hub.files import repo_files
from geohf.models.work import Work, key_of
from geohf.vision.contents import content_key, contents_of

NAMES = [f"IMG_{i}.png" for i in range(8)]


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture
def days(tmp_path):
    """Two days of photographs that cameras gave the same names."""
    for seed, day in enumerate(("a", "b")):
        write_pictures(tmp_path / day, NAMES, seed)
    return tmp_path / "a", tmp_path / "b"


def stopped(model, inputs, output, monkeypatch, after=2):
    """Predict until so many batches are done, as a kill leaves it."""
    done, answers = [], Work.answers

    def failing(self, *args, **kwargs):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        return answers(self, *args, **kwargs)

    monkeypatch.setattr(Work, "answers", failing)
    with pytest.raises(KeyboardInterrupt):
        model.predict_to_file(inputs, output, 2)
    monkeypatch.setattr(Work, "answers", answers)


def answers(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def datasets_of(folder):
    images = [{"bytes": (folder / name).read_bytes(), "path": None} for name in NAMES]
    return datasets.Dataset.from_dict({"image": images}, features=datasets.Features(image=datasets.Image()))


KINDS = {
    "folder": lambda folder: folder,
    "dataset": datasets_of,
    "splits": lambda folder: datasets.DatasetDict(train=datasets_of(folder)),
    "pictures": lambda folder: [Image.open(folder / name).copy() for name in NAMES],
    "files": lambda folder: [io.BytesIO((folder / name).read_bytes()) for name in NAMES],
    "arrays": lambda folder: np.stack([np.asarray(Image.open(folder / name)) for name in NAMES]),
    "saved": lambda folder: saved(folder),
}


def saved(folder):
    path = folder.parent / f"saved_{folder.name}"
    if not path.exists():
        datasets_of(folder).save_to_disk(path)
    return path


@pytest.mark.case("files-A17")
def test_answers_never_overwrite_the_table_that_is_asked(tmp_path):
    from helpers.five_tasks import PHOTO, TASKS

    PHOTO.save(tmp_path / "a.png")
    table = tmp_path / "photos.csv"
    table.write_text("image\na.png\n")
    model = TASKS["street"].make()
    for sources in (table, [str(table)], [tmp_path / "a.png", tmp_path / "x" / ".." / "photos.csv"]):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=r"is an input, .* and would be overwritten"):
            model.predict_to_file(sources, table)
    assert table.read_text() == "image\na.png\n"


@pytest.mark.case("use-S1")
@pytest.mark.parametrize("kind", KINDS)
def test_another_input_begins_anew(kind, model, days, tmp_path, monkeypatch):
    stopped(model, KINDS[kind](days[0]), tmp_path / "x.jsonl", monkeypatch)
    assert len((tmp_path / ".x.jsonl.partial").read_text().splitlines()) == 3
    assert model.predict_to_file(KINDS[kind](days[1]), tmp_path / "x.jsonl", 2) == 8
    model.predict_to_file(KINDS[kind](days[1]), tmp_path / "y.jsonl", 2)
    assert answers(tmp_path / "x.jsonl") == answers(tmp_path / "y.jsonl")


@pytest.mark.case("use-S1")
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_input_goes_on(kind, model, days, tmp_path, monkeypatch):
    stopped(model, KINDS[kind](days[0]), tmp_path / "x.jsonl", monkeypatch)
    calls, found = [], Work.answers
    monkeypatch.setattr(Work, "answers", lambda self, *a, **k: calls.append(1) or found(self, *a, **k))
    assert model.predict_to_file(KINDS[kind](days[0]), tmp_path / "x.jsonl", 2) == 8
    assert len(calls) == 2


@pytest.mark.case("use-S1")
def test_a_file_that_changed_is_predicted_again(model, days, tmp_path, monkeypatch):
    stopped(model, days[0], tmp_path / "x.jsonl", monkeypatch, after=3)
    (days[0] / NAMES[2]).write_bytes((days[1] / NAMES[2]).read_bytes())
    model.predict_to_file(days[0], tmp_path / "x.jsonl", 2)
    model.predict_to_file(days[0], tmp_path / "y.jsonl", 2)
    assert answers(tmp_path / "x.jsonl") == answers(tmp_path / "y.jsonl")


@pytest.mark.case("use-S1")
def test_options_are_part_of_the_key(tmp_path):
    index = tmp_path / "index.bin"
    index.write_bytes(b"one")
    key = content_key({"index": str(index), "top_k": 3})
    index.write_bytes(b"other")
    assert content_key({"index": str(index), "top_k": 3}) != key
    assert content_key([[1], 2]) != content_key([[1, 2]])
    assert content_key("ab") != content_key(["a", "b"])
    assert content_key(np.zeros(3)) == content_key(np.zeros(3)) != content_key(np.zeros((3, 1)))
    assert content_key(object()) != content_key(object())


def test_a_key_tells_types_transparency_and_what_lies_at_an_address_now():
    mask = torch.ones(3, 4, 4, dtype=torch.uint8)  # nearly black; as floats it is white
    assert content_key(mask) != content_key(mask.float())
    assert content_key(torch.tensor([2**24])) != content_key(torch.tensor([2**24 + 1]))
    assert content_key(torch.zeros(2, dtype=torch.bfloat16)) == content_key(
        torch.zeros(2, dtype=torch.bfloat16)
    )
    palette = Image.new("P", (4, 4))
    clear = palette.copy()
    clear.info["transparency"] = 0
    assert content_key(palette) != content_key(clear)
    memory = fsspec.filesystem("memory")
    memory.pipe("/keys/a.png", b"one")
    key = content_key("memory://keys/a.png")
    assert content_key("memory://keys/a.png") == key
    memory.pipe("/keys/a.png", b"two")
    assert content_key("memory://keys/a.png") != key


def test_no_address_is_asked_but_that_of_a_picture(monkeypatch):
    """A row of a dataset tells the page and the license of a photograph, too: each was a request to its server."""
    asked = []
    monkeypatch.setattr("geohf.vision.contents._facts_at", lambda address: asked.append(address) or "")
    row = {
        "url": "https://a.org/1",
        "license": "https://b.org",
        "image": {"bytes": b"x", "path": "https://c.org/1.jpg"},
    }
    key_of([("https://c.org/1.jpg", row)])
    assert not asked
    key_of([("https://c.org/1.jpg", "https://c.org/1.jpg")])
    key_of(
        [
            (
                "0",
                {
                    "url": "https://a.org/1",
                    "frames": ["s3://d/1.tif", {"path": "s3://d/2.tif", "bytes": None}],
                },
            )
        ]
    )
    assert asked == ["https://c.org/1.jpg", "s3://d/1.tif", "s3://d/2.tif"]


@pytest.mark.parametrize("made", [torch.tensor, np.array])
def test_numbers_without_dimensions_have_a_key(made):
    assert content_key(made(3)) == content_key(made(3)) != content_key(made(4))


@pytest.mark.case("use-B11", "files-A8")
def test_contents_are_equal_where_bytes_are(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / name).write_bytes(content)
    a, b, c = contents_of([str(tmp_path / name) for name in "abc"])
    assert a == c != b
    held = contents_of(
        [{"bytes": b"one", "path": "0.jpg"}, {"bytes": b"two", "path": "0.jpg"}, str(tmp_path / "a")]
    )
    assert held[0] == held[2] != held[1]
    with ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a", b"one")
    zipped, file = contents_of([f"zip://a::{tmp_path / 'z.zip'}", str(tmp_path / "a")])
    assert zipped == file


def test_of_many_files_of_one_length_the_ends_are_read(tmp_path, monkeypatch):
    end = bytes(4096)
    for name, content in (("a", b"1" + end), ("b", b"2" + end), ("c", end + b"3"), ("d", end + b"4")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "e").hardlink_to(tmp_path / "c")
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    a, b, c, d, e = contents_of([tmp_path / name for name in "abcde"])
    assert len({a, b, c, d}) == 4
    assert c == e
    assert read == ["a", "b"]


def shown_in(path):
    page = path.read_text()
    return page.count("data:image/jpeg;base64,"), "img-src data:" in page


@pytest.mark.parametrize("name", ["street", "region"])
def test_a_map_of_answers_holds_photographs_of_the_first_inputs(name, days, tmp_path):
    model, output = five_tasks.TASKS[name].make(), tmp_path / "answers.html"
    (days[0] / NAMES[1]).write_bytes(b"no picture")
    model.predict_to_file([days[0]], output, 2, on_error="skip", thumbnails=3)
    assert shown_in(output) == (2, True)  # the first three without the one that is left out
    model.predict_to_file([days[1]], output, 2)
    assert shown_in(output) == (len(NAMES), True)
    model.predict_to_file([days[1]], output, 2, thumbnails=0)
    assert shown_in(output) == (0, False)
    model.predict_to_file([days[1]], tmp_path / "answers.jsonl", 2)
    assert "thumbnail" not in (tmp_path / "answers.jsonl").read_text()
    with pytest.raises(DataError, match="thumbnails"):
        model.predict_to_file([days[1]], output, thumbnails=-1)


def test_the_photograph_of_a_place_is_its_first_view(days, tmp_path):
    model = five_tasks.TASKS["street"].make()
    views = [days[0] / name for name in NAMES[:4]]
    model.predict_to_file([views], tmp_path / "views.html")
    model.predict_to_file([[views[0]]], tmp_path / "first.html")
    pictures = [
        re.findall(r"data:image/jpeg;base64,[^\"]+", (tmp_path / name).read_text())
        for name in ("views.html", "first.html")
    ]
    assert len(pictures[0]) == 1
    assert pictures[0] == pictures[1]


def test_a_push_leaves_maps_of_answers_at_home(tmp_path):
    for name in ("map.html", "answers.html", "config.json", "predictions.geojson", "answers.geojson"):
        (tmp_path / name).write_text("{}")
    kept = ["config.json", "map.html", "predictions.geojson"]
    assert [path.name for path in repo_files(tmp_path)] == kept


def test_a_push_takes_the_pictures_that_the_card_shows_and_no_other(tmp_path):
    for name in ("confusion.png", "somebody.png", "fusion.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "README.md").write_text("![confusion.png](confusion.png)")
    assert [path.name for path in repo_files(tmp_path)] == ["README.md", "confusion.png"]
