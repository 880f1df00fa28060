"""Place: visual place recognition, trained from GPS alone."""

from geohf.place.answers import PlaceAnswer, PlacePrediction
from geohf.place.configuration import GeoPlaceConfig
from geohf.place.index import PlaceIndex
from geohf.place.metrics import recall_at_n
from geohf.place.modeling import GeoPlaceModel
from geohf.place.processing import GeoPlaceImageProcessor

__all__ = [
    "GeoPlaceConfig",
    "GeoPlaceImageProcessor",
    "GeoPlaceModel",
    "PlaceAnswer",
    "PlaceIndex",
    "PlacePrediction",
    "recall_at_n",
]
