"""The room's Trainer, until it trains all phases."""

from geohf.parts.phase import PartPhaseTrainer as PartStateTrainer

__all__ = ["PartStateTrainer"]
