"""The room's Trainer, until it trains all phases."""

from geohf.region.phase import RegionPhaseTrainer as GeoRegionTrainer

__all__ = ["GeoRegionTrainer"]
