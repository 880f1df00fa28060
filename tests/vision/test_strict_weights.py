"""No backbone starts random in part: what is missing, left over or misshapen is refused by name."""

from __future__ import annotations

import json
import time

import pytest
import timm
import torch
import transformers
from helpers.parts_models import build_model
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torchvision.models import get_model

from geohf.errors import DataError
from geohf.parts import PartStateModel
from geohf.street import GeoStreetModel
from geohf.tiles import TileSequenceModel
from geohf.vision.backbones import load_tower, resolve_backbone
from geohf.vision.repos import read_tensors
from geohf.vision.towers import build_tower, tower_features

PATCHES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
CENTROIDS = [[47.0, 8.0], [46.0, 7.0]]
PARTS = {"id2label": {0: "bell", 1: "saddle"}, "id2state": {0: "intact", 1: "absent"}}


def renamed(weights):
    return {name.replace("conv", "convolution").replace("layer.", "stage."): t for name, t in weights.items()}


def without_a_stage(weights):
    return {name: t for name, t in weights.items() if "layer3" not in name and "layer.2." not in name}


def with_a_stage_more(weights):
    more = {
        n.replace("layer3", "layer5").replace("layer.2.", "layer.7."): t.clone() for n, t in weights.items()
    }
    return weights | more


def misshapen(weights):
    name = next(name for name, t in weights.items() if t.ndim == 4)
    return weights | {name: torch.zeros(3, 3, 3, 3)}


SPOILED = [renamed, without_a_stage, with_a_stage_more, misshapen]


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    save_for_hf(timm.create_model("test_resnet", num_classes=7), folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    transformers.ViTForImageClassification(transformers.ViTConfig(**PATCHES)).save_pretrained(folder)
    return folder


def spoiled(folder, where, spoil):
    """A copy of a model's folder with other weights."""
    where.mkdir()
    (where / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = spoil(load_file(folder / "model.safetensors"))
    save_file(weights, where / "model.safetensors", {"format": "pt"})
    return str(where)


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_spoiled_weights_of_a_folder_are_refused(kind, spoil, timm_folder, vit_folder, tmp_path):
    folder = spoiled({"timm": timm_folder, "transformers": vit_folder}[kind], tmp_path / "spoiled", spoil)
    with pytest.raises(DataError, match=r"spoiled: .*(conv|layer|stage|projection)"):
        load_tower(resolve_backbone(folder))


def test_whole_weights_of_a_folder_are_all_taken(timm_folder, vit_folder):
    tower = load_tower(resolve_backbone(str(timm_folder)))
    saved = load_file(timm_folder / "model.safetensors")
    found = tower.timm.state_dict()
    assert set(saved) - set(found) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in found.items())
    tower, saved = load_tower(resolve_backbone(str(vit_folder))), load_file(vit_folder / "model.safetensors")
    assert torch.equal(tower.embeddings.cls_token, saved["vit.embeddings.cls_token"])


def test_timms_weights_of_other_bands_are_fitted_from_those_that_were_saved(tmp_path, timm_folder):
    four = timm.create_model("test_resnet", in_chans=4, num_classes=0)
    save_for_hf(four, tmp_path, model_args={"in_chans": 4}, safe_serialization=True)
    found = load_tower(resolve_backbone(str(tmp_path))).timm
    assert torch.equal(found.conv1[0].weight, four.conv1[0].weight)
    five = load_tower(resolve_backbone(str(timm_folder), in_chans=5)).timm
    rgb = load_file(timm_folder / "model.safetensors")["conv1.0.weight"]
    torch.testing.assert_close(five.conv1[0].weight[:, 4], rgb[:, 1] * 3 / 5)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".bin", "nested.pt"])
def test_a_file_of_weights_starts_a_named_backbone(ending, timm_folder, tmp_path):
    weights = load_file(timm_folder / "model.safetensors")
    file = tmp_path / f"mine{ending}"
    if ending == ".safetensors":
        save_file(weights, file)
    elif ending == "nested.pt":
        torch.save({"state_dict": {f"module.{n}": t for n, t in weights.items()}, "epoch": 3}, file)
    else:
        torch.save(weights, file)
    model = GeoStreetModel.from_backbone("test_resnet", backbone_weights=file, class_centroids=CENTROIDS)
    assert torch.equal(model.tower.timm.conv1[0].weight, weights["conv1.0.weight"])
    assert model.config.backbone_name == file.name
    with pytest.raises(DataError, match="test_convnext: the backbone's weights cannot be loaded"):
        GeoStreetModel.from_backbone("test_convnext", backbone_weights=file, class_centroids=CENTROIDS)


