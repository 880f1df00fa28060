"""The whole region recipe, experts and router, in two processes: what one leaves."""

from __future__ import annotations

import csv

from helpers.two_processes import (
    assert_near,
    assert_same_losses,
    assert_same_metrics,
    assert_same_weights,
    run_alone,
    run_in_two,
)

from geohf.region.sample import EXCLUDE, TRAIN_IMAGES, TRAIN_TABLE, VAL_IMAGES, VAL_TABLE


def test_two_processes_leave_what_one_leaves(samples, recipe, monkeypatch, tmp_path):
    sample = samples("wgs84")

    def words(name):
        return (
            *("--train_csv", sample / TRAIN_TABLE, "--train_dir", sample / TRAIN_IMAGES),
            *(
                "--val_csv",
                sample / VAL_TABLE,
                "--val_dir",
                sample / VAL_IMAGES,
                "--exclude",
                sample / EXCLUDE,
            ),
            # a tower without batch norms: their statistics are of a process's own half of a batch
            *("--backbone", "test_vit", "--pretrained", "false", "--image_size", 48, "--min_rows", 10),
            *("--num_train_epochs", 2, "--t_0", 2, "--augment", "none"),
            *("--output_dir", tmp_path / name / "run", "--cache_dir", tmp_path / f"cache-{name}"),
        )

    run_alone(recipe, monkeypatch, "train_region", words("one"), batch_size=12)
    said = run_in_two(tmp_path, "train_region", words("two"), batch_size=12)
    one, two = (tmp_path / name / "run" for name in ("one", "two"))
    assert_same_weights(one, two)
    assert_same_losses(one, two, at_least=4 * 2 * 3)  # three experts and the router
    metrics = assert_same_metrics(one, two)
    assert metrics["split"]["train"] % 12  # so a step was left over that two cannot share evenly
    tables = [list(csv.DictReader((folder / "predictions.csv").open())) for folder in (one, two)]
    assert_near(*([{k: _number(v) for k, v in row.items()} for row in table] for table in tables))
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert said.count("Everything lies in") == 1


def _number(text: str):
    try:
        return float(text)
    except ValueError:
        return text
