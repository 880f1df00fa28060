"""The numbers of the five tasks through `evaluate`, beside those of their Trainers."""

import evaluate
import numpy as np
import pytest
from helpers import parts_models
from helpers.five_tasks import rows_of, trainer_of
from helpers.pages import ROOT, blocks

from geohf import DataError
from geohf.integrations import evaluate_metric
from geohf.integrations.evaluate_metric import GeoMetric


def listed(row, names):
    return {name: np.asarray(row[name]).tolist() for name in names}


def place_inputs(result):
    ranked = result.details["retrieval"].ranked.tolist()
    database = [[row["latitude"], row["longitude"]] for row in rows_of("place", 12)]
    return ranked, {"database_points": database, "radii_m": (25, 10, 50)}


def inputs_of(name, result):
    """What a user writes of a model's answers, and the settings of the metric."""
    answers = result.predictions
    if name == "place":
        return place_inputs(result)
    if name == "parts":
        fields = ("boxes", "labels", "states", "scores", "state_scores")
        return [listed(row, fields) for row in answers], {
            "part_names": list(parts_models.PARTS.values()),
            "num_states": len(parts_models.STATES),
        }
    if name == "tiles":
        return [next(iter(answer.values.values())) for answer in answers], {}
    if name == "region":
        return [
            listed(vars(a), ("latitude", "longitude")) | {"region": a.regions[0].name} for a in answers
        ], {}
    first = [{"states": [s.name for s in a.states], "probability": a.states[0].probability} for a in answers]
    return [
        listed(vars(a), ("latitude", "longitude")) | one for a, one in zip(answers, first, strict=True)
    ], {}


def references_of(name, rows):
    if name == "tiles":
        return [{"value": row["labels"].item(), "last": None, "trend": None} for row in rows]
    if name == "parts":
        return [{"boxes": row["boxes"], "labels": row["parts"], "states": row["states"]} for row in rows]
    fields = {"region": ("region",), "street": ("state",), "place": ()}[name]
    return [listed(row, ("latitude", "longitude", *fields)) for row in rows]


@pytest.mark.parametrize("name", ["region", "street", "parts", "place", "tiles"])
def test_it_gives_the_numbers_of_the_trainer(name, tmp_path):
    rows = rows_of(name, 6)
    for row in rows:
        if name == "place":
            row["latitude"] += 0.0002
        if name == "parts":  # of 32 x 32 pixels it is small and medium, but for the last bit
            row["boxes"] = [[8.0, 8.0, 38.0, 40.0]]
    result = trainer_of(name, tmp_path, count=12).evaluate(rows)
    predictions, settings = inputs_of(name, result)
    metric = GeoMetric(name, cache_dir=str(tmp_path / "cache"))
    for prediction, reference in zip(predictions, references_of(name, rows), strict=True):
        metric.add(prediction=prediction, reference=reference)
    found = {key: value for key, value in metric.compute(**settings).items() if value == value}
    of_its_own = ("n", "mse", "mse_scaled", "nrmse", "auc_pr", "full_precision_recall", "risk_coverage")
    told = {
        key: value
        for key, value in result.values_by_name.items()
        if key not in of_its_own and "loss" not in key and not key.startswith("given_")
    }
    assert len(told) >= 3
    assert found == pytest.approx(told, abs=1e-6)


def test_it_is_loaded_by_its_file(tmp_path):
    metric = evaluate.load(evaluate_metric.__file__, "tiles", cache_dir=str(tmp_path))
    references = [{"value": 2.0, "last": 1.0, "trend": None}, {"value": 5.0, "last": 3.0, "trend": None}]
    found = metric.compute(predictions=[2.0, 4.0], references=references)
    assert [found[name] for name in ("mae", "skill_persistence", "r2_rate")] == pytest.approx([0.5, 0.8, -1])


def test_the_score_of_states():
    metric = GeoMetric("street", keep_in_memory=True)
    here = {"latitude": 1.0, "longitude": 2.0}
    said = [{"states": states, "probability": None} | here for states in (["Ohio"], ["Utah", "Ohio"])]
    found = metric.compute(predictions=said, references=[{"state": "Ohio"} | here] * 2)
    assert found["score"] == pytest.approx(0.7 * (1 + 0.6) / 2 + 0.3)
    assert found["top1"] == 0.5
    assert "ece" not in found
    said = [row | {"states": [], "probability": None} for row in said]
    assert "top1" not in metric.compute(predictions=said, references=[{"state": "Ohio"} | here] * 2)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(
        DataError, match=r"config_name must be one of region, .* 'streets' .did you mean 'street'"
    ):
        GeoMetric("streets")
    metric, there = (
        GeoMetric("region", keep_in_memory=True),
        {"latitude": 1.0, "longitude": 2.0, "region": "a"},
    )
    with pytest.raises(DataError, match="prediction 1 has no finite latitude"):
        metric.compute(predictions=[there, there | {"latitude": None}], references=[there] * 2)
    metric, query = GeoMetric("place", keep_in_memory=True), [{"latitude": 1.0, "longitude": 2.0}]
    with pytest.raises(DataError, match="name images 0 to 7; the database has 1, from 0"):
        metric.compute(predictions=[[0, 7]], references=query, database_points=[[1.0, 2.0]])
    with pytest.raises(DataError, match="different numbers of database images"):
        metric.compute(predictions=[[0], [0, 0]], references=query * 2, database_points=[[1.0, 2.0]])


TILE = {"value": 3.0, "last": 1.0, "trend": None}
PLACE = {"latitude": 36.4, "longitude": 127.4}


@pytest.mark.parametrize(
    ("name", "predictions", "references", "told"),
    [
        ("tiles", [2.0, 2.0], [TILE, TILE | {"value": None}], "reference 1 has no value"),
        (
            "region",
            [PLACE | {"region": "a", "latitude": 127.4}],
            [PLACE | {"region": "a"}],
            r"\(127.4, 127.4\) is no lat",
        ),
        ("region", *[[PLACE | {"region": r} for r in ("a", None)]] * 2, "reference 1 has no region"),
        (
            "street",
            [PLACE | {"states": ["a"], "probability": 1.0}] * 2,
            [PLACE | {"state": state} for state in ("a", None)],
            "reference 1 has no state",
        ),
        ("tiles", [1.0, None], [TILE] * 2, "prediction 1 is no finite number"),
        ("tiles", [1.0, float("inf")], [TILE] * 2, "prediction 1 is no finite number"),
        ("region", [], [], "no predictions to measure"),
    ],
)
def test_what_would_count_for_something_else_is_refused(name, predictions, references, told):
    with pytest.raises(DataError, match=told):
        GeoMetric(name, keep_in_memory=True).compute(predictions=predictions, references=references)


def test_planar_coordinates_are_no_degrees():
    here = {"latitude": 180_000.0, "longitude": 3.0, "region": "a"}
    metric = GeoMetric("region", keep_in_memory=True)
    assert metric.compute(predictions=[here], references=[here], frame="planar")["routed_mean_units"] == 0


def test_the_examples_of_the_page_run():
    scope: dict = {}
    for code in blocks((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), "python"):
        exec(compile(code, "docs/metrics.md", "exec"), scope)
    assert scope["metric"].config_name == "tiles"  # the last of five
