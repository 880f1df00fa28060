"""Street: a state and a point from one to eight street views."""

from geohf.street.answers import MatchPrediction, StatePrediction, StreetPrediction
from geohf.street.configuration import GeoStreetConfig
from geohf.street.metrics import competition_score
from geohf.street.modeling import GeoStreetModel
from geohf.street.processing import GeoStreetImageProcessor

__all__ = [
    "GeoStreetConfig",
    "GeoStreetImageProcessor",
    "GeoStreetModel",
    "MatchPrediction",
    "StatePrediction",
    "StreetPrediction",
    "competition_score",
]
