"""The reference implementation's loader: the same batches as Pillow's crops and resizes, in torch."""

from __future__ import annotations

import errno
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from geohf import DataError, SequenceDataLoader
from geohf.tiles.frames import resize_frames


def make(world, tmp_path, **changes):
    settings = {
        "labels": [2019, 2020, 2021],
        "data": world.frame,
        "image_dir": world.images,
        "dim": (16, 18),
        "batch_size": 3,
        "n_channels": 3,
        "random_seed": 42,
        "shuffle": False,
        "normalize": True,
    }
    return SequenceDataLoader(**settings | {"cache_dir": tmp_path} | changes)


def originals(world, dim):
    """The reference implementation's way: crop with Pillow, resize by bicubic, divide by 255."""
    rows = []
    for row in range(8):
        frames = [
            np.asarray(Image.fromarray(world.crop(row, label)).resize(dim[::-1], Image.Resampling.BICUBIC))
            for label in world.labels
        ]
        rows.append(np.stack(frames) / 255)
    return np.stack(rows)


def test_batches_are_the_seeds_to_one_gray_level(world, tmp_path):
    loader = make(world, tmp_path)
    assert len(loader) == 3
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert x.shape == (8, 3, 16, 18, 3)
    assert x.dtype == torch.float32
    assert np.abs(x.numpy() - originals(world, (16, 18))).max() <= 1.01 / 255
    np.testing.assert_allclose(y, [0.2, 0.21, 0.22, 0.23, 0.25, 0.26, 0.27, 0.28], rtol=1e-6)


def test_shuffling_shuffles_pairs_and_repeats_with_the_seed(world, tmp_path):
    plain = make(world, tmp_path)
    wanted = {round(float(y), 4): x for xs, ys in plain for x, y in zip(xs, ys, strict=True)}
    one, two = make(world, tmp_path, shuffle=True), make(world, tmp_path, shuffle=True)
    epochs = []
    for _ in range(2):
        first, second = list(one), list(two)
        for (xs, ys), (again, _) in zip(first, second, strict=True):
            assert torch.equal(xs, again)
            for x, y in zip(xs, ys, strict=True):
                assert torch.equal(x, wanted[round(float(y), 4)])
        epochs.append(torch.cat([ys for _, ys in first]))
    assert not torch.equal(*epochs)
    assert torch.equal(epochs[0].sort().values, epochs[1].sort().values)


def test_last_image_is_the_last_frame(world, tmp_path):
    whole, _ = make(world, tmp_path)[0]
    x, y = make(world, tmp_path, target_type="last-image")[0]
    assert torch.equal(x, whole[:, :2])
    assert torch.equal(y, whole[:, 2])


def test_native_values_and_fewer_channels(world, tmp_path):
    x, _ = make(world, tmp_path, dim=(10, 12), normalize=False, n_channels=2)[0]
    assert np.array_equal(x[1, 2].numpy(), world.crop(1, "2021")[..., :2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_channels": 5}, "n_channels is 5, but the images have 3 bands"),
        ({"target_type": "image"}, "target_type must be one of target, last-image"),
    ],
)
def test_settings_that_cannot_be(world, tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        make(world, tmp_path, **changes)


@pytest.mark.parametrize("most_kept", [0, 4], ids=["resized for every batch", "kept on the disk"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_frames_are_those_of_a_resize_bit_for_bit(world, tiff, tmp_path, monkeypatch, dtype, most_kept):
    monkeypatch.setattr("geohf.tiles.loader.MOST_KEPT", 2 * most_kept)  # uint16 takes 4 bytes when resized
    for key, pixels in world.pixels.items():
        world.pixels[key] = pixels.astype(dtype) * (1 if dtype == "uint8" else 251)
        tiff(world.path(*key), world.pixels[key], **world.geo)
    for dim, bands in (((16, 18), 3), ((12, 10), 3), ((16, 18), 2)):
        for _ in range(2):  # cut and resized, then read back
            frames = torch.cat([x for x, _ in make(world, tmp_path, dim=dim, n_channels=bands)])
            for row in range(8):
                crops = np.stack([world.crop(row, label)[..., :bands] for label in world.labels])
                plain = resize_frames(crops, dim) * (1 / np.iinfo(dtype).max)
                assert torch.equal(frames[row], plain)
    assert len(list(tmp_path.glob("*/frames-*"))) == (3 if most_kept else 0)


def test_frames_of_other_pixels_are_not_taken(world, tiff, tmp_path):
    before, _ = make(world, tmp_path)[0]
    pixels = world.pixels["2020", "7"]
    tiff(world.path("2020", "7"), 255 - pixels, **world.geo)
    after, _ = make(world, tmp_path)[0]
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    assert not torch.equal(after[:, 1], before[:, 1])


def test_memory_is_taken_again_only_when_nobody_holds_it(world, tmp_path):
    loader = make(world, tmp_path)
    frames, _ = loader[0]
    held, shown = frames.clone(), frames[1:].numpy()[:, 0]
    places = {loader[1][0].data_ptr() for _ in range(4)}
    assert len(places) == 1
    assert torch.equal(frames, held)
    place = frames.data_ptr()
    del frames
    assert loader[1][0].data_ptr() in places
    assert np.array_equal(shown, held[1:, 0].numpy())  # a view of a view keeps the batch
    del shown
    assert loader[1][0].data_ptr() == place


def test_a_loader_goes_to_other_processes_and_hears_a_larger_batch(world, tmp_path):
    loader = make(world, tmp_path, batch_size=2)
    first = loader[0][0].clone()  # and its memory is free
    sent = pickle.dumps(loader)
    assert torch.equal(pickle.loads(sent)[0][0], first)
    assert len(sent) < loader[0][0].nbytes * len(loader) + 20_000
    loader.batch_size = 6
    assert torch.equal(loader[0][0][:2], first)
    assert (loader.dim, loader.n_channels) == ((16, 18), 3)


def test_a_disk_without_room_for_resized_frames_costs_speed_alone(world, tmp_path, monkeypatch, caplog):
    expected = torch.cat([x for x, _ in make(world, tmp_path / "room")])

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("geohf.tiles.loader.reserve", full)
    assert torch.equal(torch.cat([x for x, _ in make(world, tmp_path / "none")]), expected)
    assert "cannot be stored: No space left on device; frames are resized for every batch" in caplog.text
