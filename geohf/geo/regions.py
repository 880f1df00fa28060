"""Credible regions of a density, as GeoJSON."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from geohf.geo.density import SphericalMixture, log_normalizer

MOST_STEPS = 160  # of a window's grid, each way


def credible_region(mixture: SphericalMixture, mass: float) -> dict:
    """Where the density of one place is greatest, as far as it needs to hold so much of the mass.

    Args:
        mixture: of one row.
        mass: between 0 and 1.

    Returns:
        A GeoJSON MultiPolygon, cut at the antimeridian; empty where the region is smaller than can be drawn.
    """
    edge = float(mixture.threshold(mass))
    polygons = [
        polygon for window in _windows(mixture, edge) for polygon in _outlines(mixture, edge, *window)
    ]
    return {"type": "MultiPolygon", "coordinates": polygons}


def _windows(mixture: SphericalMixture, edge: float) -> list[tuple[np.ndarray, float]]:
    """Boxes (south, west, north, east) that together hold the region, and the step of a grid for each, in degrees."""
    weights, means, kappas = mixture.weights[0], mixture.means[0], mixture.kappas[0].clamp(min=1e-9)
    # where the sum of K terms reaches the edge, one of them reaches the edge less log K
    spare = weights.log() + log_normalizer(kappas) + np.log(len(weights)) - edge
    there = spare > 0
    if not there.any():
        return []
    # an angle of cosine 1 - h has a chord of sqrt(2 h), which is not lost in rounding where kappa is large
    falls = (spare[there] / kappas[there]).clamp(max=2.0)
    reach = torch.rad2deg(2.0 * torch.asin((falls / 2.0).sqrt())).numpy()
    steps = np.rad2deg(1.0 / np.sqrt(kappas[there].numpy())) / 4.0
    x, y, z = means[there].numpy().T
    latitude, longitude = np.rad2deg(np.arctan2(z, np.hypot(x, y))), np.rad2deg(np.arctan2(y, x))
    boxes: list[tuple[np.ndarray, float]] = []
    for lat, lon, size, step in zip(latitude, longitude, reach, steps, strict=True):
        south, north = max(lat - size, -90.0), min(lat + size, 90.0)
        wide = 180.0
        if abs(lat) + size < 90.0:
            ratio = np.sin(np.deg2rad(size)) / np.cos(np.deg2rad(lat))
            wide = float(np.rad2deg(np.arcsin(min(ratio, 1.0))))
        west, east = (-180.0, 180.0) if wide >= 180.0 else (lon - wide, lon + wide)
        parts = [(west, east)]
        if west < -180.0:
            parts = [(west + 360.0, 180.0), (-180.0, east)]
        elif east > 180.0:
            parts = [(west, 180.0), (-180.0, east - 360.0)]
        for low, high in parts:
            boxes = _joined(boxes, np.array([south, low, north, high]), step)
    return boxes


def _joined(boxes, box: np.ndarray, step: float) -> list[tuple[np.ndarray, float]]:
    """The boxes with one more; those that meet become one."""
    apart = []
    for other, own in boxes:
        if (box[:2] <= other[2:]).all() and (other[:2] <= box[2:]).all():
            box = np.concatenate([np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])])
            step = min(step, own)
        else:
            apart.append((other, own))
    return _joined(apart, box, step) if len(apart) < len(boxes) else [*boxes, (box, step)]


def _outlines(mixture: SphericalMixture, edge: float, box: np.ndarray, step: float) -> list:
    """The region within a box: polygons as lists of rings of [longitude, latitude]."""
    from contourpy import FillType, contour_generator

    counts = np.clip(np.ceil((box[2:] - box[:2]) / step), 8, MOST_STEPS).astype(int) + 1
    spacing = float(((box[2:] - box[:2]) / counts).min())
    digits = int(np.clip(np.ceil(1.0 - np.log10(spacing)), 5, 9))  # of degrees; the fifth is a meter
    latitude, longitude = (np.linspace(box[i], box[2 + i], counts[i]) for i in (0, 1))
    grid = np.stack(np.meshgrid(latitude, longitude, indexing="ij"), -1).reshape(-1, 2)
    heights = mixture.log_prob(torch.from_numpy(grid))[0].numpy().reshape(counts)
    drawn = contour_generator(longitude, latitude, heights, fill_type=FillType.OuterOffset)
    polygons = []
    for corners, offsets in zip(*drawn.filled(edge, np.inf), strict=True):
        rings = [corners[a:b] for a, b in pairwise(offsets)]
        polygons.append([ring.round(digits).tolist() for ring in rings])
    return polygons
