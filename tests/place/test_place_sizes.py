"""A trained model that is asked at another size: positions interpolated as published, and saved with the processor."""

import json
import logging

import pytest
import timm
import torch
from helpers.place_models import build_model, write_pictures
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

from geohf.errors import DataError
from geohf.place import GeoPlaceConfig, GeoPlaceModel
from geohf.place.arguments import PlaceArguments
from geohf.place.modeling import make_model
from geohf.place.sizes import see_at


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, ["a.png"])
    return folder / "a.png"


def vit(**fields) -> GeoPlaceModel:
    return build_model(backbone="test_vit", **({"pooling": "gem", "projection_dim": None} | fields))


@pytest.mark.parametrize("sides", [(112, 112), (96, 160)])
def test_positions_of_timms_transformers_are_interpolated_as_published(sides, photo, tmp_path):
    model = vit()
    before = {name: tensor.clone() for name, tensor in model.tower.timm.state_dict().items()}
    see_at(model, *sides)
    prefix, grid = before["pos_embed"][:, :1], before["pos_embed"][:, 1:]
    grid = F.interpolate(
        grid.unflatten(1, (4, 4)).movedim(-1, 1),
        tuple(side // 16 for side in sides),
        mode="bicubic",
        antialias=True,
    )
    expected = torch.cat([prefix, grid.flatten(2).mT], 1)
    torch.testing.assert_close(model.tower.timm.pos_embed.data, expected)
    theirs = timm.create_model("test_vit", num_classes=0, img_size=sides)
    theirs.load_state_dict(before | {"pos_embed": expected})
    pixels = model.processor([photo])["pixel_values"]
    assert pixels.shape[-2:] == sides
    with torch.no_grad():
        places = (
            theirs.eval().forward_features(pixels)[:, 1:].mT.unflatten(-1, [side // 16 for side in sides])
        )
        found = model.head(places).descriptors
        torch.testing.assert_close(model(pixels).descriptors, found, atol=1e-6, rtol=0)
    model.save_pretrained(tmp_path)
    again = GeoPlaceModel.from_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["size"] == saved["crop_size"] == dict(zip(("height", "width"), sides, strict=True))
    assert again.config.feature_map[1:] == [side // 16 for side in sides]
    torch.testing.assert_close(again(pixels).descriptors.detach(), found, atol=1e-6, rtol=0)


def test_dinov2_of_transformers_interpolates_in_every_pass(photo):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = Dinov2Config(image_size=56, patch_size=14, **small)
    processing = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}
    config = GeoPlaceConfig(
        vision_config=tower, feature_size=16, image_processor=processing, projection_dim=None
    )
    model = GeoPlaceModel(config).eval()
    see_at(model, 84, 84)
    assert model.config.image_processor["size"] == {"shortest_edge": 96}
    plain = Dinov2Model(tower).eval()
    plain.load_state_dict(model.tower.state_dict())
    pixels = model.processor([photo])["pixel_values"]
    assert pixels.shape[-2:] == (84, 84)
    with torch.no_grad():
        expected = F.normalize(plain(pixels).pooler_output, dim=-1)
        torch.testing.assert_close(model(pixels).descriptors, expected, atol=1e-6, rtol=0)
    with pytest.raises(DataError, match="pooling mixvpr is made for its map"):
        see_at(build_model(pooling="mixvpr", mix_channels=4, mix_rows=2, projection_dim=None), 96, 96)


def test_the_recipe_s_image_size_is_that_of_a_trained_model(photo, tmp_path, caplog):
    model = vit()
    model.config.confidence_weights = [1.0, 1.0, 0.0]
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        larger = make_model(PlaceArguments(models=[str(tmp_path)], image_size=128))
    assert (
        "pictures are seen at 128 x 128: what was fitted before is forgotten, the confidence;" in caplog.text
    )
    assert larger.dummy_inputs["pixel_values"].shape[-2:] == (128, 128)
    assert larger.config.feature_map[1:] == [8, 8]
    assert larger.encode([photo]).shape == model.encode([photo]).shape
    with pytest.raises(DataError, match="pictures of 100 x 100"):
        make_model(PlaceArguments(models=[str(tmp_path)], image_size=100))


def test_a_refused_size_leaves_the_model_as_it_was(photo):
    model = vit(pooling="salad", clusters=8, cluster_dim=4, token_dim=8)
    before, fingerprint, settings = model.encode([photo]), model.fingerprint(), model.config.to_dict()
    with pytest.raises(DataError, match=r"pictures of 32 x 32: salad needs fewer clusters \(8\)"):
        see_at(model, 32, 32)
    assert (model.fingerprint(), model.config.to_dict()) == (fingerprint, settings)
    assert (model.encode([photo]) == before).all()


def test_a_confidence_is_forgotten_with_the_fit_that_it_was_learned_at(tmp_path, caplog):
    model = vit()
    model.config.confidence_weights, model.config.verify_below = [1.0, 1.0, 0.0], 0.1
    model.save_pretrained(tmp_path)
    same = make_model(PlaceArguments(models=[str(tmp_path)], fit="squeeze"))
    assert (same.config.confidence_weights, same.config.verify_below) == ([1.0, 1.0, 0.0], 0.1)
    other = make_model(PlaceArguments(models=[str(tmp_path)], fit="pad"))
    assert (other.config.confidence_weights, other.config.verify_below) == (None, None)
    assert (
        "pictures are fitted by pad: what was fitted before is forgotten, the confidence and the gate of verification;"
        in caplog.text
    )
