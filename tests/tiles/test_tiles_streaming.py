"""Tiles from streams: what the cache gives, without one, region by region, and a model that trains on them."""

import pytest
import torch
from datasets.distributed import split_dataset_by_node

from geohf import DataError, TileSequenceConfig, TileSequenceModel
from geohf.tiles import cutting
from geohf.tiles.arguments import TileTrainingArguments
from geohf.tiles.cutting import build_cache
from geohf.tiles.dataset import TileSequences
from geohf.tiles.phase import TilePhaseTrainer
from geohf.tiles.streaming import stream_tiles
from geohf.tiles.table import load_tiles
from geohf.tiles.windows import make_windows

SCALES = {
    "level_mean": [0.3],
    "level_std": [0.1],
    "change_mean": [0.1],
    "change_std": [0.05],
    "band_mean": [128.0] * 3,
    "band_std": [64.0] * 3,
}


def config_of(**fields):
    return TileSequenceConfig(**{"image_size": [12, 12], "frames": 2, "hidden_sizes": [4]} | SCALES | fields)


def cached(tiles, config):
    """The cache's rows in the order of the table, one by one."""
    image = config.head == "image"
    windows = make_windows(*tiles, config.task, config.frames, max_nodata=config.max_nodata, image=image)
    dataset = TileSequences(tiles[1], windows, config)
    return [dataset[i] for i in range(len(dataset))]


def same(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("strip", [None, 1])
@pytest.mark.parametrize("fields", [{}, {"task": "estimate"}, {"head": "image"}])
def test_a_stream_has_the_rows_of_the_cache(tiles, fields, strip, monkeypatch):
    if strip:  # no two rows of tiles fit into memory at once
        monkeypatch.setattr(cutting, "STRIP_BYTES", strip)
    config = config_of(**fields)
    same(list(stream_tiles(tiles[0], config)), cached(tiles, config))


def test_processes_share_the_regions(tiles):
    stream = stream_tiles(tiles[0], config_of())
    assert stream.num_shards == 2
    parts = [list(split_dataset_by_node(stream, rank, 2)) for rank in (0, 1)]
    same(parts[0] + parts[1], cached(tiles, config_of()))
    assert [len(part) for part in parts] == [4, 4]


def test_a_region_without_a_frame_to_see_is_passed_over(world, tmp_path):
    for label in world.labels[:2]:
        world.path(label, "7").unlink()
    table = load_tiles(world.csv, world.images, world.labels, max_missing=0.9)
    rows = list(stream_tiles(table, config_of()))
    same(rows, cached((table, build_cache(table, tmp_path / "c", 1)), config_of()))
    assert len(rows) == 4


def test_a_broken_image_is_named_when_it_is_reached(tiles, world):
    path = world.path("2020", "8")
    path.write_bytes(path.read_bytes()[:300])
    rows = iter(stream_tiles(tiles[0], config_of()))
    for _ in range(4):
        next(rows)
    with pytest.raises(DataError, match=rf"{path}: cannot be read"):
        next(rows)


def test_a_model_trains_on_a_stream_as_on_the_cache(tiles, tmp_path):
    config = config_of()
    windows = make_windows(*tiles, config.task, config.frames)
    whole = TileSequences(tiles[1], windows, config)
    weights = []
    for source in (stream_tiles(tiles[0], config), whole):
        torch.manual_seed(0)
        args = TileTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=5,
            per_device_train_batch_size=4,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            train_sampling_strategy="sequential",
            use_cpu=True,
            augment=False,
            disable_tqdm=True,
        )
        TilePhaseTrainer(model := TileSequenceModel(config), args, train_dataset=source).train()
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
