"""CosFace over cells: the loss against loops, groups without neighbors, and classes that learn and stay out of the model."""

import math
import shutil

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, parse, unit, write_pictures
from safetensors import safe_open
from safetensors.torch import load_file

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.place.losses import CellClassifier, cosface, hybrid, pair_masks
from geohf.place.losses.cosface import APART, group_of_cells, place_cells
from geohf.place.phase import CLASSIFIER
from geohf.place.trainer import GeoPlaceTrainer
from geohf.training.checkpoints import load_tree


def batch(n=6, classes=5):
    cosines = unit(n, 7).double() @ unit(classes, 7, seed=1).double().T
    right = torch.arange(n) % classes
    groups = torch.tensor([0, 1, 0, 1, 0][:classes])
    return cosines, right, groups[right][:, None] == groups


def test_cosface_is_its_loop():
    cosines, right, competing = batch()
    total = 0.0
    for row, own, among in zip(cosines.tolist(), right.tolist(), competing.tolist(), strict=True):
        powers = [math.exp(30 * (c - 0.4 * (i == own))) for i, c in enumerate(row) if among[i]]
        total -= math.log(math.exp(30 * (row[own] - 0.4)) / math.fsum(powers))
    assert cosface(cosines, right, competing).item() == pytest.approx(total / len(cosines), abs=1e-6)
    assert cosface(cosines.float(), right, competing).item() == pytest.approx(total / len(cosines), abs=1e-5)


def test_cosface_has_the_gradient_of_its_values_and_none_from_other_groups():
    cosines, right, competing = batch()
    assert torch.autograd.gradcheck(
        lambda c: cosface(c, right, competing, scale=3.0), (cosines.requires_grad_(),)
    )
    cosface(cosines, right, competing).backward()
    assert torch.equal(cosines.grad != 0, competing)


@pytest.mark.parametrize(
    "center", [(36.2748, -115.0130), (48.0, 6.0), (0.0, 9.0), (-33.0, 179.9998), (64.0, 12.0)]
)
def test_no_two_classes_of_a_group_are_neighbors(center):
    """Inside a zone, across its border, over the equator, over the antimeridian and far north."""
    rng = np.random.default_rng(0)
    meters = rng.uniform(-150, 150, (500, 2))
    points = center + np.degrees(meters / 6371008.8) / [1, math.cos(math.radians(center[0]))]
    points[:, 1] = (points[:, 1] + 180) % 360 - 180
    headings = rng.uniform(-180, 360, 500)
    cells = place_cells(points, headings, 10.0, 30.0)
    groups = group_of_cells(cells)
    i, j = np.triu_indices(500, 1)
    rivals = (groups[i] == groups[j]) & (cells[i] != cells[j]).any(1)
    assert rivals.sum() > 500
    apart = great_circle_m(points[i], points[j])[rivals]
    turn = np.abs((headings[i] - headings[j] + 180) % 360 - 180)[rivals]
    near = apart < 0.99 * (APART - 1) * 10
    assert (turn[near] > 30 - 1e-6).all()
    assert near.any()
    same = (cells[i] == cells[j]).all(1)
    assert great_circle_m(points[i], points[j])[same].max() < 10 * math.sqrt(2) * 1.002
    assert (np.unique(cells[:, 0]).tolist() == [1, 60]) == (center[1] > 179)


def test_cells_without_headings_are_of_places_alone_and_unknown_ones_compete_with_their_like():
    points, headings = along([0.0, 0.0, 0.0, 60.0]), np.array([10.0, 190.0, np.nan, np.nan])
    assert (
        place_cells(points, headings, 10.0, None)[:3] == place_cells(points[:1], headings[:1], 10.0, None)
    ).all()
    cells = place_cells(points, headings, 10.0, 30.0)
    assert cells[:, 3].tolist() == [0, 6, -1, -1]
    groups = group_of_cells(cells)
    assert groups[2] not in groups[:2]
    assert place_cells(points, headings, 10.0, 180.0)[:2, 3].tolist() == [0, 1]  # half circles
    wide = place_cells(points[:1].repeat(4, 0), np.array([0.0, 90.0, 180.0, 359.99]), 10.0, 100.0)
    assert wide[:, 3].tolist() == [
        0,
        1,
        2,
        3,
    ]  # an even number of sectors, or the last and the first would compete


def classifier(**options):
    points = along([0.0, 2.0, 50.0, 100.0, 107.0])
    return points, CellClassifier(unit(5, 6), points, np.full(5, np.nan), **{"cell_m": 10.0} | options)


def test_classes_are_those_of_the_training_images_and_begin_as_their_means():
    points, some = classifier()
    classes = some.classes_of(torch.from_numpy(points), None)
    assert len(some.weight) == len(classes.unique())
    for number in classes.unique():
        mean = torch.nn.functional.normalize(unit(5, 6)[classes == number].sum(0), dim=0)
        torch.testing.assert_close(some.weight[number].detach(), mean)
    with pytest.raises(DataError, match=r"no class of cosface lies at \[36\.2"):
        some.classes_of(torch.from_numpy(along([500.0])), None)
    with pytest.raises(
        DataError, match="none has another one 5 cells away to be told from; take a smaller --cell_m"
    ):
        classifier(cell_m=60.0)


