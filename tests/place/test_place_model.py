"""Pooling, whitening, frozen towers, predictions, the index and the pipeline."""

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, parse, unit, write_pictures
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model, pipeline

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.place import GeoPlaceConfig, GeoPlaceModel, PlaceIndex
from geohf.place.aggregation import GeM, MixVPR
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.configuration import ENCODERS
from geohf.place.head import Whitening
from geohf.place.modeling import make_model
from geohf.training.finetuning import unfreeze


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    names = [f"p{i}.png" for i in range(7)]
    write_pictures(folder, names)
    return [folder / name for name in names]


@pytest.fixture(scope="module")
def model():
    return build_model(pooling="avg", projection_dim=None)


@pytest.fixture(scope="module")
def index(model, photos):
    return PlaceIndex.build(model, photos, along(40.0 * np.arange(7)))


# ---- parts


def test_gem_is_the_generalized_mean():
    torch.manual_seed(0)  # a map of small numbers alone would underflow at p 200
    x = torch.rand(2, 3, 4, 5)
    pool = GeM(p=3.0)
    torch.testing.assert_close(pool(x), (x**3).mean((-2, -1)) ** (1 / 3))
    for p, expected in ((1.0, x.mean((-2, -1))), (200.0, x.amax((-2, -1)))):
        torch.testing.assert_close(GeM(p)(x), expected, rtol=0.03, atol=1e-3)
    pool(x).sum().backward()
    assert pool.p.grad.abs() > 0
    assert GeM()(-x).isfinite().all()


def test_mixvpr_is_that_of_its_paper():
    torch.manual_seed(0)
    mix = MixVPR([6, 2, 3], depth=2, channels=4, rows=3)
    x = torch.randn(2, 6, 2, 3)
    flat = x.reshape(2, 6, 6)
    for mixer in mix.mixers:
        normal = F.layer_norm(flat, (6,), mixer.norm.weight, mixer.norm.bias)
        hidden = (normal @ mixer.hidden.weight.T + mixer.hidden.bias).relu()
        flat = flat + hidden @ mixer.out.weight.T + mixer.out.bias
    depthwise = torch.einsum("dc,bcn->bdn", mix.channels.weight, flat) + mix.channels.bias[:, None]
    expected = torch.einsum("rn,bdn->bdr", mix.rows.weight, depthwise) + mix.rows.bias
    torch.testing.assert_close(mix(x), F.normalize(expected.flatten(1), dim=-1))


def test_whitening_leaves_no_correlation():
    sklearn = pytest.importorskip("sklearn.decomposition")
    x = (unit(400, 6) @ torch.randn(6, 12, generator=torch.Generator().manual_seed(1))).float() + 3
    whiten = Whitening(12, 5)
    whiten.fit(x)
    rows = (x - whiten.mean) @ whiten.axes.T
    torch.testing.assert_close(rows.T @ rows / 400, torch.eye(5), atol=1e-3, rtol=0)
    theirs = sklearn.PCA(5, whiten=True, svd_solver="full").fit_transform(x.numpy())
    np.testing.assert_allclose(np.abs(theirs) * (400 / 399) ** 0.5, rows.abs().numpy(), atol=2e-2)
    rank_six = Whitening(12, 9)  # three axes more than anything varies along
    rank_six.fit(x)
    assert rank_six(x).isfinite().all()
    assert (rank_six.axes[6:] == 0).all()


# ---- the model


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, 16),
        ({"pooling": "avg", "projection_dim": None}, 96),
        ({"pooling": "gem", "projection_dim": None}, 96),
        ({"pooling": "mixvpr", "projection_dim": None, "mix_channels": 5, "mix_rows": 3}, 15),
        ({"pooling": "mixvpr", "projection_dim": 8}, 8),
    ],
)
def test_descriptors_have_length_one(fields, size, photos, tmp_path):
    model = build_model(**fields)
    found = model.encode(photos, batch_size=3)
    assert found.shape == (7, size)
    assert model.config.descriptor_size == size
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-4
    model.save_pretrained(tmp_path)
    np.testing.assert_allclose(GeoPlaceModel.from_pretrained(tmp_path).encode(photos), found, atol=1e-6)


