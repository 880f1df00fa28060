import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDatasetDict
from datasets import Image as ImageFeature
from helpers.region_models import PLANAR, WGS84, build_model, tensors
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import Subset

from geohf.data.task_data import TaskData
from geohf.errors import DataError
from geohf.geo import frame_distance, spherical_mean
from geohf.region import GeoRegionConfig, GeoRegionModel
from geohf.region.arguments import RegionArguments
from geohf.region.calibration import calibrate
from geohf.region.experts import RegionOutput, given_logits
from geohf.region.modeling import make_model

EXPERTS = ["separate", "shared"]
FRAMES = ["wgs84", "planar"]


def pixels(n=4, seed=0):
    return torch.randn(n, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def answers(model, **inputs):
    with torch.inference_mode():
        return model(**inputs)


# --- from scaled answers to points ---


@pytest.mark.parametrize("frame", FRAMES)
def test_an_experts_answer_is_unscaled_by_its_own_region(frame):
    model = build_model(frame=frame)
    scaled = torch.tensor([[[1.0, -0.5], [0.0, 0.0], [2.0, 2.0]]])
    points = model.locate(given_logits(torch.tensor([0]), 3), scaled)
    first = (WGS84 if frame == "wgs84" else PLANAR)[0]
    expected = np.array(first["center"]) + np.array([1.0, -0.5]) * np.array(first["scale"])
    np.testing.assert_allclose(points[0].numpy(), expected, rtol=0, atol=1e-9)


def test_points_are_averaged_in_the_plane():
    model = build_model(frame="planar")
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    points = model.locate(logits, torch.zeros(1, 3, 2))
    expected = np.average([scaler["center"] for scaler in PLANAR], axis=0, weights=[0.5, 0.25, 0.25])
    np.testing.assert_allclose(points[0].numpy(), expected, rtol=0, atol=0.01)


def test_points_are_averaged_on_the_sphere():
    model = build_model(regions=2)
    model.config.scalers = [
        {"center": [10.0, 179.0], "scale": [1.0, 1.0]},
        {"center": [10.0, -179.0], "scale": [1.0, 1.0]},
    ]
    points = model.locate(torch.zeros(1, 2), torch.zeros(1, 2, 2))
    np.testing.assert_allclose(points[0].numpy(), spherical_mean([[10.0, 179.0], [10.0, -179.0]]), atol=1e-9)


def test_the_temperature_divides_the_routers_logits():
    model = build_model(frame="planar", temperature=2.0)
    output = RegionOutput(logits=2 * torch.log(torch.tensor([[0.5, 0.3, 0.2]])), scaled=torch.zeros(1, 3, 2))
    (answer,) = model.decode(output)
    assert [region.name for region in answer.regions] == ["1", "3", "5"]
    np.testing.assert_allclose([region.probability for region in answer.regions], [0.5, 0.3, 0.2], atol=1e-6)


# --- regions that are given ---


@pytest.mark.parametrize("experts", EXPERTS)
def test_a_given_region_is_answered_by_its_expert(experts):
    model, images = build_model(experts), pixels()
    routed = answers(model, pixel_values=images)
    for number in range(3):
        given = answers(model, pixel_values=images, regions=torch.full((4,), number))
        torch.testing.assert_close(given.scaled[:, number], routed.scaled[:, number])
        expert = model.scaler[number].inverse_transform(routed.scaled[:, number])
        torch.testing.assert_close(given.coordinates, expert, rtol=0, atol=1e-9)
        assert given.logits.exp().tolist() == torch.eye(3)[[number] * 4].tolist()


@pytest.mark.parametrize("experts", EXPERTS)
def test_given_and_unknown_regions_mix_in_a_batch(experts):
    model, images = build_model(experts), pixels()
    routed = answers(model, pixel_values=images).coordinates
    mixed = answers(model, pixel_values=images, regions=torch.tensor([-1, 2, -1, 0])).coordinates
    torch.testing.assert_close(mixed[[0, 2]], routed[[0, 2]], rtol=0, atol=1e-7)
    given = answers(model, pixel_values=images, regions=torch.tensor([2, 2, 0, 0])).coordinates
    torch.testing.assert_close(mixed[[1, 3]], given[[1, 3]], rtol=0, atol=1e-7)


def test_only_the_experts_that_are_asked_run(monkeypatch):
    model, asked = build_model("separate"), []
    for name, module in [("router", model.tower), *((e.number, e.tower) for e in model.experts)]:
        module.register_forward_hook(lambda *_, name=name: asked.append(name))
    answers(model, pixel_values=pixels(), regions=torch.tensor([1, 1, 1, 1]))
    assert asked == [1]
    asked.clear()
    answers(model, pixel_values=pixels(), regions=torch.tensor([1, 1, -1, 2]))
    assert asked == ["router", 0, 1, 2]


# --- losses ---


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize(
    ("frame", "kind"), [("wgs84", "mse"), ("wgs84", "haversine"), ("planar", "euclidean")]
)
def test_the_loss_is_the_own_experts_and_the_routers(experts, frame, kind):
    model, images = build_model(experts, frame, point_loss=kind), pixels()
    labels = torch.tensor([2, 0, 1, 1])
    truth = model.scaler[labels.numpy()].inverse_transform(torch.full((4, 2), 0.5))
    output = answers(model, pixel_values=images, labels=labels, coordinates=truth)
    own = output.scaled[torch.arange(4), labels]
    if kind == "mse":
        expected = ((own - 0.5) ** 2).mean()
    else:
        points = model.scaler[labels.numpy()].inverse_transform(own)
        scalers = [model.scaler[int(i)] for i in labels]
        corners = [frame_distance(*s.inverse_transform([[0.0, 0], [1, 1]]), frame) for s in scalers]
        expected = (frame_distance(points, truth, frame) / torch.tensor(corners)).mean().float()
    torch.testing.assert_close(output.loss_parts["point_loss"], expected, rtol=1e-4, atol=1e-6)
    crossed = torch.nn.functional.cross_entropy(output.logits, labels)
    torch.testing.assert_close(output.loss_parts["region_loss"], crossed)
    torch.testing.assert_close(output.loss, expected + crossed, rtol=1e-4, atol=1e-6)


def test_rows_without_truth_count_nothing():
    model, images = build_model("shared"), pixels()
    labels = torch.tensor([2, 0, -1, 1])
    truth = model.scaler[labels.clamp(min=0).numpy()].inverse_transform(torch.full((4, 2), 0.5))
    truth[1] = torch.nan
    batch = {"pixel_values": images, "labels": labels, "coordinates": truth}
    assert {name: int(n) for name, n in model.count_loss_items(batch).items()} == {
        "point_loss": 2,
        "region_loss": 3,
    }
    kept = [0, 3]
    some = answers(model, pixel_values=images[kept], labels=labels[kept], coordinates=truth[kept])
    output = answers(model, **batch)
    torch.testing.assert_close(output.loss_parts["point_loss"], some.loss_parts["point_loss"])


@pytest.mark.parametrize("experts", EXPERTS)
def test_in_training_only_the_own_expert_learns(experts):
    model = build_model(experts).train()
    truth = torch.tensor([[36.366, 127.367]] * 4, dtype=torch.float64)
    model(pixels(), labels=torch.full((4,), 1), coordinates=truth).loss.backward()
    learned = {e.number for e in model.experts if any(p.grad is not None for p in e.parameters())}
    assert learned == {1}
    assert all(p.grad is not None for p in model.router.parameters())


# --- calibration ---


def test_the_radius_holds_what_it_promises():
    model = build_model(frame="planar", radius_coverage=0.8)
    rng = np.random.default_rng(0)

    def draw(n):
        labels = torch.from_numpy(rng.integers(0, 3, n))
        scaled = torch.from_numpy(rng.normal(0, 0.3, (n, 3, 2))).float()
        truth = model.scaler[labels.numpy()].inverse_transform(torch.zeros(n, 2))
        logits = 4 * torch.nn.functional.one_hot(labels, 3) + torch.from_numpy(rng.normal(0, 1.2, (n, 3)))
        return RegionOutput(logits=logits.float(), scaled=scaled), labels, truth

    calibrate(model.config, *draw(2000))
    outputs, labels, truth = draw(2000)
    given = RegionOutput(logits=given_logits(labels, 3), scaled=outputs.scaled)
    for some in (outputs, given):
        found = model.decode(some)
        points = np.array([[a.latitude, a.longitude] for a in found])
        radius = np.array([a.radius for a in found])
        held = (frame_distance(points, truth.numpy(), "planar") <= radius).mean()
        assert held == pytest.approx(0.8, abs=0.03)
        assert found[0].unit == "units"


def test_too_few_photographs_promise_no_radius():
    model = build_model()
    outputs = RegionOutput(logits=torch.zeros(5, 3), scaled=torch.randn(5, 3, 2))
    labels = torch.tensor([0, 1, 2, 0, 1])
    calibrate(
        model.config, outputs, labels, model.scaler[labels.numpy()].inverse_transform(torch.zeros(5, 2))
    )
    assert all(answer.radius is None for answer in model.decode(outputs))


def outputs_of(model, labels, off):
    """Outputs that lie `off` scales from the center of the true region, where the truth is."""
    labels = torch.tensor(labels)
    truth = model.scaler[labels.numpy()].inverse_transform(torch.zeros(len(labels), 2))
    logits = 9.0 * torch.nn.functional.one_hot(labels, 3)
    return RegionOutput(logits=logits, scaled=torch.full((len(labels), 3, 2), off)), labels, truth


def test_calibrating_on_one_region_leaves_the_others_alone():
    model = build_model(frame="planar")
    calibrate(model.config, *outputs_of(model, [0, 1, 2] * 20, 0.1))
    before = [model.config.expert_errors[0], model.config.given_factor, model.config.routed_factor]
    calibrate(model.config, *outputs_of(model, [1] * 60, 0.3), router=False)
    assert [model.config.expert_errors[0], model.config.given_factor, model.config.routed_factor] == before
    assert model.config.expert_errors[1] == pytest.approx(0.3 * np.hypot(151, 141), rel=1e-6)


# --- answers for people ---


def test_predict_takes_what_people_have(photos):
    model = build_model()
    expected = model.predict(photos[:2])
    images = [Image.open(path) for path in photos[:2]]
    for inputs in (images, [np.asarray(image) for image in images], [{"image": path} for path in photos[:2]]):
        assert model.predict(inputs) == expected
    assert model.predict(photos[0]) == model.predict([photos[0]])
    one_by_one = model.predict(photos, batch_size=1)
    for alone, together in zip(one_by_one, model.predict(photos, batch_size=4), strict=True):
        assert alone.latitude == pytest.approx(together.latitude, abs=1e-7)


def test_predict_takes_a_folder(samples):
    folder = samples("wgs84") / "images_val/images_val"
    assert len(build_model("shared").predict(folder)) == len(list(folder.iterdir())) == 30


def test_regions_are_given_by_name(photos):
    model = build_model()
    for region in ("3", 3, 3.0, np.int64(3)):
        found = model.predict(photos[:2], region=region)
        assert [(r.name, r.probability) for a in found for r in a.regions] == [("3", 1.0)] * 2
    assert model.predict([{"image": path, "region": "3"} for path in photos[:2]]) == found
    assert model.predict(photos[:2], region=np.array([3.0, 3.0])) == found
    mixed = model.predict(photos[:3], region=["5", np.nan, 1])
    assert [len(answer.regions) for answer in mixed] == [1, 3, 1]
    assert mixed[1].latitude == pytest.approx(model.predict(photos[1])[0].latitude, abs=1e-7)


def test_a_dataset_brings_its_regions(samples):
    from geohf.region.rows import load_region_table

    sample = samples("wgs84")
    dataset = load_region_table(sample / "labels_val.csv", sample / "images_val/images_val").select(range(4))
    found = build_model().predict(dataset)
    assert [answer.regions[0].name for answer in found] == dataset["region"]
    without = build_model().predict(dataset.remove_columns("region"))
    assert all(len(answer.regions) == 3 for answer in without)


def test_unknown_regions_and_wrong_numbers_of_them_are_refused(photos):
    model = build_model()
    with pytest.raises(DataError, match=r"no region '33' \(did you mean '3'\?\); it knows: 1, 3, 5"):
        model.predict(photos[0], region="33")
    with pytest.raises(DataError, match="2 regions for 3 photographs"):
        model.predict(photos[:3], region=["1", "3"])
    with pytest.raises(DataError, match=r"nowhere\.jpg: cannot be read"):
        model.predict("nowhere.jpg")


def test_top_k_names_as_many_regions(photos):
    (answer,) = build_model().predict(photos[0], top_k=2)
    assert len(answer.regions) == 2
    assert answer.regions[0].probability >= answer.regions[1].probability


# --- keeping it ---


@pytest.mark.parametrize("experts", EXPERTS)
def test_a_saved_model_gives_the_same_answers(experts, photos, tmp_path):
    model = build_model(experts, expert_errors=[1.0, 2.0, 3.0], given_factor=1.5, routed_factor=2.5)
    model.save_pretrained(tmp_path)
    again = GeoRegionModel.from_pretrained(tmp_path)
    assert again.predict(photos) == model.predict(photos)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    kept, loaded = tensors(model), tensors(again)
    assert kept.keys() == loaded.keys()
    assert all(torch.equal(kept[name], loaded[name]) for name in kept)


def test_half_precision_leaves_the_coordinates_alone(photos, tmp_path):
    model = build_model(frame="planar")
    model.save_pretrained(tmp_path / "whole")
    half = GeoRegionModel.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16)
    assert half.router[1].weight.dtype == torch.bfloat16
    assert half.config.scalers == PLANAR
    half.to(torch.bfloat16).save_pretrained(tmp_path / "cast")  # buffers too
    for folder in ("whole", "cast"):
        stored = load_file(tmp_path / folder / "model.safetensors")
        for number, scaler in enumerate(PLANAR):
            for name in ("center", "scale"):
                kept = stored[f"experts.{number}.scaler_{name}"]
                assert torch.equal(kept, torch.tensor(scaler[name], dtype=torch.float32))
    half = GeoRegionModel.from_pretrained(tmp_path / "cast")
    for a, b in zip(model.predict(photos, region="3"), half.predict(photos, region="3"), strict=True):
        assert abs(a.latitude - b.latitude) < 0.05 * PLANAR[1]["scale"][0]


