"""The location encoder in its three frames."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from geohf.street.location import LocationEncoder

FRAMES = ("equal_earth", "sphere", "spherical_harmonics")


def encoder(frame, **fields):
    torch.manual_seed(0)
    return LocationEncoder(frame, **({"size": 32, "hidden_size": 48} | fields))


@pytest.mark.parametrize("frame", FRAMES)
def test_points_become_embeddings_with_a_gradient(frame):
    net = encoder(frame)
    points = torch.tensor([[48.9, 2.4], [48.9, 2.5], [-90.0, 0.0], [90.0, 0.0], [0.0, -179.999]])
    found = net(points)
    assert found.shape == (5, 32)
    assert found.isfinite().all()
    found.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    assert torch.equal(net(points[2:3])[0], net(points)[2]) or torch.allclose(net(points[2:3])[0], found[2])


@pytest.mark.parametrize("frame", ["sphere", "spherical_harmonics"])
def test_there_is_no_seam(frame):
    a, b, c = encoder(frame)(torch.tensor([[10.0, 180.0], [10.0, -180.0], [10.0, 179.9999]]))
    assert cosine_similarity(a, b, dim=0) >= 0.9999
    assert cosine_similarity(a, c, dim=0) >= 0.999


def test_the_frame_of_geoclip_has_one():
    a, b = encoder("equal_earth")(torch.tensor([[10.0, 180.0], [10.0, -180.0]]))
    assert cosine_similarity(a, b, dim=0) < 0.99


def test_frequencies_do_not_learn_and_are_kept():
    net = encoder("sphere")
    assert [name for name, _ in net.named_buffers()] == [f"scales.{i}.frequencies" for i in range(3)]
    stds = [float(net.scales[i].frequencies.std()) for i in range(3)]
    assert stds == pytest.approx([1, 16, 256], rel=0.15)


@pytest.mark.parametrize("frame", FRAMES)
def test_autocast_does_not_blur_positions(frame):
    """A GPU trains with bf16 by default."""
    net, points = encoder(frame), torch.tensor([[48.9, 2.4], [48.9, 2.5], [10.0, -179.9]])
    with torch.autocast("cpu", torch.bfloat16):
        found = net(points)
    assert torch.equal(found, net(points))
