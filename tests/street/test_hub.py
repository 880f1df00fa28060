"""Saving, loading in a fresh process, and the Hub: the same answers, nothing but data, and clear refusals."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict

import pytest
import torch
from helpers.street_models import CLASSES, HEADINGS, build_model, flat, parse, spread_out, tiny_clip
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file

from geohf.recipes.train_street import run as run_street
from geohf.street import GeoStreetModel
from geohf.street.sample import write_sample

# what a fresh process says of each folder or repo that it is given
FRESH = """
import importlib, json, sys
import geohf

report = {"heavy": [name for name in ("timm", "datasets", "matplotlib", "sklearn", "pandas", "peft") if name in sys.modules]}
job = json.loads(open(sys.argv[1]).read())
import torch
from dataclasses import asdict
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

torch.set_num_threads(job["threads"])
if job.get("reload"):
    importlib.reload(geohf)
    importlib.reload(geohf)


def answers(model):
    return [asdict(answer) for answer in model.predict(job["inputs"], batch_size=3)]


for name, where in job["predict"].items():
    model = AutoModel.from_pretrained(where, **job.get("options", {}).get(name, {}))
    processor = AutoImageProcessor.from_pretrained(where) if name != "adapter" else None
    report[name] = {"model": type(model).__name__, "training": model.training, "answers": answers(model)}
    report[name]["processor"] = type(processor).__name__
    report[name]["config"] = type(AutoConfig.from_pretrained(where)).__name__ if processor else None
for name, where in job.get("pipeline", {}).items():
    report["pipeline " + name] = pipeline("street-geolocation", model=where)(job["inputs"])
for name, where in job.get("refused", {}).items():
    try:
        AutoModel.from_pretrained(where)
        report[name] = "loaded"
    except Exception as error:
        report[name] = f"{type(error).__name__}: {error}"
for name, where in job.get("half", {}).items():
    full, half = (AutoModel.from_pretrained(where, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    names = [n for n in ("centroids", "extents", "distances_m", "soft_targets", "middle", "half", "scale")]
    cpu = torch.device("cpu")
    report["half " + name] = {
        "constants": [bool(torch.equal(full.head.constant(n, cpu), half.head.constant(n, cpu))) for n in names],
        "types": sorted({str(half.head.constant(n, cpu).dtype) for n in names}),
        "weights": str(half.head.classify[1].weight.dtype),
        "config": {n: getattr(half.config, n) for n in job["fields"]},
        "answers": answers(half),
    }
open(sys.argv[2], "w").write(json.dumps(report))
"""


def ask_fresh_process(folder, **job):
    (folder / "job.json").write_text(json.dumps(job | {"threads": torch.get_num_threads()}))
    command = [sys.executable, "-c", FRESH, folder / "job.json", folder / "report.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def inputs_of(photos):
    names = [str(photo) for photo in photos]
    return [
        dict(zip(HEADINGS, names, strict=False)),
        names[4],
        {"views": names[5:7], "headings": [10.0, 200.0]},
    ]


FIELDS = ["class_centroids", "class_extents", "temperature", "radius_factor", "radius_floor_m", "gps_box"]


def calibrated(model):
    model.config.temperature, model.config.radius_factor = 1.2345678, 2.3456789
    model.config.radius_floor_m = 1234.5678901
    return model


# ---- one fresh process for many folders


class Loaded:
    """Folders of models, what this process answers with them, and what a fresh one reports."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, photos):
    folder, self = tmp_path_factory.mktemp("folders"), Loaded()
    precise = CLASSES | {
        "class_centroids": [[47.37690123456789, 8.541700000000001], *CLASSES["class_centroids"][1:]]
    }
    models = {
        "timm": build_model(heading_aware=True, fusion="attention", **precise),
        "clip": GeoStreetModel.from_backbone(
            str(tiny_clip(folder / "clip-weights")), fusion="weighted", **precise
        ),
    }
    for layer in models["timm"].tower.modules():  # statistics that are not the ones that a new tower has
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean, 0, 0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    inputs = inputs_of(photos)
    job = {
        "reload": True,
        "inputs": inputs,
        "predict": {},
        "pipeline": {},
        "refused": {},
        "half": {},
        "fields": FIELDS,
    }
    self.answers, self.folder = {}, folder
    for name, model in models.items():
        calibrated(spread_out(model)).save_pretrained(folder / name)
        self.answers[name] = flat(model.predict(inputs, batch_size=3))
        for kind in ("predict", "pipeline", "half"):
            job[kind][name] = str(folder / name)
    self.models = models
    self.planted = plant_code(folder / "timm", folder / "planted", folder / "executed.txt")
    job["predict"]["planted"] = job["pipeline"]["planted"] = str(folder / "planted")
    for name, change in DAMAGES.items():
        change(shutil.copytree(folder / "timm", folder / name))
        job["refused"][name] = str(folder / name)
    self.report = ask_fresh_process(folder, **job)
    return self


def plant_code(source, folder, sentinel):
    """A copy of a model's folder with code and pickles in it, which write `sentinel` when they run."""
    shutil.copytree(source, folder)
    write = f"open({str(sentinel)!r}, 'a').write(__name__)\n"
    for name in ("modeling_evil.py", "processing_evil.py", "__init__.py", "geohf.py"):
        (folder / name).write_text(write + "class Evil: pass\n")
    # a pickle whose loading runs code
    code = f"c__builtin__\nexec\n(V{write.strip()}\ntR.".encode()
    for name in ("pytorch_model.bin", "training_args.bin", "scaler.pkl", "model.joblib", "optimizer.pt"):
        (folder / name).write_bytes(code)
    for name, classes in (
        ("config.json", {"AutoConfig": "modeling_evil.Evil", "AutoModel": "modeling_evil.Evil"}),
        ("preprocessor_config.json", {"AutoImageProcessor": "processing_evil.Evil"}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"auto_map": classes}))
    return sentinel


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def only_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "lost weight of the tower": lambda f: change_weights(
        f,
        lambda w: (
            w.pop("tower.timm.stem.0.weight", None) or w.pop(sorted(k for k in w if k.startswith("tower"))[0])
        ),
    ),
    "lost weight of the head": lambda f: change_weights(f, lambda w: w.pop("head.locate.1.weight")),
    "wrong shape": lambda f: change_weights(
        f, lambda w: w.update({"head.classify.1.weight": torch.zeros(3, 3)})
    ),
    "fusion concat": lambda f: change_config(f, fusion="concat"),
    "fusion mean": lambda f: change_config(f, fusion="mean"),
    "unknown fusion": lambda f: change_config(f, fusion="max"),
    "bounded head": lambda f: change_config(f, gps_head="bounded"),
    "one class less": lambda f: change_config(
        f,
        class_centroids=CLASSES["class_centroids"][:4],
        class_extents=CLASSES["class_extents"][:4],
        class_indices=CLASSES["class_indices"][:4],
        id2label={str(i): name for i, name in list(CLASSES["id2label"].items())[:4]},
    ),
    "only pickle": only_pickle,
    "truncated": truncate,
}


