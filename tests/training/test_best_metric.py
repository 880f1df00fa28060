"""The metric that chooses the best weights: its name, its direction, and that it is measured at all."""

import logging

import numpy as np
import pytest
from helpers import parts_models, place_models, region_models, street_models
from helpers.training_run import make_trainer
from transformers import TrainingArguments

from geohf.errors import DataError
from geohf.metrics.directions import find_metric
from geohf.parts.arguments import PartTrainingArguments
from geohf.parts.phase import PartPhaseTrainer
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.metrics import place_metrics
from geohf.place.phase import PlacePhaseTrainer
from geohf.region.arguments import RegionTrainingArguments
from geohf.region.phase import RegionPhaseTrainer
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.metrics import METRICS as STREET_METRICS
from geohf.street.metrics import street_metrics
from geohf.street.phase import StreetPhaseTrainer
from geohf.tiles.arguments import TileTrainingArguments
from geohf.tiles.metrics import all_targets, metrics_of
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.settings import phase_arguments

# task's arguments, metric, which way it gets better
DIRECTIONS = [
    (StreetTrainingArguments, "mean_km", False),
    (StreetTrainingArguments, "eval_median_km", False),
    (StreetTrainingArguments, "ece", False),
    (StreetTrainingArguments, "score", True),
    (StreetTrainingArguments, "eval_score", True),
    (StreetTrainingArguments, "within_25_km", True),
    (StreetTrainingArguments, "geoscore", True),
    (StreetTrainingArguments, "class_loss", False),
    (RegionTrainingArguments, "accuracy", True),
    (RegionTrainingArguments, "routed_mean_m", False),
    (RegionTrainingArguments, "p90_units", False),
    (PlaceTrainingArguments, "r5", True),
    (PlaceTrainingArguments, "median_m", False),
    (TileTrainingArguments, "mae", False),
    (TileTrainingArguments, "nrmse", False),
    (TileTrainingArguments, "psnr", True),
    (TileTrainingArguments, "skill_trend", True),
    (TileTrainingArguments, "population_rmse", False),
    (TileTrainingArguments, "population_r2", True),
    (PartTrainingArguments, "map", True),
    (PartTrainingArguments, "ap/bell", True),
    (PartTrainingArguments, "hallucination", False),
    (PartTrainingArguments, "state_loss", False),
    (GeoTrainingArguments, "eval_loss", False),
]


@pytest.mark.case("use-S4")
@pytest.mark.parametrize(
    ("kind", "name", "greater"), DIRECTIONS, ids=lambda value: str(getattr(value, "__name__", value))
)
def test_the_direction_of_a_metric_is_known(kind, name, greater, tmp_path):
    args = kind(output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=name)
    assert args.greater_is_better is greater
    kind(output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=name, greater_is_better=greater)
    with pytest.raises(DataError, match="leave greater_is_better out"):
        kind(
            output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=name, greater_is_better=not greater
        )


def test_every_number_of_an_evaluation_is_in_its_table():
    points = np.array([[47.0, 8.0], [46.0, 7.0]])
    found = street_metrics(np.eye(2), points, np.array([0, 1]), points)
    assert set(found) <= set(STREET_METRICS)
    values = np.arange(12.0).reshape(6, 2)
    assert set(all_targets(["a", "b"], values, values + 1, values, values)) <= set(metrics_of(["a", "b"]))
    assert set(all_targets(["a"], *[values[:, :1]] * 4)) <= set(metrics_of(["a"]))
    ranked = np.array([[0, 1], [1, 0]])
    for name in place_metrics(ranked, points, points, [25.0], [1]):
        assert name != "r1" or find_metric(name, PlaceTrainingArguments.metrics)


def made(kind, args, build, metric, folder, **more):
    args = args(output_dir=str(folder), use_cpu=True, metric_for_best_model=metric)
    return kind(build(), args, train_dataset=[0], eval_dataset=[0], **more)


@pytest.mark.case("use-S5", "use-S3")
def test_a_metric_that_is_not_measured_is_refused_before_the_work(tmp_path):
    street = street_models.build_model
    refused = [
        (StreetPhaseTrainer, StreetTrainingArguments, street, "scor", "did you mean 'score'"),
        (StreetPhaseTrainer, StreetTrainingArguments, lambda: street(classes=False), "top1", "not measured"),
        (StreetPhaseTrainer, StreetTrainingArguments, lambda: street(cells=True), "score", "not measured"),
        (RegionPhaseTrainer, RegionTrainingArguments, region_models.build_model, "mean_m", "routed_mean_m"),
        (
            RegionPhaseTrainer,
            RegionTrainingArguments,
            region_models.build_model,
            "routed_mean_units",
            "routed_mean_m",
        ),
        (PartPhaseTrainer, PartTrainingArguments, parts_models.build_model, "ap/horn", "ap/bell"),
    ]
    for kind, args, build, metric, words in refused:
        with pytest.raises(DataError, match=words):
            made(kind, args, build, metric, tmp_path)
    with pytest.raises(DataError, match="'r10' is not measured here"):
        made(
            PlacePhaseTrainer,
            PlaceTrainingArguments,
            place_models.build_model,
            "r10",
            tmp_path,
            database_rows=5,
        )
    taken = made(
        PlacePhaseTrainer, PlaceTrainingArguments, place_models.build_model, "r5", tmp_path, database_rows=5
    )
    assert taken.args.greater_is_better
    region = region_models.build_model()
    for module, metric in ((region.router_module(), "accuracy"), (region.experts[0], "median_m")):
        args = RegionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=metric)
        RegionPhaseTrainer(module, args, train_dataset=[0], eval_dataset=[0], whole=region)
    args = RegionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, metric_for_best_model="accuracy")
    with pytest.raises(DataError, match="these are: loss, mean_m"):
        RegionPhaseTrainer(region.experts[0], args, train_dataset=[0], eval_dataset=[0], whole=region)


