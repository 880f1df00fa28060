"""The baseline of OSV-5M as it was published, around a small CLIP: transformers' own CLIP and plain heads are the reference."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.street_models import patches
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from geohf.errors import DataError
from geohf.geo.quadtree import tree_of_boxes
from geohf.hub.card import write_card
from geohf.recipes import convert_weights
from geohf.street import GeoStreetModel

WIDTH = 16
SIZES = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
# the whole box cut at latitude 10; its north at longitude 40, its south not at all; no step leads over longitude 180, where
# theirs stops and ours goes on
TABLE = """cluster_id,min_lat,min_lon,max_lat,max_lon,mean_lat,mean_lon
0,-50,-110,10,150,-20,30
1,10,-110,70,40,48,2
2,10,40,70,150,35.5,139
"""
BOXES = np.array([[float(x) for x in line.split(",")[1:]] for line in TABLE.split()[1:]])


def vision(act: str) -> CLIPVisionConfig:
    return CLIPVisionConfig(**SIZES, image_size=32, patch_size=16, hidden_act=act)


@pytest.fixture(scope="module")
def act(request) -> str:
    """The activation of CLIP, which its repo tells and the published weights do not."""
    return getattr(request, "param", "quick_gelu")


@pytest.fixture(scope="module")
def clip(act, tmp_path_factory) -> Path:
    """A repo of CLIP whose weights are not those of the published model."""
    folder = tmp_path_factory.mktemp("clip")
    text = {**SIZES, "vocab_size": 20}
    config = CLIPConfig(vision_config=vision(act).to_dict(), text_config=text, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def tensors(act) -> dict[str, torch.Tensor]:
    """Random weights under the published names."""
    torch.manual_seed(0)
    found = {}
    for name, tensor in CLIPVisionModel(vision(act)).state_dict().items():
        own = f"backbone.clip.vision_model.{name.removeprefix('vision_model.')}"
        found[own] = torch.randn(tensor.shape) / tensor.shape[-1] ** 0.5 + (
            "norm" in own and own.endswith("weight")
        )
    for part, out in (("classif", 3), ("reg", 6)):
        for layer, shape in (
            (0, [WIDTH]),
            (1, [WIDTH, WIDTH]),
            (2, [WIDTH]),
            (4, [32, WIDTH]),
            (5, [32]),
            (7, [out, 32]),
        ):
            found[f"mid.{part}.{layer}.weight"] = torch.randn(shape) * (1 if len(shape) == 1 else 0.8)
            found[f"mid.{part}.{layer}.bias"] = torch.randn(shape[0])
    return found


@pytest.fixture
def folder(tensors, tmp_path) -> Path:
    """A repo of the Hub, and the table of the cells beside it."""
    found = tmp_path / "osv5m"
    found.mkdir()
    (found / "config.json").write_text(json.dumps({"model": {}, "transform": {}}))
    (found / "quadtree_10_1000.csv").write_text(TABLE)
    save_file(tensors, found / "model.safetensors")
    return found


def answers(tensors: dict, act: str, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 3) logits and the (n, 3, 2) degrees of each cell by the published formulas, which answer that of the most probable cell."""
    clip = CLIPVisionModel(vision(act)).eval()
    nested = next(iter(clip.state_dict())).startswith("vision_model.")
    prefix = "backbone.clip." if nested else "backbone.clip.vision_model."
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    clip.load_state_dict(own)
    with torch.no_grad():
        token = clip(pixel_values=pixels).last_hidden_state[:, 0]

    def head(x: torch.Tensor, part: str) -> torch.Tensor:
        t = {n.removeprefix(f"mid.{part}."): w for n, w in tensors.items() if n.startswith(f"mid.{part}.")}
        x = F.layer_norm(x, (WIDTH,), t["0.weight"], t["0.bias"])
        for linear, norm in (("1", "2"), ("4", "5")):
            x = x @ t[f"{linear}.weight"].T + t[f"{linear}.bias"]
            groups = x.reshape(len(x), 4, -1)
            groups = (groups - groups.mean(-1, keepdim=True)) / (
                groups.var(-1, correction=0, keepdim=True) + 1e-5
            ).sqrt()
            x = F.gelu(groups.flatten(1) * t[f"{norm}.weight"] + t[f"{norm}.bias"])
        return x @ t["7.weight"].T + t["7.bias"]

    logits = head(token, "classif")
    steps = 1.2 * torch.tanh(head(token, "reg")).reshape(len(token), 3, 2)
    scaled = torch.tensor(BOXES).reshape(3, 3, 2) / torch.tensor([90.0, 180.0])
    low, high, mean = scaled.float().unbind(1)
    size = torch.where(steps > 0, high - mean, mean - low)
    radians = (mean + steps * size).clamp(-1, 1) * torch.tensor([math.pi / 2, math.pi])
    return logits, radians.rad2deg()


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"], indirect=True)
def test_answers_are_those_of_the_published_formulas(tensors, act, folder, clip):
    model = GeoStreetModel.from_published("osv5m", folder, backbone=str(clip))
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(8)]
    pixels = model.processor(photos)["pixel_values"][:, 0]
    theirs = CLIPImageProcessor.from_pretrained(clip)(photos, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, theirs, rtol=0, atol=0.03)  # a gray level of the resized picture
    logits, points = answers(tensors, act, pixels)
    with torch.no_grad():
        found = model(pixels)
    torch.testing.assert_close(found.logits, logits, rtol=0, atol=1e-4)
    assert logits.std(0).min() > 0.05, "the photographs are to differ"
    torch.testing.assert_close(found.candidates, points, rtol=0, atol=1e-3)
    best = points[torch.arange(len(photos)), logits.argmax(-1)]
    torch.testing.assert_close(found.coordinates, best, rtol=0, atol=1e-3)
    for answer, point in zip(model.predict(photos), best, strict=True):
        assert (answer.latitude, answer.longitude) == pytest.approx(tuple(point.tolist()), abs=1e-3)
    assert model.config.backbone_license == "mit"


