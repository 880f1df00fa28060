"""recipes/predict.py, evaluate.py and push.py with a street model: every kind of input, every format, interruption."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, Features, Image
from helpers.street_models import STATES, build_model, patches, spread_out

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.models.loading import load_model
from geohf.models.predicting import predict_to_file
from geohf.models.work import Work


@pytest.fixture(scope="module")
def model():
    return spread_out(build_model())


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    names = ["1.png", "2.png", "b/3.png", "b/4.png", "b/5.png"]
    for name, picture in zip(names, patches(5, 5), strict=True):
        picture.save(folder / name)
    return folder


def expected(model, folder):
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    return names, model.predict([folder / name for name in names])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_predict_writes_what_predict_answers(saved, model, pictures, tmp_path, recipe):
    done = recipe(
        "predict", saved, pictures, "--output", tmp_path / "a.jsonl", "--batch_size", 2, "--top_k", 2
    )
    assert done.returncode == 0, done.stderr
    names, answers = expected(model, pictures)
    rows = lines(tmp_path / "a.jsonl")
    assert [row["input"] for row in rows] == names
    for row, answer in zip(rows, answers, strict=True):
        assert great_circle_m([row["latitude"], row["longitude"]], [answer.latitude, answer.longitude]) < 20
        assert list(row["states"]) == [state.name for state in answer.states[:2]]
        assert row["state"] == answer.states[0].name
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("kind", ["glob", "files", "table", "parquet", "images in parquet", "dataset"])
def test_every_kind_of_input_gives_the_same_answers(kind, model, pictures, tmp_path, hub):
    names, answers = expected(model, pictures)
    paths = [str(pictures / name) for name in names]
    if kind == "glob":
        sources = [f"{pictures}/**/*.png"]
        order = sorted(paths)
    elif kind == "files":
        sources = order = paths[::-1]
    elif kind in ("table", "parquet"):
        table = pd.DataFrame({"Image": names[::2], "note": "x"})
        source = pictures / ("t.csv" if kind == "table" else "t.parquet")
        table.to_csv(source, index=False) if kind == "table" else table.to_parquet(source)
        sources, order = [source], paths[::2]
    else:
        encoded = [{"bytes": Path(path).read_bytes(), "path": None} for path in paths]
        dataset = Dataset.from_dict({"photo": encoded}, Features(photo=Image()))
        order = paths
        if kind == "dataset":
            dataset.push_to_hub("someone/photos")
            sources = ["someone/photos"]
        else:
            dataset.rename_column("photo", "image").to_parquet(tmp_path / "i.parquet")
            sources = [tmp_path / "i.parquet"]
    assert predict_to_file(model, sources, tmp_path / "out.jsonl", batch_size=2) == len(order)
    by_path = dict(zip(paths, answers, strict=True))
    for row, path in zip(lines(tmp_path / "out.jsonl"), order, strict=True):
        answer = by_path[path]
        assert great_circle_m([row["latitude"], row["longitude"]], [answer.latitude, answer.longitude]) < 20


def test_formats(model, pictures, tmp_path):
    names, answers = expected(model, pictures)
    for ending in ("csv", "geojson", "html"):
        model.predict_to_file(pictures, tmp_path / f"a.{ending}")
    table = pd.read_csv(tmp_path / "a.csv")
    np.testing.assert_allclose(table["latitude"], [answer.latitude for answer in answers], atol=1e-3)
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [feature["properties"]["input"] for feature in features] == names
    np.testing.assert_allclose(features[0]["geometry"]["coordinates"][1], answers[0].latitude, atol=1e-3)
    page = (tmp_path / "a.html").read_text()
    assert all(name in page for name in names)
    assert not re.search(r"src=[\"']?http", page)


def test_a_killed_run_goes_on_where_it_stopped(model, pictures, tmp_path, monkeypatch):
    """The third input is broken at first: two are finished, and are not asked for again."""
    names, _ = expected(model, pictures)
    whole = tmp_path / "whole.jsonl"
    predict_to_file(model, pictures, whole, batch_size=1)
    good = (pictures / names[2]).read_bytes()
    (pictures / names[2]).write_bytes(b"not yet")
    output = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"3\.png"):
        predict_to_file(model, pictures, output, batch_size=1)
    assert not output.exists()
    partial = tmp_path / ".out.jsonl.partial"
    with open(partial, "a") as file:
        file.write('{"rows": [{"input": "half a li')  # what a kill leaves
    (pictures / names[2]).write_bytes(good)
    asked, answers = [], Work.answers
    monkeypatch.setattr(Work, "answers", lambda *a, **k: asked.append(1) or answers(*a, **k))
    assert predict_to_file(model, pictures, output, batch_size=1) == 5
    assert len(asked) == 3
    assert output.read_text() == whole.read_text()
    assert not partial.exists()


def test_what_another_run_left_is_not_taken_up(model, pictures, tmp_path):
    names, _ = expected(model, pictures)
    good = (pictures / names[4]).read_bytes()
    (pictures / names[4]).write_bytes(b"broken")
    with pytest.raises(DataError):
        predict_to_file(model, pictures, tmp_path / "out.jsonl", batch_size=1)
    (pictures / names[4]).write_bytes(good)
    other = spread_out(build_model(seed=3))
    predict_to_file(other, pictures, tmp_path / "out.jsonl", batch_size=1)
    predict_to_file(other, pictures, tmp_path / "alone.jsonl", batch_size=1)
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "alone.jsonl").read_text()


def test_bad_inputs_can_be_skipped_and_are_listed(model, pictures, tmp_path):
    (pictures / "2.png").write_bytes(b"")
    assert predict_to_file(model, pictures, tmp_path / "a.csv", batch_size=3, on_error="skip") == 4
    skipped = pd.read_csv(tmp_path / "a.csv.skipped.csv")
    assert list(skipped["row"]) == ["2.png"]
    assert "empty" in skipped["reason"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL", "nowhere.jpg", "--output", "a.csv"], "nowhere.jpg: no such file"),
        (["MODEL", "PHOTOS/*.tif", "--output", "a.csv"], "no file has such a name"),
        (["MODEL", "PHOTOS", "--output", "a.doc"], "ends in none of"),
        (["MODEL", "PHOTOS", "--output", "a.csv", "--states", "Atlantis"], "no state 'Atlantis'"),
        (["PHOTOS", "PHOTOS", "--output", "a.csv"], "no model can be loaded"),
        (["no/such-model", "PHOTOS", "--output", "a.csv"], "no model can be loaded"),
        (["MODEL", "outside.csv", "--output", "a.csv"], "leads out of the folder"),
        (["MODEL", "empty", "--output", "a.csv"], "holds no image"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted_is_named(words, message, saved, pictures, tmp_path, recipe):
    (tmp_path / "empty").mkdir()
    (tmp_path / "outside.csv").write_text("image\n../../etc/passwd\n")
    named = {"MODEL": saved, "PHOTOS": pictures, "PHOTOS/*.tif": f"{pictures}/*.tif"}
    words = [named.get(w) or (tmp_path / w if w.startswith(("a.", "outside", "empty")) else w) for w in words]
    done = recipe("predict", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("a.*"))


def test_evaluate_measures_places_with_a_truth(saved, model, pictures, tmp_path, recipe):
    names, answers = expected(model, pictures)
    states = [*list(STATES)[:3], "Texas", "Maine"]
    points = np.array([STATES[state][:2] for state in states])
    table = pd.DataFrame(
        {"image": names, "latitude": points[:, 0], "longitude": points[:, 1], "state": states}
    )
    table.to_csv(pictures / "truth.csv", index=False)
    done = recipe("evaluate", saved, pictures / "truth.csv", "--output", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "m.json").read_text())
    away = great_circle_m([[a.latitude, a.longitude] for a in answers], points) / 1000
    assert metrics["mean_km"] == pytest.approx(away.mean(), rel=1e-3)
    assert metrics["top1"] == np.mean([a.states[0].name == s for a, s in zip(answers, states, strict=True)])
    assert metrics["places"] == 5
    assert "mean_km" in done.stdout


def test_push_sends_a_whole_repo_that_loads(saved, model, pictures, tmp_path, hub, recipe):
    (saved / "stray.pkl").write_bytes(b"cos")
    done = recipe("push", saved, "someone/pushed")
    assert done.returncode == 0, done.stderr
    pushed = load_model("someone/pushed")
    names, answers = expected(model, pictures)
    assert pushed.predict([pictures / name for name in names]) == answers
    assert "stray.pkl" not in hub.files("someone/pushed")


def test_push_refuses_a_folder_that_does_not_load(tmp_path, hub, recipe):
    done = recipe("push", tmp_path, "someone/none")
    assert done.returncode == 2
    assert "no model can be loaded" in done.stderr
