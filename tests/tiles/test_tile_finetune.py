"""How much of a frame encoder learns: nothing, on features that are computed once, its last blocks, adapters, or all."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import default_collate
from transformers import set_seed

from geohf import DataError, TileSequenceModel, TileSequenceTrainer
from geohf.data.task_data import TaskData
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load
from geohf.tiles.dataset import TileRows
from geohf.tiles.features import feature_rows
from geohf.tiles.modeling import make_model
from geohf.vision.converted import convert_timm


@pytest.fixture
def place(tmp_path, tiff):
    """Four years of one place, a field of which a year lacks, in 48 tiles of 8 x 8."""
    rng = np.random.default_rng(0)
    for year in range(2018, 2022):
        pixels = rng.integers(1, 255, (48, 64, 2), np.uint8)
        pixels[:8, :8] *= year != 2019
        tiff(tmp_path / "place" / f"{year}.tif", pixels, nodata=0)
    return tmp_path / "place"


def options(place, **changes):
    fields = {
        "data": str(place), "target_from": "ndvi_fall", "nir": 1, "red": 2, "tile_size": 8, "target_years": 1,
        "encoder": "attention", "backbone": "test_vit", "pretrained": False, "image_size": [32, 32],
    }  # fmt: skip
    return TileArguments(**fields | changes)


def arguments(place, **changes):
    fields = {
        "output_dir": str(place.parent / "out"), "cache_dir": str(place.parent / "cache"), "cache_workers": 1,
        "use_cpu": True, "disable_tqdm": True, "num_train_epochs": 2, "per_device_train_batch_size": 16,
        "load_best_model_at_end": False, "report_to": "none",
    }  # fmt: skip
    return TileTrainingArguments(**fields | changes)


def made(place, args, **changes):
    set_seed(0)
    data = load(options(place, **changes), args)
    model = make_model(options(place, **changes), data)
    return data, TileSequenceTrainer(model, args, train_dataset=data.train, eval_dataset=data.validation)


def weights_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, module):
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def count_frames(tower):
    seen = []
    tower.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


def test_a_frozen_encoder_sees_every_frame_once_ever(place):
    data, trainer = made(place, arguments(place, finetune="none"))
    seen, before = count_frames(trainer.model.tower), weights_of(trainer.model)
    trainer.train()
    trainer.evaluate(data.test)
    tiles = len(data.train) + len(data.validation) + len(data.test)
    assert sum(seen) == tiles * 3 - 1  # years, but for the tile that lacks one
    moved = changed(before, trainer.model)
    assert not any(name.startswith("tower.") for name in moved)
    assert {name.partition(".")[0] for name in moved} == {"projection", "temporal", "answer_date", "head"}
    _, again = made(place, arguments(place, finetune="none", output_dir=str(place.parent / "again")))
    seen = count_frames(again.model.tower)
    again.train()
    assert sum(seen) == 0
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


@torch.inference_mode()
def test_features_in_place_of_pixels_give_the_same_answers(place):
    args = arguments(place)
    data, trainer = made(place, args)
    model = trainer.model.eval()
    torch.nn.init.normal_(model.head[-1].weight)
    for rows in (data.train.bound_to(model.config), own_rows(model.config)):
        chosen = list(range(len(rows)))
        plain = rows.__getitems__(chosen)
        cached = feature_rows(model, rows, args).__getitems__(chosen)
        assert set(cached) ^ set(plain) == {"features", "pixel_values"}
        torch.testing.assert_close(cached["step_mask"], plain["step_mask"])
        one, other = model(**plain), model(**cached)
        torch.testing.assert_close(other.predictions, one.predictions, rtol=1e-5, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(other.loss, one.loss, rtol=1e-5, atol=1e-6)


def own_rows(config):
    """Of two lengths, with a missing frame, in batches that are seen one row at a time."""
    rng = np.random.default_rng(1)
    rows = []
    for length in (3, 2, 1):
        frames = list(rng.integers(1, 255, (length, 8, 8, 2), np.uint8))
        frames[0] = frames[0] if length == 1 else None
        dates = list(range(2021 - length, 2021))
        rows.append({"frames": frames, "dates": dates, "date": 2021, "last_values": 0.1, "labels": 0.3})
    return TileRows(rows, config)


def test_last_blocks_learn_and_those_before_do_not(place):
    _, trainer = made(place, arguments(place, finetune="last", finetune_blocks=1, num_train_epochs=3))
    before, blocks = weights_of(trainer.model.tower), len(trainer.model.tower.timm.blocks)
    trainer.train()
    moved = changed(before, trainer.model.tower)
    assert any(name.startswith(f"timm.blocks.{blocks - 1}.") for name in moved)
    assert not any(name.startswith(("timm.patch_embed", "timm.blocks.0.")) for name in moved)


def test_adapters_go_with_what_stands_on_the_tower_and_come_back_to_the_bit(place):
    from peft import PeftModel

    _, trainer = made(place, arguments(place, finetune="lora", lora_rank=2, num_train_epochs=3))
    trainer.train()
    out = place.parent / "out"
    with safe_open(out / "adapter" / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    stands = ("projection", "temporal", "answer_date", "head")
    assert all("lora_" in n or n.removeprefix("base_model.model.").startswith(stands) for n in names), names
    base = TileSequenceModel.from_pretrained(out / "checkpoints" / "before-train")
    merged = PeftModel.from_pretrained(base, out / "adapter").merge_and_unload()
    assert changed(weights_of(merged), trainer.model) == set()
    fresh = TileSequenceModel.from_pretrained(out / "checkpoints" / "before-train")
    assert {n for n in changed(weights_of(fresh), trainer.model) if n.startswith("tower.")}


def test_a_recurrent_encoder_has_nothing_to_freeze(place):
    _, trainer = made(place, arguments(place, finetune="none"), encoder="convlstm")
    with pytest.raises(DataError, match=r"--finetune none is of a frame encoder .* convlstm has none"):
        trainer.train()


def test_batches_of_features_are_dicts_of_rows(place):
    data, trainer = made(place, arguments(place))
    rows = feature_rows(trainer.model, data.validation.bound_to(trainer.model.config), trainer.args)
    one = default_collate([rows[i] for i in range(3)])
    torch.testing.assert_close(one, rows.__getitems__([0, 1, 2]), equal_nan=True)


@pytest.mark.parametrize(
    ("published", "expected"),
    [((0.5, 0.25), (127.5, 63.75)), ((120.0, 60.0), (120.0, 60.0))],
)
def test_bands_are_standardized_as_the_backbone_was_published(place, tmp_path, published, expected):
    weights = tmp_path / "two.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0, in_chans=2).state_dict(), weights)
    convert_timm(
        weights, tmp_path / "two", "test_resnet", ["RED", "NIR"], *([value] * 2 for value in published)
    )
    data, _ = made(place, arguments(place))
    chosen = {"backbone": str(tmp_path / "two"), "pretrained": True, "normalize": "backbone"}
    config = make_model(options(place, **chosen), data).config
    assert config.band_mean == [expected[0]] * 2
    assert config.band_std == [expected[1]] * 2
    with pytest.raises(DataError, match=r"test_vit was published for 3 bands, and the frames have 2"):
        make_model(options(place, normalize="backbone"), data)


@pytest.mark.parametrize(
    ("published", "pixels", "message"),
    [
        ([1500.0, 800.0], lambda x: np.uint8(255 * x), "is 1.5e[+]03, of pixels that spread"),
        ([1500.0, 800.0], lambda x: np.float32(0.4 * x), "is 1.5e[+]03, of pixels that spread"),
        (
            [0.5, 0.25],
            lambda x: np.float32(-25 * x),
            "is of pixels from 0 to 1, and these are float32 around -1",
        ),
    ],
)
def test_a_published_mean_of_another_unit_is_refused(tmp_path, published, pixels, message):
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    scales = ([value] * 3 for value in published)
    convert_timm(tmp_path / "w.safetensors", tmp_path / "w", "test_resnet", list("rgb"), *scales)
    frame = pixels(np.random.default_rng(0).random((8, 8, 3)))
    rows = [{"frames": [frame], "labels": 0.1}, {"frames": [frame], "labels": 0.2}]
    chosen = TileArguments(
        encoder="attention", backbone=str(tmp_path / "w"), normalize="backbone", image_size=[32, 32]
    )
    with pytest.raises(DataError, match=message):
        make_model(chosen, TaskData(rows, rows, None))