def test_a_point_belongs_to_the_cell_that_holds_it(folder, clip):
    from geohf.street.cells import cell_numbers

    config = GeoStreetModel.from_published("osv5m", folder, backbone=str(clip)).config
    points = np.array([[-49.0, 149.0], [10.5, 39.0], [10.5, 41.0], [9.9, -109.0]])  # not by the nearest mean
    assert cell_numbers(points, config).tolist() == [0, 1, 2, 0]


def test_names_of_both_kinds_are_one_model(tensors, folder, clip):
    once = GeoStreetModel.from_published("osv5m", folder, backbone=str(clip)).state_dict()
    positions = {"model.backbone.clip.vision_model.embeddings.position_ids": torch.arange(5)[None]}
    both = {f"model.{n}": t for n, t in tensors.items()} | {n: t.clone() for n, t in tensors.items()}
    save_file(both | positions, folder / "model.safetensors")
    twice = GeoStreetModel.from_published("osv5m", folder, backbone=str(clip)).state_dict()
    assert all(torch.equal(t, twice[n]) for n, t in once.items())
    both["mid.reg.7.bias"] = both["mid.reg.7.bias"] + 1
    save_file(both, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"mid\.reg\.7\.bias and model\.mid\.reg\.7\.bias are not the same"):
        GeoStreetModel.from_published("osv5m", folder, backbone=str(clip))


@pytest.mark.slow
def test_it_is_a_geohf_repo_from_then_on(folder, clip, tmp_path, run_python, monkeypatch, capsys):
    words = ["osv5m", str(folder), str(tmp_path / "model"), "--backbone", str(clip)]
    monkeypatch.setattr("sys.argv", ["convert.py", *words])
    convert_weights.main()
    assert "3 cells" in capsys.readouterr().out
    card = (tmp_path / "model/README.md").read_text()
    assert "gastruc/osv5m" in card
    assert "license: mit" in card
    model = GeoStreetModel.from_pretrained(tmp_path / "model")
    write_card(tmp_path / "model", model.card_template, model.config)
    patches(3, 1)[0].save(tmp_path / "a.png")
    code = """
        import geohf
        from transformers import AutoModel
        answer = AutoModel.from_pretrained("model").predict("a.png")[0]
        print(answer.latitude, answer.longitude, answer.states[0].probability)
    """
    found = [float(x) for x in run_python(code, cwd=tmp_path).split()[-3:]]
    answer = GeoStreetModel.from_published("osv5m", folder, backbone=str(clip)).predict(tmp_path / "a.png")[0]
    assert found == pytest.approx([answer.latitude, answer.longitude, answer.states[0].probability], rel=1e-5)


