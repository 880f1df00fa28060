"""The feature cache: what a frozen tower gives, computed once, and anew where anything changes."""

import copy
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import geohf.vision.features as cache
from geohf.errors import DataError
from geohf.io import cache_folder
from geohf.vision.backbones import TimmTowerConfig
from geohf.vision.features import cached_features
from geohf.vision.images import ImageError
from geohf.vision.processing import GeoImageProcessor
from geohf.vision.towers import build_tower, tower_features
from geohf.vision.weights import weights_fingerprint


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return build_tower(TimmTowerConfig(architecture="test_resnet", image_size=32))


def processor(side=32, **settings):
    return GeoImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **settings
    )


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{i}.png" for i in range(7)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return paths


def never(tower):
    """A copy of the tower that must not be asked."""

    def forward(*args, **kwargs):
        raise AssertionError("the tower was run")

    tower = copy.deepcopy(tower)
    tower.forward = forward
    return tower


@pytest.fixture
def cached(tmp_path):
    def compute(tower, images, settings=None, **options):
        return cached_features(tower, settings or processor(), images, tmp_path / "cache", **options)

    return compute


def test_features_are_the_towers_own_and_it_is_left_as_it_was(cached, tower, files):
    tower.train()
    before = weights_fingerprint(tower)
    found = cached(tower, files, batch_size=3)
    assert tower.training
    assert weights_fingerprint(tower) == before  # no statistics of a norm moved
    with torch.no_grad():
        expected = tower_features(tower.eval(), processor().pixel_values(files))
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_cached_features_can_be_trained_on(cached, tower, files):
    weight = torch.nn.Parameter(torch.ones(96))
    (cached(tower, files) @ weight).sum().backward()  # a tensor made in inference mode could not
    assert weight.grad is not None


def test_the_second_call_reads_and_does_not_run_the_tower(cached, tower, files):
    first = cached(tower, files)
    assert torch.equal(cached(never(tower), files), first)
    assert torch.equal(cached(never(tower), [str(path) for path in files]), first)


def test_the_size_of_batches_and_workers_do_not_matter(tmp_path, tower, files):
    found = [
        cached_features(tower, processor(), files, tmp_path / f"{i}", batch_size=size, num_workers=workers)
        for i, (size, workers) in enumerate([(1, 0), (7, 0), (3, 2)])
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=1e-5)


def test_a_changed_image_is_computed_anew(cached, tower, files):
    first = cached(tower, files)
    Image.new("RGB", (40, 40), "red").save(files[2])
    with pytest.raises(AssertionError, match="the tower was run"):
        cached(never(tower), files)
    second = cached(tower, files)
    unchanged = [i for i in range(7) if i != 2]
    assert not torch.allclose(second[2], first[2])
    torch.testing.assert_close(second[unchanged], first[unchanged], atol=1e-5, rtol=1e-5)


def test_a_touched_image_of_the_same_size_is_computed_anew(cached, tower, files):
    cached(tower, files)
    os.utime(files[0], ns=(1, 1))
    with pytest.raises(AssertionError, match="the tower was run"):
        cached(never(tower), files)


def test_images_in_another_order_have_their_own_features(cached, tower, files):
    first = cached(tower, files)
    assert torch.equal(cached(never(tower), files[::-1]), first.flip(0))
    assert torch.equal(cached(never(tower), [files[3], files[0], files[3]]), first[[3, 0, 3]])


def test_other_splits_and_one_more_image_cost_only_what_is_new(cached, tower, files, tmp_path, monkeypatch):
    run, computed = cache._run, []
    monkeypatch.setattr(cache, "_run", lambda *args: computed.extend(args[2]) or run(*args))
    first = cached(tower, files[:6])
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(6)
        for part in (order[:4], order[4:]):
            assert torch.equal(cached(tower, [files[i] for i in part]), first[part])
    assert computed == files[:6]
    whole = cached(tower, files[::-1])
    assert computed == files
    assert torch.equal(whole[1:], first.flip(0))
    monkeypatch.chdir(files[0].parent)  # the same files by other names
    assert torch.equal(cached(never(tower), [path.name for path in files]), whole.flip(0))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_shard_is_computed_again_and_other_files_are_left_alone(
    cached, tower, files, tmp_path, caplog
):
    first = cached(tower, files)
    (shard,) = (tmp_path / "cache").iterdir()
    earlier = shard.with_name(
        "0123456789abcdef0123456789abcdef.safetensors"
    )  # as earlier versions named them
    save_file({"features": torch.zeros(7, 96)}, earlier)
    shard.write_bytes(shard.read_bytes()[:200])
    assert torch.equal(cached(tower, files), first)
    assert f"{shard} is damaged" in caplog.text
    assert torch.equal(cached(never(tower), files), first)
    assert set((tmp_path / "cache").iterdir()) == {shard, earlier}


def test_what_another_run_removes_meanwhile_is_computed_again(cached, tower, files, tmp_path, monkeypatch):
    first, add = cached(tower, files), cache._Store.add
    removed = []

    def lost(store, keys, features):
        add(store, keys, features)
        if not removed:
            removed.extend((tmp_path / "cache").iterdir())
            for path in removed:
                path.unlink()

    monkeypatch.setattr(cache._Store, "add", lost)
    other = cached(tower, files, processor(side=48))
    assert len(removed) == 2
    monkeypatch.undo()
    assert torch.equal(cached(never(tower), files, processor(side=48)), other)
    torch.testing.assert_close(cached(tower, files), first, atol=1e-5, rtol=1e-5)


