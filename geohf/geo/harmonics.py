"""Real spherical harmonics of points, as functions of latitude and longitude that have no seam and no pole."""

from __future__ import annotations

import math

import torch

from geohf.geo.sphere import unit_vectors


def spherical_harmonics(points: torch.Tensor, degrees: int) -> torch.Tensor:
    """The orthonormal real spherical harmonics of the degrees 0 to `degrees - 1`.

    Made of the coordinates of the unit vector alone, by the recurrence of the normalized Legendre functions divided by
    sin^m, which is stable far beyond degree 100.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        degrees: how many.

    Returns:
        (n, degrees ** 2) float64; of degree l and order m at l * l + l + m, with cos(m lon) for m > 0 and sin(|m| lon)
        for m < 0. Their squares of one degree sum to (2 l + 1) / (4 pi).

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
