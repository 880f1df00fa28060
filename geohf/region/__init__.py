"""Region: the coordinates of a photograph, by an expert a region and a router that finds the region."""

from geohf.region.answers import RegionPrediction, RegionProbability
from geohf.region.configuration import GeoRegionConfig
from geohf.region.modeling import GeoRegionModel
from geohf.region.processing import GeoRegionImageProcessor

__all__ = [
    "GeoRegionConfig",
    "GeoRegionImageProcessor",
    "GeoRegionModel",
    "RegionPrediction",
    "RegionProbability",
]
