"""The Trainer is the training: five lines of Python leave what the recipe leaves, and a notebook's rows will do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import parts_models
from huggingface_hub import snapshot_download
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers import set_seed

from geohf.data.task_data import TaskData
from geohf.errors import DataError


def small_street(folder: Path) -> Path:
    from geohf.street.sample import write_sample

    return write_sample(folder, seed=0, size=2, image_size=48)


def street_row(image: Image.Image, i: int) -> dict:
    return {
        "image": image,
        "state": "Texas" if i % 2 else "Maine",
        "latitude": 45.0 - 14 * (i % 2),
        "longitude": -69.0 - 30 * (i % 2),
    }


def small_parts(folder: Path) -> Path:
    from geohf.parts.sample import write_sample

    return write_sample(folder, seed=0, size=24, width=96)


def part_row(image: Image.Image, i: int) -> dict:
    boxes = [[4.0, 5.0, 24.0, 22.0], [20.0, 12.0, 44.0, 36.0]]
    return {
        "image": image,
        "boxes": boxes,
        "parts": ["bell", "wheel"],
        "states": [("intact", "absent")[i % 2], "intact"],
    }


def small_tiles(folder: Path) -> Path:
    from geohf.tiles.sample import write_sample

    return write_sample(folder, seed=0, size=6)


def tiles_row(image: Image.Image, i: int) -> dict:
    return {"frames": [image, None, image], "last_values": 0.1 * i, "labels": 0.1 * i + i % 2}


def small_region(folder: Path) -> Path:
    from geohf.region.sample import write_sample

    return write_sample(folder, seed=1, size=24)


def region_row(image: Image.Image, i: int) -> dict:
    return {
        "image": image,
        "Region_ID": "5" if i % 2 else "3",
        "latitude": 36.35 + 0.02 * (i % 2) + 1e-4 * (i % 7),
        "longitude": 127.35 + 1e-4 * (i % 5),
    }


@dataclass(frozen=True)
class Task:
    """A task by the names that its room gives things.

    Attributes:
        recipe: its module in `geohf.recipes`.
        trainer: its Trainer's name in `geohf`.
        sample: writes a small sample into a folder.
        words: the flags of a small run; `{sample}` stands for the sample's folder.
        row: a row of a user's own, of a picture and its number.
        own_words: the flags of a model for such rows.
        extras: further keyword arguments of the Trainer, of the data.
    """

    recipe: str
    trainer: str
    sample: Callable[[Path], Any]
    words: tuple[str, ...]
    row: Callable[[Image.Image, int], dict]
    own_words: tuple[str, ...]
    extras: Callable[[Any], dict] = lambda data: {}
    asked: str = "[sys.argv[2]]"


def small_place(folder: Path) -> Path:
    from geohf.place.sample import write_sample

    return write_sample(folder, seed=0, size=160)


def place_row(image: Image.Image, i: int) -> dict:
    return {"image": image, "latitude": 45.0 + 0.0045 * (i % 2), "longitude": -69.0 + 1e-6 * i}


TINY_PARTS = (
    *("--backbone", "test_resnet", "--pretrained", "false"),
    *("--config_overrides", json.dumps(parts_models.TINY)),
)
SMALL = ("--use_cpu", "--disable_tqdm", "true", "--report_to", "none")
TASKS = {
    "street": Task(
        "train_street",
        "GeoStreetTrainer",
        small_street,
        (
            *("--data", "{sample}", "--backbone", "test_byobnet", "--pretrained", "false", "--image_size", "32"),
            *("--head_min_steps", "60", "--num_train_epochs", "1", "--backbone_learning_rate", "0.002"),
        ),
        street_row,
        ("--backbone", "test_resnet", "--pretrained", "false", "--image_size", "32"),
    ),
    "parts": Task(
        "train_parts",
        "PartStateTrainer",
        small_parts,
        (
            *("--data", "{sample}", *TINY_PARTS, "--num_train_epochs", "1", "--validation_share", "0.2"),
            *("--test_share", "0.4", "--dataloader_num_workers", "0", "--trust_weighted", "true", "--trained_stages", "1"),
        ),
        part_row,
        TINY_PARTS,
    ),
    "tiles": Task(
        "train_tiles",
        "TileSequenceTrainer",
        small_tiles,
        ("--data", "{sample}", "--hidden_sizes", "8", "--target_years", "1", "--num_train_epochs", "1"),
        tiles_row,
        ("--hidden_sizes", "8", "--image_size", "16", "16"),
        asked="[{'frames': [sys.argv[2]] * 3, 'last_values': 0.5}]",
    ),
    "place": Task(
        "train_place",
        "GeoPlaceTrainer",
        small_place,
        (
            *("--train_csv", "{sample}/noon/poses.csv", "{sample}/dusk/poses.csv", "--methods", "ours"),
            *("--models", "test_resnet", "--pretrained", "false", "--image_size", "64", "--block_m", "150"),
            *("--negative_m", "50", "--head_epochs", "2", "--finetune", "all", "--num_train_epochs", "1"),
        ),
        place_row,
        ("--models", "test_resnet", "--pretrained", "false", "--image_size", "32"),
        lambda data: {"database": data.database},
    ),
    "region": Task(
        "train_region",
        "GeoRegionTrainer",
        small_region,
        (
            *("--train_csv", "{sample}/labels_train.csv", "--train_dir", "{sample}/images_train/images_train"),
            *("--val_csv", "{sample}/labels_val.csv", "--val_dir", "{sample}/images_val/images_val"),
            *("--exclude", "{sample}/exclude.txt", "--min_rows", "8", "--num_train_epochs", "2", "--t_0", "2"),
            *("--backbone", "test_resnet", "--pretrained", "false", "--image_size", "32"),
        ),
        region_row,
        ("--backbone", "test_resnet", "--pretrained", "false", "--image_size", "32", "--experts", "shared"),
    ),
}  # fmt: skip


def parsed(task: Task, words, folder: Path):
    recipe = import_module(f"geohf.recipes.{task.recipe}")
    words = [*words, "--output_dir", str(folder), "--cache_dir", str(folder.parent / "cache"), *SMALL]
    return recipe, *recipe.make_parser().parse(words)


def card_of(repo: str) -> str:
    """A pushed card without what belongs to the run and not to the model: its name, its command."""
    text = (Path(snapshot_download(repo)) / "README.md").read_text()
    return re.sub(
        r"```bash.*?```", "", text.replace(repo, "REPO").replace(repo.partition("/")[2], "REPO"), flags=re.S
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_five_lines_leave_what_the_recipe_leaves(name, tmp_path, hub):
    task = TASKS[name]
    sample = task.sample(tmp_path / "sample")
    words = [word.replace("{sample}", str(sample)) for word in task.words]
    push = ("--push_to_hub", "true", "--hub_model_id")
    recipe, options, args = parsed(task, [*words, *push, "org/recipe"], tmp_path / "recipe")
    recipe.run(options, args)

    _, options, args = parsed(task, [*words, *push, "org/lines"], tmp_path / "lines")
    data = recipe.load(options, args)
    set_seed(args.seed)
    model = recipe.make_model(options, data)
    rows = {"train_dataset": data.train, "eval_dataset": data.validation}
    trainer = getattr(recipe, task.trainer)(model, args, **rows, **task.extras(data))
    trainer.train()
    trainer.evaluate(data.held_out)
    trainer.push_to_hub()

    repos = [Path(snapshot_download(repo)) for repo in ("org/recipe", "org/lines")]
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        a, b = ((repo / file).read_bytes() for repo in repos)
        assert a == b, file
    numbers = [json.loads((repo / "metrics.json").read_text()) for repo in repos]
    assert numbers[0] == numbers[1]
    assert card_of("org/recipe") == card_of("org/lines")


class OwnRows(Dataset):
    """A user's own torch Dataset, whose rows are made when they are asked for."""

    def __init__(self, rows: list[dict]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        return dict(self.rows[i])


class TorchStream(IterableDataset):
    def __iter__(self):
        return iter([])


def pictures(count: int) -> list[Image.Image]:
    """Pictures of two kinds, in turn."""
    rng = np.random.default_rng(0)
    shades = [(60, 90, 200) if i % 2 else (200, 160, 60) for i in range(count)]
    return [
        Image.fromarray(np.clip(np.array(shade) + rng.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8))
        for shade in shades
    ]


FRESH = """
import sys, geohf
from PIL import Image
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
print(type(model).__name__, len(model.predict(ASKED)))
"""


FITTED = {
    "street": {"temperature": (3.0, 1.0), "radius_factor": (2.0, None), "density_scale": (2.0, None)},
    "parts": {"state_temperature": (3.0, 1.0), "presence_thresholds": ([0.9, 0.9], None)},
    "tiles": {"interval_margin": ([0.25], None)},
    "region": {"temperature": (3.0, 1.0), "expert_errors": ([9.0, 9.0], None), "given_factor": (2.0, None)},
}


@pytest.mark.parametrize("name", FITTED)  # place: see test_place_abstaining
def test_what_an_earlier_training_fitted_is_forgotten_where_nothing_is_fitted(name, tmp_path, monkeypatch):
    task = TASKS[name]
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    rows = [task.row(image, i) for i, image in enumerate(pictures(16))]
    words = (
        *task.own_words,
        "--max_steps",
        "1",
        "--eval_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
    )
    recipe, options, args = parsed(task, words, tmp_path / "out")
    set_seed(0)
    model = recipe.make_model(options, TaskData(rows))
    for field, (fitted, _) in FITTED[name].items():
        setattr(model.config, field, fitted)
    getattr(recipe, task.trainer)(model, args, train_dataset=rows).train()
    assert {field: getattr(model.config, field) for field in FITTED[name]} == {
        field: start for field, (_, start) in FITTED[name].items()
    }


@pytest.mark.parametrize("name", TASKS)
def test_what_has_no_rows_by_number_is_refused_alike(name, tmp_path, monkeypatch):
    task = TASKS[name]
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    rows = [task.row(image, i) for i, image in enumerate(pictures(4))]
    recipe, options, args = parsed(task, task.own_words, tmp_path / "out")
    model = recipe.make_model(options, TaskData(rows))
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    for given in (columns, pd.DataFrame(columns), (row for row in rows), str(tmp_path)):
        with pytest.raises(DataError, match=f"train_dataset must be .* got {type(given).__name__}"):
            getattr(recipe, task.trainer)(model, args, train_dataset=given)
    with pytest.raises(DataError, match=r"as `datasets.IterableDataset.from_generator\(rows.__iter__\)`"):
        getattr(recipe, task.trainer)(model, args, train_dataset=TorchStream())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["list", "torch"])
@pytest.mark.parametrize("name", TASKS)
def test_a_notebooks_rows_train_evaluate_and_push_without_arguments(
    name, kind, tmp_path, hub, monkeypatch, run_python
):
    task = TASKS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    rows = [task.row(image, i) for i, image in enumerate(pictures(48))]
    train, validation = (rows[:32], rows[32:]) if kind == "list" else (OwnRows(rows[:32]), OwnRows(rows[32:]))
    recipe, options, _ = parsed(task, task.own_words, tmp_path / "unused")
    set_seed(0)
    model = recipe.make_model(options, TaskData(train))
    trainer = getattr(recipe, task.trainer)(model, train_dataset=train, eval_dataset=validation)
    trainer.train()
    found = trainer.evaluate(validation)
    assert found.values_by_name
    assert set(found.baseline) & set(found.values_by_name)
    trainer.push_to_hub()
    pictures(1)[0].save(tmp_path / "photo.png")
    repo = trainer.hub_model_id
    said = run_python(FRESH.replace("ASKED", task.asked), repo, tmp_path / "photo.png").split()
    assert said[-2:] == [type(model).__name__, "1"]
