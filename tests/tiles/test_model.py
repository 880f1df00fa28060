"""The model: every kind of it, its answers in the user's units, the hub, the pipeline, a scene."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from transformers import AutoImageProcessor, AutoModel, pipeline

from geohf import DataError, TileSequenceConfig, TileSequenceModel, TileSequenceProcessor
from geohf.tiles.answers import TileSequenceOutput, intervals_of
from geohf.tiles.phase import calibrate
from geohf.tiles.scales import target_scales
from geohf.tiles.scene import predict_scene
from geohf.vision.weights import weights_fingerprint

SCALES = {
    "level_mean": [10.0],
    "level_std": [2.0],
    "last_slope": [0.5],
    "change_mean": [1.0],
    "change_std": [0.5],
    "band_mean": [100.0] * 3,
    "band_std": [50.0] * 3,
}


def make(**fields) -> TileSequenceModel:
    """A small model whose answers depend on what it sees."""
    torch.manual_seed(0)
    settings = {"hidden_sizes": [8], "image_size": [16, 16], "patch_size": 4, "frames": 4} | SCALES | fields
    if settings.get("encoder") == "attention":
        settings |= {"image_size": 32, "patch_size": 1}
        del settings["encoder"]
        model = TileSequenceModel.from_backbone("test_resnet", pretrained=False, **settings)
    else:
        model = TileSequenceModel(TileSequenceConfig(**settings)).eval()
    last = model.head if settings.get("head") == "image" else model.head[-1]
    torch.nn.init.normal_(last.weight)
    return model


def frames(n=4, side=20, bands=3, seed=0):
    return list(np.random.default_rng(seed).integers(0, 255, (n, side, side, bands), np.uint8))


@pytest.mark.parametrize("answers", ["change", "level", "both"])
def test_a_loss_is_divided_by_the_entries_that_have_one(answers):
    """A change from a value that was never known is not learned, and must not dilute what is."""
    model = make(answers=answers, loss="mse")
    batch = {
        "pixel_values": torch.randn(4, 4, 3, 16, 16),
        "labels": torch.tensor([[9.0], [torch.nan], [8.0], [7.0]]),
    }
    for last in (torch.tensor([[8.0], [8.0], [torch.nan], [torch.nan]]), None):
        given = batch if last is None else batch | {"last_values": last}
        items = model.count_loss_items(given)
        assert model(**given, loss_items=items).loss.item() == pytest.approx(model(**given).loss.item())
        if answers == "change":  # with none at all, training says so
            assert items["mse"] == (0 if last is None else 1)


ENCODERS = ["convlstm", "convgru", "attention"]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_a_masked_step_holds_changes_nothing(encoder):
    model = make(encoder=encoder)
    side = model.config.image_size[0]
    pixels, mask = torch.randn(2, 4, 3, side, side), torch.tensor([[True, False, True, True], [True] * 4])
    last = torch.tensor([[5.0], [6.0]])
    first = model(pixels, mask, last).predictions
    pixels[0, 1] = torch.nan
    assert torch.equal(model(pixels, mask, last).predictions, first)
    pixels[0, 2] = 0
    assert not torch.equal(model(pixels, mask, last).predictions[0], first[0])


def test_the_first_answer_is_the_baseline():
    config = TileSequenceConfig(image_size=[16, 16], answers="both", **SCALES)
    values = (
        TileSequenceModel(config)
        .eval()(torch.randn(2, 3, 3, 16, 16), None, torch.tensor([[5.0], [torch.nan]]))
        .predictions
    )
    assert values.flatten().tolist() == [3.5, 10.0]  # half the last value and the mean change; the mean level


def test_the_loss_is_in_training_spreads():
    model = TileSequenceModel(TileSequenceConfig(image_size=[16, 16], **SCALES))
    known = {"last_values": torch.tensor([[5.0], [5.0]]), "labels": torch.tensor([[7.0], [torch.nan]])}
    output = model(torch.randn(2, 3, 3, 16, 16), **known)
    assert output.loss.item() == pytest.approx(49)  # 3.5 was said, 7 is true: 3.5 / 0.5, squared
    assert model.count_loss_items(known)["mse"] == 1


def test_changes_count_from_the_line_through_the_training_rows():
    last = np.array([[0.0], [2.0], [4.0], [np.nan]])
    truth = np.array([[1.0], [2.0], [3.0], [9.0]])  # 1 + last / 2

    def scales(rows, predict_change=True):
        windows = SimpleNamespace(truth=truth[:rows], last=last[:rows])
        return target_scales(windows, [], predict_change)

    assert scales(3)["answers"] == "change"
    assert (scales(3)["last_slope"], scales(3)["change_mean"], scales(3)["change_std"]) == (
        [0.5],
        [1.0],
        [1.0],
    )
    assert scales(4)["answers"] == "both"
    assert scales(4)["level_mean"] == [3.75]
    assert scales(3, predict_change=False)["answers"] == "level"
    assert scales(1)["last_slope"] == [1.0]  # one row tells no line


def test_a_model_of_changes_asks_for_the_last_value():
    with pytest.raises(DataError, match="tile 0 of the batch has no last value"):
        make().predict([frames()])
    assert make(answers="level").predict([frames()])[0].values.keys() == {"target"}


def test_inputs_of_every_kind_give_the_same_answer(tmp_path, tiff):
    from PIL import Image

    model, arrays = make(), frames()
    paths = [str(tiff(tmp_path / f"{i}.tif", frame)) for i, frame in enumerate(arrays)]
    pictures = [Image.fromarray(frame) for frame in arrays]
    samples = [arrays, paths, pictures, dict(enumerate(paths)), np.stack(arrays)]
    answers = model.predict([{"frames": sample, "last_values": 5.0} for sample in samples], batch_size=2)
    assert [a.values["target"] for a in answers] == pytest.approx([answers[0].values["target"]] * 5, rel=1e-6)
    by_name = model.predict([{"frames": arrays, "last_values": {"target": 5.0}}])[0]
    assert by_name.values["target"] == pytest.approx(answers[0].values["target"], rel=1e-6)
    gap = model.predict(
        [{"frames": [None, *arrays[1:]], "last_values": 5.0}, {"frames": arrays[1:], "last_values": 5.0}]
    )
    assert gap[0].values["target"] == pytest.approx(gap[1].values["target"], rel=1e-5)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"frames": [None, None], "last_values": 1}, "no frame is left to see"),
        (
            {"frames": [np.zeros((8, 8, 4), np.uint8)], "last_values": 1},
            "has 4 bands, the model was trained on 3",
        ),
        ({"frames": frames(), "last_values": {"rate": 1}}, "no target 'rate'"),
        ({"frames": ["missing.tif"], "last_values": 1}, "missing.tif: no such file"),
        ({"images": frames()}, "a sample needs 'frames'"),
    ],
)
def test_inputs_that_cannot_be_used(sample, message):
    with pytest.raises(DataError, match=message):
        make().predict([sample])


def test_an_image_model_answers_in_the_images_unit():
    model = TileSequenceModel(
        TileSequenceConfig(image_size=[16, 16], patch_size=2, head="image", **SCALES)
    ).eval()
    arrays = frames(3, side=16)
    (answer,) = model.predict([arrays])
    np.testing.assert_allclose(answer.image, arrays[-1], atol=1e-3)  # untrained: the last frame
    (answer,) = model.predict([[*arrays[:2], None]])
    np.testing.assert_allclose(answer.image, arrays[1], atol=1e-3)  # the last one that was seen


@pytest.mark.parametrize("loss", ["mse", "quantile"])
def test_the_interval_holds_its_share_of_new_tiles(loss):
    model = make(loss=loss, coverage=0.8, answers="level")
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(3000, 1, generator=generator)
    said = torch.stack(
        [
            truth + torch.randn(3000, 1, generator=generator) * s
            for s in ([1, 1, 1] if loss == "quantile" else [1])
        ],
        -1,
    )
    calibrate(model.config, said[:1500], truth[:1500].numpy())
    _, low, high = intervals_of(model.config, said[1500:])
    held = ((low <= truth[1500:]) & (truth[1500:] <= high)).float().mean()
    assert 0.76 < held < 0.84


def test_too_few_tiles_promise_no_interval():
    model = make(answers="level")
    calibrate(model.config, torch.zeros(5, 1, 1), np.zeros((5, 1)))
    assert model.config.interval_margin is None
    assert model.decode(TileSequenceOutput(predictions=torch.zeros(1, 1, 1)))[0].low is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": "cnn"}, "encoder must be one of convlstm, convgru, attention"),
        ({"kernel_sizes": [3, 3]}, "2 kernel_sizes for 1 hidden_sizes"),
        ({"kernel_sizes": [4]}, "kernel_sizes must be odd"),
        ({"patch_size": 3}, r"patch_size 3 does not divide image_size \[16, 16\]"),
        ({"loss": "quantile", "quantiles": [0.9, 0.1, 0.5]}, "ascending shares"),
        ({"head": "image", "loss": "quantile"}, "an image is learned with"),
    ],
)
def test_settings_that_do_not_go_together(fields, message):
    with pytest.raises(Exception, match=message):
        make(**fields)


# ---- the hub, a fresh process, the pipeline

FRESH = """
    import json, sys
    import numpy as np
    import geohf
    from transformers import AutoModel
    from geohf.vision.weights import weights_fingerprint
    sample = {"frames": list(np.load(sys.argv[1])), "last_values": 0.25}
    for name in sys.argv[2:]:
        model = AutoModel.from_pretrained(name)
        answer = model.predict([sample])[0]
        print(json.dumps([type(model).__name__, weights_fingerprint(model), answer.values, answer.low]))
