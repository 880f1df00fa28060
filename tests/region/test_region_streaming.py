"""Regions from streams: the rows of the loader, with images in the table too, and a model that learns from them."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from helpers.region_models import arguments_of, build_model

from geohf.errors import DataError
from geohf.region.phase import RegionPhaseTrainer
from geohf.region.rows import load_region_table
from geohf.region.sample import TRAIN_IMAGES, TRAIN_TABLE
from geohf.region.streaming import stream_regions


@pytest.fixture(scope="module")
def table(samples):
    sample = samples("wgs84")
    return sample / TRAIN_TABLE, sample / TRAIN_IMAGES


def loaded(table, images):
    return load_region_table(table, images).to_list()


def embedded(folder, rows):
    """The rows as Parquet of the Hub holds them: the images inside, two shards of several row groups."""
    folder.mkdir()
    for number in (0, 1):
        columns = [
            {
                "image": {"path": row["filename"], "bytes": Path(row["image"]["path"]).read_bytes()},
                "lat": row["latitude"],
                "lon": row["longitude"],
                "region": row["region"],
            }
            for row in rows[number::2]
        ]
        file = folder / f"{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), file, row_group_size=16)
    return folder


def test_a_stream_has_the_rows_of_the_loader(table):
    rows = loaded(*table)
    assert list(stream_regions(*table)) == rows
    excluded = {rows[0]["filename"], rows[7]["filename"]}
    left = list(stream_regions(*table, exclude=excluded))
    assert left == [row for row in rows if row["filename"] not in excluded]


def test_images_may_lie_in_the_table(table, tmp_path):
    rows = loaded(*table)
    found = list(stream_regions(embedded(tmp_path / "shards", rows)))
    key = ("filename", "region", "latitude", "longitude")
    expected = [[row[name] for name in key] for row in rows[::2] + rows[1::2]]
    assert [[row[name] for name in key] for row in found] == expected
    assert all(row["image"]["bytes"] for row in found)


def test_a_broken_image_in_the_table_is_named(table, tmp_path):
    rows = loaded(*table)
    shards = embedded(tmp_path / "shards", rows[:8])
    broken = pyarrow.parquet.read_table(shards / "1.parquet").to_pylist()
    broken[2]["image"]["bytes"] = broken[2]["image"]["bytes"][:100]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(broken), shards / "1.parquet")
    name = broken[2]["image"]["path"]
    with pytest.raises(DataError, match=rf"1\.parquet, row 4: {name}: is broken or truncated"):
        list(stream_regions(shards))
    assert len(list(stream_regions(shards, on_error="skip"))) == 7


def test_a_path_in_parquet_cannot_leave_its_folder(tmp_path):
    row = {"image": {"path": "/etc/passwd", "bytes": None}, "lat": 1.0, "lon": 1.0, "region": "1"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="leads out of the folder"):
        list(stream_regions(tmp_path / "t.parquet"))


def test_a_router_learns_from_a_stream(table, tmp_path):
    """Better than always the most frequent region, on the places that it trains on."""
    rows = loaded(*table)
    shards = embedded(tmp_path / "shards", [row for row in rows if row["region"] in ("1", "3", "5")])
    stream = stream_regions(shards).shuffle(seed=0, buffer_size=64)
    model, held = build_model(), load_region_table(*table)
    held = held.filter(lambda region: region in ("1", "3", "5"), input_columns="region")
    settings = {"max_steps": 40, "learning_rate": 3e-3, "backbone_learning_rate": 3e-3, "augment": "none"}
    args = arguments_of(tmp_path / "run", **settings, per_device_train_batch_size=16)
    trainer = RegionPhaseTrainer(
        model.router_module(), args, train_dataset=stream, eval_dataset=held, whole=model
    )
    counts = [held["region"].count(name) for name in ("1", "3", "5")]
    trainer.train()
    assert trainer.state.log_history[-2]["eval_accuracy"] > max(counts) / len(held) + 0.2
