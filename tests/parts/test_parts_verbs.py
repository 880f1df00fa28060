"""recipes/predict.py and evaluate.py with a detector."""

import json

import pandas as pd
import pytest
import torch
from helpers.parts_models import TINY

from geohf.parts import PartStateModel
from geohf.parts.data import load_parts
from geohf.parts.evaluator import evaluate_detections
from geohf.parts.metrics import dataset_targets
from geohf.parts.vocabulary import names_of


@pytest.fixture(scope="module")
def saved(bikes, tmp_path_factory):
    """A detector whose parts stand in another order than in the table."""
    id2label, id2state = names_of(load_parts(bikes)[0]["train"])
    torch.manual_seed(0)
    turned = dict(enumerate(reversed(id2label.values())))
    fields = {"id2label": turned, "id2state": id2state} | TINY
    model = PartStateModel.from_backbone("test_resnet", pretrained=False, **fields)
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


def test_predict_gives_a_row_a_part_a_photo(saved, bikes, tmp_path, recipe):
    done = recipe("predict", saved, bikes / "train", "--output", tmp_path / "a.csv", "--threshold", 0.02)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "a.csv")
    answers = PartStateModel.from_pretrained(saved).predict(bikes / "train", threshold=0.02)
    assert len(rows) == sum(len(answer.parts) + len(answer.missing) for answer in answers)
    assert rows["input"].nunique() == len(answers)
    found = rows[rows["present"]]
    scores = [part.score for answer in answers for part in answer.parts if part.state != "absent"]
    assert sorted(found["score"]) == pytest.approx(sorted(scores), abs=1e-5)
    done = recipe("predict", saved, bikes / "train", "--output", tmp_path / "a.geojson")
    assert done.returncode == 2
    assert "no places" in done.stderr


def test_evaluate_measures_with_the_models_own_numbers(saved, bikes, tmp_path, recipe):
    done = recipe("evaluate", saved, bikes, "--output", tmp_path / "m.json", "--batch_size", 5)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "m.json").read_text())
    photos = load_parts(bikes)[0]["train"]
    model = PartStateModel.from_pretrained(saved)
    numbers, states = model.config.label2id, {name: i for i, name in model.config.id2state.items()}
    answers = model.predict([image["path"] for image in photos["image"]], threshold=0.0)
    predictions = [
        {
            "boxes": [part.box for part in answer.parts],
            "labels": [numbers[part.part] for part in answer.parts],
            "scores": [part.score for part in answer.parts],
            "states": [states[part.state] for part in answer.parts],
            "state_scores": [part.state_score for part in answer.parts],
        }
        for answer in answers
    ]
    expected = evaluate_detections(
        predictions, dataset_targets(photos, model.config), num_parts=len(numbers), num_states=len(states)
    )
    assert found["photos"] == len(photos)
    assert found["map"] == pytest.approx(expected["map"], abs=1e-4)
    assert found["hallucination"] == pytest.approx(expected["hallucination"])


def test_parts_that_the_model_does_not_know_are_named(saved, bikes, tmp_path, recipe):
    content = (bikes / "train_annotations.json").read_text().replace('"bell"', '"horn"')
    (tmp_path / "train").symlink_to(bikes / "train")
    (tmp_path / "train_annotations.json").write_text(content)
    done = recipe("evaluate", saved, tmp_path)
    assert done.returncode == 2
    assert "unknown part 'horn'" in done.stderr
