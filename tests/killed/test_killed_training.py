"""Every task's recipe, killed in each of its phases and while it writes, resumes to the uninterrupted run's bytes."""

from __future__ import annotations

import csv
import json
import random

import pytest
from helpers.parts_models import TINY

ALWAYS = ("--backbone", "test_resnet", "--pretrained", "false")
# recipe, its flags, its phases in their order; {} is the folder of the samples
TASKS = {
    "street": (
        "train_streetclip",
        (
            *("--data", "{}/street", *ALWAYS, "--image_size", 32, "--map_places", 10, "--augment", "true"),
            *("--head_min_steps", 40, "--head_epochs", 4, "--num_train_epochs", 3),
            *("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2),
        ),
        ("phase1", "phase2"),
    ),
    "region": (
        "train_region",
        (
            *("--train_csv", "{}/region/labels_train.csv", "--val_csv", "{}/region/labels_val.csv"),
            *("--train_dir", "{}/region/images_train/images_train"),
            *("--val_dir", "{}/region/images_val/images_val", "--exclude", "{}/region/exclude.txt"),
            *(*ALWAYS, "--image_size", 48, "--min_rows", 5, "--dbscan_eps", 0),
            *("--num_train_epochs", 4, "--t_0", 2, "--per_device_train_batch_size", 8),
        ),
        ("region-1", "region-3", "region-5", "router"),
    ),
    "place": (
        "train_place",
        (
            *("--train_csv", "{}/place/noon/poses.csv", "{}/place/dusk/poses.csv", "--pretrained", "false"),
            *("--models", "test_resnet", "--image_size", 32, "--pooling", "avg", "--projection_dim", 16),
            *("--block_m", 150, "--positive_m", 10, "--negative_m", 25, "--radii_m", 10, 25),
            *("--methods", "ours", "--head_epochs", 3, "--finetune", "last", "--num_train_epochs", 2),
        ),
        ("head", "finetune"),
    ),
    "parts": (
        "train_parts",
        (
            *("--data", "{}/parts", *ALWAYS, "--config_overrides", json.dumps(TINY), "--overlays", 1),
            *(
                "--num_train_epochs",
                3,
                "--validation_share",
                0.2,
                "--test_share",
                0.2,
                "--dataloader_num_workers",
                0,
            ),
            *("--ema_decay", 0.9, "--paste_rare", 0.5, "--mosaic", 0.5, "--multi_scale", 0.5),
        ),
        ("train",),
    ),
    "tiles": (
        "train_tiles",
        (
            *("--data", "{}/tiles/tiles.csv", "--hidden_sizes", 4, "--target_years", 1, "--split", "blocks"),
            *("--num_train_epochs", 4, "--cache_workers", 1, "--dropout", 0.2),
        ),
        ("train",),
    ),
    "streamed": (
        "train_tiles",
        (
            *("--data", "{}/tiles/tiles.csv", "--hidden_sizes", 4, "--target_years", 1, "--split", "blocks"),
            *("--streaming", "true", "--buffer_size", 20, "--max_steps", 12, "--dropout", 0.2),
            *("--eval_strategy", "steps", "--save_strategy", "steps"),
            *("--eval_steps", 3, "--save_steps", 3, "--logging_strategy", "steps", "--logging_steps", 3),
        ),
        ("train",),
    ),
}
# transformers counts these from the last start
SESSION = ("runtime", "per_second", "preparation_time", "train_loss", "total_flos")


@pytest.fixture(scope="module", params=TASKS)
def task(request, attempt, samples, tmp_path_factory):
    """(phases, a function that runs the recipe into a folder, the uninterrupted run's folder and touches)."""
    name, flags, phases = TASKS[request.param]
    root = tmp_path_factory.mktemp(request.param)

    def run(folder, moment=None, resume=False):
        words = [str(flag).replace("{}", str(samples)) if "{}/" in str(flag) else flag for flag in flags]
        words += [
            "--output_dir",
            folder,
            "--cache_dir",
            root / "cache",
            "--use_cpu",
            "--disable_tqdm",
            "true",
        ]
        words += ["--resume_from_checkpoint", "true"] if resume else []
        return attempt("recipe", name, *words, folder=folder, moment=moment)

    whole = root / "whole" / "run"
    return phases, run, whole, run(whole).touches


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_in_every_phase_ends_with_the_same_bytes(task, tmp_path, seed):
    phases, run, whole, touches = task
    assert {name for name in touches if not name.startswith("before-")} == {*phases, ""}
    draw = random.Random(seed)
    folder = tmp_path / "run"  # the card names the folder
    for number, phase in enumerate((*phases, "")):
        # at a touch of the disk, or up to so many ms behind it, wherever training or writing is by then
        # (of what is touched at the end a little less: a resumed run finds its folders made)
        last = touches[phase] if phase else touches[phase] * 3 // 4
        moment = (phase, draw.randint(1, last), 0 if seed == 0 else draw.randint(1, 30))
        killed = run(folder, moment, resume=number > 0).killed
        assert killed or moment[2], f"the run never came to {moment}"
    run(folder, resume=True)
    same_files(whole, folder, phases)
    same_history(whole, folder)


def same_files(whole, folder, phases):
    names = {
        path.relative_to(whole)
        for path in whole.glob("*")
        if path.suffix in (".safetensors", ".json", ".csv")
    }
    names |= {path.relative_to(whole) for path in whole.glob("checkpoints/*/finished.safetensors")}
    assert len(names) >= len(phases) + 5
    for name in names - {path for path in names if path.name == "log_history.csv"}:
        assert (whole / name).read_bytes() == (folder / name).read_bytes(), name
    # what was half-written bears a hidden name, which nothing ever reads or pushes
    left = [{path.name for path in run.glob("[!.]*") if path.is_file()} for run in (whole, folder)]
    assert left[0] == left[1]


def same_history(whole, folder):
    logs = [list(csv.DictReader((path / "log_history.csv").open())) for path in (whole, folder)]
    for a, b in zip(*logs, strict=True):
        timeless = [{k: v for k, v in row.items() if not k.endswith(SESSION)} for row in (a, b)]
        assert timeless[0] == timeless[1]
