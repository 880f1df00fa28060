"""Vision that knows where it is: five geographic tasks as transformers models.

`import geohf` is all that `AutoModel`, `AutoConfig`, `AutoImageProcessor` and `pipeline` need to find them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from geohf.errors import DataError
from geohf.parts import PartImageProcessor, PartStateConfig, PartStateModel
from geohf.parts.pipeline import PartStatePipeline
from geohf.place import GeoPlaceConfig, GeoPlaceImageProcessor, GeoPlaceModel
from geohf.place.pipeline import PlaceRecognitionPipeline
from geohf.region import GeoRegionConfig, GeoRegionImageProcessor, GeoRegionModel
from geohf.region.pipeline import RegionPipeline
from geohf.street import GeoStreetConfig, GeoStreetImageProcessor, GeoStreetModel
from geohf.street.pipeline import StreetGeolocationPipeline
from geohf.tiles import SequenceDataLoader, TileSequenceConfig, TileSequenceModel, TileSequenceProcessor
from geohf.tiles.pipeline import TileSequencePipeline

if TYPE_CHECKING:  # what type checkers and editors see of the table below
    from geohf.data.streaming import write_shards as write_shards
    from geohf.parts.arguments import PartTrainingArguments as PartTrainingArguments
    from geohf.parts.streaming import stream_parts as stream_parts
    from geohf.parts.trainer import PartStateTrainer as PartStateTrainer
    from geohf.place.arguments import PlaceTrainingArguments as PlaceTrainingArguments
    from geohf.place.streaming import stream_drives as stream_drives
    from geohf.place.trainer import GeoPlaceTrainer as GeoPlaceTrainer
    from geohf.region.arguments import RegionTrainingArguments as RegionTrainingArguments
    from geohf.region.streaming import stream_regions as stream_regions
    from geohf.region.trainer import GeoRegionTrainer as GeoRegionTrainer
    from geohf.street.arguments import StreetTrainingArguments as StreetTrainingArguments
    from geohf.street.streaming import stream_places as stream_places
    from geohf.street.trainer import GeoStreetTrainer as GeoStreetTrainer
    from geohf.tiles.arguments import TileTrainingArguments as TileTrainingArguments
    from geohf.tiles.streaming import stream_tiles as stream_tiles
    from geohf.tiles.trainer import TileSequenceTrainer as TileSequenceTrainer

__version__ = "0.2.0"

for _task, _config, _model, _processor, _pipeline in (
    ("geo-region", GeoRegionConfig, GeoRegionModel, GeoRegionImageProcessor, RegionPipeline),
    ("part-state-detection", PartStateConfig, PartStateModel, PartImageProcessor, PartStatePipeline),
    ("place-recognition", GeoPlaceConfig, GeoPlaceModel, GeoPlaceImageProcessor, PlaceRecognitionPipeline),
    (
        "street-geolocation",
        GeoStreetConfig,
        GeoStreetModel,
        GeoStreetImageProcessor,
        StreetGeolocationPipeline,
    ),
    (
        "tile-sequence-regression",
        TileSequenceConfig,
        TileSequenceModel,
        TileSequenceProcessor,
        TileSequencePipeline,
    ),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoImageProcessor.register(_config, image_processor_classes={"torchvision": _processor}, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(_task, _pipeline, AutoModel, type="image")

# Trainers bring accelerate and much else with them: they, and what serves them, are imported when they are asked for.
_OF_TASKS = {
    "place": ("GeoPlaceTrainer", "PlaceTrainingArguments", "stream_drives"),
    "region": ("GeoRegionTrainer", "RegionTrainingArguments", "stream_regions"),
    "street": ("GeoStreetTrainer", "StreetTrainingArguments", "stream_places"),
    "parts": ("PartStateTrainer", "PartTrainingArguments", "stream_parts"),
    "tiles": ("TileSequenceTrainer", "TileTrainingArguments", "stream_tiles"),
}
_LAZY = {"write_shards": "geohf.data.streaming"} | {
    name: f"geohf.{task}.{module}"
    for task, names in _OF_TASKS.items()
    for name, module in zip(names, ("trainer", "arguments", "streaming"), strict=True)
}

__all__ = [
    "DataError",
    "GeoPlaceConfig",
    "GeoPlaceImageProcessor",
    "GeoPlaceModel",
    "GeoRegionConfig",
    "GeoRegionImageProcessor",
    "GeoRegionModel",
    "GeoStreetConfig",
    "GeoStreetImageProcessor",
    "GeoStreetModel",
    "PartImageProcessor",
    "PartStateConfig",
    "PartStateModel",
    "SequenceDataLoader",
    "TileSequenceConfig",
    "TileSequenceModel",
    "TileSequenceProcessor",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
