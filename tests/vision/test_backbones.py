"""Towers from timm and transformers: built from their config alone, saved, loaded, found by name."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from huggingface_hub import HfApi
from PIL import Image
from timm.models import save_for_hf
from transformers import AutoModel, CLIPConfig, CLIPModel, CLIPTextConfig, SiglipConfig, SiglipModel

from geohf.errors import DataError
from geohf.street import GeoStreetConfig, GeoStreetModel
from geohf.vision.backbones import TimmTowerConfig, load_tower, resolve_backbone
from geohf.vision.licenses import published_license, published_name
from geohf.vision.processing import GeoImageProcessor
from geohf.vision.towers import build_tower, feature_size, tower_blocks, tower_features

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
PATCHES = {"image_size": 32, "patch_size": 16, "intermediate_size": 64}
TRANSFORMERS = {
    "clip": transformers.CLIPVisionConfig(**SMALL, **PATCHES, projection_dim=24),
    "vit": transformers.ViTConfig(**SMALL, **PATCHES),
    "dinov2": transformers.Dinov2Config(**SMALL, image_size=32, patch_size=16),
    "siglip": transformers.SiglipVisionConfig(**SMALL, **PATCHES),
    "convnext": transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1]),
    "swin": transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 2], num_heads=[1, 2, 4], window_size=2, image_size=32
    ),
    "resnet": transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], layer_type="basic"
    ),
}
TIMM = {
    "test_convnext": {},
    "test_vit": {"img_size": 32},
    "test_resnet": {},
    # these compute buffers at build time that no checkpoint holds
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [1, 2],
        "window_size": 4,
    },
    "swinv2_tiny_window8_256": {
        "img_size": 32,
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [1, 2],
        "window_size": 4,
    },
    "beit_base_patch16_224": {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "eva02_tiny_patch14_224": {
        "img_size": 32,
        "patch_size": 16,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 2,
    },
    "vit_small_patch16_dinov3": {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 2},
}
CONFIGS = TRANSFORMERS | {
    name: TimmTowerConfig(architecture=name, image_size=32, model_args=args or None)
    for name, args in TIMM.items()
}


def pixels(batch=2, side=32):
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def features(tower, dtype=torch.float32):
    with torch.no_grad():
        return tower_features(tower.eval(), pixels().to(dtype))


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=0, atol=0, msg=name)


# Built from config


@pytest.mark.parametrize("name", CONFIGS)
def test_feature_size_is_what_a_real_pass_gives(name):
    config = CONFIGS[name]
    found = features(build_tower(config))
    assert found.shape == (2, feature_size(config))
    assert found.isfinite().all()
    assert found.std() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_tower_loads_to_the_same_bits_and_in_half_precision_to_nearly_the_same(name, tmp_path):
    tower = build_tower(CONFIGS[name])
    tower.save_pretrained(tmp_path)
    expected = features(tower)
    pooler = {"add_pooling_layer": False} if name in ("vit", "swin") else {}
    loaded = type(tower).from_pretrained(tmp_path, dtype=torch.float32, **pooler)
    same_weights(tower, loaded)
    assert torch.equal(features(loaded), expected)
    half = type(tower).from_pretrained(tmp_path, dtype=torch.bfloat16, **pooler)
    close = features(half, torch.bfloat16).float()
    assert close.isfinite().all()
    assert (close - expected).abs().max() < 0.05 * expected.abs().max()


def test_automodel_loads_a_timm_tower(tmp_path):
    tower = build_tower(CONFIGS["test_resnet"])
    tower.save_pretrained(tmp_path)
    assert torch.equal(features(AutoModel.from_pretrained(tmp_path)), features(tower))


# Inside a task's model


def street(config, **fields):
    return GeoStreetConfig(
        vision_config=config,
        feature_size=feature_size(config),
        hidden_size=16,
        gps_hidden_size=16,
        class_centroids=[[47.0, 8.0], [46.0, 7.0]],
        **fields,
    )


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_resnet"])
def test_a_parent_model_keeps_the_values_that_timm_built(name):
    torch.manual_seed(0)
    alone = timm.create_model(name, num_classes=0, **TIMM[name])
    torch.manual_seed(0)
    inside = GeoStreetModel(street(CONFIGS[name])).tower.timm
    same_weights(alone, inside)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_parent_model_loads_to_the_same_answers(name, tmp_path):
    model = GeoStreetModel(street(CONFIGS[name])).eval()
    model.save_pretrained(tmp_path)
    loaded = GeoStreetModel.from_pretrained(tmp_path)
    same_weights(model, loaded)
    with torch.no_grad():
        assert torch.equal(model(pixels()).logits, loaded(pixels()).logits)
    half = GeoStreetModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert features(half.tower, torch.bfloat16).isfinite().all()


def test_published_weights_survive_in_a_model_that_starts_from_them(tmp_path):
    published = build_tower(TRANSFORMERS["vit"])
    published.save_pretrained(tmp_path)
    model = GeoStreetModel.from_backbone(str(tmp_path), class_centroids=[[47.0, 8.0], [46.0, 7.0]])
    same_weights(model.tower, published)


# Published weights


def tiny_clip():
    text = CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=99
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=TRANSFORMERS["clip"].to_dict(), projection_dim=20
    )
    return CLIPModel(config).eval()


def test_a_whole_clip_repo_gives_clips_projected_image_features(tmp_path):
    clip = tiny_clip()
    clip.save_pretrained(tmp_path)
    backbone = resolve_backbone(str(tmp_path))
    assert backbone.feature_size == 20  # the outer projection_dim, not the vision config's own
    with torch.no_grad():
        expected = clip.get_image_features(pixel_values=pixels()).pooler_output
    assert torch.equal(features(load_tower(backbone)), expected)


def test_a_whole_siglip_repo_gives_siglips_image_features(tmp_path):
    text = transformers.SiglipTextConfig(**SMALL, intermediate_size=64, vocab_size=99)
    config = SiglipConfig(text_config=text.to_dict(), vision_config=TRANSFORMERS["siglip"].to_dict())
    siglip = SiglipModel(config).eval()
    siglip.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = siglip.get_image_features(pixel_values=pixels()).pooler_output
    assert torch.equal(features(load_tower(resolve_backbone(str(tmp_path)))), expected)


@pytest.mark.parametrize("classes", [0, 7])
def test_a_timm_folder_gives_timms_own_features(tmp_path, classes):
    model = timm.create_model("test_vit", num_classes=classes, img_size=32).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    backbone = resolve_backbone(str(tmp_path))
    assert backbone.config.architecture == "test_vit"
    assert backbone.image_processor["crop_size"] == {"height": 32, "width": 32}
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(pixels()), pre_logits=True)
    assert torch.equal(features(load_tower(backbone)), expected)


def test_a_timm_tower_takes_another_image_size(tmp_path):
    save_for_hf(timm.create_model("test_vit", img_size=32), tmp_path, safe_serialization=True)
    backbone = resolve_backbone(str(tmp_path), image_size=64)
    assert backbone.config.image_size == 64
    assert backbone.image_processor["crop_size"] == {"height": 64, "width": 64}
    with torch.no_grad():
        assert tower_features(load_tower(backbone), pixels(side=64)).shape == (2, backbone.feature_size)


def test_a_transformers_tower_refuses_another_image_size(tmp_path):
    TRANSFORMERS["vit"].save_pretrained(tmp_path)
    with pytest.raises(DataError, match="image size is 32 and cannot be changed to 64"):
        resolve_backbone(str(tmp_path), image_size=64)


def test_repos_of_timm_and_of_clip_are_found_on_the_hub(hub, tmp_path):
    model = timm.create_model("test_convnext", num_classes=3)
    save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    clip = tiny_clip()
    clip.save_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    for name in ("timm", "clip"):
        HfApi().create_repo(f"org/{name}")
        HfApi().upload_folder(repo_id=f"org/{name}", folder_path=tmp_path / name)
    found = resolve_backbone("org/timm")
    assert found.config.architecture == "test_convnext"
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(pixels()), pre_logits=True)
    assert torch.equal(features(load_tower(found)), expected)
    found = resolve_backbone("org/clip")
    assert found.license == "cc-by-nc-4.0"
    with torch.no_grad():
        expected = clip.get_image_features(pixel_values=pixels()).pooler_output
    assert torch.equal(features(load_tower(found)), expected)


def test_a_timm_name_is_found_also_where_a_folder_of_that_name_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_resnet").mkdir()
    for name in ("test_resnet", "timm/test_resnet", "test_resnet.r160_in1k"):
        assert resolve_backbone(name).config.model_type == "geohf_timm"


def test_the_processor_follows_the_published_one(tmp_path):
    build_tower(TRANSFORMERS["vit"]).save_pretrained(tmp_path)
    published = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7], resample=2
    )
    published.save_pretrained(tmp_path)
    settings = resolve_backbone(str(tmp_path)).image_processor
    assert settings["size"] == settings["crop_size"] == {"height": 32, "width": 32}
    assert settings["image_mean"] == [0.1, 0.2, 0.3]
    assert settings["image_std"] == [0.5, 0.6, 0.7]
    assert settings["resample"] == 2


PUBLISHED = {
    "middle": transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
    "whole": transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "cut": transformers.PoolFormerImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ),
    "raw": transformers.ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False),
    "flipped": transformers.MobileViTImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_pictures_are_prepared_as_the_published_processor_does_or_it_is_said(tmp_path, caplog, kind):
    build_tower(TRANSFORMERS["vit"]).save_pretrained(tmp_path)
    PUBLISHED[kind].save_pretrained(tmp_path)
    ours = GeoImageProcessor(**resolve_backbone(str(tmp_path)).image_processor)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    theirs = PUBLISHED[kind](Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    warned = "prepares images in a way that is not known here" in caplog.text
    assert warned == (kind == "flipped")
    if not warned:
        torch.testing.assert_close(ours.pixel_values([pixels]), theirs)


def test_a_processor_whose_size_is_not_ours_serves_where_another_size_is_asked_for(tmp_path):
    build_tower(TRANSFORMERS["vit"]).save_pretrained(tmp_path)
    transformers.SamImageProcessor().save_pretrained(tmp_path)  # its size is that of the longest edge
    found = resolve_backbone(str(tmp_path), image_size=32).image_processor
    assert found["size"] == {"shortest_edge": 32}


def test_a_timm_tower_that_squeezes_its_pictures_takes_them_whole():
    sizes = [
        resolve_backbone(f"convnext_tiny.fb_in22k_ft_in1k{end}").image_processor["size"]
        for end in ("", "_384")
    ]
    assert sizes == [{"shortest_edge": 256}, {"height": 384, "width": 384}]


# What is not a tower


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt50", "timm has resnet50"),
        ("org/resnet5O", "timm has resnet50"),
        ("resnet18.no_such_tag", "no_such_tag"),
        ("org/absent", "neither timm nor the Hub knows it"),
        ("no/such/folder", "neither timm nor the Hub knows it"),
        ("", "neither timm nor the Hub knows it"),
    ],
)
def test_unknown_names_are_refused_at_once_and_near_ones_suggested(hub, name, message):
    start = time.monotonic()
    with pytest.raises(DataError, match=message):
        resolve_backbone(name)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "config",
    [{}, {"model_type": "no_such_type"}, transformers.BertConfig().to_dict()],
    ids=["no type", "unknown type", "a text model"],
)
def test_a_folder_that_holds_no_vision_tower_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError):
        resolve_backbone(str(tmp_path))


def test_missing_broken_and_misshapen_weights_are_refused(tmp_path):
    tower = build_tower(TRANSFORMERS["vit"])
    tower.save_pretrained(tmp_path)
    backbone, weights = resolve_backbone(str(tmp_path)), tmp_path / "model.safetensors"
    state = tower.state_dict()
    lacking = {name: tensor for name, tensor in state.items() if not name.startswith("layers.1.")}
    misshapen = {name: torch.zeros(3) if name.endswith("cls_token") else t for name, t in state.items()}
    for changed, message in ((lacking, "lacks weights"), (misshapen, "cannot be loaded")):
        from safetensors.torch import save_file

        save_file(changed, weights, metadata={"format": "pt"})
        with pytest.raises(DataError, match=message):
            load_tower(backbone)
    weights.write_bytes(b"broken")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_tower(backbone)
    weights.unlink()
    with pytest.raises(DataError, match="cannot be loaded"):
        load_tower(backbone)


def test_a_timm_folder_without_weights_is_refused(tmp_path):
    save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be loaded"):
        load_tower(resolve_backbone(str(tmp_path)))


# Blocks to unfreeze


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("clip", "vision_model.encoder.layers.2"),
        ("vit", "layers.2"),
        ("dinov2", "encoder.layer.2"),
        ("siglip", "encoder.layers.2"),
        ("convnext", "encoder.stages.3"),
        ("swin", "encoder.layers.2"),
        ("resnet", "encoder.stages.3"),
        ("test_convnext", "timm.stages.3"),
        ("test_vit", "timm.blocks.5"),
        ("test_resnet", "timm.layer4"),
        ("swin_tiny_patch4_window7_224", "timm.layers.1"),
        ("beit_base_patch16_224", "timm.blocks.1"),
    ],
)
def test_blocks_are_layers_or_stages_from_input_to_output(name, last):
    tower = build_tower(CONFIGS[name])
    names = {id(module): name for name, module in tower.named_modules()}
    blocks = [names[id(block)] for block in tower_blocks(tower)]
    assert blocks[-1] == last
    stem = last.rstrip("0123456789")
    first = int(last[len(stem) :]) - len(blocks) + 1
    assert first in (0, 1)
    assert blocks == [f"{stem}{first + i}" for i in range(len(blocks))]


@pytest.mark.parametrize(
    "name", ["resnet50", "efficientnet_b0", "regnety_002", "densenet121", "mobilenetv3_small_050"]
)
def test_the_last_block_of_a_convolutional_net_holds_its_last_stage(name):
    with torch.device("meta"):
        tower = build_tower(TimmTowerConfig(architecture=name))
    last = tower.timm.feature_info[-1]["module"]  # where timm reads the deepest map
    blocks = tower_blocks(tower)
    assert len(blocks) >= 4
    inside = {id(module) for block in blocks[-2:] for module in block.modules()}
    assert id(tower.timm.get_submodule(last)) in inside or last.startswith(("norm", "features.norm", "head"))


# ---- images of other than three bands


@pytest.mark.case("six-4")
@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name != "clip"])
def test_a_transformers_tower_takes_any_number_of_bands(name, tmp_path):
    published = build_tower(CONFIGS[name]).eval()
    published.save_pretrained(tmp_path)
    images = pixels()
    for bands in (1, 2, 4, 7):
        backbone = resolve_backbone(str(tmp_path), in_chans=bands)
        assert backbone.config.num_channels == bands
        tower = load_tower(backbone)
        assert not tower.training
        with torch.no_grad():
            # equal bands say what equal red, green and blue said: weights are repeated and scaled
            gray = images[:, :1].repeat(1, 3, 1, 1)
            wanted = tower_features(published, gray)
            said = tower_features(tower, images[:, :1].repeat(1, bands, 1, 1))
        if bands == 1:
            torch.testing.assert_close(said, wanted, rtol=1e-4, atol=1e-4)
        assert said.shape == wanted.shape
    first = next(v for v in load_tower(backbone).state_dict().values() if v.ndim == 4)
    old = next(v for v in published.state_dict().values() if v.ndim == 4)
    torch.testing.assert_close(first[:, 3], old[:, 0] * 3 / 7)


@pytest.mark.case("six-4")
def test_a_tower_that_cannot_take_so_many_bands_is_named(tmp_path):
    build_tower(CONFIGS["vit"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_channels": 5}))
    with pytest.raises(DataError, match="backbone's weights"):
        load_tower(resolve_backbone(str(tmp_path), in_chans=4))


@pytest.mark.case("first-doors")
def test_the_hub_is_never_asked_for_the_path_of_a_folder(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models/StreetCLIP").mkdir(parents=True)
    assert published_license("models/StreetCLIP") == "cc-by-nc-4.0"
    assert hub.requests == []
    assert published_name("models/StreetCLIP") == "StreetCLIP"
    assert published_name("geolocal/StreetCLIP") == "geolocal/StreetCLIP"
