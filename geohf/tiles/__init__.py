"""Tiles: regression on sequences of satellite tiles."""

from geohf.tiles.answers import TilePrediction
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.loader import SequenceDataLoader
from geohf.tiles.modeling import TileSequenceModel
from geohf.tiles.processing import TileSequenceProcessor

__all__ = [
    "SequenceDataLoader",
    "TilePrediction",
    "TileSequenceConfig",
    "TileSequenceModel",
    "TileSequenceProcessor",
]
