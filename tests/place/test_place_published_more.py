"""MixVPR, SALAD, BoQ and MegaLoc under their published names, against plain forms of them; random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.plain_aggregators import plain_boq, plain_salad, unit_rows
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model

from geohf.errors import DataError
from geohf.hub.card import write_card
from geohf.place import GeoPlaceModel
from geohf.place.aggregation import SALAD, BoQ

SIZE = (70, 98)  # 5 x 7 patches of DINOv2, 5 x 7 places of a ResNet that is cut
WIDTH, DEPTH, SIDE = 384, 2, 6


def randomized(module: nn.Module, scale: float = 0.1) -> nn.Module:
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, scale)
    return module.eval()


def under(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in module.state_dict().items()}


# ---- backbones


def dinov2() -> dict[str, torch.Tensor]:
    """A small ViT under DINOv2's own names, positions for 84 x 84 pixels."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + SIDE**2, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for i in range(DEPTH):
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"blocks.{i}.{name}.weight": (rows, columns), f"blocks.{i}.{name}.bias": (rows,)}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{i}.{name}"] = (WIDTH,)
    return {name: torch.randn(shape) * 0.05 for name, shape in shapes.items()}


def plain_dinov2(w: dict[str, torch.Tensor], pixels: torch.Tensor, norm: bool) -> torch.Tensor:
    """(batch, 1 + patches, channels) tokens."""
    return attended_dinov2(w, pixels, norm)[0]


