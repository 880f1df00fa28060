"""Checkpoints under their published names: torchvision's own forward pass is the reference."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import geohf_cli
from geohf.errors import DataError
from geohf.hub.card import write_card
from geohf.place import GeoPlaceModel
from geohf.place.published import PUBLISHED
from geohf.recipes import convert_weights


def published(backbone: str, channels: int, out: int) -> dict[str, torch.Tensor]:
    """Random weights under the names of a published file."""
    torch.manual_seed(0)
    whole = get_model(backbone, weights=None)
    for module in whole.modules():  # statistics of batches as training leaves them
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    layers = nn.Sequential(*list(whole.children())[:-2])
    names = {f"backbone.{name}": t for name, t in layers.state_dict().items()}
    weight = torch.randn(out, channels) / channels**0.5
    return names | {
        "aggregation.1.p": torch.tensor([2.5]),
        "aggregation.3.weight": weight,
        "aggregation.3.bias": torch.randn(out) / 10,
    }


def plain_forward(backbone: str, tensors: dict, pixels: torch.Tensor) -> torch.Tensor:
    layers = nn.Sequential(*list(get_model(backbone, weights=None).children())[:-2]).eval()
    layers.load_state_dict(
        {n.removeprefix("backbone."): t for n, t in tensors.items() if n.startswith("backbone.")}
    )
    maps = layers(pixels)
    maps = maps / maps.square().sum(1, keepdim=True).sqrt()
    p = tensors["aggregation.1.p"]
    means = (maps.clamp(min=1e-6) ** p).flatten(2).mean(-1) ** (1 / p)
    rows = means @ tensors["aggregation.3.weight"].T + tensors["aggregation.3.bias"]
    return rows / rows.square().sum(1, keepdim=True).sqrt()


@pytest.fixture(scope="module")
def small():
    return published("resnet18", 512, 64)


@pytest.fixture
def file(small, tmp_path):
    torch.save(small, tmp_path / "small.pth")
    return tmp_path / "small.pth"


@pytest.mark.parametrize(
    ("name", "backbone", "channels"), [("cosplace", "resnet18", 512), ("eigenplaces", "resnet50", 2048)]
)
@torch.no_grad()
def test_a_published_file_gives_the_descriptors_of_its_own_layers(name, backbone, channels, tmp_path):
    tensors, pixels = published(backbone, channels, 32), torch.randn(2, 3, 64, 96)
    torch.save(tensors, tmp_path / "their.pth")
    model = GeoPlaceModel.from_published(name, tmp_path / "their.pth", image_size=(64, 96))
    found = model(pixels).descriptors
    assert found.shape == (2, 32)
    torch.testing.assert_close(found, plain_forward(backbone, tensors, pixels), rtol=0, atol=1e-5)
    assert model.processor(torch.zeros(3, 50, 70, dtype=torch.uint8).numpy())["pixel_values"].shape[-2:] == (
        64,
        96,
    )


@pytest.mark.slow
def test_a_fresh_process_loads_it_and_answers_alike(file, tmp_path, run_python):
    model = GeoPlaceModel.from_published("cosplace", file, image_size=(64, 64))
    torch.manual_seed(1)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixels).descriptors
    model.save_pretrained(tmp_path / "model")
    torch.save({"pixels": pixels, "expected": expected}, tmp_path / "io.pt")
    run_python(
        """
        import sys, torch, geohf
        from transformers import AutoModel
        model, io = AutoModel.from_pretrained(sys.argv[1]), torch.load(sys.argv[2])
        with torch.no_grad():
            found = model(io["pixels"]).descriptors
        torch.testing.assert_close(found, io["expected"], rtol=0, atol=1e-6)
        """,
        str(tmp_path / "model"),
        str(tmp_path / "io.pt"),
    )
    card = write_card(tmp_path / "model", model.card_template, model.config).read_text()
    assert "gmberton/CosPlace" in card
    assert "street-view" in card


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda t: {n.replace("backbone.7.1.conv2", "backbone.7.1.convolution"): v for n, v in t.items()},
            r"lacks .*backbone\.7\.1\.conv2",
        ),
        (
            lambda t: {n: v for n, v in t.items() if not n.startswith("backbone.5.")},
            r"lacks .*backbone\.5\.0",
        ),
        (
            lambda t: t | {"backbone.4.0.conv1.weight": torch.zeros(3, 3)},
            r"another shape: backbone\.4\.0\.conv1.weight \(3, 3\)",
        ),
        (lambda t: t | {"extra.weight": torch.zeros(3)}, r"no place for .*extra\.weight"),
        (
            lambda t: {n: v for n, v in t.items() if n != "aggregation.3.weight"},
            r"lacks .*aggregation\.3\.weight",
        ),
        (lambda t: {n: v for n, v in t.items() if n != "aggregation.1.p"}, r"lacks .*aggregation\.1\.p"),
        (
            lambda t: {n: v for n, v in t.items() if not n.startswith("backbone.6.")},
            r"backbone\.6 has 0 blocks",
        ),
    ],
)
def test_spoiled_files_are_refused_by_name(spoil, message, small, tmp_path):
    torch.save(spoil(small), tmp_path / "bad.pth")
    with pytest.raises(DataError, match=rf"bad\.pth: .*{message}"):
        GeoPlaceModel.from_published("cosplace", tmp_path / "bad.pth")


def test_an_unknown_name_is_refused(file):
    with pytest.raises(DataError, match=r"published model must be .*got 'cosplac'.*mean 'cosplace'"):
        GeoPlaceModel.from_published("cosplac", file)


def test_the_command_writes_a_model_and_no_folder_that_is_there(file, tmp_path, monkeypatch, capsys):
    words = ["cosplace", str(file), str(tmp_path / "model"), "--image_size", "64", "96"]
    monkeypatch.setattr("sys.argv", ["convert.py", *words])
    convert_weights.main()
    assert "descriptors of 64" in capsys.readouterr().out
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }
    with pytest.raises(DataError, match="is there already"):
        convert_weights.main()


@pytest.mark.parametrize(
    ("words", "module"),
    [(["cosplace", "file.pth", "out"], "convert_weights"), (["data", "--to", "coco"], "convert")],
)
def test_the_command_tells_weights_from_annotations(words, module, monkeypatch):
    asked = []
    monkeypatch.setattr(geohf_cli, "run_here", lambda *given: asked.append(given) or 0)
    assert geohf_cli.main(["convert", *words]) == 0
    assert asked == [(module, "geohf convert", words)]


def test_the_command_line_knows_the_same_names():
    assert set(geohf_cli.PUBLISHED) == set(convert_weights.PUBLISHED) > set(PUBLISHED)