@pytest.mark.case("use-S3", "use-O11")
def test_several_sets_to_evaluate_on_have_metrics_of_their_own(tmp_path):
    def trainer(metric):
        args = StreetTrainingArguments(output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=metric)
        return StreetPhaseTrainer(
            street_models.build_model(), args, train_dataset=[0], eval_dataset={"test": [0], "far": [0]}
        )

    assert trainer("eval_test_score").args.greater_is_better is True
    assert trainer("far_mean_km").args.greater_is_better is False
    with pytest.raises(DataError, match="these are: test_"):
        trainer("score")


@pytest.mark.case("use-S4")
def test_plain_arguments_get_the_direction_with_a_word(tmp_path, caplog):
    plain = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", metric_for_best_model="mean_km", eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True,
    )  # fmt: skip
    assert plain.greater_is_better is True  # transformers reads it off the name
    with caplog.at_level(logging.WARNING):
        trainer = StreetPhaseTrainer(street_models.build_model(), plain, train_dataset=[0], eval_dataset=[0])
    assert trainer.args.greater_is_better is False
    assert "mean_km (km) is better where it is smaller" in caplog.text


@pytest.mark.case("use-S5")
def test_a_phase_has_its_own_metric_unless_one_was_asked_for(tmp_path):
    def phase(default, **settings):
        args = TileTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
        made = phase_arguments(args, "train", default)
        return made.metric_for_best_model, made.greater_is_better

    assert phase("nrmse") == ("nrmse", None)  # the Trainer knows its direction
    assert phase("nrmse", metric_for_best_model="mae") == ("mae", False)
    assert phase("nrmse", metric_for_best_model="eval_psnr") == ("eval_psnr", True)
    assert phase("nrmse", metric_for_best_model="loss") == ("loss", False)


# Custom metrics of `make_trainer`: accuracy and mean_km, of which the base Trainer knows nothing


@pytest.mark.case("use-S3")
@pytest.mark.parametrize("name", ["accuracy", "eval_accuracy"])
def test_the_best_score_is_found_under_either_name(name, tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=2, metric_for_best_model=name)
    trainer.run()
    scores = [row["eval_accuracy"] for row in trainer.state.log_history if "eval_accuracy" in row]
    assert trainer.best_score() == max(scores)
    assert trainer.best_row()["eval_accuracy"] == max(scores)


@pytest.mark.case("use-S3")
def test_a_metric_that_no_row_has_is_no_minus_infinity(tmp_path):
    trainer = make_trainer(tmp_path)
    assert trainer.best_score() == -np.inf  # nothing was evaluated
    trainer.state.log_history = [{"eval_loss": 1.0, "eval_accuracy": 0.5}]
    assert trainer.best_score() == -1.0
    trainer.args.metric_for_best_model = "beauty"
    with pytest.raises(DataError, match="'beauty' is not measured here"):
        trainer.best_score()


@pytest.mark.case("use-S4")
def test_early_stopping_counts_the_right_way(tmp_path):
    """Kilometers that fall at every evaluation never stop a run; those that rise stop it after its patience."""
    for sign, epochs in ((-1, 5), (1, 3)):
        km = iter([100 + sign * step for step in range(9)])
        args = StreetTrainingArguments(
            output_dir=str(tmp_path / str(epochs)), use_cpu=True, metric_for_best_model="mean_km", disable_tqdm=True,
            num_train_epochs=5, early_stopping_patience=2, per_device_train_batch_size=8,
        )  # fmt: skip
        rows = [
            {"image": image, "latitude": 30.0, "longitude": -99.0} for image in street_models.patches(3, 4)
        ]
        trainer = StreetPhaseTrainer(
            street_models.build_model(classes=False), args, train_dataset=rows, eval_dataset=rows
        )
        measure = trainer._metrics
        trainer.compute_metrics = lambda found, measure=measure, km=km: measure(found) | {"mean_km": next(km)}
        trainer.train()
        assert trainer.state.epoch == epochs
        assert trainer.state.best_metric == (96 if sign < 0 else 100)


def test_a_metric_that_is_not_a_number_is_said(tmp_path, caplog):
    trainer = make_trainer(tmp_path, metric_for_best_model="accuracy")
    with caplog.at_level(logging.WARNING):
        trainer._determine_best_metric({"eval_accuracy": float("nan")}, None)
    assert "accuracy is not a number" in caplog.text