@pytest.mark.parametrize("name", ["timm", "clip"])
def test_a_fresh_process_answers_bit_for_bit_the_same(loaded, name):
    report = loaded.report[name]
    assert report["model"] == "GeoStreetModel"
    assert report["config"] == "GeoStreetConfig"
    assert report["processor"] == "GeoStreetImageProcessor"
    assert not report["training"]
    assert report["answers"] == loaded.answers[name]


@pytest.mark.parametrize("name", ["timm", "clip"])
def test_the_pipeline_in_a_fresh_process(loaded, name):
    for found, expected in zip(loaded.report[f"pipeline {name}"], loaded.answers[name], strict=True):
        assert found["latitude"] == pytest.approx(expected["latitude"], abs=1e-4)
        assert found["longitude"] == pytest.approx(expected["longitude"], abs=1e-4)
        assert found["radius_m"] == pytest.approx(expected["radius_m"], rel=1e-3)
        assert [s["name"] for s in found["states"]] == [s["name"] for s in expected["states"]]


@pytest.mark.parametrize("name", ["timm", "clip"])
def test_half_precision_leaves_coordinates_and_calibration_alone(loaded, name):
    report = loaded.report[f"half {name}"]
    assert report["weights"] == "torch.bfloat16"
    assert report["constants"] == [True] * 7
    assert report["types"] == ["torch.float32"]
    config = loaded.models[name].config
    assert report["config"] == {field: getattr(config, field) for field in FIELDS}
    for answer in report["answers"]:  # a point is a float32 one: bfloat16 would be a multiple of 0.25 degrees
        assert answer["latitude"] != float(torch.tensor(answer["latitude"]).bfloat16())


def test_importing_geohf_brings_nothing_heavy_along(loaded):
    assert loaded.report["heavy"] == []


def test_the_weights_of_the_tower_survive(loaded):
    published = load_file(loaded.folder / "clip-weights" / "model.safetensors")
    tower = loaded.models["clip"].tower.state_dict()
    assert len(tower) > 30
    for name, tensor in tower.items():
        assert torch.equal(published[name], tensor), name
    saved = load_file(loaded.folder / "clip" / "model.safetensors")
    again = GeoStreetModel.from_pretrained(loaded.folder / "clip").state_dict()
    assert set(saved) == set(again)
    for name, tensor in again.items():
        assert torch.equal(saved[name], tensor), name


