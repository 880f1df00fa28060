"""Next frames: SimVP, TAU and the rolled-out ConvLSTM against plain forms, and what runs, rows and tables say of several."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from rasterio.transform import from_origin
from torch.nn import functional as F
from transformers import AutoModel

from geohf.errors import DataError
from geohf.tiles import TileSequenceConfig, TileSequenceModel
from geohf.tiles.arguments import TileArguments
from geohf.tiles.cutting import build_cache
from geohf.tiles.data import load
from geohf.tiles.dataset import TileSequences
from geohf.tiles.frames import carried_forward
from geohf.tiles.image_metrics import image_measures
from geohf.tiles.losses import difference_divergence
from geohf.tiles.processing import batch_of_rows
from geohf.tiles.table import load_tiles
from geohf.tiles.windows import make_windows

SMALL = {"head": "image", "band_mean": [0.0] * 2, "band_std": [1.0] * 2, "image_size": [16, 16]}


def make(seed=0, **fields) -> TileSequenceModel:
    """A small model of whose parameters none is zero, in double precision."""
    torch.manual_seed(seed)
    if fields["encoder"] in ("simvp", "tau"):
        fields |= {"hidden_sizes": [8, 16], "translator_blocks": 3}
    model = TileSequenceModel(TileSequenceConfig(**SMALL | {"frames": 4} | fields)).double()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def frames(n=3, steps=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, steps, 2, 16, 16, dtype=torch.float64, generator=generator)


def plain_video(p: dict, x: torch.Tensor, answered: int, tau: bool) -> torch.Tensor:
    """SimVP written out on a dict of parameters: changes to the newest frame."""

    def conv(name, x, **settings):
        return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **settings)

    def norm(name, x):
        mean = x.reshape(len(x), 2, -1).mean(-1)
        var = x.reshape(len(x), 2, -1).var(-1, unbiased=False)
        each = x.shape[1] // 2
        mean, var = (part.repeat_interleave(each, 1)[..., None, None] for part in (mean, var))
        scaled = (x - mean) / (var + 1e-5).sqrt()
        return scaled * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]

    def silu(x):
        return x / (1 + torch.exp(-x))

    outputs = []
    for row in x:  # a tile by itself
        z = skip = row
        for i, stride in enumerate((1, 2, 1, 2)):
            name = f"tower.encoder.{i}"
            z = silu(norm(f"{name}.1", conv(f"{name}.0", z, stride=stride, padding=1)))
            skip = z if i == 0 else skip
        z = z.reshape(1, -1, *z.shape[-2:])
        for i in range(3):
            name = f"tower.translator.{i}"
            seen = norm(f"{name}.norms.0", z)
            u = F.gelu(conv(f"{name}.attention.0", seen))
            kernel, width = f"{name}.attention.2.kernel", u.shape[1]
            f = conv(f"{kernel}.near", u, padding=2, groups=width)
            f = conv(f"{kernel}.far", f, padding=9, dilation=3, groups=width)
            f = conv(f"{kernel}.mix", f)
            if tau:
                pooled = u.flatten(2).mean(-1)
                first, second = (p[f"{name}.attention.2.channels.{k}.weight"] for k in (0, 2))
                u = torch.sigmoid((pooled @ first.T).relu() @ second.T)[..., None, None] * f * u
            else:
                u = f[:, :width] * torch.sigmoid(f[:, width:])
            z = z + p[f"{name}.scales.0"] * (conv(f"{name}.attention.3", u) + seen)
            m = conv(f"{name}.perceptron.0", norm(f"{name}.norms.1", z))
            m = F.gelu(conv(f"{name}.perceptron.1", m, padding=1, groups=m.shape[1]))
            z = z + p[f"{name}.scales.1"] * conv(f"{name}.perceptron.3", m)
            z = conv(f"{name}.out", z) if f"{name}.out.weight" in p else z
        z = z.reshape(answered, -1, *z.shape[-2:])
        for i, grows in enumerate((True, False, True, False)):
            name = f"tower.decoder.{i}"
            if i == 3:
                z = torch.cat([z, skip[-1:].repeat(answered, 1, 1, 1)], 1)
            z = conv(f"{name}.0", z, padding=1)
            z = F.pixel_shuffle(z, 2) if grows else z
            z = silu(norm(f"{name}.{2 if grows else 1}", z))
        outputs.append(conv("head", z))
    return torch.stack(outputs)


def plain_lstm(p: dict, x: torch.Tensor, answered: int) -> torch.Tensor:
    """A ConvLSTM layer with GroupNorm on patches of 2 x 2, gate by gate, that goes on with its own frames."""
    weight, bias = p["tower.cells.0.gates.weight"], p["tower.cells.0.gates.bias"]
    hidden, last, total = len(bias) // 4, x[:, -1], 0
    h = c = x.new_zeros(len(x), hidden, 8, 8)
    changes = []
    for t in range(x.shape[1] + answered - 1):
        frame = x[:, t] if t < x.shape[1] else last + total
        patches = frame.reshape(len(x), 2, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(len(x), 8, 8, 8)
        gates = F.conv2d(torch.cat([patches, h], 1), weight, bias, padding=1).split(hidden, 1)
        c = torch.sigmoid(gates[1]) * c + torch.sigmoid(gates[0]) * torch.tanh(gates[2])
        h = torch.sigmoid(gates[3]) * torch.tanh(c)
        if t >= x.shape[1] - 1:
            seen = F.group_norm(h, 4, p["tower.norms.0.weight"], p["tower.norms.0.bias"])
            out = F.conv2d(seen, p["head.weight"], p["head.bias"])
            total = total + out.reshape(len(x), 2, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(
                len(x), 2, 16, 16
            )
            changes.append(total)
    return torch.stack(changes, 1)


WAYS = {
    "simvp": lambda p, x, answered: plain_video(p, x, answered, tau=False),
    "tau": lambda p, x, answered: plain_video(p, x, answered, tau=True),
    "convlstm": plain_lstm,
}


@pytest.mark.parametrize("encoder", WAYS)
def test_a_training_step_is_that_of_the_plain_form(encoder):
    fields = {"hidden_sizes": [8], "patch_size": 2} if encoder == "convlstm" else {}
    model = make(encoder=encoder, prediction_length=3, **fields).train()
    x, labels = frames(), frames(steps=3, seed=2)
    plain = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    ours = model(x, labels=labels)
    changes = WAYS[encoder](plain, x, 3)
    torch.testing.assert_close(ours.predictions, (x[:, -1:] + changes).float(), rtol=1e-5, atol=1e-5)
    predicted = x[:, -1:] + changes
    loss = (predicted - labels).square().mean()
    if encoder == "tau":
        shares = [(part[:, 1:] - part[:, :-1]).flatten(2) / 0.1 for part in (predicted, labels)]
        ours_share, true_share = (part.softmax(-1) for part in shares)
        divergence = (ours_share * (ours_share.log() - true_share.log())).mean()
        assert divergence.item() > 0.001
        loss = loss + 0.1 * divergence
    assert ours.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    ours.loss.backward()
    loss.backward()
    for name, parameter in model.named_parameters():
        stepped, expected = parameter - 0.1 * parameter.grad, plain[name] - 0.1 * plain[name].grad
        torch.testing.assert_close(
            stepped, expected, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_the_divergence_by_hand_and_holes_do_not_count():
    truth = torch.tensor([[[0.0, 0.0, 5.0], [0.1, 0.0, torch.nan]]])
    predicted = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 99.0]]])
    # shares 1/2 and 1/2 against e / (e + 1) and 1 / (e + 1), over two entries
    e = np.e
    by_hand = 0.5 * np.log(0.5 * (e + 1) / e) + 0.5 * np.log(0.5 * (e + 1))
    assert float(difference_divergence(predicted, truth)) == pytest.approx(by_hand / 2, rel=1e-5)
    unknown = torch.full_like(truth, torch.nan)
    assert float(difference_divergence(predicted, unknown)) == 0


@pytest.mark.parametrize("encoder", ["simvp", "tau"])
def test_what_a_masked_frame_holds_changes_nothing_and_shorter_sequences_repeat_their_first(encoder):
    model = make(encoder=encoder, prediction_length=2).eval()
    x = frames()
    mask = torch.tensor([[False, True, False, True]] * 3)
    other = torch.where(mask[..., None, None, None], x, torch.nan)
    assert torch.equal(model(x, mask).predictions, model(other, mask).predictions)
    carried = torch.stack([x[:, 1], x[:, 1], x[:, 1], x[:, 3]], 1)
    assert torch.equal(carried_forward(other, mask), carried)
    torch.testing.assert_close(model(x, mask).predictions, model(carried).predictions)
    torch.testing.assert_close(model(x[:, 1:]).predictions, model(x[:, [1, 1, 2, 3]]).predictions)
    with pytest.raises(DataError, match="5 frames, but the model knows 4 at most"):
        model(frames(steps=5))


@pytest.mark.parametrize("encoder", ["simvp", "convlstm", "convgru"])
def test_an_untrained_model_says_the_newest_frame_at_every_lead(encoder):
    fields = {"hidden_sizes": [8, 16], "translator_blocks": 2} if encoder == "simvp" else {}
    config = TileSequenceConfig(**SMALL, encoder=encoder, prediction_length=3, frames=4, **fields)
    (answer,) = TileSequenceModel(config).eval().predict([np.float32(frames(1)[0].movedim(1, -1))])
    assert answer.image.shape == (3, 16, 16, 2)
    np.testing.assert_allclose(answer.image, np.repeat(frames(1)[0, -1:].movedim(1, -1), 3, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": "simvp", "head": "numbers"}, "predicts frames, without dates"),
        ({"encoder": "tau", "dates": True}, "predicts frames, without dates"),
        ({"encoder": "simvp", "hidden_sizes": [8]}, "takes two even hidden_sizes"),
        ({"encoder": "simvp", "hidden_sizes": [3, 5], "norm": "none"}, "takes two even hidden_sizes"),
        ({"encoder": "simvp", "image_size": [16, 18]}, "needs sides that 4 divides"),
        ({"prediction_length": 2, "head": "numbers"}, "prediction_length counts frames"),
        ({"prediction_length": 0}, "prediction_length must be at least 1"),
    ],
)
def test_settings_that_do_not_go_together(fields, message):
    with pytest.raises(Exception, match=message):
        TileSequenceConfig(**SMALL | fields)


def test_frames_have_no_intervals_to_group():
    with pytest.raises(DataError, match="--interval_groups is of intervals, and --target_type last-image"):
        load(TileArguments(target_type="last-image", interval_groups="cluster"))


# ---- windows, rows and numbers of several frames


def test_windows_of_several_frames_hold_the_right_ones(world):
    table = load_tiles(world.csv, world.images, world.labels, targets=[])
    cache = build_cache(table, world.folder / "cache")
    windows = make_windows(table, cache, image=True, answered=2)
    assert set(windows.steps) == {1}
    assert windows.frames.shape[1] == 1
    config = TileSequenceConfig(head="image", prediction_length=2, image_size=[12, 12], frames=1)
    batch = TileSequences(cache, windows, config, table).__getitems__([3])
    one = make_windows(table, cache, image=True)
    single = TileSequenceConfig(head="image", image_size=[12, 12])
    last = TileSequences(cache, one, single, table).__getitems__([3])["labels"]
    assert batch["labels"].shape == (1, 2, 3, 12, 12)
    assert torch.equal(batch["labels"][:, 1], last)  # 2021
    with pytest.raises(DataError, match="prediction_length must lie between 1 and 2 for 3 labels, got 3"):
        make_windows(table, cache, image=True, answered=3)


def test_a_missing_frame_among_the_answers_is_unknown(world):
    world.path("2021", "7").unlink()
    table = load_tiles(world.csv, world.images, world.labels, targets=[])
    cache = build_cache(table, world.folder / "cache")
    windows = make_windows(table, cache, image=True, answered=2)
    config = TileSequenceConfig(head="image", prediction_length=2, image_size=[12, 12], frames=1)
    labels = TileSequences(cache, windows, config, table).__getitems__(np.arange(8).tolist())["labels"]
    assert labels[:4, 0].isfinite().all()
    assert labels[:4, 1].isnan().all()
    assert labels[4:].isfinite().all()


def test_rows_of_ones_own_name_every_frame():
    config = TileSequenceConfig(head="image", prediction_length=2, image_size=[8, 8])
    pixels = np.random.default_rng(0).integers(1, 255, (3, 8, 8, 3), np.uint8)
    batch = batch_of_rows([{"frames": pixels[:1], "labels": [pixels[1], None]}], config)
    np.testing.assert_allclose(batch["labels"][0, 0].movedim(0, -1), pixels[1])
    assert batch["labels"][0, 1].isnan().all()
    with pytest.raises(DataError, match="row 0 of the batch: 1 frames as labels, the model predicts 2"):
        batch_of_rows([{"frames": pixels[:1], "labels": [pixels[1]]}], config)


@pytest.mark.parametrize(
    ("length", "row", "message"),
    [
        (
            2,
            {"labels": np.zeros((3, 2, 8, 8))},
            r"shape \(3, 2, 8, 8\), and the model predicts \(2, 3, 8, 8\)",
        ),
        (1, {"labels": np.zeros((1, 3, 8, 8))}, r"shape \(1, 3, 8, 8\), and the model predicts \(3, 8, 8\)"),
        (2, {}, "row 0 of the batch: has no labels"),
        (1, {"pixel_values": None, "frames": [np.ones((8, 8, 3))]}, "row 0 of the batch: has no labels"),
    ],
)
def test_labels_of_another_shape_are_not_taken_for_frames(length, row, message):
    config = TileSequenceConfig(head="image", prediction_length=length, image_size=[8, 8])
    row = {
        name: part
        for name, part in ({"pixel_values": np.zeros((4, 3, 8, 8))} | row).items()
        if part is not None
    }
    with pytest.raises(DataError, match=message):
        batch_of_rows([row], config)


def test_a_true_frame_lies_on_the_grid_of_the_frames(tmp_path, tiff):
    pixels = np.random.default_rng(0).integers(1, 255, (8, 8, 3), np.uint8)
    here, there = (
        tiff(tmp_path / f"{x}.tif", pixels, crs="EPSG:32632", transform=from_origin(x, 5_000_000, 10, 10))
        for x in (500_000, 500_020)
    )
    rows = [{"frames": [None, here, there], "labels": there}]
    fields = {"head": "image", "image_size": [8, 8]}
    with pytest.raises(DataError, match=f"{there}: "):
        batch_of_rows([{"frames": [here], "labels": there}], TileSequenceConfig(**fields))
    batch = batch_of_rows(rows, TileSequenceConfig(**fields, reading={"align": "nearest"}))
    known = batch["labels"][0].isfinite()
    assert torch.equal(batch["labels"][0][known], batch["pixel_values"][0, -1][known])
    assert 0.5 < known.float().mean() < 1


def test_numbers_of_each_lead_are_those_of_its_frames_alone():
    config = TileSequenceConfig(**SMALL, prediction_length=2)
    values, labels = frames(4, 2).float(), frames(4, 2, seed=3).float()
    found = image_measures(values, labels, config)
    error = (values - labels).square()
    assert found["nrmse"] == pytest.approx(float(error.mean().sqrt()), rel=1e-6)
    assert found["lead_2_nrmse"] == pytest.approx(float(error[:, 1].mean().sqrt()), rel=1e-6)
    span = float(labels.max() - labels.min())
    assert found["lead_1_psnr"] == pytest.approx(10 * np.log10(span**2 / float(error[:, 0].mean())), rel=1e-5)


# ---- a run


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    from geohf.tiles.sample import write_sample

    return write_sample(tmp_path_factory.mktemp("frames") / "sample", size=4)


def run(sample, folder, **fields):
    from geohf.recipes.train_tiles import run as run_recipe
    from geohf.tiles.arguments import TileArguments, TileTrainingArguments

    options = TileArguments(
        data=str(sample / "tiles.csv"), target_type="last-image", image_size=[16, 16], **fields
    )
    args = TileTrainingArguments(
        output_dir=str(folder), cache_dir=str(folder.parent / "cache"), max_steps=3, disable_tqdm=True
    )
    return run_recipe(options, args)


def test_a_run_tells_every_lead_and_its_model_loads_by_name(sample, tmp_path):
    folder = tmp_path / "out"
    trainer = run(
        sample, folder, encoder="tau", prediction_length=2, hidden_sizes=[8, 16], translator_blocks=2
    )
    numbers = json.loads((folder / "metrics.json").read_text())
    mine, theirs = numbers["eval"], numbers["baseline"]
    for lead in (1, 2):
        skill = 1 - (mine[f"lead_{lead}_nrmse"] / theirs[f"lead_{lead}_nrmse"]) ** 2
        assert mine[f"lead_{lead}_skill_persistence"] == pytest.approx(skill, abs=1e-6)
    with open(folder / "metrics_by_lead.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["lead"] for row in rows] == ["1", "2"]
    assert float(rows[1]["persistence_mae"]) == pytest.approx(theirs["lead_2_mae"])
    assert "Temporal Attention Unit" in (folder / "README.md").read_text()
    assert (folder / "filmstrip.png").stat().st_size > 1000
    assert any("divergence_loss" in row for row in trainer.state.log_history)
    images = [np.full((20, 20, 3), value, np.uint8) for value in (90, 120)]
    loaded = AutoModel.from_pretrained(folder)
    assert loaded.predict([images])[0].image.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(loaded.predict([images])[0].image, trainer.model.predict([images])[0].image)


def test_answers_at_or_after_a_held_out_label_are_not_trained_on(sample, tmp_path):
    from geohf.tiles.arguments import TileArguments, TileTrainingArguments

    args = TileTrainingArguments(output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    fields = {"data": str(sample / "tiles.csv"), "target_type": "last-image", "prediction_length": 2}
    data = load(TileArguments(**fields, test_labels=["2021"]), args)
    assert data.train.windows.steps.max() + 1 == 4  # 2020 is the last that is answered
    assert set(data.test.windows.steps) == {5}
    with pytest.raises(DataError, match="--prediction_length 2 needs as many labels from it on"):
        load(TileArguments(**fields, test_labels=["2022"]), args)
    with pytest.raises(DataError, match="needs --target_type last-image"):
        load(TileArguments(**fields | {"target_type": "target"}), args)
