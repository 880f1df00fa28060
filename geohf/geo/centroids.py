"""Class centroids on the sphere."""

from __future__ import annotations

import numpy as np
import torch

from geohf.errors import DataError, listed
from geohf.geo._arrays import as_rows
from geohf.geo.sphere import points_from_vectors, unit_vectors


def class_centroids(points, labels, num_classes: int) -> np.ndarray:
    """Spherical mean of every class's points.

    Args:
        points: (n, 2) latitude and longitude in degrees; numpy, or a tensor, which is copied to the host.
        labels: (n,) integers in 0..num_classes-1.
        num_classes: number of classes C.

    Returns:
        (C, 2) float64 degrees.

    Raises:
        ValueError: wrong shapes.
        DataError: a class without points, points of a class that cancel out, a label out of range, a coordinate
            that is not finite; the message names the classes or rows.

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
    _refuse_rows(~np.isfinite(points).all(1), "a coordinate is not finite")
    _refuse_rows((labels < 0) | (labels >= num_classes), f"the label is outside 0..{num_classes - 1}")
    count = np.bincount(labels, minlength=num_classes)
    _refuse_classes(count == 0, "without points")
    vectors = unit_vectors(points)
    mean = (
        np.stack([np.bincount(labels, vectors[:, axis], num_classes) for axis in range(3)], 1)
        / count[:, None]
    )
    _refuse_classes(np.linalg.norm(mean, axis=1) < 1e-10, "whose points cancel out on the sphere")
    return points_from_vectors(mean)


def _refuse_rows(bad: np.ndarray, what: str) -> None:
    if bad.any():
        raise DataError(f"class centroids: {what} in row {listed(np.flatnonzero(bad), 10)}")


def _refuse_classes(bad: np.ndarray, what: str) -> None:
    if bad.any():
        raise DataError(f"class centroids: class {listed(np.flatnonzero(bad), 10)} {what}; leave them out")
