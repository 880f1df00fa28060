"""Loaded weights lie where torch's own lie, so that they compute as those that were saved, whatever the file."""

import pytest
import torch
from helpers.misaligned.sitecustomize import shift_file
from helpers.place_models import build_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

import geohf  # noqa: F401  registers the tower
from geohf.training.checkpoints import load_tree, save_tree
from geohf.vision.backbones import TimmTowerConfig, load_tower, resolve_backbone
from geohf.vision.towers import build_tower
from geohf.vision.weights import align_weights, aligned, load_tensors

pytestmark = pytest.mark.case("first-aligned")


def addresses(tensors):
    return {tensor.data_ptr() % 64 for tensor in tensors}


def weights(module):
    return [*module.parameters(), *module.buffers()]


@pytest.fixture
def pixels():
    torch.manual_seed(0)
    return torch.rand(2, 3, 64, 64)


@pytest.fixture
def odd_file(tmp_path):
    """A file that safetensors maps to addresses that are no multiple of 64."""
    path = tmp_path / "odd.safetensors"
    save_file({"a": torch.arange(5.0), "b": torch.arange(6, dtype=torch.int64)}, path)
    shift_file(path)
    assert 0 not in addresses(load_file(path).values())
    return path


def test_a_file_is_read_to_aligned_tensors(odd_file):
    found = load_tensors(odd_file)
    assert addresses(found.values()) == {0}
    assert found["a"].tolist() == [0, 1, 2, 3, 4]
    assert found["b"].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_aligned_is_not_copied():
    tensor = torch.zeros(8)
    assert aligned(tensor).data_ptr() == tensor.data_ptr()


def test_tied_weights_stay_tied():
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight = nn.Parameter(torch.arange(17.0)[1:].view(4, 4))
    assert addresses([one.weight]) != {0}
    align_weights(nn.Sequential(one, two))
    assert one.weight is two.weight
    assert addresses([one.weight]) == {0}
    assert one.weight.flatten().tolist() == list(range(1, 17))


def test_the_state_of_an_optimizer_is_aligned(tmp_path):
    save_tree({"exp_avg": torch.arange(7.0), "steps": [torch.tensor(3.0)]}, tmp_path / "state.safetensors")
    shift_file(tmp_path / "state.safetensors")
    state = load_tree(tmp_path / "state.safetensors")
    assert addresses([state["exp_avg"], *state["steps"]]) == {0}


@pytest.mark.parametrize("load", ["AutoModel", "published"])
def test_a_tower_answers_to_the_bit(tmp_path, pixels, load):
    tower = build_tower(TimmTowerConfig(architecture="test_resnet", image_size=64)).eval()
    if load == "AutoModel":
        tower.save_pretrained(tmp_path)
    else:
        from transformers import ViTConfig, ViTModel

        tower = ViTModel(
            ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
                      image_size=64, patch_size=16), add_pooling_layer=False,
        ).eval()  # fmt: skip
        tower.save_pretrained(tmp_path)
    shift_file(tmp_path / "model.safetensors")
    if load == "AutoModel":
        loaded = AutoModel.from_pretrained(tmp_path)
    else:
        loaded = load_tower(resolve_backbone(str(tmp_path)))
    assert addresses(weights(loaded)) == {0}
    with torch.no_grad():
        for name, value in tower(pixels).items():
            assert torch.equal(value, loaded.eval()(pixels)[name])


def test_an_index_is_aligned_from_memory_and_from_a_file(tmp_path):
    from geohf.place import PlaceIndex

    model = build_model()
    rows = nn.functional.normalize(torch.rand(5, model.config.descriptor_size), dim=1)
    rows = torch.cat([torch.zeros(1), rows.flatten()])[1:].view(5, -1)
    assert addresses([rows]) != {0}
    points = [[48.0 + i, 2.0] for i in range(5)]
    index = PlaceIndex(rows, points, list("abcde"), model.fingerprint())
    for name in ("index.safetensors", "index.parquet"):
        index.save(tmp_path / name)
    shift_file(tmp_path / "index.safetensors")
    loaded = [PlaceIndex.load(tmp_path / name) for name in ("index.safetensors", "index.parquet")]
    assert addresses(found.descriptors for found in [index, *loaded]) == {0}
    assert all(torch.equal(found.descriptors, index.descriptors) for found in loaded)
