"""Places from streams: the rows of the loader whatever the columns, and a model that trains on them."""

import numpy as np
import pytest
import torch
from helpers.street_models import parse, patches

from geohf.data.samples import without_decoding
from geohf.data.streaming import write_shards
from geohf.errors import DataError
from geohf.street import GeoStreetModel
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.classes import describe_classes
from geohf.street.competition import TRAIN_TABLE
from geohf.street.data import load, load_places
from geohf.street.phase import StreetPhaseTrainer
from geohf.street.places import place_features
from geohf.street.sample import write_sample
from geohf.street.streaming import stream_places
from geohf.training.settings import phase_arguments


def same(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_equal(a, b)  # NaN headings are alike


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("street") / "sample", seed=0, size=1)


def test_the_competitions_table(sample):
    places, _ = load_places(sample)
    found = list(stream_places(sample / TRAIN_TABLE, sample / "train_images"))
    same(found, without_decoding(places["train"]).to_list())


def test_a_streamed_competition_says_that_it_writes_no_submission(sample, tmp_path, caplog):
    args = StreetTrainingArguments(output_dir=tmp_path, max_steps=1, use_cpu=True, report_to="none")
    assert load(StreetArguments(data=str(sample), streaming=True, split="random"), args).template is None
    assert (
        "no submission.csv is written with --streaming, which reads no sample_submission.csv" in caplog.text
    )


def test_a_table_of_photographs(tmp_path):
    for i, picture in enumerate(patches(0, 3)):
        picture.save(tmp_path / f"{i}.png")
    lines = ["file,lat,lng,state,heading", "0.png,36,-119,California,90", "1.png,31,-99,Texas,"]
    (tmp_path / "t.csv").write_text("\n".join([*lines, "2.png,45.5,290.5,Maine,10.5"]))
    places, _ = load_places(tmp_path / "t.csv")
    found = list(stream_places(tmp_path / "t.csv"))
    same(found, without_decoding(places["train"]).to_list())
    assert found[2]["longitude"] == -69.5


@pytest.fixture(scope="module")
def dataset(sample):
    return load_places(sample)[0]["train"]


def test_parquet_that_holds_the_images(dataset, tmp_path):
    write_shards(dataset, tmp_path, num_shards=3)
    found = list(stream_places(tmp_path))
    assert [row["sample_id"] for row in found] == dataset["sample_id"]
    assert [len(row["views"]) for row in found] == [len(row) for row in dataset["headings"]]
    assert all(view["bytes"] for row in found for view in row["views"])
    keys = [name for name in place_features() if name != "views"]
    same([[row[key] for key in keys] for row in found], [[row[key] for key in keys] for row in dataset])


def test_a_dataset_of_the_hub_with_classes(hub, dataset):
    """States as class labels; the loader and the stream give their names."""
    dataset.class_encode_column("state").push_to_hub("org/places", num_shards=2)
    found = list(stream_places("org/places"))
    assert [row["state"] for row in found] == dataset["state"]
    places, _ = load_places("org/places")
    assert [row["sample_id"] for row in found] == places["train"]["sample_id"]


def test_views_by_direction_some_of_them_missing(tmp_path):
    for i, picture in enumerate(patches(0, 3)):
        picture.save(tmp_path / f"{i}.png")
    (tmp_path / "t.csv").write_text("north,west,latitude,longitude\n0.png,1.png,1,2\n,2.png,3,4\n,,5,6\n")
    with pytest.raises(DataError, match=r"t\.csv, row 4: .*(no view|needs)"):
        list(stream_places(tmp_path / "t.csv"))
    found = list(stream_places(tmp_path / "t.csv", on_error="skip"))
    assert [row["headings"] for row in found] == [[0.0, 270.0], [270.0]]
    assert [row["sample_id"] for row in found] == ["0.png", "2.png"]


def test_a_point_outside_its_state_is_named(tmp_path):
    patches(0, 1)[0].save(tmp_path / "0.png")
    (tmp_path / "t.csv").write_text("image,lat,lon,state\n0.png,48.1,11.6,Texas\n")
    with pytest.raises(DataError, match=r"row 2: \(48.1, 11.6\) is not in the United States"):
        list(stream_places(tmp_path / "t.csv"))


def model_of(dataset):
    """A tiny model that knows the dataset's states."""
    torch.manual_seed(0)
    fields = describe_classes(dataset) | {"hidden_size": 24, "dropout": 0.0}
    return GeoStreetModel.from_backbone("test_resnet", pretrained=False, image_size=32, **fields)


def test_a_model_trains_on_a_stream_as_on_the_dataset(dataset, tmp_path):
    write_shards(dataset, tmp_path / "shards", num_shards=2)
    _, args = parse("--output_dir", tmp_path / "run", "--augment", "false", "--max_steps", 4)
    args = phase_arguments(
        args, "x", per_device_train_batch_size=6, eval_strategy="no", save_strategy="no", seed=1
    )
    weights = []
    for source in (stream_places(tmp_path / "shards"), dataset):
        model = model_of(dataset)
        args.train_sampling_strategy = "sequential"
        StreetPhaseTrainer(model, args, train_dataset=source).train()
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    assert not torch.equal(
        weights[0]["head.classify.0.weight"], model_of(dataset).state_dict()["head.classify.0.weight"]
    )


def test_a_view_that_cannot_be_used_does_not_cost_the_others(tmp_path):
    """As the loader does it: the row stays, and what is wrong with its other view is noted."""
    for i, picture in enumerate(patches(0, 2)):
        picture.save(tmp_path / f"{i}.png")
    table = tmp_path / "t.csv"
    table.write_text("north,west,latitude,longitude\n0.png,1.png,1,2\n1.png,../x.png,3,4\n")
    with pytest.raises(DataError, match=r"t\.csv, row 3: .*x\.png"):
        list(stream_places(table))
    found = list(stream_places(table, on_error="skip"))
    assert [row["headings"] for row in found] == [[0.0, 270.0], [0.0]]
    # a file that stands in two rows is none too many: a chunk does not see the others
    assert [row["sample_id"] for row in found] == ["0.png", "1.png"]
