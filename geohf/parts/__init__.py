"""Parts of an object, where each is in a photo, and the state that it is in."""

from geohf.parts.answers import PartPrediction, PhotoPrediction
from geohf.parts.configuration import PartStateConfig
from geohf.parts.evaluator import PartEvaluator, evaluate_detections
from geohf.parts.modeling import PartStateModel
from geohf.parts.processing import PartImageProcessor

__all__ = [
    "PartEvaluator",
    "PartImageProcessor",
    "PartPrediction",
    "PartStateConfig",
    "PartStateModel",
    "PhotoPrediction",
    "evaluate_detections",
]