def test_code_and_pickles_in_a_repo_are_not_touched(loaded):
    assert loaded.report["planted"]["answers"] == loaded.answers["timm"]
    assert loaded.report["planted"]["processor"] == "GeoStreetImageProcessor"
    assert loaded.report["pipeline planted"] == loaded.report["pipeline timm"]
    assert not loaded.planted.exists()


def test_the_planted_code_would_have_been_noticed(loaded, tmp_path):
    planted = plant_code(loaded.folder / "timm", tmp_path / "planted", tmp_path / "executed.txt")
    pickle.loads((tmp_path / "planted" / "scaler.pkl").read_bytes())
    assert planted.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lost weight of the tower",
            r"DataError: .* weights that config.json asks for are missing in the repo \(tower\.",
        ),
        (
            "lost weight of the head",
            r"DataError: .*: 1 weights .* missing in the repo \(head\.locate\.1\.weight\)",
        ),
        ("wrong shape", r"DataError: .*: weights do not fit config.json"),
        ("fusion concat", r"DataError: .* missing in the repo \(head\.fuse\.0\.bias"),
        ("fusion mean", r"DataError: .* have no place in the model of config.json \(head\.score\.0\.bias"),
        ("unknown fusion", r"fusion must be one of mean, concat, attention, weighted; got 'max'"),
        ("bounded head", r"DataError: .*: weights do not fit config.json"),
        ("one class less", r"DataError: .*: weights do not fit config.json"),
        ("only pickle", r"model\.safetensors"),
        ("truncated", r"DataError: .*truncated: "),
    ],
)
def test_a_damaged_repo_is_refused(loaded, name, message):
    assert re.search(message, loaded.report[name].replace("\n", " ")), loaded.report[name]


# ---- the Hub

MODEL_FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}


def assert_only_data(files):
    """No pickle, no code, whatever the name says."""
    for name, content in files.items():
        assert not name.endswith((".py", ".bin", ".pt", ".pth", ".pkl", ".joblib", ".npy", ".npz")), name
        assert not content.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), (
            name
        )
        assert "auto_map" not in (json.loads(content) if name == "config.json" else {})


def test_a_pushed_model_answers_the_same_by_name(hub, photos, tmp_path):
    model, inputs = calibrated(spread_out(build_model(heading_aware=True))), inputs_of(photos)
    model.push_to_hub("org/geo-street")
    files = hub.files("org/geo-street")
    assert set(files) - {".gitattributes"} == MODEL_FILES
    assert_only_data(files)
    first = hub.commits("org/geo-street")[0]
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.library_name == "geohf"
    assert card.data.tags == ["geohf", "geolocation", "geohf_street"]
    assert card.data.eval_results is None
    assert 'AutoModel.from_pretrained("org/geo-street")' in card.text
    assert "Not measured." in card.text

    other = calibrated(spread_out(build_model(seed=5, heading_aware=True)))
    other.push_to_hub("org/geo-street", revision="next", commit_message="Another one")
    other.push_to_hub("org/geo-street", commit_message="The next one")
    assert len(hub.commits("org/geo-street")) == 3  # the empty first one, and one commit a push
    report = ask_fresh_process(
        tmp_path,
        inputs=inputs,
        predict={"now": "org/geo-street", "first": "org/geo-street", "branch": "org/geo-street"},
        options={"first": {"revision": first}, "branch": {"revision": "next"}},
        pipeline={"now": "org/geo-street"},
    )
    expected, before = (flat(m.predict(inputs, batch_size=3)) for m in (other, model))
    assert report["now"]["answers"] == report["branch"]["answers"] == expected
    assert report["first"]["answers"] == before != expected
    assert report["now"]["processor"] == "GeoStreetImageProcessor"
    for found, answer in zip(report["pipeline now"], expected, strict=True):
        assert found["latitude"] == pytest.approx(answer["latitude"], abs=1e-4)
        assert [s["name"] for s in found["states"]] == [s["name"] for s in answer["states"]]


@pytest.fixture
def lora_run(hub, tmp_path):
    """A run with adapters on a backbone from the Hub, pushed as org/geo-street."""
    clip = tiny_clip(tmp_path / "clip")
    hub.add("geolocal/StreetCLIP", {path.name: path.read_bytes() for path in clip.iterdir()})
    data = write_sample(tmp_path / "data", seed=0, size=2, image_size=32)
    words = [
        *("--data", data, "--backbone", "geolocal/StreetCLIP", "--output_dir", tmp_path / "run"),
        *("--finetune", "lora", "--lora_rank", 4),
        *("--validation_share", 0.2, "--map_places", 10, "--cache_dir", tmp_path / "cache"),
        # a weak first phase, so that the second one is the better one and is kept
        *("--head_epochs", 1, "--head_min_steps", 1, "--num_train_epochs", 4, "--learning_rate", 3e-3),
        *("--backbone_learning_rate", 3e-3, "--push_to_hub", "--hub_model_id", "org/geo-street"),
    ]
    return run_street(*parse(*words)), tmp_path / "run"


