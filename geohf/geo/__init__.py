"""Coordinates: distances, means, frames, areas, pairs within a radius, clusters, splits and soft targets.

Points are (latitude, longitude) in degrees and distances metres, unless a name says otherwise. This folder knows
no model, no image and no Trainer.
"""

from .areas import Area, box
from .centroids import class_centroids
from .distance import EARTH_RADIUS_M, distance_matrix_m, great_circle_m
from .frames import FRAMES, bad_points, check_frame, check_points, frame_distance, frame_mean
from .geojson import area_from_geojson
from .soft_targets import cell_soft_targets, point_soft_targets
from .sphere import points_from_vectors, spherical_mean, unit_vectors

__all__ = [
    "EARTH_RADIUS_M",
    "FRAMES",
    "Area",
    "area_from_geojson",
    "bad_points",
    "box",
    "cell_soft_targets",
    "check_frame",
    "check_points",
    "class_centroids",
    "distance_matrix_m",
    "frame_distance",
    "frame_mean",
    "great_circle_m",
    "point_soft_targets",
    "points_from_vectors",
    "spherical_mean",
    "unit_vectors",
]
