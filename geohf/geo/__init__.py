"""Coordinates: distances, means, frames, areas, pairs within a radius, clusters, splits and soft targets.

Points are (latitude, longitude) in degrees and distances meters, unless a name says otherwise. This folder knows
no model, no image and no Trainer.
"""

from geohf.geo.areas import Area, box
from geohf.geo.centroids import class_centroids
from geohf.geo.dbscan import dbscan
from geohf.geo.distance import EARTH_RADIUS_M, distance_matrix_m, great_circle_m
from geohf.geo.frames import FRAMES, bad_points, check_frame, check_points, frame_distance, frame_mean
from geohf.geo.geojson import area_from_geojson
from geohf.geo.neighbors import matches_within_m, pairs_within_m
from geohf.geo.soft_targets import cell_soft_targets, point_soft_targets
from geohf.geo.sphere import points_from_vectors, spherical_mean, unit_vectors
from geohf.geo.splits import Split, block_split, random_split, stratified_split

__all__ = [
    "EARTH_RADIUS_M",
    "FRAMES",
    "Area",
    "Split",
    "area_from_geojson",
    "bad_points",
    "block_split",
    "box",
    "cell_soft_targets",
    "check_frame",
    "check_points",
    "class_centroids",
    "dbscan",
    "distance_matrix_m",
    "frame_distance",
    "frame_mean",
    "great_circle_m",
    "matches_within_m",
    "pairs_within_m",
    "point_soft_targets",
    "points_from_vectors",
    "random_split",
    "spherical_mean",
    "stratified_split",
    "unit_vectors",
]
