"""From positions to embeddings: the location encoder that image-to-position matching compares photographs with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from geohf.geo.sphere import unit_vectors

FREQUENCIES = 256  # of the random Fourier features of one scale
_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796


def spherical_harmonics(points: torch.Tensor, degrees: int) -> torch.Tensor:
    """The orthonormal real spherical harmonics of the degrees 0 to `degrees - 1`.

    By the recurrence of the normalized Legendre functions divided by sin^m, which is stable far beyond degree 100.

    Args:
        points: (n, 2) latitude and longitude in degrees.

    Returns:
        (n, degrees ** 2) float64; of degree l and order m at l * l + l + m, with cos(m lon) for m > 0 and sin(|m| lon)
        for m < 0.

    >>> north = torch.tensor([[90.0, 0.0]])
    >>> spherical_harmonics(north, 2).round(decimals=4) + 0.0  # sqrt(1 / 4 pi), then sqrt(3 / 4 pi) towards the pole
    tensor([[0.2821, 0.0000, 0.4886, 0.0000]], dtype=torch.float64)
    """
    x, y, z = unit_vectors(points.double()).unbind(-1)
    harmonics: list[torch.Tensor] = [z] * degrees**2  # each entry is replaced below
    # real and imaginary part of (x + iy)^m, which is sin^m e^(i m lon) of the colatitude's sine
    real, imaginary = torch.ones_like(z), torch.zeros_like(z)
    top = math.sqrt(1 / (4 * math.pi))
    for m in range(degrees):
        before, legendre = torch.zeros_like(z), torch.full_like(z, top)
        for degree in range(m, degrees):
            if degree > m:
                scale = math.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
                last = math.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
                before, legendre = legendre, scale * (z * legendre - last * before)
            middle = degree * degree + degree
            harmonics[middle + m] = legendre * real * (math.sqrt(2) if m else 1)
            if m:
                harmonics[middle - m] = legendre * imaginary * math.sqrt(2)
        real, imaginary = real * x - imaginary * y, real * y + imaginary * x
        top *= math.sqrt((2 * m + 3) / (2 * m + 2))
    return torch.stack(harmonics, -1)


def equal_earth(points: torch.Tensor) -> torch.Tensor:
    """Points on the map of the Equal Earth projection.

    Args:
        points: (..., 2) latitude and longitude in degrees.

    Returns:
        (..., 2) x towards the east and y towards the north in radii of the globe: |x| <= 2.7066, |y| <= 1.3174. 180 and
        -180 degrees of longitude lie on the two sides of the map.

    >>> equal_earth(torch.tensor([[0.0, 180.0], [90.0, 0.0]], dtype=torch.float64)).round(decimals=4) + 0.0
    tensor([[2.7066, 0.0000],
            [0.0000, 1.3174]], dtype=torch.float64)
    """
    latitude, longitude = torch.deg2rad(points).unbind(-1)
    root = 3**0.5
    t = torch.asin(root / 2 * torch.sin(latitude))
    slope = 9 * _A4 * t**8 + 7 * _A3 * t**6 + 3 * _A2 * t**2 + _A1
    x = 2 * root * longitude * torch.cos(t) / (3 * slope)
    y = _A4 * t**9 + _A3 * t**7 + _A2 * t**3 + _A1 * t
    return torch.stack([x, y], -1)


class LocationEncoder(nn.Module):
    """Embeddings of latitude and longitude, in one of three frames.

    - `equal_earth`: the map of the Equal Earth projection, as GeoCLIP has it (Vivanco Cepeda et al., NeurIPS 2023,
      arXiv 2309.16020). It has a seam: the two sides of 180 degrees are far apart.
    - `sphere`: the unit vector. No seam, no poles.
    - `spherical_harmonics`: as SatCLIP (Klemmer et al. 2023, arXiv 2311.17179), with a Siren behind them. No seam either.

    The first two take random Fourier features (Tancik et al. 2020) at several scales, each with a net of its own, and
    sum what these give.

    Args:
        size: length of an embedding.
        hidden_size: width of the nets.
        sigmas: standard deviation of the frequencies of each scale, for the first two frames.
        degrees: of the harmonics, from 0.

    >>> encoder = LocationEncoder("sphere", size=8, hidden_size=16)
    >>> a, b = encoder(torch.tensor([[10.0, 180.0], [10.0, -180.0]]))
    >>> a.shape, torch.equal(a, b)
    (torch.Size([8]), True)
    """

    def __init__(
        self,
        frame: str,
        size: int = 512,
        hidden_size: int = 1024,
        sigmas: Sequence[float] = (1, 16, 256),
        degrees: int = 20,
    ):
        super().__init__()
        self.frame, self.degrees = frame, degrees
        if frame == "spherical_harmonics":
            self.siren = Siren(degrees**2, hidden_size, size)
        else:
            axes = 2 if frame == "equal_earth" else 3
            self.scales = nn.ModuleList(FourierNet(axes, sigma, hidden_size, size) for sigma in sigmas)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """(n, 2) degrees to (n, size), not of length 1; under `torch.autocast`, too, in float32."""
        # the finest scale turns hundreds of times: in bfloat16 its angles would be noise
        with torch.autocast(points.device.type, enabled=False):
            if self.frame == "spherical_harmonics":
                return self.siren(spherical_harmonics(points, self.degrees).float())
            if self.frame == "equal_earth":
                # in half widths of the equator, and rounded step by step as GeoCLIP does
                where = equal_earth(points.float()) * 66.50336 / 180
            else:
                where = unit_vectors(points.double()).float()
            return torch.stack([net(where) for net in self.scales]).sum(0)


class FourierNet(nn.Module):
    """Random Fourier features, with frequencies of standard deviation `sigma` that do not learn, and three layers."""

    frequencies: torch.Tensor

    def __init__(self, axes: int, sigma: float, hidden_size: int, size: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(FREQUENCIES, axes) * sigma)
        layers: list[nn.Module] = []
        for width in (2 * FREQUENCIES, hidden_size, hidden_size):
            layers += [nn.Linear(width, hidden_size), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_size, size))

    def forward(self, where: torch.Tensor) -> torch.Tensor:
        """(n, axes) to (n, size)."""
        turns = 2 * math.pi * where @ self.frequencies.T
        return self.layers(torch.cat([turns.cos(), turns.sin()], -1))


class Siren(nn.Module):
    """Two layers of sines and a linear one (Sitzmann et al., NeurIPS 2020, arXiv 2006.09661)."""

    FIRST = 30.0  # frequency of the first layer

    def __init__(self, inputs: int, hidden_size: int, size: int):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.last = nn.Linear(hidden_size, size)
        nn.init.uniform_(self.first.weight, -1 / inputs, 1 / inputs)
        reach = math.sqrt(6 / hidden_size)
        for layer in (self.second, self.last):
            nn.init.uniform_(layer.weight, -reach, reach)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, inputs) to (n, size)."""
        return self.last(self.second((self.FIRST * self.first(features)).sin()).sin())
