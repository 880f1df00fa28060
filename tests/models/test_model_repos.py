"""Tampered model repos of all five tasks: refused with a word that helps, or loaded as if nothing was added.

Whatever code lies in a repo, as Python or as pickle, would leave a marker if it was run. None may.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from helpers.five_tasks import TASKS, Task
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

from geohf import DataError
from geohf.io import plain
from geohf.models import loading
from geohf.models.loading import load_model


@pytest.fixture(scope="module", params=TASKS)
def saved(request, tmp_path_factory):
    """(task, the folder of its model, the model's answer)."""
    task, folder = TASKS[request.param], tmp_path_factory.mktemp(request.param)
    model = task.make()
    model.save_pretrained(folder)
    return task, folder, plain(asdict(model.predict([task.sample])[0]))


@pytest.fixture
def repo(saved, tmp_path):
    """A copy of the folder to tamper with."""
    return Path(shutil.copytree(saved[1], tmp_path / "repo"))


@pytest.fixture
def marker(tmp_path):
    """What malicious code would leave behind."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "code of the repo was run"


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_weights(repo: Path, change: Callable[[dict], None]) -> None:
    tensors = load_file(repo / "model.safetensors")
    change(tensors)
    save_file(tensors, repo / "model.safetensors", metadata={"format": "pt"})


def a_name(tensors: dict) -> str:
    """A matrix of the head, where there is one beside the tower."""
    return max(name for name, tensor in tensors.items() if tensor.ndim > 1)


def add_code(repo: Path, marker: Path, in_configs: bool = True) -> None:
    """A module that leaves the marker when it is imported, named as the repo's code by every file that can."""
    (repo / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        "from transformers import BaseImageProcessor, Pipeline, PreTrainedConfig, PreTrainedModel\n"
        # classes of its own: what is loaded as code is marked as such, for the rest of the process
        "class Config(PreTrainedConfig): pass\n"
        "class Model(PreTrainedModel): pass\n"
        "class Processor(BaseImageProcessor): pass\n"
    )
    if in_configs:
        kinds = ("Config", "Model", "ImageProcessor", "Processor")
        code = {f"Auto{kind}": f"evil.{kind.removeprefix('Image')}" for kind in kinds}
        for name in ("config.json", "preprocessor_config.json"):
            edit(repo / name, auto_map=code)
        config = json.loads((repo / "config.json").read_text())
        if config.get("vision_config"):
            edit(repo / "config.json", vision_config=config["vision_config"] | {"auto_map": code})
        (repo / "processor_config.json").write_text(json.dumps({"auto_map": code}))
        (repo / "modeling_geohf.py").write_text((repo / "evil.py").read_text())


class Evil:
    """Unpickled, it leaves the marker."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def add_pickles(repo: Path, marker: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "adapter_model.bin", "scaler.pt"):
        torch.save({"weight": Evil(marker)}, repo / name)
    for name in ("model.pkl", "scalers.joblib", "preprocessor.pickle"):
        (repo / name).write_bytes(pickle.dumps(Evil(marker)))


def answers(task: Task, repo: Path, **kwargs):
    """What model, processor and pipeline of a repo give for the task's sample; all three must load."""
    model = AutoModel.from_pretrained(repo, **kwargs)
    processor = AutoImageProcessor.from_pretrained(repo, **kwargs)
    assert type(processor) is type(model.processor)
    found = pipeline(task.pipeline, model=str(repo), **kwargs)([task.sample])
    return plain(asdict(model.predict([task.sample])[0])), plain(found[0])


def assert_answers(found, expected) -> None:
    for answer in found:
        assert answer.keys() == expected.keys()
        assert (
            answer == pytest.approx(expected)
            if _flat(expected)
            else json.dumps(answer) == json.dumps(expected)
        )


def _flat(answer: dict) -> bool:
    return all(isinstance(value, (int, float, str, type(None))) for value in answer.values())


def assert_refused(task: Task, repo: Path, message: str) -> None:
    """By everything that loads the model; `message` is a regular expression."""
    for load in (
        lambda: AutoModel.from_pretrained(repo),
        lambda: pipeline(task.pipeline, model=str(repo)),
        lambda: load_model(repo),
    ):
        with pytest.raises((DataError, OSError, ValueError), match=message):
            load()


def test_an_untouched_repo_answers(saved, repo):
    task, _, expected = saved
    assert_answers(answers(task, repo), expected)


def test_the_traps_would_work(tmp_path):
    """The control of the tests below: run as code or unpickled, each leaves the marker."""
    (tmp_path / "repo").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "repo" / name).write_text("{}")
    marker = tmp_path / "executed"
    add_code(tmp_path / "repo", marker)
    edit(tmp_path / "repo" / "config.json", model_type="evil")
    AutoConfig.from_pretrained(tmp_path / "repo", trust_remote_code=True)
    assert marker.exists()
    marker.unlink()
    add_pickles(tmp_path / "repo", marker)
    torch.load(tmp_path / "repo" / "pytorch_model.bin", weights_only=False)
    assert marker.exists()
    marker.unlink()
    pickle.loads((tmp_path / "repo" / "model.pkl").read_bytes())
    assert marker.exists()