"""


def test_pushed_and_loaded_by_name_they_say_the_same(hub, run_python, tmp_path):
    sample = {"frames": frames(), "last_values": 0.25}
    np.save(tmp_path / "frames.npy", np.stack(frames()))
    wanted = {}
    for encoder in ENCODERS:
        model = make(encoder=encoder, targets=["share"], interval_margin=[0.125])
        wanted[f"org/geo-tiles-{encoder}"] = weights_fingerprint(model), model.predict([sample])[0]
        model.push_to_hub(f"org/geo-tiles-{encoder}")
    said = run_python(FRESH, tmp_path / "frames.npy", *wanted).splitlines()[-len(ENCODERS) :]
    for line, (weights, answer) in zip(said, wanted.values(), strict=True):
        kind, same, values, low = json.loads(line)
        assert [kind, same] == ["TileSequenceModel", weights]
        # the kernels of another process may sum in another order: float32 to the last digits
        assert values == pytest.approx(answer.values, rel=1e-6)
        assert low == pytest.approx(answer.low, rel=1e-6)
    processor = AutoImageProcessor.from_pretrained("org/geo-tiles-convlstm")
    assert isinstance(processor, TileSequenceProcessor)
    assert list(processor.image_mean) == [100.0] * 3
    answer = pipeline("tile-sequence-regression", model="org/geo-tiles-convlstm")([sample])[0]
    assert answer["values"] == pytest.approx(wanted["org/geo-tiles-convlstm"][1].values, rel=1e-6)


def test_bfloat16_keeps_the_scales(tmp_path):
    model = make(level_mean=[47.3769], change_mean=[0.123456789], answers="both")
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.config.level_mean == [47.3769]
    sample = {"frames": frames(), "last_values": 5.0}
    said, wanted = (m.predict([sample])[0].values["target"] for m in (loaded, model))
    assert said == pytest.approx(wanted, abs=0.1)


# ---- scenes


@pytest.mark.case("files-D14")
def test_a_scene_is_predicted_tile_by_tile(tmp_path, tiff):
    model = make(interval_margin=[0.5])
    rng = np.random.default_rng(1)
    scene = rng.integers(1, 255, (3, 35, 52, 3), np.uint8)
    scene[:, :16, 16:32] = 0  # a tile without data
    model.config.nodata = 0
    geo = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(1000, 2000, 10, 10)}
    paths = [tiff(tmp_path / f"{i}.tif", frame, **geo) for i, frame in enumerate(scene)]
    last = rng.random((2, 3, 1)).astype(np.float32)
    tiles = geo | {"transform": geo["transform"] @ rasterio.Affine.scale(16)}
    known = tiff(tmp_path / "last.tif", last, **tiles)
    path = predict_scene(model, [*paths, None], tmp_path / "out.tif", 16, last_values=known, batch_size=2)
    with rasterio.open(path) as raster:
        values, transform = raster.read(), raster.transform
        assert raster.descriptions == ("target", "low_target", "high_target")
    assert values.shape == (3, 2, 3)
    assert (transform.a, transform.c, transform.f) == (160, 1000, 2000)
    assert np.isnan(values[:, 0, 1]).all()
    tile = {"frames": [*scene[:, 16:32, 32:48], None], "last_values": float(last[1, 2, 0])}
    wanted = model.predict([tile])[0]
    assert values[:, 1, 2] == pytest.approx(
        [wanted.values["target"], wanted.low["target"], wanted.high["target"]], rel=1e-5
    )


def test_frames_of_a_scene_must_fit(tmp_path, tiff):
    paths = [tiff(tmp_path / f"{i}.tif", np.ones((20, 20 + i, 3), np.uint8)) for i in range(2)]
    with pytest.raises(DataError, match=r"1.tif: its width is 21, but .*0.tif has 20; warp them to one grid"):
        predict_scene(make(), paths, tmp_path / "out.tif", 16)
