"""The recipe: what it leaves, that the model learned, and what it says to bad input."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.parts_models import parse
from PIL import Image
from transformers import AutoModel

from geohf.data.task_data import TaskData
from geohf.errors import DataError
from geohf.parts.arguments import PartTrainingArguments
from geohf.parts.baseline import constant_answer
from geohf.parts.data import load_parts
from geohf.parts.modeling import make_model
from geohf.parts.rows import shows_one_of_each
from geohf.parts.sample import SAMPLE_FIELDS, write_sample
from geohf.recipes.train_parts import run as run_parts

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
FILES = {
    "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "metrics.json", "log_history.csv",
    "inspection.csv", "predictions.csv", "learning_curves.png", "confusion.png", "average_precision.png",
    "examples.png", "reliability.png", "precision_recall.png",
}  # fmt: skip
SMALL = {name: value for name, value in SAMPLE_FIELDS.items() if name != "backbone"}
SMALL |= {"image_size": [128, 160], "anchor_sizes": [[8], [14], [26], [46], [72]], "pyramid_channels": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on a small sample, and where it lies."""
    folder = tmp_path_factory.mktemp("run")
    sample = write_sample(folder / "sample", seed=0, size=64, width=160)
    options, args = parse(
        "--data", sample, "--output_dir", folder / "out", "--backbone", "test_byobnet", "--pretrained", "false",
        "--config_overrides", json.dumps(SMALL), "--num_train_epochs", 9, "--augment", "false", "--overlays", 3,
        "--validation_share", 0.1, "--test_share", 0.15, "--export_onnx", "true",
    )  # fmt: skip
    return run_parts(options, args), folder


def test_a_run_leaves_a_whole_repo_and_what_people_look_at(run):
    trainer, folder = run
    out = folder / "out"
    assert {path.name for path in out.iterdir() if path.is_file()} == FILES | {"model.onnx"}
    assert len(list((out / "overlays").glob("*.png"))) == 3
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["eval"]["map"] == trainer.evaluated.values_by_name["map"]
    assert set(metrics["baseline"]) >= {"map", "hallucination", "joint_map", "ap/saddle"}
    assert np.array(metrics["confusion"]).shape == (4, 5)
    assert (metrics["split"]["held_out"], metrics["split"]["how"]) == (
        "test",
        "in the same proportion of every part in every state",
    )
    assert sum(metrics["split"][name] for name in ("train", "validation", "test")) == 64
    card = (out / "README.md").read_text()
    assert "Trained on generated pictures" not in card  # it cannot know where --data comes from
    assert "| saddle" in card
    assert "| constant baseline" in card
    tables = [[cell.strip() for cell in line.split("|")] for line in card.splitlines()]
    assert ["", "", "map_75", "map_small", "map_medium", "mar_1", "mar_10", "mar_100", ""] in tables
    starts = [at for at, line in enumerate(tables) if {*line[2:-1]} and {*"".join(line[2:-1])} == {"-", ":"}]
    assert all(tables[at - 2] == [""] for at in starts)  # a table without a line before it is no table


def test_a_few_epochs_beat_the_answer_that_looks_at_no_photo(run):
    found, baseline = run[0].evaluated.values_by_name, run[0].evaluated.baseline
    for name in ("map", "map_50"):
        assert found[name] > 1.5 * baseline[name] > 0, name
    assert baseline["hallucination"] > 0.9
    assert found["hallucination"] < 0.5


