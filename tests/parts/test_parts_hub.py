"""Saving, pushing, and loading in a fresh process: the same boxes and states, bit for bit, and nothing but data."""

import json
from dataclasses import asdict

import pytest
import torch
from helpers.parts_models import PARTS, STATES, build_model, photos
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file

from geohf.errors import DataError
from geohf.parts import PartStateModel

FRESH = """
import json, sys, torch
torch.set_num_threads(int(sys.argv[3]))
import geohf
heavy = [name for name in ("timm", "datasets", "matplotlib", "pandas") if name in sys.modules]
from dataclasses import asdict
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

repo, files = sys.argv[1], json.loads(sys.argv[2])
model = AutoModel.from_pretrained(repo)
print(json.dumps({
    "heavy": heavy,
    "model": type(model).__name__,
    "config": AutoConfig.from_pretrained(repo).id2state,
    "processor": type(AutoImageProcessor.from_pretrained(repo)).__name__,
    "answers": [asdict(answer) for answer in model.predict(files, batch_size=2, threshold=0.0)],
    "pipeline": pipeline("part-state-detection", model=repo)(files, threshold=0.0),
}))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"p{i}.png" for i in range(3)]
    for path, picture, size in zip(paths, photos(3), ((48, 64), (90, 40), (64, 96)), strict=True):
        picture.resize(size).save(path)
    return [str(path) for path in paths]


def test_a_pushed_model_answers_bit_for_bit_in_a_fresh_process(hub, run_python, files):
    model = build_model(norm="frozen", state_per_part=True, absent="detect")
    for buffer in model.tower.buffers():  # statistics that are not the ones that a new backbone has
        torch.nn.init.uniform_(buffer, 0.5, 1.5)
    model.push_to_hub("org/bike-parts")
    names = {file.rfilename for file in HfApi().model_info("org/bike-parts").siblings}
    assert (
        names
        == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", ".gitattributes"}
        & names
    )
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= names
    found = json.loads(
        run_python(FRESH, "org/bike-parts", json.dumps(files), torch.get_num_threads()).splitlines()[-1]
    )
    two = json.loads(
        json.dumps([asdict(answer) for answer in model.predict(files, batch_size=2, threshold=0.0)])
    )
    one = json.loads(
        json.dumps([asdict(answer) for answer in model.predict(files, batch_size=1, threshold=0.0)])
    )
    assert len(two[0]["parts"]) > 3
    assert found["answers"] == two
    assert found["pipeline"] == one
    assert found["heavy"] == []
    assert (found["model"], found["processor"]) == ("PartStateModel", "PartImageProcessor")
    assert found["config"] == {str(i): name for i, name in STATES.items()}


def test_the_card_says_how_to_use_the_model(hub):
    build_model().push_to_hub("org/bike-parts")
    card = ModelCard.load("org/bike-parts")
    assert card.data.pipeline_tag == "part-state-detection"
    assert "object-detection" in card.data.tags
    assert 'AutoModel.from_pretrained("org/bike-parts")' in card.text
    assert ", ".join(PARTS.values()) in card.text
    assert "a part that is not found is absent" in card.text


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_every_tensor_survives(norm, tmp_path):
    model = build_model(norm=norm, backbone="resnet18", feature_levels=None, anchor_sizes=None)
    model.save_pretrained(tmp_path)
    again = PartStateModel.from_pretrained(tmp_path)
    expected, found = model.state_dict(), again.state_dict()
    assert set(expected) == set(found)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert not any(
        tensor.is_meta for anchors in [again.rpn.anchor_generator.cell_anchors] for tensor in anchors
    )


def test_damaged_repos_are_refused(tmp_path):
    build_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "roi_heads.state_head.3.weight"
    save_file(
        {n: t for n, t in weights.items() if n != name}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(DataError, match=name):
        PartStateModel.from_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2state"]["3"] = "stolen"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="do not fit"):
        PartStateModel.from_pretrained(tmp_path)