def test_a_file_of_weights_starts_a_transformers_backbone(vit_folder, tmp_path):
    weights = load_file(vit_folder / "model.safetensors")
    weights["vit.embeddings.cls_token"] += 1
    torch.save(weights, tmp_path / "mine.pth")
    tower = load_tower(resolve_backbone(str(vit_folder), weights=tmp_path / "mine.pth"))
    assert torch.equal(tower.embeddings.cls_token, weights["vit.embeddings.cls_token"])
    torch.save(without_a_stage(weights), tmp_path / "less.pth")
    with pytest.raises(DataError, match=r"less.pth: the repo lacks weights of the backbone: .*layers?.2"):
        load_tower(resolve_backbone(str(vit_folder), weights=tmp_path / "less.pth"))


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_files_that_hold_no_tensors_alone_are_refused(tmp_path, capsys):
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "broken.pth").write_bytes(b"PK broken")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "weights.h5").write_bytes(b"x")
    for name in ("evil.pth", "broken.pth", "broken.safetensors", "list.pth", "weights.h5", "absent.pth"):
        with pytest.raises(DataError, match=name):
            read_tensors(tmp_path / name)
    assert "must not run" not in capsys.readouterr().out


def test_what_a_folder_or_a_file_lacks_is_said(timm_folder, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes((timm_folder / "model.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"lacks the config.json .* --backbone_weights"):
        resolve_backbone(str(tmp_path))
    with pytest.raises(DataError, match=r"is a file; .* --backbone_weights"):
        resolve_backbone(str(file))
    with pytest.raises(DataError, match=r"absent.pth: no such file of weights"):
        resolve_backbone("test_resnet", weights=tmp_path / "absent.pth")
    with pytest.raises(DataError, match="--backbone_weights needs"):
        GeoStreetModel.from_backbone("test_resnet", pretrained=False, backbone_weights=file)


# ---- a geohf model as a start for another


@pytest.mark.parametrize("config", [transformers.ViTConfig(**PATCHES), None], ids=["transformers", "timm"])
def test_the_backbone_of_a_geohf_model_starts_one_of_another_task(config, timm_folder, tmp_path):
    if config is None:
        start = str(timm_folder)
    else:
        build_tower(config).save_pretrained(tmp_path / "vit")
        start = str(tmp_path / "vit")
    street = GeoStreetModel.from_backbone(start, class_centroids=CENTROIDS)
    with torch.no_grad():
        next(street.tower.parameters()).mul_(2)
    street.save_pretrained(tmp_path / "street")
    tiles = TileSequenceModel.from_backbone(
        str(tmp_path / "street"), hidden_sizes=[8], answers="level", image_size=None
    )
    for name, tensor in street.tower.state_dict().items():
        assert torch.equal(tiles.tower.state_dict()[name], tensor), name
    if config is None:
        parts = PartStateModel.from_backbone(str(tmp_path / "street"), **PARTS)
        assert torch.equal(parts.tower.body.conv1[0].weight, street.tower.timm.conv1[0].weight)


# ---- parts


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_parts_take_timms_folders_and_files(norm, timm_folder, tmp_path):
    saved = load_file(timm_folder / "model.safetensors")
    for name, fields in (
        (str(timm_folder), {}),
        ("test_resnet", {"backbone_weights": timm_folder / "model.safetensors"}),
    ):
        model = PartStateModel.from_backbone(name, norm=norm, **fields, **PARTS)
        found = [t for n, t in model.tower.state_dict().items() if n.endswith("running_var")]
        wanted = [t for n, t in saved.items() if n.endswith("running_var")]
        assert len(found) >= len(wanted) - 1
        assert sum(any(torch.equal(a, b) for b in wanted) for a in found) == len(found)
        convolutions = {n.replace(".", "_"): t for n, t in saved.items() if t.ndim == 4}
        for found_name, tensor in model.tower.body.state_dict().items():
            if tensor.ndim == 4:
                assert torch.equal(tensor, convolutions[found_name.replace(".", "_")])
    assert model.config.backbone == "test_resnet"


@pytest.mark.parametrize("spoil", SPOILED)
def test_parts_refuse_spoiled_weights(spoil, timm_folder, tmp_path):
    folder = spoiled(timm_folder, tmp_path / "spoiled", spoil)
    with pytest.raises(DataError, match=r"spoiled: .*(conv|layer)"):
        PartStateModel.from_backbone(folder, **PARTS)
    weights = get_model("resnet18", num_classes=3).state_dict()
    file = tmp_path / "resnet18.pth"
    torch.save(weights, file)
    model = PartStateModel.from_backbone("resnet18", backbone_weights=file, **PARTS)
    assert torch.equal(model.tower.body.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])
    torch.save(spoil(weights), file)
    with pytest.raises(DataError, match=r"resnet18.pth: .*(conv|layer)"):
        PartStateModel.from_backbone("resnet18", backbone_weights=file, **PARTS)


def test_a_parts_model_starts_one_of_other_classes(tmp_path):
    first = build_model()
    first.save_pretrained(tmp_path)
    second = PartStateModel.from_backbone(str(tmp_path), **PARTS)
    ours, new = first.state_dict(), second.state_dict()
    same = [
        name for name in new if ours[name].shape == new[name].shape and torch.equal(ours[name], new[name])
    ]
    assert {name for name in new if name.startswith(("tower.", "pyramid.", "rpn."))} <= set(same)
    assert second.config.num_labels == 2


# ---- sizes, and how images are prepared where a repo does not say


def test_dinov2_takes_any_multiple_of_its_patch(tmp_path, caplog):
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=518
    )
    build_tower(config).save_pretrained(tmp_path)
    found = resolve_backbone(str(tmp_path))
    assert "no preprocessor_config.json" in caplog.text
    assert found.image_processor["crop_size"] == {"height": 224, "width": 224}
    assert found.image_processor["image_mean"] == [0.485, 0.456, 0.406]
    for side in (28, 70, 98):
        found = resolve_backbone(str(tmp_path), side)
        assert found.image_processor["crop_size"] == {"height": side, "width": side}
        with torch.no_grad():
            assert tower_features(load_tower(found), torch.rand(1, 3, side, side + 14)).isfinite().all()
    with pytest.raises(DataError, match="100 is no multiple of its patch size 14"):
        resolve_backbone(str(tmp_path), 100)


def test_a_tower_without_its_mask_token_is_whole(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28
    )
    build_tower(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["embeddings.mask_token"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert load_tower(resolve_backbone(str(tmp_path))).embeddings.mask_token.isfinite().all()


# ---- offline

OFFLINE = """
import sys, time
import geohf.street, timm, transformers
from geohf.vision.backbones import resolve_backbone, load_tower
from geohf.errors import DataError
for name in sys.argv[1:]:
    start = time.monotonic()
    try:
        load_tower(resolve_backbone(name))
    except DataError as error:
        print(f"{time.monotonic() - start:.1f}|{error}")
    else:
        print("loaded")
"""


def test_without_network_a_name_fails_soon_and_says_what_to_do(run_python):
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent-geohf"}
    done = run_python(OFFLINE, "resnet18.a1_in1k", "org/StreetCLIP", env=closed, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        seconds, message = line.split("|")
        assert float(seconds) < 10
        assert "--pretrained false" in message
        assert "HF_HUB_OFFLINE=1" in message
        assert "folder" in message
    assert "Retry" not in done.stderr


def test_random_weights_of_timm_ask_nobody(hub):
    GeoStreetModel.from_backbone("resnet18.a1_in1k", pretrained=False, class_centroids=CENTROIDS)
    assert hub.requests == []


def test_a_folder_of_a_users_own_asks_nobody(hub, timm_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(timm_folder.parent)
    start = time.monotonic()
    load_tower(resolve_backbone(timm_folder.name))
    assert hub.requests == []
    assert time.monotonic() - start < 10
    assert json.loads((timm_folder / "config.json").read_text())["architecture"] == "test_resnet"