def test_the_tables_say_what_the_model_answers(run):
    _, folder = run
    rows = list(csv.DictReader((folder / "out" / "inspection.csv").open()))
    held_out = json.loads((folder / "out" / "metrics.json").read_text())["split"]["test"]
    assert len(rows) == held_out * 22
    model = AutoModel.from_pretrained(folder / "out")
    names = sorted({row["image_id"] for row in rows})
    answers = dict(
        zip(names, model.predict([folder / "sample" / "train" / name for name in names]), strict=True)
    )
    for row in rows:
        found = {part.part: part for part in answers[row["image_id"]].parts}
        assert (row["part"] in found) == (row["present"] == "True")
        if row["part"] in found:
            part = found[row["part"]]
            assert float(row["score"]) == pytest.approx(part.score, abs=1e-4)
            assert row["state"] == part.state
            sides = [float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            assert sides == pytest.approx(part.box, abs=0.01)
    boxes = list(csv.DictReader((folder / "out" / "predictions.csv").open()))
    assert len(boxes) == sum(len(answer.parts) for answer in answers.values()) > 10
    assert {row["true_state"] for row in rows} <= {"intact", "damaged", "absent", "occluded", ""}


def test_the_constant_answer_is_where_parts_usually_are(tmp_path):
    dataset = load_parts(write_sample(tmp_path / "s", size=6, width=96))[0]["train"]
    options, _ = parse()
    model = make_model(options, TaskData(dataset))
    answer = constant_answer(dataset, model.config)
    part = int(answer["labels"][0])
    boxes, states = [], []
    for row in dataset:
        for box, own, state in zip(row["boxes"], row["parts"], row["states"], strict=True):
            if own == part and state != 2:
                boxes.append(np.array(box) / ([row["width"], row["height"]] * 2))
                states.append(state)
    np.testing.assert_allclose(answer["boxes"][0], np.median(boxes, 0), rtol=1e-6)
    assert answer["scores"][0] == len(boxes) / 6
    assert answer["states"][0] == np.bincount(states).argmax()


def test_a_model_is_made_as_the_photos_and_the_options_want(tmp_path):
    dataset = load_parts(write_sample(tmp_path / "s", size=4, width=96))[0]["train"]
    options, _ = parse(
        "--absent", "detect", "--state_per_part", "true", "--image_size", 64, 96, "--state_weight", 1
    )
    config = make_model(options, TaskData(dataset)).config
    assert config.one_per_part
    assert shows_one_of_each(dataset)
    assert (config.absent, config.state_per_part, config.image_size) == ("detect", True, [64, 96])
    assert (config.num_labels, config.num_states, config.absent_index, config.state_weight) == (22, 4, 2, 1.0)
    for words, message in (
        (("--absent", "perhaps"), "absent must be one of"),
        (("--config_overrides", "{"), "config_overrides is not JSON"),
        (("--config_overrides", '{"rois": 3}'), "PartStateConfig has no field rois"),
        (("--image_size", 100, 100), "multiples of 32"),
        (("--backbone", "resnet5"), "neither torchvision nor timm"),
    ):
        options, _ = parse(*words)
        with pytest.raises(DataError, match=message):
            make_model(options, TaskData(dataset))


def test_the_full_run_is_the_originals(tmp_path):
    options, args = parse("--config", RECIPES / "configs" / "parts.yaml", "--output_dir", tmp_path)
    assert (options.backbone, options.state_weight, options.absent) == (
        "fasterrcnn_resnet50_fpn",
        0.5,
        "background",
    )
    assert (args.learning_rate, args.weight_decay, args.num_train_epochs, args.seed) == (1e-4, 1e-4, 20, 42)
    assert (args.per_device_train_batch_size, args.lr_scheduler_type) == (2, "reduce_lr_on_plateau")
    assert (args.lr_scheduler_kwargs, args.metric_for_best_model) == ({"factor": 0.5, "patience": 3}, "loss")
    assert args.greater_is_better is False
    assert PartTrainingArguments(output_dir=str(tmp_path)).greater_is_better is True


@pytest.mark.slow
def test_bad_input_is_a_message_and_no_traceback(tmp_path):
    sample = write_sample(tmp_path / "s", size=4, width=96)
    name = sorted(path.name for path in (sample / "train").iterdir())[0]
    (sample / "train" / name).unlink()
    command = [sys.executable, RECIPES / "train_parts.py", "--data", sample, "--output_dir", tmp_path / "out"]
    done = subprocess.run([*command, "--use_cpu"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    assert f"row {name}: the photo is not on disk" in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_photos_of_other_things_in_other_states_are_learned_alike(tmp_path):
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for i in range(10):
        picture = rng.integers(0, 90, (60, 80, 3), dtype=np.uint8)
        picture[10:30, 5:25], picture[30:50, 50:70] = (250, 30, 30), (30, 30, 250)
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 60})
        for category, box in ((1, [5, 10, 20, 20]), (1, [50, 30, 20, 20])):
            row = {"id": len(annotations), "image_id": i, "category_id": category, "bbox": box, "area": 400}
            annotations.append(row | {"state": ("open", "shut")[i % 2]})
    names = {
        "categories": [{"id": 1, "name": "door"}],
        "states": [{"id": 0, "name": "open"}, {"id": 1, "name": "shut"}],
    }
    (tmp_path / "train_coco.json").write_text(
        json.dumps({"images": images, "annotations": annotations} | names)
    )
    options, args = parse(
        "--data", tmp_path, "--output_dir", tmp_path / "out", "--backbone", "test_byobnet", "--pretrained", "false",
        "--image_size", 64, 96, "--num_train_epochs", 1, "--validation_share", 0.2, "--test_share", 0.2,
        "--overlays", 1, "--config_overrides", json.dumps(SMALL | {"image_size": [64, 96]}),
    )  # fmt: skip
    config = run_parts(options, args).model.config
    assert not config.one_per_part  # every photo has two doors
    assert (config.id2label, config.absent_index) == ({0: "door"}, None)
    assert sorted(config.id2state.values()) == ["open", "shut"]
