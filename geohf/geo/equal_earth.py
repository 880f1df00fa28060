"""The Equal Earth projection (Savric, Patterson and Jenny 2018), whose areas are those of the globe."""

from __future__ import annotations

import torch

_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796


def equal_earth(points: torch.Tensor) -> torch.Tensor:
    """Points on the map of the Equal Earth projection.

    Args:
        points: (..., 2) latitude and longitude in degrees.

    Returns:
        (..., 2) x towards the east and y towards the north in radii of the globe: |x| <= 2.7066, |y| <= 1.3174. There is
        a seam: 180 and -180 degrees of longitude lie on the two sides of the map.

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
