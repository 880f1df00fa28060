"""Training never makes a place model worse: the frozen backbone, the whitened one and the trained one compete."""

import logging

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, parse, unit, write_csv, write_pictures
from torch.nn import functional as F

from geohf.errors import DataError
from geohf.place.arguments import PlaceArguments
from geohf.place.choice import frozen_head, lowered
from geohf.place.comparison import comparison_rows
from geohf.place.configuration import GeoPlaceConfig
from geohf.place.data import load
from geohf.place.drives import files_of, load_drives
from geohf.place.head import PlaceHead, Whitening
from geohf.place.modeling import make_model
from geohf.place.trainer import GeoPlaceTrainer
from geohf.recipes.train_place import run as run_place


def test_a_residual_head_begins_as_the_feature_itself():
    head = PlaceHead(GeoPlaceConfig(feature_size=8, head="residual")).eval()
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    head.fit_features(features)
    torch.testing.assert_close(head(features).descriptors, F.normalize(features, dim=-1))


def test_the_frozen_head_of_a_map_is_its_average():
    config = GeoPlaceConfig(feature_size=8, pooling="mixvpr", feature_map=[8, 3, 4], whitening_dim=5)
    head = frozen_head(config).eval()
    assert (head.config.pooling, head.config.descriptor_size, config.pooling) == ("avg", 8, "mixvpr")
    features = torch.randn(5, 8, 3, 4, generator=torch.Generator().manual_seed(0)).mean((-2, -1))
    torch.testing.assert_close(head(features).descriptors, F.normalize(features, dim=-1))


@pytest.mark.parametrize("rows", [400, 5])
def test_shrunk_whitening_divides_by_the_variance_and_a_share_of_the_mean_one(rows):
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7) + 3
    whiten = Whitening(6, 6)
    whiten.fit_shrunk(x, share=0.5)
    y = ((x - whiten.mean) @ whiten.axes.T).double()
    covariance = np.cov(x.numpy().T.astype(float), bias=True)
    variances = np.linalg.eigvalsh(covariance)
    expected = variances / (variances + 0.5 * variances.mean())
    np.testing.assert_allclose(np.cov(y.numpy().T, bias=True), np.diag(expected), atol=1e-5)
    # an independent form: the cosines are those of the Mahalanobis metric
    metric = np.linalg.inv(covariance + 0.5 * variances.mean() * np.eye(6))
    a, b = (row.double().numpy() for row in x[:2] - x.mean(0))
    cosine = a @ metric @ b / np.sqrt((a @ metric @ a) * (b @ metric @ b))
    np.testing.assert_allclose(float(whiten(x)[0] @ whiten(x)[1]), cosine, atol=1e-5)


@pytest.fixture(scope="module")
def ruined(tmp_path_factory, drives):
    """A training that throws away what the backbone knows, and its queries.

    Every second picture of a drive asks for its neighbors, which any backbone knows again.
    """
    folder = tmp_path_factory.mktemp("ruined")
    _, args = parse(
        *("--num_train_epochs", 1, "--learning_rate", 30, "--max_grad_norm", 0),
        *("--output_dir", folder / "place", "--cache_dir", folder / "cache"),
    )
    images, _ = load_drives(drives[0])
    searched, asking, test = (images.select(range(start, 240, 4)) for start in (0, 1, 2))
    trainer = GeoPlaceTrainer(
        build_model(seed=1, projection_dim=2),
        args,
        train_dataset=searched,
        eval_dataset=asking,
        radii_m=[25.0],
    )
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("geohf.training.trainer")
    logger.addHandler(handler)
    trainer.train()
    logger.removeHandler(handler)
    return trainer, test, records


def test_training_never_lowers_recall_on_validation(ruined):
    trainer, _, said = ruined
    stages = trainer.stages
    assert stages["trained"]["r1"] < stages["frozen"]["r1"], "this training was to do harm"
    assert trainer.kept in ("frozen", "frozen, whitened")
    found = trainer.evaluate()
    assert found.values_by_name["r1"] == max(values["r1"] for values in stages.values())
    assert found.values_by_name["r1"] == pytest.approx(trainer.validation_r1)
    assert any(line.startswith("trained: recall@1") and "below the frozen" in line for line in said)
    assert lowered(stages) == ["trained"]


