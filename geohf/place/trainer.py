"""The room's Trainer, until it trains all phases."""

from geohf.place.phase import PlacePhaseTrainer as GeoPlaceTrainer

__all__ = ["GeoPlaceTrainer"]
