"""One meaning of `--num_train_epochs` and `--head_epochs` in the tasks whose heads learn first, and their old names."""

import logging

import pytest

from geohf.errors import DataError
from geohf.place.arguments import PlaceTrainingArguments
from geohf.region.arguments import RegionTrainingArguments
from geohf.street.arguments import StreetTrainingArguments
from geohf.training.parser import GeoArgumentParser

TASKS = [(StreetTrainingArguments, 5, 10), (PlaceTrainingArguments, 30, 5), (RegionTrainingArguments, 20, 20)]


def parse(kind, folder, *words):
    return GeoArgumentParser(kind).parse(["--output_dir", str(folder), "--use_cpu", *map(str, words)])[0]


@pytest.mark.parametrize(("kind", "heads", "backbone"), TASKS)
def test_epochs_mean_the_same_in_every_task(kind, heads, backbone, tmp_path):
    def epochs(*words):
        args = parse(kind, tmp_path, *words)
        return args.epochs_of_heads, args.num_train_epochs if args.finetunes else None

    assert epochs("--finetune", "all") == (heads, backbone)
    assert epochs("--finetune", "none") == (heads, None)
    assert epochs("--finetune", "last", "--head_epochs", 2, "--num_train_epochs", 3) == (2, 3)
    # a frozen backbone: the heads are all that learns
    assert epochs("--finetune", "none", "--num_train_epochs", 3) == (3, None)
    assert epochs("--finetune", "none", "--head_epochs", 2) == (2, None)
    assert epochs("--finetune", "all", "--num_train_epochs", 0) == (heads, None)


def test_old_names_go_on_with_a_word(tmp_path, caplog):
    yaml = tmp_path / "run.yaml"
    yaml.write_text("phase1_batch_size: 8\nfinetune: all\n")
    with caplog.at_level(logging.WARNING):
        args = parse(
            StreetTrainingArguments, tmp_path, "--config", yaml, "--phase1_epochs=2", "--phase1_min_steps", 7
        )
    assert (args.head_epochs, args.head_min_steps, args.head_batch_size) == (2, 7, 8)
    said = [record.getMessage() for record in caplog.records]
    assert any("phase1_batch_size is now called head_batch_size" in words for words in said)
    assert any("phase1_epochs is now called head_epochs" in words for words in said)
    args = parse(PlaceTrainingArguments, tmp_path, "--finetune", "last", "--finetune_epochs", 2)
    assert (args.head_epochs, args.num_train_epochs) == (30, 2)


def test_an_old_name_beside_the_new_one_is_refused(tmp_path):
    words = ("--finetune", "last", "--num_train_epochs", 9, "--finetune_epochs", 2)
    with pytest.raises(DataError, match="finetune_epochs is now called num_train_epochs, and both are given"):
        parse(PlaceTrainingArguments, tmp_path, *words)


def test_old_names_go_on_with_hyphens_too(tmp_path):
    """transformers takes every flag either way."""
    args = parse(StreetTrainingArguments, tmp_path, "--phase1-epochs", 2, "--phase1-min-steps=7")
    assert (args.head_epochs, args.head_min_steps) == (2, 7)
    with pytest.raises(DataError, match="phase1_epochs is now called head_epochs, and both are given"):
        parse(StreetTrainingArguments, tmp_path, "--phase1_epochs", 2, "--head-epochs", 3)