def test_pooling_of_a_transformers_tower(photos, tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    tower = Dinov2Model(config).eval()
    tower.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 28, 28)
    hidden = tower(pixels).last_hidden_state
    for pooling, expected in (("tower", hidden[:, 0]), ("cls", hidden[:, 0]), ("avg", hidden[:, 1:].mean(1))):
        model = GeoPlaceModel.from_backbone(
            str(tmp_path), image_size=28, pooling=pooling, projection_dim=None
        )
        torch.testing.assert_close(
            model(pixels).descriptors, F.normalize(expected, dim=-1), atol=1e-5, rtol=1e-4
        )
    with pytest.raises(DataError, match="image size 30 is no multiple of its patch size 14"):
        GeoPlaceModel.from_backbone(str(tmp_path), image_size=30)


def test_the_seeds_names_and_its_head():
    assert set(ENCODERS) == {"clip_b32", "clip_l14", "siglip_b16", "dinov2_b", "convnext_b", "resnet50"}
    model = build_model(projection_dim=256)
    shapes = [tuple(p.shape) for p in model.head.project.parameters()]
    assert shapes == [(48, 96), (48,), (256, 48), (256,)]
    assert isinstance(model.head.descriptor_norm, torch.nn.BatchNorm1d)
    assert model.head.project[2].p == 0.1


def test_the_tower_is_frozen_and_in_eval_mode():
    model = build_model().train()
    assert not any(p.requires_grad for p in model.tower.parameters())
    assert not any(module.training for module in model.tower.modules())
    assert model.head.training
    before = {name: tensor.clone() for name, tensor in model.tower.state_dict().items()}
    points = torch.from_numpy(along([0, 5, 500, 505]))
    model(torch.randn(4, 3, 64, 64), points).loss.backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.tower.state_dict().items())
    assert all(p.grad is not None for p in model.head.parameters())


@pytest.mark.parametrize(("finetune", "blocks"), [("last", {"11"}), ("all", set(map(str, range(12))))])
def test_as_much_of_the_tower_learns_as_is_asked(finetune, blocks, tmp_path):
    model = build_model(backbone="test_vit")
    depth = len(model.tower.timm.blocks)
    wanted = {str(int(block) - 12 + depth) for block in blocks if int(block) - 12 + depth >= 0}
    args = PlaceTrainingArguments(
        output_dir=str(tmp_path), finetune=finetune, finetune_blocks=1, use_cpu=True
    )
    unfreeze(model, args).train()
    learning = {
        name.split("blocks.")[1].split(".")[0]
        for name, p in model.named_parameters()
        if "blocks." in name and p.requires_grad
    }
    assert learning == wanted
    assert model.tower.timm.blocks[-1].training
    if finetune == "last":
        assert not model.tower.timm.blocks[0].training


