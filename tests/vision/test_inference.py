"""The ways in which a frozen tower computes: each next to the exact one."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from geohf.errors import DataError
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.parser import GeoArgumentParser
from geohf.vision.backbones import TimmTowerConfig
from geohf.vision.features import cached_features, feature_function
from geohf.vision.processing import GeoImageProcessor
from geohf.vision.towers import build_tower, tower_features
from geohf.vision.weights import weights_fingerprint


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return build_tower(TimmTowerConfig(architecture="test_vit", image_size=160)).eval()


@pytest.fixture
def pixels():
    return torch.randn(5, 3, 160, 160, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def run(function, *batches):
    return [function(batch) for batch in batches]


def test_int8_is_close_but_not_equal_and_leaves_the_tower(tower, pixels):
    before = weights_fingerprint(tower)
    [exact], [found] = run(feature_function(tower), pixels), run(feature_function(tower, mode="int8"), pixels)
    assert cosine_similarity(found, exact).min() > 0.99
    assert not torch.allclose(found, exact, rtol=1e-4, atol=1e-4)
    assert weights_fingerprint(tower) == before


@pytest.mark.case("use-O9")
def test_a_compiled_tower_is_exact_for_full_and_short_batches(tower, pixels):
    compiled = feature_function(tower, mode="compile", batch_size=3)
    full, short = run(compiled, pixels[:3], pixels[3:])
    with torch.no_grad():
        torch.testing.assert_close(
            torch.cat([full, short]), tower_features(tower, pixels), atol=1e-5, rtol=1e-5
        )


def test_without_a_compiler_the_mode_is_named(tower, pixels, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.raises(DataError, match=r"torch\.compile cannot compile the backbone; use the mode eager"):
        run(feature_function(tower, mode="compile", batch_size=4), pixels[:4])


def test_every_mode_has_its_own_cache(tower, tmp_path):
    images = [torch.randint(0, 256, (3, 160, 160), dtype=torch.uint8) for _ in range(3)]
    processor = GeoImageProcessor(size={"shortest_edge": 160}, crop_size={"height": 160, "width": 160})
    images = [image.permute(1, 2, 0).numpy() for image in images]
    exact = cached_features(tower, processor, images, tmp_path)
    close = cached_features(tower, processor, images, tmp_path, mode="int8")
    assert not torch.equal(close, exact)
    assert torch.equal(cached_features(tower, processor, images, tmp_path), exact)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_what_a_mode_cannot_do_is_said():
    convolutions = build_tower(TimmTowerConfig(architecture="test_resnet", image_size=32))
    with pytest.raises(DataError, match="linear layers only, and this backbone has none"):
        feature_function(convolutions, mode="int8")
    with pytest.raises(DataError, match="computes on a CPU only"):
        feature_function(convolutions.to("meta"), mode="int8")
    with pytest.raises(ValueError, match="eager, compile, int8"):
        feature_function(convolutions, mode="int4")


def test_the_mode_is_an_argument_of_every_recipe(tmp_path, capsys):
    parser = GeoArgumentParser(GeoTrainingArguments)
    [args] = parser.parse(["--output_dir", str(tmp_path), "--feature_mode", "int8", "--use_cpu", "true"])
    assert args.feature_mode == "int8"
    with pytest.raises(SystemExit):
        parser.parse(["--output_dir", str(tmp_path), "--feature_mode", "int4"])
    assert "invalid choice: 'int4'" in capsys.readouterr().err