def attended_dinov2(
    w: dict[str, torch.Tensor], pixels: torch.Tensor, norm: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, 1 + patches, channels) tokens, and (batch, patches) the last block's attention of the class token."""
    rows, columns = (side // 14 for side in pixels.shape[-2:])
    patches = F.unfold(pixels, 14, stride=14).mT @ w["patch_embed.proj.weight"].flatten(1).T
    grid = w["pos_embed"][0, 1:].T.reshape(1, WIDTH, SIDE, SIDE)
    scale = ((rows + 0.1) / SIDE, (columns + 0.1) / SIDE)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=False)[0].flatten(1).T
    first = (w["cls_token"][0] + w["pos_embed"][0, :1]).expand(len(pixels), 1, WIDTH)
    x = torch.cat([first, patches + w["patch_embed.proj.bias"] + grid], 1)
    for b in (f"blocks.{i}." for i in range(DEPTH)):
        y = F.layer_norm(x, (WIDTH,), w[b + "norm1.weight"], w[b + "norm1.bias"], 1e-6)
        heads = (y @ w[b + "attn.qkv.weight"].T + w[b + "attn.qkv.bias"]).unflatten(-1, (3, 6, WIDTH // 6))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / (WIDTH // 6) ** 0.5).softmax(-1)
        y = (attention @ v).movedim(1, 2).flatten(2)
        x = x + w[b + "ls1.gamma"] * (y @ w[b + "attn.proj.weight"].T + w[b + "attn.proj.bias"])
        y = F.layer_norm(x, (WIDTH,), w[b + "norm2.weight"], w[b + "norm2.bias"], 1e-6)
        y = F.gelu(y @ w[b + "mlp.fc1.weight"].T + w[b + "mlp.fc1.bias"])
        x = x + w[b + "ls2.gamma"] * (y @ w[b + "mlp.fc2.weight"].T + w[b + "mlp.fc2.bias"])
    x = F.layer_norm(x, (WIDTH,), w["norm.weight"], w["norm.bias"], 1e-6) if norm else x
    return x, attention[:, :, 0, 1:].sum(1)


def resnet() -> nn.Module:
    """torchvision's ResNet-18 up to its third stage, with statistics of batches as training leaves them."""
    whole = get_model("resnet18", weights=None)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return nn.Sequential(*list(whole.children())[:7]).eval()


# ---- files: tensors under published names, and the descriptors that they are to give


def double(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, np.ndarray]:
    """The tensors below a prefix, convolutions of one pixel as matrices."""
    mine = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    flat = {n: t.flatten(1) if t.shape[2:] == (1, 1) else t for n, t in mine.items()}
    return {n: t.double().numpy() for n, t in flat.items()}


def salad_file(prefix: str = "backbone.model.", head: str = "aggregator.", dim: int = 16):
    tower, module = dinov2(), randomized(SALAD(WIDTH, 8, dim, 12))
    tensors = {prefix + name: tensor for name, tensor in tower.items()} | under(head, module)
    for name in tensors:
        if "cluster_features" in name or "score" in name:
            tensors[name] = tensors[name][..., None, None] if name.endswith("weight") else tensors[name]

    def plain(pixels: torch.Tensor) -> np.ndarray:
        tokens = plain_dinov2(tower, pixels, norm=True).mT.double().numpy()
        return np.stack([plain_salad(double(tensors, head), picture) for picture in tokens])

    return tensors, plain


def fol_file():
    tensors, _ = salad_file()
    del tensors["aggregator.dust_bin"]
    tower = {n.removeprefix("backbone.model."): t for n, t in tensors.items() if n.startswith("backbone.")}
    # attention on both sides of the share that counts as none
    tower[f"blocks.{DEPTH - 1}.attn.qkv.weight"].mul_(32)
    upconv = nn.ConvTranspose2d(WIDTH, 8, 3), nn.ConvTranspose2d(8, 4, 3)
    tensors |= under("upconv.", upconv[0]) | under("upconv2.", upconv[1])

    def plain(pixels: torch.Tensor) -> np.ndarray:
        tokens, attention = attended_dinov2(tower, pixels, norm=True)
        assert 0.1 < (attention < 0.01).float().mean() < 0.9
        w, parts = (
            double(tensors, "aggregator."),
            zip(tokens.mT.double().numpy(), attention.numpy(), strict=True),
        )
        return np.stack([plain_salad(w, *part) for part in parts])

    return tensors, plain


def megaloc_file():
    tensors, plain = salad_file("backbone.", "aggregator.agg.")
    del tensors["backbone.mask_token"]
    tensors |= under("aggregator.linear.", randomized(nn.Linear(8 * 16 + 12, 20)))
    w = double(tensors, "aggregator.linear.")
    return tensors, lambda pixels: unit_rows(plain(pixels) @ w["weight"].T + w["bias"])


def boq_dinov2_file():
    tower, module = dinov2(), randomized(BoQ(WIDTH, 64, 5, 2, 3))
    tensors = {"backbone.dino." + name: tensor for name, tensor in tower.items()} | under(
        "aggregator.", module
    )

    def plain(pixels: torch.Tensor) -> np.ndarray:
        maps = plain_dinov2(tower, pixels, norm=False)[:, 1:].mT.unflatten(-1, (5, 7)).double().numpy()
        return unit_rows(np.stack([plain_boq(double(tensors, "aggregator."), m, heads=1) for m in maps]))

    return tensors, plain


def boq_resnet_file():
    tower, module = resnet(), randomized(BoQ(256, 64, 5, 2, 3))
    tensors = under("backbone.net.", tower) | under("aggregator.", module)

    def plain(pixels: torch.Tensor) -> np.ndarray:
        maps = tower(pixels).double().numpy()
        return unit_rows(np.stack([plain_boq(double(tensors, "aggregator."), m, heads=1) for m in maps]))

    return tensors, plain


def mixvpr_file():
    tower, names = resnet(), ("conv1", "bn1", "", "", "layer1", "layer2", "layer3")
    tensors = {
        f"backbone.model.{names[int(name.split('.')[0])]}.{name.partition('.')[2]}": tensor
        for name, tensor in tower.state_dict().items()
    }
    mixers = nn.ModuleList(
        nn.Sequential(nn.LayerNorm(35), nn.Linear(35, 35), nn.ReLU(), nn.Linear(35, 35)) for _ in range(2)
    )
    rows, columns = nn.Linear(35, 4, bias=False), nn.Linear(256, 6)
    for i, mixer in enumerate(mixers):
        tensors |= under(f"aggregator.mix.{i}.mix.", mixer)
    tensors |= under("aggregator.channel_proj.", columns) | under("aggregator.row_proj.", rows)

    def plain(pixels: torch.Tensor) -> np.ndarray:
        x = tower(pixels).flatten(2)
        for mixer in mixers:
            x = x + mixer(x)
        x = torch.einsum("oc,bcp,rp->bor", columns.weight, x, rows.weight)
        return unit_rows((x + columns.bias[:, None] * rows.weight.sum(1)).flatten(1).double().numpy())

    return tensors, plain


FILES = {
    "salad": salad_file,
    "cliquemining": salad_file,
    "megaloc": megaloc_file,
    "fol": fol_file,
    "boq-dinov2": boq_dinov2_file,
    "boq-resnet50": boq_resnet_file,
    "mixvpr": mixvpr_file,
}


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_a_published_file_gives_the_descriptors_of_its_plain_form(name, tmp_path):
    torch.manual_seed(0)
    tensors, plain = FILES[name]()
    nested = {"state_dict": tensors} if name == "cliquemining" else tensors
    if name == "fol":
        nested = {"model_state_dict": {f"module.{n}": t for n, t in tensors.items()}}
    file = tmp_path / ("their.ckpt" if name in ("mixvpr", "salad", "cliquemining") else "their.pth")
    torch.save(nested, file)
    model = GeoPlaceModel.from_published(name, file, image_size=SIZE)
    pixels = torch.randn(2, 3, *SIZE)
    found = model(pixels).descriptors
    np.testing.assert_allclose(found.numpy(), plain(pixels), atol=1e-5)
    assert found.shape[1] == model.config.descriptor_size
    model.save_pretrained(tmp_path / "model")
    again = GeoPlaceModel.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again(pixels).descriptors, found, atol=1e-6, rtol=0)
    seen = again.processor(torch.zeros(3, 50, 60, dtype=torch.uint8).numpy())["pixel_values"]
    assert seen.shape[-2:] == SIZE
    card = write_card(tmp_path / "model", model.card_template, model.config).read_text()
    assert model.config.backbone_name in card
    license = {"salad": "gpl-3.0", "cliquemining": "unknown", "mixvpr": "unknown", "fol": "apache-2.0"}.get(
        name, "mit"
    )
    assert f"license: {license}\n" in card
    assert ("state no license" in card) == (license == "unknown")
    assert ("GNU General Public License" in card) == (license == "gpl-3.0")


def renamed(tensors: dict, name: str) -> dict:
    return {f"{n}x" if n == name else n: t for n, t in tensors.items()}


SPOILED = [
    ("salad", "aggregator.score.0.weight"),
    ("salad", "aggregator.dust_bin"),
    ("salad", "backbone.model.norm.weight"),
    ("fol", "aggregator.cluster_features.3.bias"),
    ("fol", "backbone.model.blocks.1.attn.qkv.bias"),
    ("megaloc", "aggregator.linear.bias"),
    ("megaloc", "aggregator.agg.token_features.0.bias"),
    ("boq-dinov2", "backbone.dino.blocks.1.ls2.gamma"),
    ("boq-dinov2", "aggregator.boqs.1.queries"),
    ("boq-resnet50", "backbone.net.6.1.bn2.running_var"),
    ("boq-resnet50", "aggregator.fc.bias"),
    ("mixvpr", "backbone.model.layer3.0.conv1.weight"),
    ("mixvpr", "aggregator.mix.1.mix.3.bias"),
]


@pytest.mark.parametrize(("name", "spoiled"), SPOILED)
def test_a_tensor_that_is_renamed_missing_or_misshapen_is_refused_by_name(name, spoiled, tmp_path):
    tensors, _ = FILES[name]()
    for broken, message in (
        (renamed(tensors, spoiled), f"lacks these weights of the model: {spoiled}"),
        ({n: t for n, t in tensors.items() if n != spoiled}, f"lacks these weights of the model: {spoiled}"),
        (tensors | {spoiled: torch.zeros(2, 3, 5)}, f"these weights have another shape: {spoiled} (2, 3, 5)"),
        (
            tensors | {"extra.weight": torch.zeros(3)},
            "the model has no place for these weights: extra.weight",
        ),
    ):
        torch.save(broken, tmp_path / "bad.pth")
        with pytest.raises(DataError) as error:
            GeoPlaceModel.from_published(name, tmp_path / "bad.pth", image_size=SIZE)
        assert f"bad.pth: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "size", "message"),
    [
        ("salad", {}, (70, 100), "image_size must be multiples of 14 pixels"),
        ("mixvpr", {}, (320, 320), "mixes maps of 35 places, and pictures of 320 x 320 pixels have 20 x 20"),
        ("salad", {"aggregator.score.3.weight": None}, SIZE, "lacks the weights aggregator.score.3.weight"),
        ("boq-dinov2", {"backbone.dino.pos_embed": torch.zeros(1, 30, 384)}, SIZE, "no ViT of DINOv2"),
        ("salad", {}, (14, 14), "salad needs fewer clusters"),
        ("fol", {"upconv2.bias": None}, SIZE, "lacks the weights upconv2.bias"),
        (
            "fol",
            {"aggregator.dust_bin": torch.tensor(1.0)},
            SIZE,
            "no place for these weights: aggregator.dust_bin",
        ),
    ],
)
def test_files_and_sizes_that_cannot_be_are_refused(name, change, size, message, tmp_path):
    tensors, _ = FILES[name]()
    tensors = {n: t for n, t in (tensors | change).items() if t is not None}
    torch.save(tensors, tmp_path / "bad.pth")
    with pytest.raises(DataError, match=message):
        GeoPlaceModel.from_published(name, tmp_path / "bad.pth", image_size=size)
