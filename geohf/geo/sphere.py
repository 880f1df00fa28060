"""Points as unit vectors, and means taken on the sphere."""

from __future__ import annotations

from geohf.geo._arrays import (
    as_double,
    as_floats,
    as_pairs,
    cast_like,
    guarded_sqrt,
    namespace,
    wrap_longitude,
)

# A mean vector shorter than this has a direction that rounding decides (1e-10 of 1 leaves about 6 m).
_SHORTEST_MEAN = 1e-10


def unit_vectors(points):
    """Unit vectors of points on the sphere.

    Args:
        points: (..., 2) latitude and longitude in degrees, numpy or torch; longitudes in any turn.

    Returns:
        (..., 3) x towards (0, 0), y towards (0, 90), z towards the north pole; the inputs' dtype.

    Raises:
        ValueError: a shape that is not (..., 2).

    >>> unit_vectors([[90.0, 0.0], [0.0, 540.0]]).round(12) + 0.0
    array([[ 0.,  0.,  1.],
           [-1.,  0.,  0.]])
    """
    xp = namespace(points)
    points = as_pairs(points)
    # Wrapped first, so that +180 and -180 give one vector and not two that differ in the last digit.
    latitude = xp.deg2rad(points[..., 0])
    longitude = xp.deg2rad(wrap_longitude(xp, points[..., 1]))
    ring = xp.cos(latitude)
    return xp.stack([ring * xp.cos(longitude), ring * xp.sin(longitude), xp.sin(latitude)], -1)


def points_from_vectors(vectors):
    """Points in degrees of vectors of any length above zero: the inverse of `unit_vectors`.

    Args:
        vectors: (..., 3), numpy or torch.

    Returns:
        (..., 2) latitude in [-90, 90] and longitude in [-180, 180) in degrees, 0 at the poles; the gradient is
        finite.

    Raises:
        ValueError: a shape that is not (..., 3).

    >>> points_from_vectors([0.0, -2.0, 0.0])
    array([  0., -90.])
    """
    xp = namespace(vectors)
    vectors = as_floats(vectors, "vectors")
    if not vectors.shape or vectors.shape[-1] != 3:
        raise ValueError(f"vectors must have shape (..., 3), got {tuple(vectors.shape)}")
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    ring = guarded_sqrt(xp, x * x + y * y)
    # On the axis the longitude is free: 0, and no gradient through 0 / 0.
    on_axis = (x == 0) & (y == 0)
    longitude = xp.arctan2(xp.where(on_axis, 0.0, y), xp.where(on_axis, 1.0, x))
    latitude = xp.arctan2(z, ring)
    return xp.stack([xp.rad2deg(latitude), wrap_longitude(xp, xp.rad2deg(longitude))], -1)


def mean_weights(points, weights):
    """Check points (..., n, 2) and weights (..., n), see `spherical_mean`; both in float64, the weights summing to 1."""
    xp = namespace(points) if weights is None else namespace(points, weights)
    points = as_pairs(points, cast=as_double)
    if points.ndim < 2 or points.shape[-2] == 0:
        raise ValueError(f"a mean needs points of shape (..., n, 2) with n > 0, got {tuple(points.shape)}")
    if weights is None:
        return points, xp.ones_like(points[..., 0]) / points.shape[-2]
    weights = as_double(weights, "weights")
    if not weights.shape or weights.shape[-1] != points.shape[-2]:
        raise ValueError(
            f"weights must have shape (..., {points.shape[-2]}), one a point, got {tuple(weights.shape)}"
        )
    if not bool(((weights >= 0) & xp.isfinite(weights)).all()):
        raise ValueError("weights must be finite and not negative")
    total = weights.sum(-1)
    if not bool((total > 0).all()):
        raise ValueError("the weights of a mean are all zero")
    return points, weights / total[..., None]


def weighted_sum(weights, values):
    """(..., n) weights and (..., n, k) values -> (..., k); one table of values serves a batch of weights."""
    if values.ndim == 2:
        return weights @ values
    return (weights[..., None, :] @ values)[..., 0, :]


def spherical_mean(points, weights=None):
    """Mean of points on the sphere: the direction of the (weighted) sum of their unit vectors.

    Correct across the antimeridian and at the poles, where means of degrees are not. Computed in float64; torch
    keeps the gradient.

    Args:
        points: (..., n, 2) latitude and longitude in degrees, numpy or torch.
        weights: (..., n) not negative, need not sum to 1; leading dimensions broadcast with those of `points`, so
            (C, 2) centroids and (B, C) probabilities give (B, 2). None weighs all alike.

    Returns:
        (..., 2) degrees in the inputs' dtype, longitude in [-180, 180).

    Raises:
        TypeError: a mixture of numpy and torch.
        ValueError: wrong shapes, no points, bad weights, or points that cancel out (such as two antipodes).

    >>> spherical_mean([[10.0, 179.0], [10.0, -179.0]]).round(3)
    array([  10.001, -180.   ])
    >>> spherical_mean([[0.0, 0.0], [0.0, 90.0]], [3.0, 3.0]).round(9)
    array([ 0., 45.])
    """
    dtype = as_floats(points).dtype
    points, weights = mean_weights(points, weights)
    mean = weighted_sum(weights, unit_vectors(points))
    # NaN points pass through as NaN: only a mean that is known to vanish is an error.
    if bool(((mean * mean).sum(-1) < _SHORTEST_MEAN**2).any()):
        raise ValueError("the points cancel out on the sphere (such as two antipodes): they have no mean")
    return cast_like(points_from_vectors(mean), dtype)
