"""GeoCLIP as it was published: its real location encoder, and both layouts around a small CLIP."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.street_models import patches
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.hub.card import write_card
from geohf.recipes import convert_weights
from geohf.street import GeoStreetModel
from geohf.street.location import LocationEncoder
from geohf.street.published import SIGMAS

WIDTH, OUT = 24, 512


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A tiny CLIP with random weights whose projected feature has 768 numbers, as GeoCLIP's."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    config = CLIPConfig(
        vision_config={**layers, "image_size": 32, "patch_size": 16},
        text_config={**layers, "vocab_size": 20},
        projection_dim=768,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


def published(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names of a release folder, with narrower nets than the real ones."""
    torch.manual_seed(seed)
    found = {"logit_scale": torch.tensor(3.0)}
    found |= {
        "image_encoder.mlp.0.weight": torch.randn(768, 768) / 28,
        "image_encoder.mlp.0.bias": torch.randn(768),
    }
    found |= {
        "image_encoder.mlp.2.weight": torch.randn(OUT, 768) / 28,
        "image_encoder.mlp.2.bias": torch.randn(OUT),
    }
    for i, sigma in enumerate(SIGMAS):
        name = f"location_encoder.LocEnc{i}."
        found[name + "capsule.0.b"] = torch.randn(256, 2) * sigma
        for layer, (out, inputs) in {
            "capsule.1": (WIDTH, 512), "capsule.3": (WIDTH, WIDTH), "capsule.5": (WIDTH, WIDTH), "head.0": (OUT, WIDTH),
        }.items():  # fmt: skip
            found |= {
                f"{name}{layer}.weight": torch.randn(out, inputs) / inputs**0.5,
                f"{name}{layer}.bias": torch.randn(out),
            }
    return found


def encode(tensors: dict, points: torch.Tensor) -> torch.Tensor:
    """The location encoder by its formulas alone, in single precision and in the order in which they are written."""
    t = {n.removeprefix("location_encoder."): x for n, x in tensors.items()}
    a = (1.340264, -0.081106, 0.000893, 0.003796)
    latitude, longitude = points.float().deg2rad().T
    theta = torch.asin(torch.tensor(3.0).sqrt() / 2 * latitude.sin())
    under = 3 * (9 * a[3] * theta**8 + 7 * a[2] * theta**6 + 3 * a[1] * theta**2 + a[0])
    x = 2 * torch.tensor(3.0).sqrt() * longitude * theta.cos() / under
    y = a[3] * theta**9 + a[2] * theta**7 + a[1] * theta**3 + a[0] * theta
    place, total = torch.stack([x, y], 1) * 66.50336 / 180, 0
    for i in range(3):
        turns = 2 * math.pi * place @ t[f"LocEnc{i}.capsule.0.b"].T
        hidden = torch.cat([turns.cos(), turns.sin()], 1)
        for layer in ("capsule.1", "capsule.3", "capsule.5"):
            hidden = (hidden @ t[f"LocEnc{i}.{layer}.weight"].T + t[f"LocEnc{i}.{layer}.bias"]).relu()
        total = total + hidden @ t[f"LocEnc{i}.head.0.weight"].T + t[f"LocEnc{i}.head.0.bias"]
    return total


GALLERY = "LAT,LON\n48.85,2.35\n-33.86,151.2\n48.85,2.35\n64.1,-178.5\n"


