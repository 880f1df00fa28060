"""Weights of timm's models that were trained elsewhere, as a folder that `--backbone` takes."""

from __future__ import annotations

import json
import sys

import pytest
import timm
import torch

from geohf import DataError
from geohf.recipes import convert_backbone
from geohf.vision.backbones import load_tower, resolve_backbone
from geohf.vision.converted import convert_timm

BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
MEAN, STD = [400.0 + 100 * i for i in range(10)], [500.0 + 10 * i for i in range(10)]


@pytest.fixture
def published(tmp_path):
    """A checkpoint as BigEarthNet v2 has them: a prefix, a classifier, and what lies beside the model."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=19, in_chans=10).eval()
    tensors = {f"model.vision_encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    path = tmp_path / "bigearthnet.pth"
    torch.save({"state_dict": tensors | {"loss.pos_weight": torch.ones(19)}}, path)
    return path, model


@torch.inference_mode()
def test_a_prefix_and_ten_bands_convert_with_no_missing_key(published, tmp_path, monkeypatch, capsys):
    path, model = published
    folder = tmp_path / "s2"
    words = [
        "geohf convert",
        "timm",
        str(path),
        str(folder),
        "--architecture",
        "test_resnet",
        "--license",
        "mit",
    ]
    numbers = ["--bands", *BANDS, "--mean", *map(str, MEAN), "--std", *map(str, STD), "--image_size", "120"]
    monkeypatch.setattr(sys, "argv", [*words, *numbers])
    convert_backbone.main()
    assert "without loss.pos_weight, model.vision_encoder." in capsys.readouterr().out
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["bands"] == BANDS
    backbone = resolve_backbone(str(folder), 32, in_chans=10)
    assert backbone.license == "mit"
    assert (backbone.image_processor["image_mean"], backbone.image_processor["image_std"]) == (MEAN, STD)
    images = torch.randn(2, 10, 32, 32)
    theirs = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(load_tower(backbone).eval()(images).pooler_output, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "test_resnett"}, r"no model 'test_resnett' \(did you mean"),
        ({"architecture": "test_vit"}, r"lacks \d+ weights of test_vit"),
        ({"bands": BANDS[:4], "mean": MEAN[:4], "std": STD[:4]}, r"has the shape .* of 4 bands needs"),
        ({"std": STD[:4]}, "10 bands, 10 means and 4 spreads"),
        ({"std": [0.0, *STD[1:]]}, "means must be finite and spreads above 0"),
        ({"mean": [float("nan"), *MEAN[1:]]}, "means must be finite and spreads above 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(published, tmp_path, change, message):
    settings = {"architecture": "test_resnet", "bands": BANDS, "mean": MEAN, "std": STD} | change
    with pytest.raises(DataError, match=message):
        convert_timm(published[0], tmp_path / "s2", **settings)
    assert not (tmp_path / "s2").exists()


def test_two_models_in_one_file_are_not_guessed_between(published, tmp_path):
    path, model = published
    both = {
        f"{name}.{key}": t for name in ("encoder_q", "encoder_k") for key, t in model.state_dict().items()
    }
    torch.save(both, path)
    with pytest.raises(DataError, match=r"more than once, below 'encoder_k\.' and 'encoder_q\.'"):
        convert_timm(path, tmp_path / "s2", "test_resnet", BANDS, MEAN, STD)