@pytest.mark.case("use-O13")
def test_adapters_are_trained_pushed_loaded_and_merged(hub, lora_run, photos, tmp_path):
    result, folder = lora_run
    assert result.kept == "phase 2"
    # only adapters and head learned: the merged tower differs from the base in the adapted layers alone
    base = load_file(folder / "checkpoints" / "before-phase2" / "model.safetensors")
    merged = load_file(folder / "model.safetensors")
    assert set(base) == set(merged)
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    tower = {name for name in moved if name.startswith("tower.")}
    assert tower
    assert all("_proj.weight" in name or ".fc1.weight" in name or ".fc2.weight" in name for name in tower)
    assert moved - tower >= {"head.classify.1.weight", "head.locate.6.bias"}
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name or ".head." in name for name in adapter)
    assert not list((folder / "adapter").glob("*.bin"))

    for repo in ("org/geo-street", "org/geo-street-base", "org/geo-street-adapter"):
        files = hub.files(repo)
        assert_only_data(files)
        card = ModelCard(files["README.md"].decode())
        assert card.data.license == "cc-by-nc-4.0"
        assert card.data.base_model == "geolocal/StreetCLIP"
        assert "excludes commercial use" in card.text
        assert f'AutoModel.from_pretrained("{repo}")' in card.text
    assert set(hub.files("org/geo-street-base")) - {".gitattributes"} == MODEL_FILES
    adapter_files = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert set(hub.files("org/geo-street-adapter")) - {".gitattributes"} == adapter_files
    described = json.loads(hub.files("org/geo-street-adapter")["adapter_config.json"])
    assert described["base_model_name_or_path"] == "org/geo-street-base"

    inputs = inputs_of(photos)
    where = {"merged": "org/geo-street", "adapter": "org/geo-street-adapter"}
    # the adapter on disk belongs to the model on disk
    report = ask_fresh_process(tmp_path, inputs=inputs, predict=where)
    expected = [asdict(answer) for answer in result.model.cpu().predict(inputs, batch_size=3)]
    assert report["merged"]["answers"] == expected
    for found, answer in zip(report["adapter"]["answers"], expected, strict=True):
        assert found["latitude"] == pytest.approx(answer["latitude"], abs=1e-4)
        assert found["longitude"] == pytest.approx(answer["longitude"], abs=1e-4)
        assert found["radius_m"] == (
            None if answer["radius_m"] is None else pytest.approx(answer["radius_m"], rel=1e-3)
        )
        for a, b in zip(found["states"], answer["states"], strict=True):
            assert (a["name"], a["index"]) == (b["name"], b["index"])
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)

    # the pushed run holds its numbers; a model loaded from its folder takes them along to another repo
    card = ModelCard(hub.files("org/geo-street")["README.md"].decode())
    metrics = json.loads((folder / "metrics.json").read_text())["eval"]
    results = {found.metric_type: found.metric_value for found in card.data.eval_results}
    assert results["mean_km"] == metrics["mean_km"]
    assert {found.dataset_split for found in card.data.eval_results} == {"test"}
    GeoStreetModel.from_pretrained(folder).push_to_hub("org/copy")
    copy = hub.files("org/copy")
    assert_only_data(copy)
    assert set(copy) == set(hub.files("org/geo-street"))
    for name, content in hub.files("org/geo-street").items():
        if name == "README.md":
            moved = content.decode().replace('"org/geo-street"', '"org/copy"')
            moved = moved.replace("- name: geo-street\n", "- name: copy\n")
            assert copy[name].decode() == moved.replace("\n# geo-street\n", "\n# copy\n")
        elif name not in ("config.json", ".gitattributes"):
            assert copy[name] == content, name
    assert HfApi().model_info("org/copy").sha


def test_only_data_leaves_a_folder(hub, street_model, tmp_path):
    model = street_model()
    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("training_args.bin", "model.pkl", "custom.py", "notes.txt"):
        (tmp_path / "run" / name).write_bytes(b"x")
    (tmp_path / "run" / "checkpoint-1").mkdir()
    (tmp_path / "run" / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "run" / "optimizer.pt", "w"):
        pass
    GeoStreetModel.from_pretrained(tmp_path / "run").push_to_hub("org/clean")
    assert set(hub.files("org/clean")) - {".gitattributes"} == MODEL_FILES
    model.save_pretrained(tmp_path / "again", push_to_hub=True, repo_id="org/again")
    assert set(hub.files("org/again")) - {".gitattributes"} == MODEL_FILES