@pytest.mark.case("use-O13")
def test_lora_merges_to_the_same_answers(photos, tmp_path):
    model = build_model(backbone="test_vit")
    args = PlaceTrainingArguments(output_dir=str(tmp_path), finetune="lora", lora_rank=2, use_cpu=True)
    adapted = unfreeze(model, args)
    learning = [p for name, p in adapted.named_parameters() if "lora_" in name]
    with torch.no_grad():
        for parameter in learning:
            parameter.normal_(0, 0.05)
    pixels = model.processor(photos)["pixel_values"]
    adapted.eval()
    with torch.no_grad():
        expected = adapted(pixels).descriptors
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(pixels).descriptors, expected, atol=1e-5, rtol=1e-4)
    assert len(learning) > 0
    assert not any("lora" in name for name in merged.state_dict())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"pooling": "delg"},
            "pooling must be one of tower, cls, avg, gem, gem_linear, mixvpr, netvlad, supervlad, salad, boq; got 'delg'",
        ),
        ({"mining": "easy"}, "mining must be one of"),
        (
            {"positive_m": 30, "negative_m": 20},
            r"positive_m \(30\.?0?\) must be above 0 and at most negative_m",
        ),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"hard_share": 1.5}, "hard_share must be at least 0 and at most 1"),
        ({"pooling": "gem"}, "needs feature_map"),
        ({"whitening_dim": 300}, "whitening_dim must be at least 1 and at most 256"),
    ],
)
def test_settings_that_do_not_go_together(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        GeoPlaceConfig(**{key: float(v) if key.endswith("_m") else v for key, v in fields.items()})


def test_half_precision_does_not_blur_the_loss():
    model = build_model(dropout=0.0).train()
    features, points = (
        torch.randn(8, 96),
        torch.from_numpy(along(4.0 * np.arange(8) + 400 * (np.arange(8) // 4))),
    )
    torch.manual_seed(0)
    expected = model.head(features, points).loss
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        output = model.head(features, points)
    assert output.descriptors.dtype == torch.float32
    lengths = output.descriptors.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(8), atol=1e-6, rtol=0)  # bfloat16 would be off by 4e-3
    assert output.loss.item() == pytest.approx(expected.item(), rel=0.05)


# ---- the index


def test_an_index_finds_its_own_pictures(model, photos, index):
    answers = model.predict(photos[:3], batch_size=2, index=index, top_k=3)
    for i, answer in enumerate(answers):
        assert [answer.answers[0].image, len(answer.answers)] == [str(photos[i]), 3]
        assert great_circle_m((answer.latitude, answer.longitude), along([40.0 * i])[0]) < 0.01
        assert answer.answers[0].similarity == pytest.approx(1, abs=1e-5)
        away = [
            great_circle_m((a.latitude, a.longitude), (answer.latitude, answer.longitude))
            for a in answer.answers
        ]
        assert answer.spread_m == pytest.approx(sorted(away)[1], abs=0.01)
        assert answer.confidence is None  # never fitted
    assert model.predict(photos[0])[0].answers == []


@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_an_index_survives_the_disk(model, photos, index, tmp_path, ending):
    path = tmp_path / f"index.{ending}"
    index.save(path)
    again = PlaceIndex.load(path)
    assert torch.equal(again.descriptors, index.descriptors)
    assert np.array_equal(again.points, index.points)
    assert (again.images, again.model) == (index.images, index.model)
    found, expected = (model.predict(photos[2], index=where)[0] for where in (path, index))
    assert found.answers == expected.answers
    path.unlink()
    PlaceIndex.build(model, photos[:2], along([0, 40])).save(path)  # another one under the same name
    assert len(model.predict(photos[0], index=path, top_k=2)[0].answers) == 2


def test_a_parquet_index_is_a_plain_table(index, tmp_path):
    import pandas as pd

    index.save(tmp_path / "index.parquet")
    frame = pd.read_parquet(tmp_path / "index.parquet")
    assert list(frame.columns) == ["image", "latitude", "longitude", "descriptor"]
    np.testing.assert_allclose(np.stack(frame["descriptor"]), index.descriptors.numpy())


def test_an_index_of_drives(model, drives):
    index = PlaceIndex.from_drives(model, drives[0])
    assert len(index) == 240
    assert index.images[0].endswith(".png")
    with pytest.raises(DataError, match="no row has the camera_id 'rear'"):
        PlaceIndex.from_drives(model, drives[0], camera_id="rear")


def test_questions_that_an_index_refuses(model, photos, index, tmp_path):
    with pytest.raises(DataError, match="holds descriptors of length 96 and this model gives 16"):
        build_model().predict(photos[0], index=index)
    with pytest.raises(DataError, match="built with another model, or before this one was trained further"):
        build_model(seed=1, pooling="avg", projection_dim=None).predict(photos[0], index=index)
    changed = build_model(pooling="avg", projection_dim=None)
    assert changed.predict(photos[0], index=index)[0].answers
    with torch.no_grad():
        next(changed.tower.parameters()).add_(0.1)
    with pytest.raises(DataError, match="trained further"):
        changed.predict(photos[0], index=index)
    with pytest.raises(DataError, match="cannot give the 8 best answers: the database holds 7 images"):
        model.predict(photos[0], index=index, top_k=8)
    with pytest.raises(DataError, match=r"none\.parquet: no such index"):
        model.predict(photos[0], index=tmp_path / "none.parquet")
    for ending in ("parquet", "safetensors"):
        (tmp_path / f"cut.{ending}").write_bytes(b"not an index")
        with pytest.raises(DataError, match=rf"cut\.{ending}: is no place index"):
            PlaceIndex.load(tmp_path / f"cut.{ending}")
    with pytest.raises(DataError, match=r"ends in \.safetensors or \.parquet"):
        index.save(tmp_path / "index.pkl")
    with pytest.raises(DataError, match="row 1 is zero, or holds NaN"):
        PlaceIndex(np.array([[1.0, 0], [np.nan, 0]]), along([0, 1]), ["a", "b"], "m")
    with pytest.raises(DataError, match="there are no images to index"):
        PlaceIndex.build(model, [], np.empty((0, 2)))
    with pytest.raises(DataError, match="2 descriptors, 1 points, 2 images"):
        PlaceIndex(unit(2, 4), along([0]), ["a", "b"], "m")


# ---- pipeline and verbs


def test_the_pipeline_answers_as_the_model(model, photos, index, tmp_path):
    model.save_pretrained(tmp_path)
    index.save(tmp_path / "index.safetensors")
    recognize = pipeline("place-recognition", model=str(tmp_path), index=str(tmp_path / "index.safetensors"))
    expected = model.predict(photos, index=index)
    for answer, right in zip(recognize([str(photo) for photo in photos]), expected, strict=True):
        assert answer["answers"][0]["image"] == right.answers[0].image
        assert (answer["latitude"], answer["longitude"]) == (right.latitude, right.longitude)
        np.testing.assert_allclose(answer["descriptor"], right.descriptor, atol=1e-6)
    assert len(recognize(Image.open(photos[0]), top_k=2)["answers"]) == 2
    with pytest.raises(DataError, match="no such index"):
        recognize(str(photos[0]), index=str(tmp_path / "other.parquet"))
    with pytest.raises(TypeError, match="topk"):
        recognize(str(photos[0]), topk=2)


def test_a_trained_model_hears_of_its_loss_and_says_what_its_network_cannot_hear(tmp_path, caplog):
    build_model().save_pretrained(tmp_path)

    def trained(*words):
        return make_model(parse("--models", tmp_path, "--train_csv", "poses.csv", *words)[0])

    config = trained("--loss", "multi_similarity", "--positive_m", 5, "--matryoshka_dims", 8, 4).config
    assert (config.loss, config.positive_m, config.matryoshka_dims) == ("multi_similarity", 5, [8, 4])
    assert trained("--image_size", 64).processor_settings["crop_size"] == {"height": 64, "width": 64}
    assert trained("--image_size", 96).processor_settings["crop_size"] == {"height": 96, "width": 96}
    with pytest.raises(
        DataError, match=r"positive_m \(25.0\) must be above 0 and at most negative_m \(5.0\)"
    ):
        trained("--negative_m", 5)
    assert not caplog.records
    trained("--pooling", "gem", "--clusters", 8)
    assert "is trained and keeps its network: --pooling, --clusters not used" in caplog.text


def test_a_trained_model_says_which_defaults_it_does_not_take(tmp_path, caplog):
    """Also where a flag says one: `--positive_m 25` was as if nobody had given it, without a word."""
    build_model(positive_m=10.0, loss="multi_similarity").save_pretrained(tmp_path)
    options, _ = parse("--train_csv", "x.csv", "--models", tmp_path, "--positive_m", 25, "--margin", 0.4)
    config = make_model(options).config
    assert (config.positive_m, config.loss, config.margin) == (10.0, "multi_similarity", 0.4)
    told = f"{tmp_path} keeps what it was trained with in place of defaults: --positive_m 10.0, --loss multi_similarity"
    assert told in caplog.messages
