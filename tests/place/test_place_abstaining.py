"""A place model abstains below a confidence that validation queries chose, and says so everywhere."""

import logging
import math

import numpy as np
import pytest
from helpers.place_models import along, build_model, parse, write_csv, write_pictures
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import AutoModel

from geohf.errors import DataError
from geohf.place import GeoPlaceConfig, GeoPlaceModel, PlaceIndex
from geohf.place.answers import predictions_of
from geohf.place.confidence import NEVER_ANSWERS, calibrate, confidence
from geohf.place.drives import load_drives
from geohf.place.head import PlaceHead
from geohf.place.metrics import selective_metrics
from geohf.place.trainer import GeoPlaceTrainer


def simulated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Evidence of queries, and whether they are answered right, as often as a logistic curve says."""
    rng = np.random.default_rng(seed)
    seen = np.stack([rng.uniform(0.2, 1, count), rng.uniform(0, 0.3, count)], 1)
    return seen, rng.random(count) < 1 / (1 + np.exp(-(8 * seen[:, 0] + 10 * seen[:, 1] - 6)))


@pytest.mark.parametrize("precision", [0.8, 0.9, 0.95])
def test_the_precision_asked_for_is_reached_on_other_queries(precision):
    config = GeoPlaceConfig(feature_size=8)
    calibrate(config, *simulated(4000, seed=0), precision)
    seen, right = simulated(4000, seed=1)
    values = selective_metrics(confidence(seen, config.confidence_weights), right, 4000, config.abstain_below)
    assert values["answered_precision"] == pytest.approx(precision, abs=0.02)
    assert 0.05 < values["answered"] < 1
    assert config.abstain_precision == precision
    again = GeoPlaceConfig.from_dict(config.to_dict())
    assert again.abstain_below == config.abstain_below


def test_a_precision_that_is_not_reached_means_no_answer_and_no_confidence_no_abstaining(caplog):
    config = GeoPlaceConfig(feature_size=8)
    seen, right = simulated(200, seed=0)
    seen[:, 1] = 0.0
    right[seen[:, 0].argmax()] = False  # the surest is wrong
    with caplog.at_level(logging.WARNING):
        calibrate(config, seen, right, 1.0)
    assert config.abstain_below == NEVER_ANSWERS
    assert "always abstains: at no confidence are 100.0 % of the answers" in caplog.text
    values = selective_metrics(confidence(seen, config.confidence_weights), right, 200, NEVER_ANSWERS)
    assert values["answered"] == 0
    assert math.isnan(values["answered_precision"])
    calibrate(config, seen[:10], right[:10])  # the precision asked for before holds on
    assert "never abstains: no confidence was fitted on 10 validation queries" in caplog.text
    assert (config.confidence_weights, config.abstain_below) == (None, None)


def test_selective_metrics_worked_by_hand():
    values = selective_metrics([0.9, 0.8, 0.7, 0.6], [True, False, True, True], 4, 0.65)
    assert values == pytest.approx(
        {
            "auc_pr": 1 / 4 * (1 + 2 / 3 + 3 / 4),
            "full_precision_recall": 1 / 4,
            "risk_coverage": (0 + 1 / 2 + 1 / 3 + 1 / 4) / 4,
            "answered": 3 / 4,
            "answered_precision": 2 / 3,
        }
    )


def test_the_confidence_looks_at_five_answers_however_many_are_given(tmp_path):
    write_pictures(tmp_path, [f"{i}.png" for i in range(8)])
    photos = [str(tmp_path / f"{i}.png") for i in range(8)]
    model = build_model(seed=1).eval()
    model.config.confidence_weights, model.config.abstain_below = [3.0, 5.0, -2.0], 0.5
    index = PlaceIndex.build(model, photos, along(np.arange(8) * 200.0))
    given = {k: model.predict(photos[0], index=index, top_k=k)[0] for k in (1, 5, 8)}
    assert [len(given[k].answers) for k in given] == [1, 5, 8]
    assert given[1].confidence == given[5].confidence == given[8].confidence
    assert given[5].abstains == (given[5].confidence < 0.5)
    assert given[5].as_row()["abstains"] is given[5].abstains
    # a drive that answers as a whole has another confidence, which no threshold was chosen for
    frames = model.predict_sequences(photos, index, method="smooth")
    assert [answer.abstains for answer in frames] == [None] * 8
    model.config.abstain_below = None
    assert "abstains" not in model.predict(photos[0], index=index)[0].as_row()


def test_answers_below_the_threshold_abstain():
    config = GeoPlaceConfig(feature_size=8, confidence_weights=[10.0, 0.0, -5.0], abstain_below=0.9)
    similarity, ranked = np.array([[0.8, 0.2], [0.6, 0.1]]), np.array([[0, 1], [0, 1]])
    answers = predictions_of(np.zeros((2, 8)), similarity, ranked, np.zeros((2, 2)), ["a", "b"], config)
    assert [round(answer.confidence, 3) for answer in answers] == [0.953, 0.731]
    assert [answer.abstains for answer in answers] == [False, True]


def test_an_index_of_some_numbers_has_no_confidence_that_was_fitted_on_all():
    """Cosines of a part are higher: 32 % of the answers were right here, of a mean confidence of 99.9 %."""
    model, points = build_model(pooling="avg", projection_dim=None), along(200.0 * np.arange(9))
    model.config.confidence_weights, model.config.abstain_below = [10.0, 0.0, -5.0], 0.9
    pictures = [
        np.full((8, 8, 3), 20 * i, np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None] for i in range(9)
    ]
    for dims, told in ((None, True), (4, False)):
        index = PlaceIndex.build(model, pictures, points, dims=dims)
        alone = model.predict(pictures[:2], index=index)
        drive = model.predict_sequences(pictures[:2], index, center="none", method=None)
        for answer in (*alone, *drive):
            assert (answer.confidence is not None, answer.abstains is not None) == (told, told)
    model.config.verify_below = 0.1
    index = PlaceIndex.build(model, pictures, points, dims=4, local=True)
    with pytest.raises(DataError, match="the gate of verification was learned on whole ones"):
        model.predict(pictures[:2], index=index, verify=2)


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(DataError, match="abstain must be above 0 and at most 1, got 95"):
        parse("--abstain", 95)
    with pytest.raises(
        StrictDataclassError, match="abstain_below is a confidence, and there are no confidence_weights"
    ):
        GeoPlaceConfig(feature_size=8, abstain_below=0.5)
    rows = [{"image": Image.new("RGB", (32, 32)), "latitude": 0.0, "longitude": 0.0}] * 2
    with pytest.raises(DataError, match="chosen on validation queries, and there are none"):
        GeoPlaceTrainer(build_model(), train_dataset=rows, abstain=0.9)


def test_a_trained_model_keeps_its_threshold_and_the_card_says_the_operating_point(drives, tmp_path):
    images, _ = load_drives(drives[0])
    searched, asking, test = (images.select(range(start, 240, 4)) for start in (0, 1, 2))
    _, args = parse(
        *("--num_train_epochs", 0, "--output_dir", tmp_path / "place", "--cache_dir", tmp_path / "cache")
    )
    trainer = GeoPlaceTrainer(
        build_model(seed=1), args, train_dataset=searched, eval_dataset=asking, radii_m=[15.0], abstain=0.15
    )
    trainer.train()
    config = trainer.model.config
    assert config.confidence_weights is not None
    values = trainer.evaluate(test).values_by_name
    assert {"auc_pr", "full_precision_recall", "risk_coverage", "answered"} <= set(values)
    assert {"auc_pr", "risk_coverage"} <= set(trainer.evaluated.baseline)
    abstained = [prediction.abstains for prediction in trainer.evaluated.predictions]
    assert values["answered"] == pytest.approx(1 - np.mean(abstained))
    trainer.save_model(tmp_path / "saved")
    trainer.create_model_card(tmp_path / "saved")
    assert GeoPlaceModel.from_pretrained(tmp_path / "saved").config.abstain_below == config.abstain_below
    card = (tmp_path / "saved" / "README.md").read_text()
    assert (
        f"is below {config.abstain_below:.3f}, chosen on validation queries for\n15.0 % right answers" in card
    )
    assert f"it answers {100 * values['answered']:.1f} %" in card
    assert f"area under precision and recall {values['auc_pr']:.3f}" in card


def test_no_answers_or_fewer_are_refused(tmp_path):
    write_pictures(tmp_path, ["0.png", "1.png"])
    photos = [str(tmp_path / f"{i}.png") for i in range(2)]
    model = build_model(seed=1).eval()
    index = PlaceIndex.build(model, photos, along(np.arange(2) * 200.0))
    for top_k in (0, -1):
        with pytest.raises(DataError, match=f"top_k must be a whole number of at least 1, got {top_k}"):
            model.predict(photos, index=index, top_k=top_k)
        with pytest.raises(DataError, match=f"top_k must be a whole number of at least 1, got {top_k}"):
            model.predict_sequences(photos, index, top_k=top_k)


def test_an_evaluation_of_the_top_answer_alone_has_the_confidence_of_five(tmp_path):
    for drive, seed in (("a", 0), ("b", 3)):
        write_pictures(tmp_path / drive / drive, [f"{i}.png" for i in range(12)], seed)
        points = along(np.arange(12) * 200.0)
        rows = [
            f"{drive}/{i}.png,{latitude:.7f},{longitude:.7f}"
            for i, (latitude, longitude) in enumerate(points)
        ]
        write_csv(tmp_path / drive / "poses.csv", "img_relpath,lat,lon", *rows)
    model = build_model(seed=1).eval()
    model.config.confidence_weights, model.config.abstain_below = [3.0, 500.0, -2.0], 0.74
    names = ("auc_pr", "risk_coverage", "answered")
    one, five = (model.evaluate(tmp_path, recalls=recalls) for recalls in ((1,), (1, 5)))
    assert [one[name] for name in names] == [five[name] for name in names]


def test_descriptors_of_another_length_have_no_confidence_and_no_threshold(tmp_path, caplog):
    model = build_model(seed=1)
    model.config.confidence_weights = [3.0, 5.0, -2.0]
    model.config.abstain_precision, model.config.abstain_below = 0.9, 0.5
    model.save_pretrained(tmp_path)
    same = AutoModel.from_pretrained(tmp_path, truncate_dim=None).config
    assert same.abstain_below == 0.5
    with caplog.at_level(logging.WARNING):
        cut = AutoModel.from_pretrained(tmp_path, truncate_dim=8).config
    assert (cut.confidence_weights, cut.abstain_below, cut.abstain_precision) == (None, None, 0.9)
    assert (
        "descriptors are cut to 8 numbers: what was fitted before is forgotten, the confidence;"
        in caplog.text
    )
    for dim in (0, -1, 17):
        with pytest.raises(DataError, match=f"truncate_dim must be at least 1 and at most 16.* got .*{dim}"):
            GeoPlaceModel.from_pretrained(tmp_path, truncate_dim=dim)
    model.config.whitening_dim = 8
    model.head = PlaceHead(model.config)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        DataError, match="whitened to 8 numbers and cannot be cut; train with whitening_dim 0"
    ):
        AutoModel.from_pretrained(tmp_path, truncate_dim=8)


def test_a_confidence_belongs_to_the_radius_and_the_weights_that_it_was_fitted_with(drives, tmp_path, caplog):
    images, _ = load_drives(drives[0])
    searched, asking = images.select(range(0, 80, 4)), images.select(range(1, 160, 4))
    always = "--cache_dir", tmp_path / "cache", "--per_device_train_batch_size", 8
    _, args = parse("--num_train_epochs", 0, "--output_dir", tmp_path / "fitted", *always)
    model = build_model(seed=1)
    GeoPlaceTrainer(model, args, train_dataset=searched, eval_dataset=asking, radii_m=[15.0]).train()
    assert model.config.confidence_weights is not None
    assert model.config.confidence_m == 15.0
    _, args = parse("--num_train_epochs", 1, "--output_dir", tmp_path / "further", *always)
    with caplog.at_level(logging.WARNING):
        GeoPlaceTrainer(model, args, train_dataset=searched).train()
    assert model.config.confidence_weights is None
    assert "the model is trained further without validation queries" in caplog.text


@pytest.mark.parametrize("index", [5, [], {}, b"area.parquet"])
def test_an_index_is_an_index_or_a_path(index):
    with pytest.raises(DataError, match="index is a PlaceIndex or a file's path, not a"):
        build_model().open_index(index)
