"""The whole place recipe, head and tower, in two processes: what one leaves."""

from __future__ import annotations

from helpers.two_processes import (
    assert_same_losses,
    assert_same_metrics,
    assert_same_weights,
    run_alone,
    run_in_two,
)

from geohf.place import PlaceIndex


def test_two_processes_leave_what_one_leaves(drives, recipe, monkeypatch, tmp_path):
    def words(name):
        return (
            *("--train_csv", *drives, "--models", "test_resnet", "--pretrained", "false", "--image_size", 64),
            *("--pooling", "avg", "--projection_dim", 16, "--methods", "ours", "--mining", "batch_hard"),
            *("--positive_m", 10, "--negative_m", 25, "--radii_m", 10, 25, "--block_m", 150),
            *("--validation_share", 0.15, "--test_share", 0.2, "--head_epochs", 3),
            # AdamW would blow up the rounding of gradients that are zero, those of the biases before a batch norm
            *("--optim", "sgd", "--learning_rate", 0.02, "--backbone_learning_rate", 0.002),
            *("--finetune", "last", "--finetune_blocks", 2, "--num_train_epochs", 1),
            *("--output_dir", tmp_path / name / "run", "--cache_dir", tmp_path / f"cache-{name}"),
        )

    run_alone(recipe, monkeypatch, "train_place", words("one"), batch_size=32)
    said = run_in_two(tmp_path, "train_place", words("two"), batch_size=32)
    one, two = (tmp_path / name / "run" for name in ("one", "two"))
    assert_same_weights(one, two)
    assert_same_losses(one, two, at_least=3 * 4)
    metrics = assert_same_metrics(one, two)
    assert metrics["eval"]["queries"] > 20
    indices = [PlaceIndex.load(folder / "index.parquet") for folder in (one, two)]
    assert indices[0].images == indices[1].images
    assert abs(indices[0].descriptors - indices[1].descriptors).max() < 1e-3
    assert said.count("Everything lies in") == 1