def test_epochs_are_chosen_by_recall_within_the_radius_that_is_told(drives, tmp_path):
    """And not within `positive_m`, which may be another one."""
    _, args = parse("--num_train_epochs", 1, "--output_dir", tmp_path, "--cache_dir", tmp_path / "cache")
    images, _ = load_drives(drives[0])
    searched, asking = (images.select(range(start, 240, 4)) for start in (0, 1))
    trainer = GeoPlaceTrainer(
        build_model(seed=1),
        args,
        train_dataset=searched,
        eval_dataset=asking,
        radii_m=[100.0, 25.0],
        whitening_dim=0,
    )
    trainer.train()
    (told,) = [row["eval_r1"] for row in trainer.histories["head"] if "eval_r1" in row]
    assert told == pytest.approx(trainer.stages["trained"]["r1"])
    assert told != pytest.approx(trainer.stages["trained"]["recall@1_has_match_25m"])


def test_what_was_kept_is_named_and_is_what_is_saved(ruined, tmp_path):
    trainer, test, _ = ruined
    trainer.evaluate(test)
    assert [row["stage"] for row in comparison_rows([trainer])] == ["frozen", f"kept: {trainer.kept}"]
    trainer.create_model_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert f"(kept: {trainer.kept})" in card
    assert "Training lowered recall@1 on these queries (trained)" in card
    trainer.model.save_pretrained(tmp_path)
    loaded = type(trainer.model).from_pretrained(tmp_path)
    files = files_of(test)[:4]
    expected = trainer.model.to("cpu").encode(files)
    np.testing.assert_allclose(loaded.encode(files), expected, atol=1e-6)
    np.testing.assert_allclose(trainer.outputs(test)[:4], expected, atol=1e-5)


@pytest.mark.parametrize("drives_apart", [False, True])
def test_queries_to_choose_by_are_held_out_beside_a_table_of_test_queries(tmp_path, drives_apart):
    names = [f"train/{i}.png" for i in range(120)] + [f"test/{i}.png" for i in range(8)]
    write_pictures(tmp_path, names)
    meters = np.repeat(np.arange(60), 2) * 40.0
    rows = [
        f"{name},{a:.9f},{b:.9f},{'noon' if i % 2 == 0 or not drives_apart else 'dusk'}"
        for i, (name, (a, b)) in enumerate(zip(names, along(meters), strict=False))
    ]
    train = write_csv(tmp_path / "train.csv", "image,lat,lon,sequence", *rows)
    tests = [
        f"{n},{a:.9f},{b:.9f},test" for n, (a, b) in zip(names[120:], along(np.arange(8) * 40), strict=True)
    ]
    test = write_csv(tmp_path / "test.csv", "image,lat,lon,sequence", *tests)
    options, args = parse("--train_csv", train, "--test_csv", test, "--output_dir", tmp_path / "out")
    data = load(options, args)
    files = {name: set(files_of(getattr(data, name))) for name in ("train", "validation", "test")}
    files["database"], files["searched"] = (
        set(files_of(data.database)),
        set(files_of(data.validation_database)),
    )
    assert len(files["validation"]) >= 5
    assert len(files["database"]) == 120
    assert not files["train"] & files["validation"]
    assert not files["searched"] & files["validation"]
    assert set(data.validation["sequence"][:]) == ({"dusk"} if drives_apart else {"noon"})
    taught, asked = np.array(data.train["latitude"][:]), np.array(data.validation["latitude"][:])
    assert np.abs(taught[:, None] - asked).min() * 111_195 > 100  # nothing near a query is trained on


def test_too_few_places_to_hold_out_leave_all_to_train_on(tmp_path, caplog):
    write_pictures(tmp_path, [f"{i}.png" for i in range(24)])
    rows = [f"{i}.png,{a:.9f},{b:.9f}" for i, (a, b) in enumerate(along(np.arange(24) * 5.0))]
    train = write_csv(tmp_path / "train.csv", "image,lat,lon", *rows[:20])
    test = write_csv(tmp_path / "test.csv", "image,lat,lon", *rows[20:])
    options, args = parse("--train_csv", train, "--test_csv", test, "--output_dir", tmp_path / "out")
    data = load(options, args)
    assert data.validation is None
    assert len(data.train) == 20
    assert "no validation queries to choose by" in caplog.text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, ("residual", None)),
        ({"projection_dim": 12}, ("mlp", 12)),
        ({"head": "mlp"}, ("mlp", 256)),
        ({"head": "none"}, ("mlp", None)),
        ({"projection_dim": 0}, ("mlp", None)),
        ({"pooling": "mixvpr"}, ("mlp", None)),
        ({"methods": ["original"]}, ("mlp", 256)),
    ],
)
def test_the_reference_head_is_had_by_name_only(words, expected):
    options = PlaceArguments(models=["test_resnet"], pretrained=False, image_size=64, **words)
    config = make_model(options).config
    assert (config.head, config.projection_dim) == expected