# ---- what is added is ignored


def test_added_code_is_ignored(saved, repo, marker):
    task, _, expected = saved
    add_code(repo, marker)
    assert_answers(answers(task, repo), expected)
    assert_answers([plain(asdict(load_model(repo).predict([task.sample])[0]))], expected)


def test_a_user_who_trusts_a_repo(saved, repo, marker):
    """With `trust_remote_code=True` model and processor are geohf's all the same; a pipeline does run the code."""
    task, _, expected = saved
    add_code(repo, marker)
    for loader in (AutoModel, type(task.make())):
        model = loader.from_pretrained(repo, trust_remote_code=True)
        assert_answers([plain(asdict(model.predict([task.sample])[0]))], expected)
    processor = AutoImageProcessor.from_pretrained(repo, trust_remote_code=True)
    assert type(processor) is type(model.processor)
    assert not marker.exists()
    with contextlib.suppress(Exception):
        pipeline(task.pipeline, model=str(repo), trust_remote_code=True)
    marker.unlink()  # so nobody should say so: nothing of geohf's needs it


def test_added_pickles_are_ignored(saved, repo, marker):
    task, _, expected = saved
    add_pickles(repo, marker)
    assert_answers(answers(task, repo), expected)


# ---- what is changed is refused


def test_a_config_for_other_shapes(saved, repo):
    task, _, _ = saved
    name, value = task.shape
    assert json.loads((repo / "config.json").read_text())[name] != value
    edit(repo / "config.json", **{name: value})
    assert_refused(task, repo, r"weights do not fit config\.json")


def test_a_missing_tensor(saved, repo):
    edit_weights(repo, lambda tensors: tensors.pop(a_name(tensors)))
    assert_refused(
        saved[0], repo, r"1 weights that config\.json asks for are missing in the repo \(\S+\); it is damaged"
    )


def test_an_extra_tensor(saved, repo):
    edit_weights(repo, lambda tensors: tensors.update(surplus=torch.zeros(3)))
    assert_refused(
        saved[0], repo, r"1 weights in the repo have no place in the model of config\.json \(surplus\)"
    )


def test_a_wrong_shape(saved, repo):
    edit_weights(repo, lambda tensors: tensors.update({a_name(tensors): torch.zeros(2, 3)}))
    assert_refused(saved[0], repo, r"weights do not fit config\.json")


def test_weights_cut_off(saved, repo):
    whole = (repo / "model.safetensors").read_bytes()
    (repo / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert_refused(saved[0], repo, "the weights cannot be read")


def test_pickled_weights_in_place_of_safetensors(saved, repo, marker):
    add_pickles(repo, marker)
    (repo / "model.safetensors").unlink()
    assert_refused(saved[0], repo, r"model\.safetensors")


def test_an_index_that_points_to_pickles(saved, repo, marker):
    add_pickles(repo, marker)
    names = load_file(repo / "model.safetensors")
    (repo / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    (repo / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(saved[0], repo, r"pytorch_model\.bin: is no safetensors file")


def test_an_unknown_model_with_code(saved, repo, marker):
    add_code(repo, marker)
    edit(repo / "config.json", model_type="evil")
    with pytest.raises(DataError, match="no model can be loaded from there"):
        load_model(repo)
    for load in (AutoModel.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match="contains custom code"):
            load(repo, trust_remote_code=False)


def test_a_pipeline_with_code(saved, repo, marker):
    task = saved[0]
    add_code(repo, marker)
    described = {"impl": "evil.Pipeline", "pt": ["AutoModel"], "type": "image"}
    edit(repo / "config.json", custom_pipelines={task.pipeline: described})
    with pytest.raises(ValueError, match="requires you to execute the code in the pipeline file"):
        pipeline(task.pipeline, model=str(repo))
    assert "evil" not in sys.modules


def test_a_folder_that_is_not_there_is_told_where_the_hub_cannot_be_asked(monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect")

    monkeypatch.setattr(loading, "cached_file", unreachable)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="there is no such folder; on the Hub: We couldn't connect"):
        load_model("outputs/stret")


def test_a_run_that_has_not_finished_is_told_from_a_folder_without_a_model(tmp_path):
    (tmp_path / "checkpoint-20").mkdir()
    with pytest.raises(DataError, match=r"has not finished: it has checkpoints.*resume_from_checkpoint"):
        load_model(tmp_path)


@pytest.mark.slow
def test_the_hub_is_asked_once_for_a_model_that_is_not_there(tmp_path):
    asked = []

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        hub = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
        }
        code = "from geohf.models.loading import load_model; load_model('org/stret')"
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | hub, capture_output=True, text=True
        )
        server.shutdown()
    assert "there is no such folder; on the Hub: org/stret is not" in done.stderr
    assert [path for path in asked if "stret" in path] == ["/org/stret/resolve/main/config.json"]
