"""Class centroids on the sphere."""

from __future__ import annotations

import numpy as np
import torch

from geohf.errors import DataError, listed
from geohf.geo._arrays import as_rows
from geohf.geo.sphere import points_from_vectors, unit_vectors


def class_centroids(points, labels, num_classes: int) -> np.ndarray:
    """(num_classes, 2) float64 degrees: the spherical mean of every class's points.

    Args:
        points: (n, 2) latitude and longitude in degrees; numpy, or a tensor, which is copied to the host.
        labels: (n,) integers in 0..num_classes-1.

    Raises:
        ValueError: wrong shapes.
        DataError: a class without points or whose points cancel out, a label out of range, a coordinate that is not
            finite; the message names the classes or rows.

    >>> class_centroids([[0, 179], [0, -179], [45, 10]], [0, 0, 1], num_classes=2).round(6)
    array([[   0., -180.],
           [  45.,   10.]])
    """
    points = as_rows(points)
    labels = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if labels.shape != points.shape[:1]:
        raise ValueError(f"labels must have shape ({len(points)},), one a point, got {labels.shape}")
    if labels.size and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    labels = labels.astype(np.int64)
    _refuse(~np.isfinite(points).all(1), "a coordinate is not finite in row {}")
    outside = (labels < 0) | (labels >= num_classes)
    _refuse(outside, f"the label is outside 0..{num_classes - 1} in row {{}}")
    count = np.bincount(labels, minlength=num_classes)
    _refuse(count == 0, "class {} without points; leave them out")
    vectors = unit_vectors(points)
    sums = np.stack([np.bincount(labels, column, num_classes) for column in vectors.T], 1)
    mean = sums / count[:, None]
    vanishing = np.linalg.norm(mean, axis=1) < 1e-10
    _refuse(vanishing, "class {} whose points cancel out on the sphere; leave them out")
    return points_from_vectors(mean)


def _refuse(bad: np.ndarray, what: str) -> None:
    if bad.any():
        raise DataError(f"class centroids: {what.format(listed(np.flatnonzero(bad), 10))}")