def test_a_length_belongs_to_the_reference_head():
    with pytest.raises(DataError, match="projection_dim is the mlp's, and the head is 'residual'"):
        PlaceArguments(head="residual", projection_dim=8)


def test_a_head_that_was_whitened_in_full_describes_like_its_parts():
    model = build_model(head="residual", projection_dim=None)
    rows = unit(40, model.config.descriptor_size)
    model.head.fit_whitening(rows)
    assert model.config.whitening_dim == model.config.descriptor_size == rows.shape[1]
    torch.testing.assert_close(model.head(rows).descriptors, model.head.whiten(rows), atol=1e-5, rtol=0)


def test_a_length_that_was_asked_for_is_the_kept_model_s(drives, tmp_path):
    images, _ = load_drives(drives[0])
    searched, asking = images.select(range(0, 80, 4)), images.select(range(1, 80, 4))
    _, args = parse(
        *("--num_train_epochs", 1, "--learning_rate", 30, "--per_device_train_batch_size", 8),
        *("--output_dir", tmp_path / "place", "--cache_dir", tmp_path / "cache"),
    )
    model = build_model(seed=1, truncate_dim=2)
    trainer = GeoPlaceTrainer(model, args, train_dataset=searched, eval_dataset=asking)
    trainer.train()
    assert trainer.stages["frozen"]["r1"] > max(
        trainer.stages[name]["r1"] for name in ("trained", "trained, whitened")
    )
    assert trainer.kept.startswith("trained")
    assert trainer.model.config.descriptor_size == 2


def test_trained_models_of_one_name_are_compared_and_the_best_one_is_kept(sample, tmp_path):
    """Both lay in one folder and had one name in the table, and the first one was kept, whatever it was worth."""
    build_model(pooling="avg", projection_dim=None).save_pretrained(tmp_path / "a" / "place")
    build_model(projection_dim=1).save_pretrained(tmp_path / "b" / "place")
    tables = [sample / name / "poses.csv" for name in ("noon", "dusk")]
    models = [str(tmp_path / part / "place") for part in "ab"]
    options, args = parse(
        *("--train_csv", *tables, "--models", *models, "--methods", "ours", "--num_train_epochs", 0),
        *("--positive_m", 10, "--negative_m", 25, "--block_m", 100, "--validation_share", 0.2),
        *("--output_dir", tmp_path / "run", "--cache_dir", tmp_path / "cache"),
    )
    kept = run_place(options, args)
    folders = {path.name for path in (tmp_path / "run" / "trained_models").iterdir()}
    assert folders == {"a_place_seed42", "b_place_seed42"}
    assert {row["model"] for row in comparison_rows(kept.runs)} == {"a/place", "b/place"}
    scores = [run.validation_r1 for run in kept.runs]
    assert scores[1] > scores[0]
    assert kept is kept.runs[1]


def test_the_log_averages_steps_of_fewer_batches(drives, tmp_path):
    """Seven batches are four steps of two, of which the last one has one: the log of batches could not be made."""
    images, _ = load_drives(drives[0])
    _, args = parse(
        *("--num_train_epochs", 1, "--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 2),
        *("--images_per_place", 2, "--output_dir", tmp_path, "--cache_dir", tmp_path / "cache"),
    )
    trainer = GeoPlaceTrainer(build_model(), args, train_dataset=images.select(range(60)))
    trainer.train()
    steps = [row["train_loss"] for row in trainer.log_rows if row["event"] == "batch"]
    assert len(steps) == 4
    (epoch,) = (row for row in trainer.log_rows if row["event"] == "epoch")
    assert epoch["avg_train_loss"] == pytest.approx(np.mean(steps))