def test_the_loss_of_classes_turns_their_directions_and_takes_first_numbers():
    points, some = classifier()
    x = unit(5, 6, seed=2).requires_grad_()
    loss = some(x, torch.from_numpy(points))
    classes = some.classes_of(torch.from_numpy(points), None)
    competing = some.groups[classes][:, None] == some.groups
    cosines = torch.cosine_similarity(x[:, None], some.weight[None], dim=2)
    assert loss.item() == pytest.approx(cosface(cosines, classes, competing).item(), abs=1e-5)
    loss.backward()
    assert some.weight.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0
    head = build_model(loss="cosface", projection_dim=6, matryoshka_dims=[3]).head.train()
    total, _ = head.losses(x, torch.from_numpy(points), classifier=some)
    cut = torch.nn.functional.normalize(x[:, :3], dim=1)
    assert total.item() == pytest.approx((loss + some(cut, torch.from_numpy(points))).item() / 2, abs=1e-5)


def test_without_classes_cosface_trains_nothing_and_validation_has_the_loss_of_pairs():
    model = build_model(loss="cosface", mining="batch_hard")
    x, points = unit(4, 16), torch.from_numpy(along([0, 5, 300, 305]))
    with pytest.raises(DataError, match="which GeoPlaceTrainer makes"):
        model.head.train().losses(x, points)
    loss, parts = model.head.eval().losses(x, points)
    expected, _ = hybrid(x, *pair_masks(points), mining="batch_hard")
    assert (loss.item(), len(parts)) == (pytest.approx(expected.item()), 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cell_m", 0), "cell_m must be above 0"),
        (("--cell_m", "nan"), "cell_m must be above 0"),
        (("--heading_deg", 0), "must be above 0"),
        (
            ("--streaming", "true", "--methods", "ours", "--max_steps", 3),
            "classes of all training images, not of a stream",
        ),
    ],
)
def test_classes_that_are_none(words, message):
    from geohf.place.modeling import make_model

    with pytest.raises(DataError, match=message):
        make_model(parse("--loss", "cosface", "--models", "test_resnet", "--pretrained", "false", *words)[0])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two drives of 16 pictures along one street, and queries of it."""
    folder = tmp_path_factory.mktemp("rows")
    write_pictures(folder, [f"{i}.png" for i in range(38)])
    places = [*(9.0 * np.arange(32) % 144), *(9.0 * np.arange(6))]
    return [
        {
            "image": str(folder / f"{i}.png"),
            "latitude": a,
            "longitude": b,
            "heading": i * 7.0,
            "sequence": f"d{i // 16}",
        }
        for i, (a, b) in enumerate(along(places))
    ]


def trained(rows, folder, *words, **fields):
    _, args = parse(
        *("--output_dir", folder, "--cache_dir", folder.parent / "cache", "--num_train_epochs", 3),
        *("--per_device_train_batch_size", 8, "--images_per_place", 2, "--save_total_limit", 9, *words),
    )
    config = {"loss": "cosface", "positive_m": 10.0, "negative_m": 25.0, "heading_deg": 180.0}
    model = build_model(**{"pooling": "avg"} | config | fields)
    trainer = GeoPlaceTrainer(
        model, args, train_dataset=rows[:32], eval_dataset=rows[32:], database=rows[:32], whitening_dim=0
    )
    trainer.train()
    return trainer


def test_classes_are_kept_in_checkpoints_and_in_no_model_and_a_resumed_run_is_the_same(rows, tmp_path):
    whole = trained(rows, tmp_path / "whole")
    assert whole.stages["trained"]
    assert not [name for name in whole.model.state_dict() if "classif" in name]
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    folder = tmp_path / "again" / "checkpoints" / "head"
    *earlier, last = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    before, after = (load_tree(path / CLASSIFIER)["weight"] for path in (earlier[-1], last))
    assert not torch.equal(before, after)
    with safe_open(last / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "classif" in name]  # noqa: SIM118  not a dict
    shutil.rmtree(last)
    (folder / "finished.safetensors").unlink()
    resumed = trained(rows, tmp_path / "again", "--resume_from_checkpoint", "true")
    assert torch.equal(load_tree(last / CLASSIFIER)["weight"], after)
    found, expected = (
        load_file(run / "checkpoints" / "head" / "finished.safetensors")
        for run in (tmp_path / "again", tmp_path / "whole")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert resumed.kept == whole.kept


def test_a_checkpoint_without_classes_is_named(rows, tmp_path):
    words = ("--save_only_model", "true", "--num_train_epochs", 2)
    trained(rows, tmp_path / "run", *words)
    folder = tmp_path / "run" / "checkpoints" / "head"
    shutil.rmtree(folder / "checkpoint-8")
    (folder / "finished.safetensors").unlink()
    with pytest.raises(
        DataError, match="checkpoint-4: holds the model alone, without the classes of cosface"
    ):
        trained(rows, tmp_path / "run", *words, "--resume_from_checkpoint", "true")


@pytest.mark.parametrize(("finetune", "backbone"), [("last", "test_resnet"), ("lora", "test_vit")])
def test_classes_learn_with_a_backbone(rows, tmp_path, finetune, backbone):
    words = ("--num_train_epochs", 1, "--head_epochs", 1, "--finetune", finetune, "--finetune_blocks", 1)
    run = trained(rows, tmp_path, *words, backbone=backbone, pooling="tower")
    losses = [row["loss"] for row in run.histories["finetune"] if "loss" in row]
    assert losses
    assert np.isfinite(losses).all()
    assert not [name for name in run.model.state_dict() if "classif" in name]
