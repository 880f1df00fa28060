"""Refinement within regions: the place of the training photographs that look most alike."""

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from helpers.region_models import WGS84, arguments_of, build_model
from PIL import Image

from geohf import GeoRegionModel, GeoRegionTrainer
from geohf.data.tensor_dataset import TensorDictDataset
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.region.arguments import RegionArguments
from geohf.region.refining import refine


def table(features, meters):
    """Photographs so many meters north and east of the first region's center."""
    center = np.array(WGS84[0]["center"])
    degrees = np.asarray(meters) / 111_195 / np.array([1.0, np.cos(np.radians(center[0]))])
    return TensorDictDataset(features=features, coordinates=torch.from_numpy(center + degrees))


def test_an_expert_answers_the_place_that_looks_most_alike():
    model = build_model(experts="shared", refine=2)
    expert = model.experts[0]
    features = torch.zeros(5, 96)
    features[:, 0] = torch.tensor([0.0, 2.0, 10.0, 12.0, 99.0])
    meters = [[0.0, 0.0], [0.0, 4.0], [200.0, 0.0], [200.0, 4.0], [np.nan, np.nan]]
    refine(expert, table(features, meters), None)
    assert model.config.prototypes == [2, 0, 0]
    asked = torch.zeros(3, 96)
    asked[:, 0] = torch.tensor([5.0, 7.0, -100.0])  # nearer to 1, to 11, to 1
    found = expert.scaler.inverse_transform(expert(features=asked).scaled.double())
    expected = table(torch.zeros(3, 1), [[0.0, 2.0], [200.0, 2.0], [0.0, 2.0]]).columns["coordinates"]
    assert great_circle_m(found, expected).max() < 0.01
    # the other regions answer as ever
    assert torch.equal(model.experts[1](features=asked).scaled, model.experts[1].head(asked).float())


def test_they_are_left_out_where_they_do_not_help(tmp_path):
    model = build_model(experts="shared", refine=4)
    expert, features = model.experts[0], torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = expert.scaler.inverse_transform(expert(features=features).scaled.double())
    right = TensorDictDataset(features=features, coordinates=truth)
    wrong = TensorDictDataset(features=features, coordinates=truth + 0.001)
    refine(expert, wrong, right)
    assert model.config.prototypes == [0, 0, 0]
    refine(expert, right, wrong)
    assert model.config.prototypes == [0, 0, 0]
    model.save_pretrained(tmp_path)
    assert len(GeoRegionModel.from_pretrained(tmp_path).experts[0].prototypes.points) == 0
    refine(expert, wrong, wrong)
    assert model.config.prototypes == [4, 0, 0]


def colored(count, seed):
    """Photographs of one color, which tells where they were taken."""
    rng = np.random.default_rng(seed)
    shares = rng.random((count, 2))
    return [
        {
            "image": Image.new("RGB", (48, 48), (int(255 * north), int(255 * east), 128)),
            "region": "1",
            "latitude": WGS84[0]["center"][0] + 0.002 * (north - 0.5),
            "longitude": WGS84[0]["center"][1] + 0.002 * (east - 0.5),
        }
        for north, east in shares
    ]


@pytest.mark.parametrize("experts", ["shared", "separate"])
def test_a_training_brings_prototypes_that_are_saved(experts, tmp_path):
    train, validation = colored(40, 0), colored(16, 1)
    settings = {"num_train_epochs": 1, "learning_rate": 1e-5, "finetune": "none", "report_to": "none"}
    found = []
    for most in (0, 40):
        model = build_model(experts=experts, regions=1, refine=most, density=True)
        args = arguments_of(tmp_path / str(most), cache_dir=str(tmp_path / "cache"), **settings)
        trainer = GeoRegionTrainer(model, args, train_dataset=train, eval_dataset=validation)
        trainer.train()
        found.append(trainer.evaluate(validation)["eval_routed_mean_m"])
    assert found[1] < 0.6 * found[0]
    assert (model.config.refine, model.config.prototypes) == (40, [40])
    model.save_pretrained(tmp_path / "model")
    loaded = GeoRegionModel.from_pretrained(tmp_path / "model")
    photos = [row["image"] for row in train]
    answers = loaded.predict(photos)
    assert answers == model.predict(photos)
    points = np.array([[one.latitude, one.longitude] for one in answers])
    truth = np.array([[row["latitude"], row["longitude"]] for row in train])
    assert np.median(great_circle_m(points, truth)) < 0.01  # each is its own prototype
    half = GeoRegionModel.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).predict(photos)
    near = great_circle_m(np.array([[one.latitude, one.longitude] for one in half]), truth)
    assert np.median(near) < 30
    again = GeoRegionTrainer(loaded, args, train_dataset=train)  # they are fitted anew
    again.train()
    assert loaded.config.prototypes == [40]


def test_what_cannot_be_refined_is_refused(tmp_path):
    with pytest.raises(DataError, match="refine needs frame wgs84"):
        RegionArguments(refine=2, frame="planar")
    with pytest.raises(DataError, match="refine needs the training photographs at hand"):
        RegionArguments(refine=2, streaming=True)
    with pytest.raises(DataError, match="refine"):
        RegionArguments(refine=-1)
    with pytest.raises(Exception, match="refine needs frame wgs84"):
        build_model(frame="planar", refine=2)
    rows = IterableDataset.from_generator(lambda: iter(colored(4, 0)))
    args = arguments_of(tmp_path, max_steps=1, report_to="none")
    with pytest.raises(DataError, match="refine needs the training photographs at hand"):
        GeoRegionTrainer(build_model(experts="shared", refine=2), args, train_dataset=rows).train()


def test_a_batch_finds_the_same_prototypes_as_one_by_one():
    """Features share a large mean: distances by a product of matrices, as torch takes them of large batches, lose the rest."""
    model = build_model(experts="shared", refine=20)
    draws = torch.Generator().manual_seed(0)
    features, asked = (torch.randn(n, 96, generator=draws) * 0.01 + 30 for n in (200, 40))
    refine(model.experts[0], table(features, np.random.default_rng(0).uniform(-200, 200, (200, 2))), None)
    together = model.experts[0](features=asked).scaled
    assert torch.equal(together, torch.cat([model.experts[0](features=one[None]).scaled for one in asked]))
