"""The room's Trainer, until it trains all phases."""

from geohf.tiles.phase import TilePhaseTrainer as TileSequenceTrainer

__all__ = ["TileSequenceTrainer"]
