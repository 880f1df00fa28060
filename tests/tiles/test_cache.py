"""The tile cache: same pixels, resumable, shared by processes, refused where it does not fit."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers.cache_jobs import PROCESSES, build, build_on_a_full_disk, hold
from torch.utils.data import DataLoader

from geohf import DataError
from geohf.data.tensor_dataset import identity_collate
from geohf.tiles.cache import TileCache, cache_key
from geohf.tiles.cutting import _lay_out, build_cache
from geohf.tiles.table import load_tiles


def load(world, **changes):
    return load_tiles(world.csv, world.images, world.labels, **changes)


def assert_holds(cache, world):
    frames = cache.read(range(8))
    for row in range(8):
        for t, label in enumerate(world.labels):
            crop = world.crop(row, label)
            assert np.array_equal(frames[row, t, : crop.shape[0], : crop.shape[1]], crop)
            assert not frames[row, t, :, crop.shape[1] :].any()


@pytest.mark.parametrize("workers", [1, 2])
def test_it_holds_the_native_pixels(world, tmp_path, workers):
    cache = build_cache(load(world), tmp_path, workers)
    assert cache.array.shape == (8, 3, 10, 12, 3)
    assert cache.array.dtype == np.uint8
    assert_holds(cache, world)
    assert not cache.holes.any()


@pytest.mark.case("files-D12")
@pytest.mark.parametrize(
    ("dtype", "bands", "profile"),
    [
        ("uint8", 1, {}),
        ("uint16", 4, {"compress": "lzw"}),
        ("int16", 2, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}),
        ("float32", 6, {"interleave": "band"}),
        ("uint8", 3, {"interleave": "pixel", "tiled": True, "blockxsize": 16, "blockysize": 16}),
        ("int16", 3, {"compress": "zstd", "predictor": 2, "BIGTIFF": "YES"}),
        ("uint16", 2, {"ENDIANNESS": "BIG"}),
        ("uint8", 3, {"driver": "COG"}),
        ("uint8", 3, {"driver": "PNG"}),
        ("float32", 2, {"driver": "HFA"}),
    ],
)
def test_every_kind_of_tiff(world, tiff, tmp_path, dtype, bands, profile):
    rng = np.random.default_rng(1)
    for key in world.pixels:
        world.pixels[key] = (rng.random((20, 24, bands)) * 200 - (dtype == "int16") * 100).astype(dtype)
        tiff(world.path(*key), world.pixels[key], **profile)
    cache = build_cache(load(world), tmp_path, 1)
    assert cache.array.dtype == dtype
    assert_holds(cache, world)


def test_strips_give_what_the_whole_image_gives(world, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "geohf.tiles.cutting.STRIP_BYTES", 12 * 24 * 3
    )  # lower than the image, higher than a tile
    assert_holds(build_cache(load(world), tmp_path, 1), world)


def test_missing_years_and_nodata_are_known(world, tiff, tmp_path):
    world.path("2019", "8").unlink()
    pixels = world.pixels["2020", "7"].copy()
    pixels[:5, :12] = 0  # the upper half of the first tile
    tiff(world.path("2020", "7"), pixels, nodata=0, **world.geo)
    cache = build_cache(load(world, nodata=0), tmp_path, 1)
    assert cache.holes[0].tolist() == [0, 0.5, 0]
    assert cache.holes[4:, 0].tolist() == [1] * 4
    assert cache.holes[1:4].max() == 0


def test_the_key_changes_with_table_and_files(world):
    first = cache_key(load(world))
    assert cache_key(load(world)) == first
    os.utime(world.path("2020", "7"), ns=(1, 1))
    second = cache_key(load(world))
    world.frame.loc[:, "region_coordinates"] = world.frame["region_coordinates"].str.replace("23", "22")
    world.save()
    assert len({first, second, cache_key(load(world))}) == 3


def test_a_cache_of_another_table_is_refused(world, tmp_path):
    cache = build_cache(load(world), tmp_path, 1)
    world.frame = world.frame[world.frame.tile_id != 103]
    world.save()
    with pytest.raises(DataError, match="was built from another table or other images"):
        TileCache(cache.folder, load(world))
    with pytest.raises(DataError, match="holds no tile cache"):
        TileCache(tmp_path / "nothing")


def test_a_killed_build_goes_on_where_it_was(world, tmp_path):
    table = load(world)
    folder = tmp_path / cache_key(table)
    _lay_out(folder, table)
    with FileLock(folder / "locks" / "1"):  # the builder comes to wait for the second region
        builder = PROCESSES.Process(target=build, args=(table, tmp_path))
        builder.start()
        while not (folder / "done" / "0").exists():
            assert builder.is_alive()
            time.sleep(0.01)
        os.kill(builder.pid, signal.SIGKILL)
        builder.join(30)
    with pytest.raises(DataError, match="1 regions are not cut yet"):
        TileCache(folder, table)
    np.load(folder / "tiles.npy", mmap_mode="r+")[0] = 7
    cache = build_cache(table, tmp_path, 1)
    assert (cache.read([0]) == 7).all()  # the first region was not cut again
    assert np.array_equal(cache.read([4])[0, 0, :10, :12], world.crop(4, "2019"))


def test_two_processes_build_one_cache(world, tmp_path):
    table = load(world)
    both = [PROCESSES.Process(target=build, args=(table, tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert_holds(TileCache(tmp_path / cache_key(table), table), world)


def test_a_lock_of_a_killed_process_is_free(world, tmp_path):
    table = load(world)
    folder = tmp_path / cache_key(table)
    _lay_out(folder, table)
    ready = PROCESSES.Event()
    holder = PROCESSES.Process(target=hold, args=(folder / "locks" / "1", ready))
    holder.start()
    assert ready.wait(30)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(30)
    assert_holds(build_cache(table, tmp_path, 1), world)


def test_a_full_disk_is_said_before_anything_is_cut(world, tmp_path):
    table = load(world)
    queue = PROCESSES.Queue()
    process = PROCESSES.Process(target=build_on_a_full_disk, args=(table, tmp_path, queue))
    process.start()
    said = queue.get(timeout=60)
    process.join(30)
    assert "GiB of tiles cannot be stored there" in said
    assert "--cache_dir" in said
    assert_holds(build_cache(table, tmp_path, 1), world)  # and what it left does no harm


def test_a_damaged_cache_is_said(world, tmp_path):
    folder = build_cache(load(world), tmp_path, 1).folder
    os.truncate(folder / "tiles.npy", 500)
    with pytest.raises(DataError, match=r"is damaged .*; delete it"):
        build_cache(load(world), tmp_path, 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_a_readers_memory_stays_small(world, tmp_path):
    cache = build_cache(load(world), tmp_path, 1)
    array = np.lib.format.open_memmap(
        cache.folder / "tiles.npy", mode="w+", dtype=np.uint8, shape=(4000, 3, 100, 100, 1)
    )
    array[:] = 1  # 120 MB
    cache = TileCache(cache.folder)

    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    del array
    before, most = resident_bytes(), 0
    for rows in np.random.default_rng(0).permutation(4000).reshape(-1, 100):
        assert cache.read(rows).all()
        most = max(most, resident_bytes() - before)
    assert most < 30e6  # a batch has 3 MB


def test_loaders_shuffle_it_by_slices(world, tmp_path):
    cache = build_cache(load(world), tmp_path, 1)
    loader = DataLoader(
        cache,
        batch_size=3,
        shuffle=True,
        collate_fn=identity_collate,
        num_workers=1,
        timeout=60,
    )
    batches = list(loader)
    assert [len(batch) for batch in batches] == [3, 3, 2]
    seen = torch.cat(batches).flatten(1).sum(1).sort().values
    assert torch.equal(seen, torch.from_numpy(np.array(cache.array)).flatten(1).sum(1).sort().values)