@pytest.fixture
def release(tmp_path) -> Path:
    """A release folder of the Hub."""
    folder = tmp_path / "release"
    folder.mkdir()
    config = {
        "model_type": "geoclip-geolocation", "format_version": 1, "gallery_file": "places.csv", "sigma": [1, 16, 256],
        "backbone": {"repo_id": "openai/clip-vit-large-patch14", "revision": "main"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "places.csv").write_text(GALLERY)
    save_file(published(), folder / "model.safetensors")
    return folder


@pytest.fixture
def package(tmp_path) -> Path:
    """The layout of the package."""
    weights, tensors = tmp_path / "geoclip/model/weights", published()
    weights.mkdir(parents=True)
    for file, prefix in (
        ("location_encoder", "location_encoder."),
        ("image_encoder_mlp", "image_encoder.mlp."),
    ):
        held = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        torch.save(held, weights / f"{file}_weights.pth")
    torch.save(torch.nn.Parameter(tensors["logit_scale"]), weights / "logit_scale_weights.pth")
    (weights.parent / "gps_gallery").mkdir()
    (weights.parent / "gps_gallery/coordinates_100K.csv").write_text(GALLERY)
    return tmp_path / "geoclip"


@pytest.mark.parametrize("layout", ["release", "package"])
def test_answers_are_those_of_the_formulas(layout, request, clip):
    model = GeoStreetModel.from_published("geoclip", request.getfixturevalue(layout), backbone=str(clip))
    tensors, photos = published(), patches(3, 2)
    pixels = model.processor(photos)["pixel_values"]
    with torch.no_grad():
        feature = CLIPModel.from_pretrained(clip).eval().get_image_features(pixels[:, 0]).pooler_output
    hidden = (feature @ tensors["image_encoder.mlp.0.weight"].T + tensors["image_encoder.mlp.0.bias"]).relu()
    image = hidden @ tensors["image_encoder.mlp.2.weight"].T + tensors["image_encoder.mlp.2.bias"]
    gallery = torch.tensor([[float(x) for x in line.split(",")] for line in GALLERY.split()[1:]])
    image, places = (rows / rows.norm(dim=1, keepdim=True) for rows in (image, encode(tensors, gallery)))
    expected = (math.exp(3.0) * image @ places.T).softmax(1)
    for answer, row in zip(model.predict(photos, top_k=4), expected, strict=True):
        best = row.argsort(descending=True, stable=True)
        assert [m.probability for m in answer.matches] == pytest.approx(row[best].tolist(), rel=1e-3)
        np.testing.assert_allclose([answer.latitude, answer.longitude], gallery[best[0]], rtol=1e-6)
    assert model.config.gallery_size == 4  # as published, repeats and all
    assert model.config.backbone_license == "mit"


@pytest.mark.slow
def test_it_is_a_geohf_repo_from_then_on(release, clip, tmp_path, run_python):
    model = GeoStreetModel.from_published("geoclip", release, backbone=str(clip))
    model.save_pretrained(tmp_path / "model")
    write_card(tmp_path / "model", model.card_template, model.config)
    card = (tmp_path / "model/README.md").read_text()
    assert "GeoCLIP (github.com/VicenteVivan/geo-clip)" in card
    assert "license: mit" in card
    assert "4 positions" in card
    patches(3, 1)[0].save(tmp_path / "a.png")
    code = """
        import geohf
        from transformers import AutoModel
        answer = AutoModel.from_pretrained("model").predict("a.png")[0]
        print(answer.latitude, answer.longitude, answer.matches[0].probability)
    """
    found = [float(x) for x in run_python(code, cwd=tmp_path).split()[-3:]]
    answer = model.predict(tmp_path / "a.png")[0]
    assert found == pytest.approx(
        [answer.latitude, answer.longitude, answer.matches[0].probability], rel=1e-5
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: {n.replace("mlp.2", "mlp.3"): x for n, x in t.items()}, r"lacks .*image_encoder\.mlp\.2\.weight"),
        (lambda t: {n: x for n, x in t.items() if n != "logit_scale"}, "lacks .*logit_scale"),
        (lambda t: {n: x for n, x in t.items() if "LocEnc2.capsule.0" not in n}, r"lacks .*LocEnc2\.capsule\.0\.b"),
        (lambda t: t | {"extra": torch.zeros(1)}, "no place for .*extra"),
        (lambda t: t | {"image_encoder.mlp.0.bias": torch.zeros(7)}, r"image_encoder\.mlp\.0\.bias \(7,\), not \(768,\)"),
        (lambda t: {n: x for n, x in t.items() if "LocEnc0" not in n}, "lacks the location encoder"),
    ],
)  # fmt: skip
def test_spoiled_weights_are_refused_by_name(spoil, message, release, clip):
    save_file(spoil(published()), release / "model.safetensors")
    with pytest.raises(DataError, match=message):
        GeoStreetModel.from_published("geoclip", release, backbone=str(clip))


