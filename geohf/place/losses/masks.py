"""Which pairs of a batch show the same place, and which do not."""

from __future__ import annotations

import torch

from geohf.geo import distance_matrix_m
from geohf.geo.angles import wrap_degrees


def pair_masks(
    coordinates: torch.Tensor,
    positive_m: float = 25.0,
    negative_m: float = 100.0,
    headings: torch.Tensor | None = None,
    heading_deg: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positive and negative pairs by meters; a pair between the two radii is neither.

    Clusters of places cannot say this: on dense routes four to five of ten pairs within 25 m fall into different
    clusters and would count as negatives.

    Args:
        coordinates: (n, 2) latitude and longitude in degrees, float64.
        positive_m, negative_m: meters.
        headings: (n,) degrees clockwise from north, NaN where unknown.
        heading_deg: a positive pair must look the same way within so many degrees; one that does not is no
            negative either, for its pictures may still overlap. Unknown headings match all.

    Returns:
        positive, negative: (n, n) bool, symmetric, False on the diagonal.

    >>> points = torch.tensor([[0.0, 0.0], [0.0, 0.0002], [0.0, 0.0005], [0.0, 0.002]], dtype=torch.float64)
    >>> positive, negative = pair_masks(points)  # 22, 33 and 167 m from one to the next
    >>> positive.nonzero().tolist(), negative[0].tolist()
    ([[0, 1], [1, 0]], [False, False, False, True])
    """
    distance = distance_matrix_m(coordinates, coordinates)
    positive = distance <= positive_m
    positive.fill_diagonal_(False)
    if headings is not None and heading_deg is not None:
        turn = wrap_degrees(headings[:, None] - headings[None])
        positive &= ~(turn.abs() > heading_deg)  # a comparison with NaN is False
    return positive, distance > negative_m
