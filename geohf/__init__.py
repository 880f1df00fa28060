"""Vision that knows where it is: five geographic tasks as transformers models.

`import geohf` is all that `AutoModel`, `AutoConfig`, `AutoImageProcessor` and `pipeline` need to find them.
"""

from __future__ import annotations

import importlib
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from geohf.errors import DataError
from geohf.street import GeoStreetConfig, GeoStreetImageProcessor, GeoStreetModel
from geohf.street.pipeline import StreetGeolocationPipeline

__version__ = "0.1.0"

for _config, _model, _processor in ((GeoStreetConfig, GeoStreetModel, GeoStreetImageProcessor),):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoImageProcessor.register(_config, image_processor_classes={"torchvision": _processor}, exist_ok=True)

PIPELINE_REGISTRY.register_pipeline("street-geolocation", StreetGeolocationPipeline, AutoModel, type="image")

# Trainers bring accelerate and much else with them: they are imported when they are asked for.
_LAZY = {
    "GeoStreetTrainer": "geohf.street.trainer",
    "StreetTrainingArguments": "geohf.street.trainer",
}

__all__ = ["DataError", "GeoStreetConfig", "GeoStreetImageProcessor", "GeoStreetModel", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