def test_other_folders_are_refused(release, package, clip, tmp_path):
    with pytest.raises(DataError, match=r"published model must be .*got 'geoclipp'.*mean 'geoclip'"):
        GeoStreetModel.from_published("geoclipp", release)
    with pytest.raises(DataError, match=r"lacks location_encoder_weights\.pth"):
        GeoStreetModel.from_published("geoclip", tmp_path, backbone=str(clip))
    (package / "model/gps_gallery/coordinates_100K.csv").write_text("LAT,LON\n1,2\n95,2\n")
    with pytest.raises(DataError, match="row 3: latitude 95 is outside"):
        GeoStreetModel.from_published("geoclip", package, backbone=str(clip))
    (release / "config.json").write_text(
        json.dumps({"model_type": "geoclip-location-encoder", "format_version": 1})
    )
    with pytest.raises(DataError, match="geoclip-geolocation of format 1 is wanted"):
        GeoStreetModel.from_published("geoclip", release, backbone=str(clip))
    for text, reason in (("{", r"config\.json: is no JSON"), ("[]", r"config\.json: is no config, but list")):
        (release / "config.json").write_text(text)
        with pytest.raises(DataError, match=reason):
            GeoStreetModel.from_published("geoclip", release, backbone=str(clip))


def test_the_command_writes_a_model(package, clip, tmp_path, monkeypatch, capsys):
    words = ["geoclip", str(package), str(tmp_path / "model"), "--backbone", str(clip)]
    monkeypatch.setattr("sys.argv", ["convert.py", *words])
    convert_weights.main()
    assert "a gallery of 4 positions" in capsys.readouterr().out
    assert (tmp_path / "model/README.md").is_file()


# ---- the real weights, which a package of the index holds


@pytest.fixture(scope="module")
def real() -> Path:
    """The installed package's folder, which is not imported: it would ask for more packages."""
    found = importlib.util.find_spec("geoclip")
    if found is None:
        pytest.skip("needs GeoCLIP's weights: pip install --no-deps geoclip==1.3.0")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def geoclip(real, clip) -> GeoStreetModel:
    return GeoStreetModel.from_published("geoclip", backbone=str(clip))


@pytest.fixture(scope="module")
def gallery(real) -> np.ndarray:
    return np.loadtxt(real / "gps_gallery/coordinates_100K.csv", delimiter=",", skiprows=1)


def test_the_real_location_encoder_equals_its_formulas(real, geoclip, gallery):
    points = torch.tensor(np.random.default_rng(0).permutation(gallery)[:1000])
    tensors = torch.load(real / "weights/location_encoder_weights.pth", weights_only=True)
    with torch.no_grad():
        found = geoclip.head.match.location(points)
    assert (found - encode(tensors, points)).abs().max() < 2e-5
    assert found.norm(dim=1).median().item() == pytest.approx(0.26, abs=0.02)
    assert geoclip.head.match.logit_scale.exp().item() == pytest.approx(39.69, abs=0.01)
    assert geoclip.config.gallery_size == 100_000
    a, b = geoclip.head.match.encode(torch.tensor([[10.0, 180.0], [10.0, -180.0]]))
    assert (a @ b).item() == pytest.approx(0.332, abs=0.002)


def test_the_seam_of_the_real_one_is_not_that_of_the_other_frames():
    for frame in ("sphere", "spherical_harmonics"):
        torch.manual_seed(0)
        a, b = LocationEncoder(frame)(torch.tensor([[10.0, 180.0], [10.0, -180.0]]))
        assert torch.cosine_similarity(a, b, dim=0) >= 0.9999


def test_a_real_gallery_is_encoded_once_and_finds_what_lies_a_kilometer_away(geoclip, gallery):
    match, calls = geoclip.head.match, []
    hook = match.location.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    places = gallery[np.random.default_rng(0).choice(len(gallery), 8192, replace=False)]
    moved = places[:100] + np.array([1.0 / 111.2, 0.0])
    with torch.no_grad():
        questions = match.encode(torch.tensor(moved))
    calls.clear()
    for _ in range(3):
        found = match.matches(questions, places).points[:, 0].numpy()
    assert sum(calls) == 8192
    assert np.median(great_circle_m(found, moved)) < 2000
    hook.remove()
