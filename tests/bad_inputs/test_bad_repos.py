"""Model repos that cannot be used: refused with a message, or loaded as data; nothing in them is ever executed."""

import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from helpers.bad_models import BUILDERS
from helpers.bad_world import Case
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

from geohf.errors import DataError

TASKS = tuple(BUILDERS)
CODE = "from pathlib import Path\nPath({!r}).touch()\n"


class Touch:
    """Unpickled, it leaves a file: the proof that a pickle was loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# ---- mistakes: each takes the folder of a model and spoils it


def raw(name, new):
    def spoil(folder: Path):
        path = folder / name
        path.write_bytes(new(path.read_bytes()) if callable(new) else new)

    return spoil


def without(name):
    return lambda folder: (folder / name).unlink()


def config(**fields):
    """Fields of config.json are something else; None takes them away."""

    def spoil(folder: Path):
        content = json.loads((folder / "config.json").read_text()) | fields
        content = {key: value for key, value in content.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(content))

    return spoil


def tensors(change):
    def spoil(folder: Path):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def first(weights):
    return sorted(name for name, tensor in weights.items() if tensor.ndim > 1)[0]


def reshape(weights):
    weights[first(weights)] = torch.zeros(3, 5)


def pickle_alone(folder: Path):
    torch.save({"a": Touch(folder.parent / "hacked")}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lost_shard(folder: Path):
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "model-1.safetensors"),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def folder_instead(folder: Path):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


MISTAKES = [
    ("no config", without("config.json"), ["no model can be loaded"]),
    ("an empty config", raw("config.json", b""), ["no model can be loaded"]),
    ("a config cut off", raw("config.json", lambda old: old[:40]), ["no model can be loaded"]),
    ("a config that is a list", raw("config.json", b"[1]"), ["no model can be loaded"]),
    ("a config without a model_type", config(model_type=None), ["no model can be loaded", "model_type"]),
    ("another model_type", config(model_type="bert"), ["bert"]),
    ("a model_type that nobody knows", config(model_type="geohf_moon"), ["geohf_moon"]),
    ("no weights", without("model.safetensors"), ["model.safetensors"]),
    ("empty weights", raw("model.safetensors", b""), ["weights cannot be read"]),
    ("weights cut in the header", raw("model.safetensors", lambda old: old[:200]), ["weights cannot be read"]),
    ("weights cut in a tensor", raw("model.safetensors", lambda old: old[:-100]), ["weights cannot be read"]),
    ("weights with a giant header", raw("model.safetensors", struct.pack("<Q", 2**60) + b"{}"), ["weights cannot be read"]),
    ("a web page for weights", raw("model.safetensors", b"<html>Not Found</html>"), ["weights cannot be read"]),
    ("a folder for weights", folder_instead, ["model.safetensors"]),
    ("a shard that is not there", lost_shard, ["model-1.safetensors"]),
    ("pickled weights alone", pickle_alone, ["safetensors"]),
    ("a tensor missing", tensors(lambda w: w.pop(first(w))), ["1 weights that config.json asks for are missing"]),
    ("a tensor too many", tensors(lambda w: w.update(extra=torch.zeros(2))), ["1 weights in the repo have no place", "extra"]),
    ("a tensor of another shape", tensors(reshape), ["weights do not fit config.json"]),
]  # fmt: skip
OF_TASKS = [
    ("region", "a region more", config(id2label={str(i): str(i) for i in range(4)}), [""]),
    ("region", "a scaler of text", config(scalers=["x", "y", "z"]), [""]),
    ("region", "a frame that is none", config(frame="moon"), ["frame", "moon"]),
    ("street", "a class more", config(class_centroids=[[1.0, 2.0]] * 6), ["entries for 6 classes"]),
    ("street", "centroids that are text", config(class_centroids=["a"] * 5), ["class_centroids"]),
    ("street", "centroids that are NaN", config(class_centroids=[[float("nan"), 0.0]] * 5), ["class_centroids"]),
    ("street", "a fusion that is none", config(fusion="nuclear"), ["fusion", "nuclear"]),
    ("street", "an image processor that is none", config(image_processor={"size": "big"}), ["image_processor"]),
    ("street", "an image processor that is text", config(image_processor="fast"), ["image_processor"]),
    ("parts", "a part more", config(id2label={"0": "saddle", "1": "bell", "2": "horn"}), ["do not fit"]),
    ("parts", "a state fewer", config(id2state={"0": "intact"}), ["do not fit"]),
    ("parts", "states that are a number", config(id2state=7), [""]),
    ("place", "a longer descriptor", config(projection_dim=64), ["do not fit"]),
    ("place", "a pooling that is none", config(pooling="car"), ["pooling", "car"]),
    ("place", "a tower that nobody knows", config(vision_config={"model_type": "geohf_timm", "architecture": "resnot"}), ["resnot"]),
    ("tiles", "a band more", config(band_mean=[1.0] * 4, band_std=[1.0] * 4), ["do not fit"]),
    ("tiles", "a target more", config(targets=["a", "b"]), [""]),
    ("tiles", "a layer of negative size", config(hidden_sizes=[-8]), [""]),
    ("tiles", "targets that are a number", config(targets=3), [""]),
]  # fmt: skip


def spoilt(task, spoil):
    def build(world):
        command = world.predict(task)
        folder = world.own_model(task)
        spoil(folder)
        return type(command)(command.recipe, [folder, *command.words[1:]])

    return build


CASES = [
    Case(f"{task}: {name}", spoilt(task, spoil), [f"{task}-model", *says])
    for task, name, spoil, says in [
        *((task, *mistake) for task in TASKS for mistake in MISTAKES),
        *OF_TASKS,
    ]
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_predict_refuses_the_repo(case, world):
    world.refuses(case)
    assert not (world.folder / "hacked").exists()


@pytest.mark.parametrize("recipe_of", ["evaluate", "push", "index_places"])
@pytest.mark.parametrize("name", ["no config", "weights cut in a tensor", "a tensor missing"])
def test_the_other_recipes_refuse_it_too(recipe_of, name, world, hub):
    _, spoil, says = next(mistake for mistake in MISTAKES if mistake[0] == name)

    def build(world):
        folder = world.own_model("place")
        command = {"evaluate": lambda: world.evaluate("place"), "index_places": world.index}.get(
            recipe_of, world.index
        )()
        spoil(folder)
        if recipe_of == "push":
            return type(command)("push", [folder, "org/name"])
        return type(command)(recipe_of, [folder, *command.words[1:]])

    world.refuses(Case(name, build, ["place-model", *says]))
    assert not hub.repos


# a BERT is what AutoModel makes of a config that says so
@pytest.mark.parametrize("name", [name for name, *_ in MISTAKES if name != "another model_type"])
def test_auto_model_raises_what_says_why(name, world):
    """In Python it is a DataError, or what transformers raises where it does not get so far as our model."""
    folder = world.own_model("street")
    next(spoil for other, spoil, _ in MISTAKES if other == name)(folder)
    before = world.snapshot()
    with pytest.raises((DataError, OSError, ValueError, StrictDataclassError)) as caught:
        AutoModel.from_pretrained(folder)
    assert str(caught.value)
    assert world.snapshot() == before
    assert not (world.folder / "hacked").exists()


@pytest.mark.parametrize("task", TASKS)
def test_code_and_pickles_in_a_repo_are_left_alone(task, world):
    """auto_map names code that would run at import, pickles lie about: model, processor and config load as ever."""
    folder = world.own_model(task)
    names = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoImageProcessor": "evil.Processor"}
    (folder / "evil.py").write_text(CODE.format(str(world.folder / "hacked")))
    (folder / "__init__.py").write_text(CODE.format(str(world.folder / "hacked")))
    config(auto_map=names)(folder)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"auto_map": names}))
    for name in ("model.pkl", "pytorch_model.bin", "scaler.joblib", "model.pth", "optimizer.pt"):
        with open(folder / name, "wb") as file:
            pickle.dump(Touch(world.folder / "hacked"), file)
    model, whole = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(world.model(task))
    assert type(model) is type(whole)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert type(AutoConfig.from_pretrained(folder)) is type(whole.config)
    assert isinstance(AutoImageProcessor.from_pretrained(folder), type(whole.processor))
    command = world.predict(task)
    done = world.recipe("predict", folder, *command.words[1:])
    assert done.returncode == 0, done.stderr
    assert not (world.folder / "hacked").exists()


def test_a_push_leaves_code_and_pickles_at_home(world, hub):
    folder = world.own_model("street")
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n")
    assert world.recipe("push", folder, "org/name").returncode == 0
    assert not [name for name in hub.files("org/name") if name.endswith((".py", ".pkl"))]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "JSON"), (b'{"image_processor_type": "NoSuchProcessor"}', "Unrecognized image processor")],
)
def test_a_processor_that_is_none(content, says, world):
    folder = world.own_model("street")
    (folder / "preprocessor_config.json").write_bytes(content)
    with pytest.raises((OSError, ValueError), match=says):
        AutoImageProcessor.from_pretrained(folder)
    # the model makes its own from config.json
    assert AutoModel.from_pretrained(folder).predict(world.photos_table().parent)


def test_a_pipeline_of_a_damaged_repo(world):
    folder = world.own_model("street")
    raw("model.safetensors", lambda old: old[:-100])(folder)
    with pytest.raises((DataError, OSError, ValueError), match="cannot be read"):
        pipeline("street-geolocation", model=str(folder))


def test_the_mended_repo_is_taken(world):
    """Nothing of the damaged one was kept."""
    folder = world.own_model("street")
    good = (folder / "model.safetensors").read_bytes()
    raw("model.safetensors", lambda old: old[:-100])(folder)
    with pytest.raises(DataError):
        AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(good)
    photos = world.photos_table().parent
    assert AutoModel.from_pretrained(folder).predict(photos) == AutoModel.from_pretrained(
        world.model("street")
    ).predict(photos)
    shutil.rmtree(folder)
