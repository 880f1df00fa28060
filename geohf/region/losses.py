"""The losses of the region task: sums over the rows that count divided by `items`, or by how many count in this batch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from geohf.geo import frame_distance
from geohf.geo.scalers import CoordinateScaler
from geohf.models.losses import mean_of_known


def point_loss(
    kind: str,
    scaled: torch.Tensor,
    truth: torch.Tensor,
    scaler: CoordinateScaler,
    items: torch.Tensor | None = None,
) -> torch.Tensor:
    """How far scaled predictions lie from true points.

    Args:
        kind: `mse` on scaled coordinates, averaged over both; `haversine` or `euclidean`: the distance in the
            scaler's frame over the length of the scaler's unit, so that large and small regions count alike.
        scaled: (batch, 2) predictions in scaled coordinates.
        truth: (batch, 2) latitude and longitude in the frame's own units; rows with NaN do not count.
        scaler: one for all rows, or one a row.
        items: number to divide by; None: the rows that count.
    """
    counts = truth.isfinite().all(-1)
    scaled = scaled.double()
    truth = torch.where(counts[:, None], truth.double(), scaler.inverse_transform(scaled.detach()))
    if kind == "mse":
        rows = ((scaled - scaler.transform(truth)) ** 2).mean(-1)
    else:
        makes = torch.zeros_like, torch.ones_like
        origin, corner = (scaler.inverse_transform(make(scaled)) for make in makes)
        rows = frame_distance(scaler.inverse_transform(scaled), truth, scaler.frame)
        rows = rows / frame_distance(origin, corner, scaler.frame)
    return mean_of_known(rows.float(), counts, items)


def region_loss(
    logits: torch.Tensor, labels: torch.Tensor, items: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of the router: (batch, regions) logits, (batch,) region numbers; negative ones do not count."""
    counts = labels >= 0
    rows = F.cross_entropy(logits.float(), labels.clamp(min=0), reduction="none")
    return mean_of_known(rows, counts, items)