def test_other_weights_buffers_settings_and_precision_have_their_own_features(cached, tower, files):
    first = cached(tower, files)
    for settings in (processor(image_mean=[0.1] * 3), processor(resample=0), processor(side=48)):
        assert not torch.allclose(cached(tower, files, settings), first)
    assert not torch.equal(cached(tower, files, autocast=torch.bfloat16), first)
    name, statistic = next((n, b) for n, b in tower.named_buffers() if n.endswith("running_var"))
    statistic.mul_(2)
    assert not torch.allclose(cached(tower, files), first), name
    statistic.div_(2)
    assert torch.equal(cached(never(tower), files), first)
    with torch.no_grad():
        next(tower.parameters()).mul_(1.5)
    assert not torch.allclose(cached(tower, files), first)


def test_fingerprints_tell_dtype_and_shape_apart():
    module = torch.nn.Linear(4, 2, bias=False)
    prints = {weights_fingerprint(module), weights_fingerprint(torch.nn.Linear(4, 2, bias=False))}
    prints.add(weights_fingerprint(module.bfloat16()))
    module.weight = torch.nn.Parameter(module.weight.reshape(4, 2))
    prints.add(weights_fingerprint(module))
    assert len(prints) == 4


def test_images_in_memory_are_known_by_their_content(cached, tower, files):
    data = [path.read_bytes() for path in files]
    rows = [{"bytes": d, "path": "x.png"} for d in data]
    pictures = [Image.open(path) for path in files]
    first = cached(tower, data)
    assert torch.equal(cached(never(tower), rows), first)
    torch.testing.assert_close(cached(tower, pictures), first, atol=1e-5, rtol=1e-5)
    assert torch.equal(cached(never(tower), [*data[:-1], data[0]]), first[[*range(6), 0]])


def test_finished_shards_survive_and_a_half_written_one_is_ignored(
    cached, tower, files, tmp_path, monkeypatch
):
    whole = cached_features(tower, processor(), files, tmp_path / "whole")
    monkeypatch.setattr(cache, "SHARD_IMAGES", 3)
    run, calls = cache._run, []

    def killed_in_the_second_shard(tower, processor, images, *rest):
        calls.append(len(images))
        if len(calls) == 2:
            (tmp_path / "cache" / "half.123.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        return run(tower, processor, images, *rest)

    monkeypatch.setattr(cache, "_run", killed_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        cached(tower, files)
    found = cached(tower, files)
    assert calls == [3, 3, 3, 1]  # the first shard was not computed again
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(cached(never(tower), files), found)


def test_a_broken_image_is_named(cached, tower, files):
    files[3].write_bytes(files[3].read_bytes()[:100])
    with pytest.raises(ImageError, match=r"3\.png"):
        cached(tower, files)
    with pytest.raises(ImageError, match=r"absent\.png"):
        cached(tower, [files[0], files[0].with_name("absent.png")])
    with pytest.raises(ImageError, match=r"3\.png"):
        cached(tower, files, num_workers=1)


def test_no_images_are_an_error(cached, tower):
    with pytest.raises(DataError, match="no images"):
        cached(tower, [])


def test_the_cache_lies_where_the_environment_says(tower, files, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder("features") == tmp_path / "elsewhere" / "features"
    first = cached_features(tower, processor(), files)
    assert list((tmp_path / "elsewhere" / "features").glob("*.safetensors"))
    assert torch.equal(cached_features(never(tower), processor(), files), first)


IN_ONE_OF_TWO = """
import sys
from pathlib import Path
import timm, torch
from accelerate import PartialState, debug_launcher
from safetensors.torch import save_file
import geohf.vision.features as cache
from geohf.vision.backbones import TimmTower
from geohf.vision.processing import GeoImageProcessor
from geohf.vision.weights import weights_fingerprint

def work(folder):
    torch.set_num_threads(1)
    rank = PartialState(cpu=True).process_index
    assert PartialState().num_processes == 2
    cache.SHARD_IMAGES = 2
    run, mine = cache._run, []
    cache._run = lambda *args: mine.append(len(args[2])) or run(*args)
    tower = TimmTower.from_pretrained(folder / "tower")
    processor = GeoImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    images = sorted((folder / "images").iterdir())
    found = cache.cached_features(tower, processor, images, folder / "shared")
    save_file({"features": found, "computed": torch.tensor(mine)}, folder / f"rank{rank}.safetensors")

debug_launcher(work, (Path(sys.argv[1]),), num_processes=2)
"""


def test_two_processes_share_the_work_and_both_have_everything(run_python, cached, tower, files, tmp_path):
    tower.save_pretrained(tmp_path / "tower")
    alone = cached(tower, files)
    run_python(IN_ONE_OF_TWO, tmp_path, env={"OMP_NUM_THREADS": "1"})
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert [rank["computed"].tolist() for rank in ranks] == [[2, 2], [2, 1]]
    assert torch.equal(ranks[0]["features"], ranks[1]["features"])
    torch.testing.assert_close(ranks[0]["features"], alone, atol=1e-5, rtol=1e-5)