def test_a_scaler_that_is_not_the_weights_own_is_refused(tmp_path):
    build_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["scalers"][1]["scale"][0] *= 1.01
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="weights of region 3 belong to another scaler"):
        GeoRegionModel.from_pretrained(tmp_path)


def test_regions_keep_their_numbers(photos, tmp_path):
    """A config that is written sorts "10" before "2"."""
    names = [str(number) for number in range(1, 13)]
    scalers = [{"center": [36.0 + i, 127.0], "scale": [1e-9, 1e-9]} for i in range(12)]
    model = build_model("shared", regions=12, id2label=dict(enumerate(names)), scalers=scalers)
    model.save_pretrained(tmp_path)
    again = GeoRegionModel.from_pretrained(tmp_path)
    assert again.config.regions == names
    for name in ("2", "10"):
        (answer,) = again.predict(photos[0], region=name)
        assert answer.latitude == pytest.approx(35.0 + int(name), abs=1e-6)


def test_a_model_without_scalers_says_what_is_missing():
    with pytest.raises(ValueError, match="the config has no scalers"):
        build_model(scalers=None)(pixels())


def test_every_expert_starts_from_the_backbones_weights():
    model = GeoRegionModel.from_backbone(
        "test_resnet", pretrained=False, id2label={0: "1", 1: "3"}, scalers=WGS84[:2]
    )
    first = model.tower.state_dict()
    for expert in model.experts:
        assert all(torch.equal(tensor, first[name]) for name, tensor in expert.tower.state_dict().items())
    names = {"tower." + name for name in first}
    assert names < set(model.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame": "utm"}, "frame must be one of"),
        ({"experts": "many"}, "experts must be one of"),
        ({"scaler": "quantile"}, "scaler must be one of"),
        ({"point_loss": "euclidean"}, "with frame wgs84"),
        ({"point_loss": "haversine", "frame": "planar"}, "with frame planar"),
        ({"scalers": WGS84[:1]}, "1 entries for 2 regions"),
        ({"scalers": [WGS84[0], {"center": [0, 0], "scale": [0, 1]}]}, "above zero"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        GeoRegionConfig(**({"id2label": {0: "1", 1: "3"}} | copy.deepcopy(settings)))


def test_regions_have_an_order_and_rows_their_own_names(photos):
    model = build_model()
    with pytest.raises(DataError, match="a list in their order"):
        model.predict(photos[:2], region={"1", "3"})
    named = model.predict([{"image": photos[0], "Region_ID": "5"}])[0]
    assert named.regions[0].name == "5"
    assert named == model.predict(photos[:1], region="5")[0]


@pytest.mark.parametrize("kind", ["dataset", "subset", "stream", "splits", "streams", "file"])
def test_numbers_of_a_datasets_classes_are_the_regions_that_it_names(photos, kind, tmp_path):
    """Class 1 of a dataset is region 3, and not the region that is called 1."""
    names = ["1", "3", "5"]
    features = Features({"image": ImageFeature(), "Region_ID": ClassLabel(names=names)})
    rows = Dataset.from_dict({"image": photos[:3], "Region_ID": [1, 2, -1]}, features=features)
    model = build_model()
    if kind == "file":
        rows.save_to_disk(tmp_path / "saved")
        model.predict_to_file(str(tmp_path / "saved"), tmp_path / "a.csv")
        told = pd.read_csv(tmp_path / "a.csv").to_dict("records")
        expected = model.predict(photos[:2], region=["3", "5"])
        assert [row["latitude"] for row in told[:2]] == pytest.approx([one.latitude for one in expected])
        return
    given = {
        "dataset": rows,
        "subset": Subset(rows, [0, 1, 2]),
        "stream": rows.to_iterable_dataset(),
        "splits": DatasetDict(train=rows),
        "streams": IterableDatasetDict(train=rows.to_iterable_dataset()),
    }[kind]
    found = model.predict(given)
    assert [[region.name for region in answer.regions] for answer in found[:2]] == [["3"], ["5"]]
    assert len(found[2].regions) == 3


def test_photographs_without_end_and_too_few_regions_are_refused(photos):
    with pytest.raises(DataError, match="1 regions for more photographs"):
        build_model().predict((path for path in photos[:2]), region=["3"])
    with pytest.raises(DataError, match="3 regions for 2 photographs"):
        build_model().predict((path for path in photos[:2]), region=["3"] * 3)


def test_a_table_of_files_brings_its_regions(tmp_path, photos):
    model, photos = build_model(), [shutil.copy(photo, tmp_path / Path(photo).name) for photo in photos[:3]]
    names = [photo.name for photo in photos]
    rows = "".join(f"{photo},{region}\n" for photo, region in zip(names, ["3", "", "5"], strict=True))
    for header, known in (("filename,Region_ID\n", True), ("filename,place\n", False)):
        (tmp_path / "t.csv").write_text(header + rows)
        found = model.predict(str(tmp_path / "t.csv"))
        expected = model.predict(photos, region=["3", None, "5"] if known else None)
        assert found == expected
        assert model.predict(str(tmp_path / "t.csv"), region="1") == model.predict(photos, region="1")
        pd.read_csv(tmp_path / "t.csv", dtype=str).to_parquet(tmp_path / "t.parquet")
        assert model.predict(str(tmp_path / "t.parquet")) == expected
    (tmp_path / "t.csv").write_text(f"filename,Region_ID\n{names[0]},3\n{names[1]},77\n")
    with pytest.raises(DataError, match="knows no region '77'"):
        model.predict(str(tmp_path / "t.csv"))
    assert model.predict_to_file(tmp_path / "t.csv", tmp_path / "a.csv", on_error="skip") == 1
    assert "77" in (tmp_path / "a.csv.skipped.csv").read_text()


def test_options_that_a_kept_model_does_not_follow_are_told_of(tmp_path, caplog):
    build_model(regions=1).save_pretrained(tmp_path)
    rows = [
        {"image": "a.png", "region": "1", "latitude": 36.36 + i / 1e4, "longitude": 127.36} for i in range(9)
    ]
    for changes, told in (({"density": True, "experts": "shared"}, True), ({"frame": "wgs84"}, False)):
        caplog.clear()
        options = RegionArguments(train_csv="t.csv", start_from=str(tmp_path), **changes)
        make_model(options, TaskData(rows, None, None, skipped=[]))
        assert (
            "without effect are --experts shared (it has separate), --density True" in caplog.text
        ) == told