V = "backbone.clip.vision_model."


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: {n: x for n, x in t.items() if n != "mid.reg.4.weight"}, r"lacks .*mid\.reg\.4\.weight"),
        (lambda t: {n: x for n, x in t.items() if n != "mid.classif.4.bias"}, r"lacks .*mid\.classif\.4\.bias"),
        (lambda t: {n: x for n, x in t.items() if "layers.1.self_attn.k_proj.bias" not in n}, r"lacks .*layers\.1\.self_attn\.k_proj\.bias"),
        (lambda t: {n: x for n, x in t.items() if "layers.1.layer_norm2" not in n}, r"lacks .*clip\.vision_model\.encoder\.layers\.1\.layer_norm2\.weight"),
        (lambda t: {n: x for n, x in t.items() if "class_embedding" not in n}, r"lacks .*embeddings\.class_embedding"),
        (lambda t: {n.replace("pre_layrnorm", "pre_layernorm"): x for n, x in t.items()}, r"lacks .*pre_layrnorm"),
        (lambda t: t | {"mid.reg.7.bias": torch.zeros(4)}, r"mid\.reg\.7\.bias \(4,\), not \(6,\)"),
        (lambda t: t | {"head.extra": torch.zeros(1)}, r"no place for .*head\.extra"),
    ],
)  # fmt: skip
def test_spoiled_weights_are_refused_by_name(spoil, message, tensors, folder, clip):
    save_file(spoil(tensors), folder / "model.safetensors")
    with pytest.raises(DataError, match=message):
        GeoStreetModel.from_published("osv5m", folder, backbone=str(clip))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.replace("mean_lon", "lon"), "mean_lon"),
        (TABLE.replace("1,10,", "7,10,"), "row 3: is no cell 1"),
        (TABLE.replace("48,2\n", "48,41\n"), "row 3: is no cell 1 whose mean lies between its corners"),
        (TABLE.replace("2,10,40", "2,10,35"), "overlap"),
        (
            None,
            "lacks quadtree_10_1000.csv; the cells lie in the authors' repository, utils/quadtree_10_1000.csv",
        ),
    ],
)
def test_other_tables_of_cells_are_refused(table, message, folder, clip):
    file = folder / "quadtree_10_1000.csv"
    file.unlink() if table is None else file.write_text(table)
    with pytest.raises(DataError, match=message):
        GeoStreetModel.from_published("osv5m", folder, backbone=str(clip))


def test_a_cell_whose_mean_lies_on_its_edge_can_be_trained(folder, clip):
    # the first cell reaches no further north than its mean, the second is a point
    table = TABLE.replace("150,-20,30", "150,10,30").replace("1,10,-110,70,40,48,2", "1,48,2,48,2,48,2")
    (folder / "quadtree_10_1000.csv").write_text(table)
    model = GeoStreetModel.from_published("osv5m", folder, backbone=str(clip))
    pixels = torch.zeros(2, 3, 32, 32)
    truth = torch.tensor([[5.0, 31.0], [48.1, 2.1]])
    loss = model(pixels, labels=torch.tensor([0, 1]), coordinates=truth).loss
    loss.backward()
    assert loss.isfinite()
    assert all(part.grad is None or part.grad.isfinite().all() for part in model.parameters())


def test_a_damaged_config_is_named(folder):
    (folder / "config.json").write_text("{oops")
    with pytest.raises(DataError, match=r"config\.json: is no JSON"):
        GeoStreetModel.from_published("osv5m", folder)


def test_boxes_become_the_cells_of_a_tree():
    rng = np.random.default_rng(0)
    low, high = np.array([[-60.0, -170.0]]), np.array([[70.0, 175.0]])
    for _ in range(60):  # a box is cut somewhere, again and again
        box, axis = rng.integers(len(low)), rng.integers(2)
        cut = low[box, axis] + rng.uniform(0.2, 0.8) * (high[box, axis] - low[box, axis])
        low, high = np.vstack([low, low[box]]), np.vstack([high, high[box]])
        high[box, axis], low[-1, axis] = cut, cut
    order = rng.permutation(len(low))
    tree = tree_of_boxes(low[order], high[order])
    points = rng.uniform([-60, -170], [70, 175], (500, 2))
    inside = (low[order] <= points[:, None]).all(-1) & (points[:, None] < high[order]).all(-1)
    assert tree.assign(points).tolist() == inside.argmax(1).tolist()
    assert type(tree).from_dict(tree.to_dict()).cells == 61
